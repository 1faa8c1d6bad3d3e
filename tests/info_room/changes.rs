//! Deltas applied to what a subscriber knows give what it should know; whatever does not follow is a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare::info::*;
use proptest::prelude::*;

use crate::worlds::{any_filter, server, small_view, view};

fn shown(projection: &Projection) -> impl Iterator<Item = &Entry> {
    projection.entries().map(|entry| &**entry)
}

fn document(body: &Body, version: u32) -> Document {
    parse(&body.to_vec(version), body.format()).unwrap()
}

/// The servers and the deleted ids that a table holds.
fn known(table: &Table) -> (BTreeMap<String, Server>, BTreeMap<String, Stamp>) {
    let (mut live, mut deleted) = (BTreeMap::new(), BTreeMap::new());
    for entry in table.entries() {
        let id = entry.id().to_string();
        match entry {
            DocumentEntry::Server(server) => drop(live.insert(id, server.clone())),
            other => drop(deleted.insert(id, other.updated().clone())),
        }
    }
    (live, deleted)
}

fn check(table: &Table, base: &Projection, now: &Projection) -> Result<(), TestCaseError> {
    let (live, deleted) = known(table);
    let expected: BTreeMap<_, _> = shown(now)
        .filter(|entry| !entry.deleted)
        .map(|entry| (entry.server.id.to_string(), entry.server.clone()))
        .collect();
    prop_assert_eq!(live, expected);
    for entry in shown(now).filter(|entry| entry.deleted) {
        prop_assert_eq!(deleted.get(&*entry.server.id), Some(&entry.server.updated));
    }
    // A deleted entry that is not shown was shown before: alive and now gone, or deleted and deleted still.
    for (id, updated) in &deleted {
        let before = shown(base).find(|entry| *entry.server.id == **id);
        let after = now.view().find(id);
        let is_right = match (before, after) {
            _ if shown(now).any(|entry| *entry.server.id == **id) => true,
            (Some(_), Some(after)) => after.deleted,
            (Some(before), None) => !before.deleted,
            (None, _) => false,
        };
        prop_assert!(is_right, "{} {}", id, updated);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_delta_leads_from_one_view_to_another(
        first in small_view(1), second in small_view(2), filter in proptest::option::of(any_filter()), is_json: bool
    ) {
        let filter = filter.map(Arc::new);
        let format = if is_json { Format::Json } else { Format::Xml };
        let base = Projection::new(first, filter.clone(), None);
        let now = Projection::new(second, filter, Some(&base));
        let mut table = Table::new();
        table.apply(document(&full(base.view(), shown(&base), format), 1));
        check(&table, &base, &base)?;
        let changes = delta(&base, &now);
        prop_assert!(changes.is_sorted_by(|one, other| one.id().as_bytes() < other.id().as_bytes()));
        let applied = table.apply(document(&partial(now.view(), 1, &changes, format), 2));
        prop_assert_ne!(applied, Applied::Gap);
        prop_assert!(!changes.is_empty() || applied == Applied::Unchanged);
        check(&table, &base, &now)?;
        prop_assert!(delta(&now, &now.clone()).is_empty());
    }
}

fn entry(id: &str, ms: u64, deleted: bool) -> Entry {
    let mut server = server(id);
    server.updated.ms = ms;
    Entry { server, deleted }
}

fn full_of(view: &View, version: u32) -> Document {
    let entries = view.entries.iter().map(|entry| &**entry);
    document(&full(view, entries, Format::Xml), version)
}

fn part_of(view: &View, place: usize, parts: u32, version: u32) -> Document {
    let entries = [&*view.entries[place]].into_iter();
    document(
        &part(view, entries, place as u32 + 1, parts, Format::Json),
        version,
    )
}

fn change_of(view: &View, base: u64, version: u32) -> Document {
    let changes: Vec<Change<'_>> = view.entries.iter().map(|entry| Change::of(entry)).collect();
    document(&partial(view, base, &changes, Format::Xml), version)
}

#[test]
fn what_vanished_is_deleted_and_a_forgotten_deletion_is_withdrawn() {
    let base = view(
        1,
        vec![
            entry("a", 5, false),
            entry("b", 6, true),
            entry("c", 7, false),
        ],
    );
    let base = Projection::new(base, None, None);
    let now = Projection::new(view(2, vec![entry("c", 9, true)]), None, None);
    let changes = delta(&base, &now);
    assert!(matches!(changes[0], Change::Deleted(entry) if entry.server.updated.ms == 5));
    assert!(matches!(changes[1], Change::Left { id: "b", updated } if updated.ms == 6));
    assert!(matches!(changes[2], Change::Deleted(entry) if entry.server.updated.ms == 9));
    assert_eq!(changes.len(), 3);
}

#[test]
fn a_server_deleted_behind_a_filter_is_deleted_and_one_that_no_longer_matches_has_left() {
    let up = Filter::new(Vec::new(), vec![Status::Up], Vec::new(), None).unwrap();
    let up = Some(Arc::new(up));
    let base = view(1, vec![entry("a", 5, false), entry("b", 5, false)]);
    let base = Projection::new(base, up.clone(), None);
    let mut down = entry("b", 7, false);
    down.server.status = Status::Down;
    let now = Projection::new(view(2, vec![entry("a", 6, true), down]), up, None);
    assert_eq!(now.entries().count(), 0);
    let changes = delta(&base, &now);
    assert!(matches!(changes[0], Change::Deleted(entry) if entry.server.updated.ms == 6));
    assert!(matches!(changes[1], Change::Left { id: "b", updated } if updated.ms == 7));
}

#[test]
fn a_full_document_is_taken_whatever_its_version() {
    let mut table = Table::new();
    assert_eq!(table.view(), None);
    let one = view(9, vec![entry("a", 1, false), entry("b", 1, true)]);
    assert_eq!(table.apply(full_of(&one, 17)), Applied::Changed);
    assert_eq!(table.apply(full_of(&one, 3)), Applied::Unchanged);
    assert_eq!((table.view(), table.version()), (Some(9), Some(3)));
    assert_eq!(
        (table.domain(), table.notifier()),
        (Some("example.com"), Some("n1@1795379461123"))
    );
    assert_eq!(table.apply(full_of(&view(10, vec![]), 1)), Applied::Changed);
    assert_eq!(table.entries().count(), 0);
}

#[test]
fn a_view_that_goes_back_in_one_life_of_a_notifier_is_dropped() {
    let mut table = Table::new();
    let nine = view(9, vec![entry("a", 2, false)]);
    table.apply(full_of(&nine, 1));
    let eight = view(8, vec![entry("a", 1, true)]);
    assert_eq!(table.apply(full_of(&eight, 2)), Applied::Gap);
    assert_eq!((table.view(), table.entries().count()), (Some(9), 1));
    let other_life = Arc::new(View {
        notifier: "n1@2".into(),
        ..View::clone(&eight)
    });
    assert_eq!(table.apply(full_of(&other_life, 1)), Applied::Changed);
}

#[test]
fn a_partial_document_that_does_not_follow_is_a_gap() {
    let start = view(9, vec![entry("a", 1, false)]);
    let next = view(10, vec![entry("a", 2, true)]);
    let other_life = Arc::new(View {
        notifier: "n1@2".into(),
        ..View::clone(&next)
    });
    let mut fresh = Table::new();
    assert_eq!(fresh.apply(change_of(&next, 9, 1)), Applied::Gap);
    for (view, base, version) in [
        (&next, 9, 7),
        (&next, 9, 5),
        (&next, 8, 6),
        (&other_life, 9, 6),
    ] {
        let mut table = Table::new();
        table.apply(full_of(&start, 5));
        assert_eq!(table.apply(change_of(view, base, version)), Applied::Gap);
        assert!(matches!(table.get("a"), Some(DocumentEntry::Server(_))));
        assert_eq!((table.view(), table.version()), (Some(9), Some(5)));
    }
    let mut table = Table::new();
    table.apply(full_of(&start, 5));
    assert_eq!(table.apply(change_of(&next, 9, 6)), Applied::Changed);
    assert_eq!(table.apply(change_of(&next, 10, 7)), Applied::Unchanged);
    assert_eq!((table.view(), table.version()), (Some(10), Some(7)));
}

#[test]
fn what_lacks_a_required_field_is_a_gap() {
    let whole = full_of(&view(9, vec![]), 1);
    let lacking: [fn(&mut Document); 5] = [
        |document| document.domain = None,
        |document| document.notifier = None,
        |document| document.version = None,
        |document| document.view = None,
        |document| document.state = None,
    ];
    for remove in lacking {
        let mut document = whole.clone();
        remove(&mut document);
        assert_eq!(Table::new().apply(document), Applied::Gap);
    }
}

#[test]
fn parts_change_the_table_when_the_last_has_come() {
    let start = view(1, vec![entry("z", 1, false)]);
    let next = view(
        2,
        vec![
            entry("a", 1, false),
            entry("b", 1, false),
            entry("c", 1, true),
        ],
    );
    let mut table = Table::new();
    table.apply(full_of(&start, 1));
    assert_eq!(table.apply(part_of(&next, 0, 3, 2)), Applied::PartPending);
    assert_eq!(table.apply(part_of(&next, 1, 3, 3)), Applied::PartPending);
    assert_eq!((table.view(), table.entries().count()), (Some(1), 1));
    assert_eq!(table.apply(part_of(&next, 2, 3, 4)), Applied::Changed);
    assert_eq!(
        (table.view(), table.version(), table.entries().count()),
        (Some(2), Some(4), 3)
    );
    assert_eq!(
        table.apply(change_of(&view(3, vec![entry("z", 2, false)]), 2, 5)),
        Applied::Changed
    );
}

#[test]
fn a_set_of_parts_with_a_hole_is_a_gap() {
    let next = view(
        2,
        vec![
            entry("a", 1, false),
            entry("b", 1, false),
            entry("c", 1, false),
        ],
    );
    let later = View {
        revision: 3,
        ..View::clone(&next)
    };
    let wrong: [Document; 5] = [
        part_of(&next, 2, 3, 4),
        part_of(&next, 1, 3, 4),
        part_of(&next, 1, 4, 3),
        part_of(&later, 1, 3, 3),
        change_of(&next, 2, 3),
    ];
    for document in wrong {
        let mut table = Table::new();
        assert_eq!(table.apply(part_of(&next, 0, 3, 2)), Applied::PartPending);
        assert_eq!(table.apply(document), Applied::Gap);
        assert_eq!(table.entries().count(), 0);
        assert_eq!(
            table.apply(part_of(&next, 1, 3, 3)),
            Applied::Gap,
            "the set is forgotten"
        );
        assert_eq!(table.apply(part_of(&next, 0, 3, 9)), Applied::PartPending);
        assert_eq!(table.apply(full_of(&next, 10)), Applied::Changed);
    }
}

#[test]
fn a_stale_document_adds_and_takes_nothing_away() {
    let stale = |entries| {
        Arc::new(View {
            stale: true,
            ..View::clone(&view(10, entries))
        })
    };
    let mut table = Table::new();
    table.apply(full_of(
        &view(9, vec![entry("a", 5, false), entry("b", 5, false)]),
        1,
    ));
    let entries = vec![entry("b", 4, true), entry("c", 1, false)];
    assert_eq!(table.apply(full_of(&stale(entries), 2)), Applied::Changed);
    assert!(table.is_stale());
    assert_eq!(table.entries().count(), 3);
    assert!(
        matches!(table.get("b"), Some(DocumentEntry::Server(_))),
        "the newer stands"
    );
    let entries = vec![entry("b", 6, true)];
    assert_eq!(
        table.apply(full_of(&stale(entries.clone()), 3)),
        Applied::Changed
    );
    assert!(matches!(
        table.get("b"),
        Some(DocumentEntry::Deleted { .. })
    ));
    assert_eq!(table.apply(full_of(&stale(entries), 4)), Applied::Unchanged);
    assert_eq!(
        table.apply(change_of(&view(11, vec![]), 10, 5)),
        Applied::Changed,
        "stale no more"
    );
    assert!(!table.is_stale());
}

#[test]
fn stale_documents_and_merged_tables_do_not_grow_without_end() {
    let mut tables = Vec::new();
    let mut table = Table::new();
    for round in 1..=4 {
        let ids: Vec<String> = (0..MAX_ENTRIES - 1)
            .map(|number| format!("{round}.{number}"))
            .collect();
        let entries = ids.iter().map(|id| entry(id, 1, false)).collect();
        let stale = Arc::new(View {
            stale: true,
            ..View::clone(&view(round, entries))
        });
        let expected = if round <= 2 {
            Applied::Changed
        } else {
            Applied::Gap
        };
        assert_eq!(table.apply(full_of(&stale, round as u32)), expected);
        let mut one = Table::new();
        one.apply(full_of(&stale, 1));
        tables.push(one);
    }
    assert!(table.entries().count() <= 2 * MAX_ENTRIES);
    assert!(Table::merged(&tables, 1).entries().count() <= 2 * MAX_ENTRIES);
}
