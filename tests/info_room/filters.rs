//! Filters against an oracle that shares nothing with them, and the choice of the best.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fanfare::info::*;
use proptest::prelude::*;

use crate::worlds::{any_filter, server, small_view, view};

const NS: &str = r#"xmlns="urn:fanfare:serverinfo:1""#;

fn filter(elements: &str) -> Result<Filter, DocumentError> {
    Filter::parse(format!("<filter {NS}>{elements}</filter>").as_bytes())
}

/// What the wire form of a filter asks for, read from its text: name of the element (or of the attribute) to values.
fn wanted(filter: &Filter) -> BTreeMap<String, BTreeSet<String>> {
    let text = String::from_utf8(filter.canonical()).unwrap();
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for piece in text.split('<').filter(|piece| !piece.starts_with('/')) {
        let (tag, content) = piece.split_once('>').unwrap_or((piece, ""));
        let quoted = tag.split('"').nth(1).unwrap_or_default();
        let (key, value) = match tag.split([' ', '/']).next().unwrap() {
            "service" => ("service".into(), quoted),
            "attribute" => (format!("attribute {quoted}"), content),
            "status" => ("status".into(), content),
            "most" => ("most".into(), content),
            _ => continue,
        };
        wanted.entry(key).or_default().insert(value.into());
    }
    wanted
}

fn oracle(filter: &Filter, entry: &Entry) -> bool {
    let server = &entry.server;
    let wanted = wanted(filter);
    let mut ok = true;
    for (key, values) in &wanted {
        ok &= match key.as_str() {
            "service" => server.services.iter().any(|name| values.contains(&**name)),
            "status" => !entry.deleted && values.contains(server.status.as_str()),
            "most" => !entry.deleted,
            key => {
                let name = key.strip_prefix("attribute ").unwrap();
                let pairs = &server.attributes;
                pairs
                    .iter()
                    .any(|(key, value)| **key == *name && values.contains(&**value))
            }
        };
    }
    ok || server.services.iter().any(|name| &**name == "notifier")
}

fn ids(projection: &Projection) -> Vec<&str> {
    projection
        .entries()
        .map(|entry| &*entry.server.id)
        .collect()
}

proptest! {
    #[test]
    fn a_filter_admits_what_the_oracle_admits(view in small_view(1), filter in any_filter()) {
        for entry in &view.entries {
            prop_assert_eq!(filter.admits(entry), oracle(&filter, entry), "{:?}", entry);
        }
    }

    #[test]
    fn a_filter_is_read_as_it_was_rendered(filter in any_filter()) {
        prop_assert_eq!(Filter::parse(&filter.canonical()).unwrap(), filter);
    }

    #[test]
    fn most_keeps_the_best_and_yields_only_to_the_clearly_better(
        first in small_view(1), second in small_view(2), filter in any_filter()
    ) {
        let Some(most) = filter.most().map(usize::from) else { return Ok(()) };
        let filter = Arc::new(filter);
        let before = Projection::new(first, Some(Arc::clone(&filter)), None);
        let after = Projection::new(Arc::clone(&second), Some(Arc::clone(&filter)), Some(&before));
        let mut candidates = 0;
        let shown = ids(&after);
        for entry in &second.entries {
            let is_notifier = entry.server.is_notifier();
            candidates += usize::from(!is_notifier && oracle(&filter, entry));
            if is_notifier {
                prop_assert!(shown.contains(&&*entry.server.id));
            }
        }
        let others: Vec<_> = after.entries().filter(|entry| !entry.server.is_notifier()).collect();
        prop_assert_eq!(others.len(), candidates.min(most));
        let known = ids(&before);
        for passed in &second.entries {
            let id = &*passed.server.id;
            if shown.contains(&id) || !oracle(&filter, passed) {
                continue;
            }
            // Each that is shown has a right to stand before one that is not.
            for chosen in &others {
                let load = |entry: &Entry| i32::from(entry.server.load.unwrap_or(101));
                let (mine, theirs) = (load(chosen), load(passed));
                let (new, kept) = (!known.contains(&&*chosen.server.id), known.contains(&id));
                let better = match (new, kept) {
                    (true, true) => mine + 10 < theirs,
                    (false, false) => mine <= theirs + 10,
                    _ => mine <= theirs,
                };
                let (one, other) = (chosen.server.priority, passed.server.priority);
                prop_assert!(one < other || (one == other && better), "{:?} over {:?}", chosen, passed);
            }
        }
    }
}

