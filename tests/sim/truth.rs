//! What the compositor said, view by view, and what each filter shows of it. Knows no message.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use fanfare::info::View;

use crate::reader::{Row, Rows, Wanted, rows_of};

/// All views of the one domain, by revision.
#[derive(Debug, Default)]
pub struct Truth {
    views: BTreeMap<u64, Arc<View>>,
    /// When each view was made.
    made: Vec<(u64, u64)>,
    rows: HashMap<u64, Rc<Rows>>,
    shown: HashMap<(u64, Wanted), Rc<Rows>>,
}

impl Truth {
    pub fn learn(&mut self, view: Arc<View>, now_ms: u64) {
        self.made.push((now_ms, view.revision));
        self.views.insert(view.revision, view);
    }

    /// The view that was the newest at a time.
    pub fn newest_at(&self, at_ms: u64) -> u64 {
        let before = self
            .made
            .iter()
            .rev()
            .find(|(made_ms, _)| *made_ms <= at_ms);
        before.map_or(0, |(_, revision)| *revision)
    }

    pub fn all(&mut self, revision: u64) -> Rc<Rows> {
        let view = &self.views[&revision];
        self.rows
            .entry(revision)
            .or_insert_with(|| Rc::new(rows_of(view)))
            .clone()
    }

    /// The greatest difference of two views that follow on one another: a server that went down and came back changed.
    pub fn class_between(&mut self, before: u64, after: u64) -> Class {
        let revisions: Vec<u64> = self
            .views
            .range(before..=after)
            .map(|(&one, _)| one)
            .collect();
        let mut class = Class::Load;
        for pair in revisions.windows(2) {
            let (then, now) = (self.all(pair[0]), self.all(pair[1]));
            class = class.max(class_of(&then, &now));
        }
        class
    }

    /// Whether a change of load that counts as one changed what a filter shows.
    pub fn load_told_since(&mut self, revision: u64, newest: u64, wanted: &Wanted) -> bool {
        let views: Vec<(u64, u64)> = self
            .views
            .range(revision..=newest)
            .map(|(&revision, view)| (revision, view.load))
            .collect();
        views.windows(2).any(|pair| {
            let ((before, _), (after, load)) = (pair[0], pair[1]);
            load > before && self.shown(before, wanted) != self.shown(after, wanted)
        })
    }

    /// What a filter shows, `most` left aside.
    pub fn shown(&mut self, revision: u64, wanted: &Wanted) -> Rc<Rows> {
        let all = self.all(revision);
        if *wanted == Wanted::default() {
            return all;
        }
        let key = (revision, wanted.clone());
        self.shown
            .entry(key)
            .or_insert_with(|| {
                let admitted = all.iter().filter(|(_, row)| wanted.admits(row));
                Rc::new(
                    admitted
                        .map(|(id, row)| (id.clone(), row.clone()))
                        .collect(),
                )
            })
            .clone()
    }

    /// Says what is wrong with a subscriber's table at this revision; `None`: nothing.
    pub fn objection(&mut self, revision: u64, wanted: &Wanted, held: &Rows) -> Option<String> {
        if !self.views.contains_key(&revision) {
            return Some(format!("view {revision} was never made"));
        }
        let shown = self.shown(revision, wanted);
        let Some(most) = wanted.most else {
            return difference(&shown, held);
        };
        // Which ones `most` keeps depends on what was kept before: here, how many, and that each is as it should be.
        let always = |row: &Row| row.services.iter().any(|name| name == "notifier");
        let notifiers = shown.values().filter(|row| always(row)).count();
        let due = notifiers + most.min(shown.len() - notifiers);
        if held.len() != due {
            return Some(format!("{} rows where most asks for {due}", held.len()));
        }
        let wrong = held.iter().find(|(id, row)| shown.get(*id) != Some(row));
        wrong.map(|(id, row)| format!("{id} is {row:?}, should be {:?}", shown.get(id)))
    }
}

fn difference(should: &Rows, held: &Rows) -> Option<String> {
    for (id, row) in should {
        match held.get(id) {
            None => return Some(format!("{id} is missing")),
            Some(other) if other != row => {
                return Some(format!("{id} is {other:?}, should be {row:?}"));
            }
            Some(_) => {}
        }
    }
    let extra = held.keys().find(|id| !should.contains_key(*id))?;
    Some(format!("{extra} should not be there"))
}

/// Whether two tables differ in anything but load and time.
pub fn notably_different(one: &Rows, other: &Rows) -> bool {
    let same = |(left, right): (&Rc<Row>, &Rc<Row>)| {
        (&left.status, &left.services, &left.attributes, &left.rest)
            == (
                &right.status,
                &right.services,
                &right.attributes,
                &right.rest,
            )
    };
    one.len() != other.len()
        || !one.keys().eq(other.keys())
        || !one.values().zip(other.values()).all(same)
}

/// What a change of the whole table is, the lightest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Load alone, or nothing.
    Load,
    Notable,
    /// The set of servers or a status.
    Urgent,
}

fn class_of(one: &Rows, other: &Rows) -> Class {
    let status = |(left, right): (&Rc<Row>, &Rc<Row>)| left.status == right.status;
    if !one.keys().eq(other.keys()) || !one.values().zip(other.values()).all(status) {
        Class::Urgent
    } else if notably_different(one, other) {
        Class::Notable
    } else {
        Class::Load
    }
}