#[test]
fn elements_of_one_name_are_alternatives_and_different_names_must_all_hold() {
    let filter = filter(
        "<service name='turn'/><service name='proxy'/><status>up</status><status>draining</status>
         <attribute name='region'>eu-1</attribute><attribute name='region'>eu-2</attribute>
         <attribute name='zone'>a</attribute>",
    )
    .unwrap();
    let mut entry = Entry {
        server: Server {
            services: vec!["proxy".into()],
            attributes: vec![
                ("region".into(), "eu-2".into()),
                ("zone".into(), "a".into()),
            ],
            ..server("p1")
        },
        deleted: false,
    };
    assert!(filter.admits(&entry));
    entry.server.status = Status::Down;
    assert!(!filter.admits(&entry));
    entry.server.status = Status::Draining;
    assert!(filter.admits(&entry));
    entry.server.attributes[1].1 = "b".into();
    assert!(!filter.admits(&entry));
    entry.server.services = vec!["notifier".into()];
    assert!(filter.admits(&entry));
}

#[test]
fn equal_filters_are_equal_values() {
    let one = filter("<status>up</status><service name='b'/><service name='a'/>").unwrap();
    let other =
        filter("<service name='a'/><service name='b'/><service name='a'/> <status> up </status>\n");
    assert_eq!(Ok(&one), other.as_ref());
    assert_eq!(one.canonical(), other.unwrap().canonical());
    assert!(!one.is_empty());
    assert!(filter("").unwrap().is_empty());
    assert!(
        Filter::parse(format!("<filter {NS}/>").as_bytes())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn filters_that_ask_for_the_unknown_are_refused() {
    for elements in [
        "<colour>red</colour>",
        "<service/>",
        "<service name=''/>",
        "<most>0</most>",
        "<most>-1</most>",
        "<most>65536</most>",
        "<most>1</most><most>1</most>",
        "<most/>",
        "<status>a b</status>",
        "<attribute>x</attribute>",
        "<status>up<status>up</status></status>",
        "text",
        "<service xmlns='urn:other' name='a'/>",
        "<service name='a' name='b'/>",
    ] {
        let error = filter(elements).unwrap_err();
        assert_eq!(error.status(), 400, "{elements}");
    }
    let many: String = (0..33)
        .map(|place| format!("<service name='s{place}'/>"))
        .collect();
    assert_eq!(filter(&many).unwrap_err().status(), 413);
    let long = format!("<attribute name='a'>{}</attribute>", "x".repeat(257));
    assert_eq!(filter(&long).unwrap_err().status(), 413);
    assert_eq!(Filter::parse(b"").unwrap_err().status(), 400);
    assert_eq!(Filter::parse(b"<filter/>").unwrap_err().status(), 400);
}

#[test]
fn a_kept_entry_yields_to_a_newcomer_only_by_more_than_ten_points() {
    let filter = Arc::new(filter("<most>1</most>").unwrap());
    let world = |a, b| {
        let entry = |id, load, priority| Entry {
            server: Server {
                load: Some(load),
                priority,
                ..server(id)
            },
            deleted: false,
        };
        view(
            1,
            vec![entry("a", a, 1), entry("b", b, 1), entry("z", 0, 2)],
        )
    };
    let mut shown = Projection::new(world(50, 50), Some(Arc::clone(&filter)), None);
    assert_eq!(ids(&shown), ["a"]);
    for (a, b, expected) in [(50, 40, "a"), (50, 39, "b"), (40, 50, "b"), (39, 50, "a")] {
        shown = Projection::new(world(a, b), Some(Arc::clone(&filter)), Some(&shown));
        assert_eq!(ids(&shown), [expected], "{a} {b}");
    }
}

#[test]
fn tags_tell_apart_what_is_shown_and_nothing_else() {
    let entry = |id: &str, deleted| Entry {
        server: server(id),
        deleted,
    };
    let tag = |view: Arc<View>, elements: &str| {
        let filter = Arc::new(filter(elements).unwrap());
        Projection::new(view, Some(filter), None).tag(Format::Xml)
    };
    let plain = || view(1, vec![entry("a", false), entry("b", false)]);
    let same = Arc::new(View {
        notifier: "n2@1".into(),
        stale: true,
        ..View::clone(&view(7, vec![entry("b", false), entry("a", false)]))
    });
    assert_eq!(tag(plain(), ""), tag(same, ""));
    assert_eq!(
        tag(plain(), ""),
        Projection::new(plain(), None, None).tag(Format::Xml)
    );
    // Fixed for ever: an entity may come back to another node, or to a later version of this one.
    assert_eq!(Projection::new(plain(), None, None).tag(Format::Xml), FIXED);
    let mut newer = entry("b", false);
    newer.server.updated.counter += 1;
    let others = [
        tag(view(1, vec![entry("a", false), newer]), ""),
        tag(view(1, vec![entry("a", false), entry("b", true)]), ""),
        tag(view(1, vec![entry("a", false)]), ""),
        tag(view(1, vec![entry("a", false), entry("c", false)]), ""),
        tag(plain(), "<status>up</status>"),
        Projection::new(plain(), None, None).tag(Format::Json),
    ];
    let mut all = others.to_vec();
    all.push(tag(plain(), ""));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
}

const FIXED: u64 = 13_960_098_447_844_022_155;
