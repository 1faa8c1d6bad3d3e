//! One domain's publications and the view made of them. Knows leases, deadlines and classes of change; no SIP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::Counters;
use super::clock::Clock;
use crate::info::{Entry, Server, Stamp, Status, View};

/// From how many points on a change of load counts as one.
const LOAD_STEP: u8 = 5;
/// How many answers a publication keeps for repeats of their requests.
const MAX_ANSWERS: usize = 4;
/// RFC 3261 17.2.2, Timer J on UDP: so long a request may be repeated.
const TIMER_J_MS: u64 = 32_000;
/// A newcomer that would be one take-over more than this in [`TAKE_OVER_MS`] is refused.
const MAX_TAKE_OVERS: usize = 3;
const TAKE_OVER_MS: u64 = 60_000;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub(super) forget_after_ms: u64,
    pub(super) tombstones_ms: u64,
    pub(super) max_servers: usize,
}

/// The answer to a PUBLISH that succeeded: enough to give it again.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The hash of what names the transaction.
    pub(super) transaction: u64,
    pub(super) lease: Stamp,
    pub(super) expires_s: u32,
    /// Monotonic.
    pub(super) at_ms: u64,
}

#[derive(Debug, PartialEq)]
enum State {
    Published {
        lease: Stamp,
    },
    /// The lease ran out: shown as down.
    Lapsed,
    Deleted,
}

#[derive(Debug)]
struct Row {
    state: State,
    /// When the state ends: the lease, the time shown as down, the time kept as deleted.
    due_ms: u64,
    /// The load that was last announced as changed.
    announced: Option<u8>,
    answers: SmallVec<[Answer; 1]>,
    /// When publishers took the id from another, of the last [`TAKE_OVER_MS`].
    take_overs: SmallVec<[u64; 1]>,
}

#[derive(Debug)]
pub(super) struct Table {
    view: Arc<View>,
    rows: BTreeMap<Arc<str>, Row>,
    deadlines: BTreeSet<(u64, Arc<str>)>,
    /// Rows that are not deleted.
    servers: usize,
    keep: Keep,
    taken: u64,
}

/// What a publication changes for subscribers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Classes {
    urgent: bool,
    notable: bool,
    load: bool,
}

impl Table {
    pub(super) fn new(domain: Arc<str>, notifier: Arc<str>, keep: Keep) -> Self {
        let view = Arc::new(View::empty(domain, notifier));
        Table {
            taken: view.revision,
            view,
            rows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            servers: 0,
            keep,
        }
    }

    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The view, if it is another than the last one taken.
    pub(super) fn take_changed(&mut self) -> Option<Arc<View>> {
        let is_changed = self.taken != self.view.revision;
        self.taken = self.view.revision;
        is_changed.then(|| Arc::clone(&self.view))
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(due_ms, _)| *due_ms)
    }

    /// Whether one more server fits.
    pub(super) fn has_room_for(&self, id: &str) -> bool {
        self.servers < self.keep.max_servers || self.is_server(id)
    }

    fn is_server(&self, id: &str) -> bool {
        self.rows
            .get(id)
            .is_some_and(|row| row.state != State::Deleted)
    }

    /// The answer that a repeated request already got.
    pub(super) fn answer(&self, id: &str, transaction: u64, now_ms: u64) -> Option<&Answer> {
        let is_repeated = |answer: &&Answer| {
            answer.transaction == transaction && now_ms < answer.at_ms + TIMER_J_MS
        };
        self.rows.get(id)?.answers.iter().find(is_repeated)
    }

    /// Whether a tag is that of the lease that runs.
    pub(super) fn holds(&self, id: &str, lease: &Stamp) -> bool {
        let state = self.rows.get(id).map(|row| &row.state);
        matches!(state, Some(State::Published { lease: current }) if current == lease)
    }

    /// Whether another publisher's lease runs.
    pub(super) fn is_published(&self, id: &str) -> bool {
        let state = self.rows.get(id).map(|row| &row.state);
        matches!(state, Some(State::Published { .. }))
    }

    /// Whether what is shown of an id says all that `server` says, its stamp aside.
    pub(super) fn says(&self, server: &Server) -> bool {
        let shown = self.view.find(&server.id).filter(|entry| !entry.deleted);
        shown.is_some_and(|entry| {
            let updated = server.updated.clone();
            let shown = Server {
                updated,
                ..entry.server.clone()
            };
            shown == *server
        })
    }

    /// Counts that a publisher takes an id from another; false if that happened too often.
    pub(super) fn take_over(&mut self, id: &str, now_ms: u64) -> bool {
        let Some(row) = self.rows.get_mut(id) else {
            return true;
        };
        row.take_overs
            .retain(|at_ms| now_ms < *at_ms + TAKE_OVER_MS);
        let is_allowed = row.take_overs.len() < MAX_TAKE_OVERS;
        if is_allowed {
            row.take_overs.push(now_ms);
        }
        is_allowed
    }

    /// Shows what a publisher said, under a lease that ends at `due_ms`.
    pub(super) fn publish(&mut self, server: Server, due_ms: u64, answer: Answer) {
        let id = Arc::clone(&server.id);
        let lease = answer.lease.clone();
        let entry = Entry {
            server,
            deleted: false,
        };
        self.show(entry, State::Published { lease }, due_ms);
        self.keep_answer(&id, answer);
    }

    /// Gives a publication a new lease; what is shown stays.
    pub(super) fn refresh(&mut self, id: &str, due_ms: u64, answer: Answer) {
        let lease = answer.lease.clone();
        self.enter(id.into(), State::Published { lease }, due_ms);
        self.keep_answer(id, answer);
    }

    /// Deletes a server at its publisher's wish; the answer's lease is the stamp of the deletion.
    pub(super) fn remove(&mut self, id: &str, now_ms: u64, answer: Answer) {
        self.delete(id, answer.lease.clone(), now_ms);
        self.keep_answer(id, answer);
    }

    /// Lets leases run out and old entries go, as of `now_ms`.
    pub(super) fn tick(
        &mut self,
        now_ms: u64,
        unix_ms: u64,
        clock: &mut Clock,
        counters: &mut Counters,
    ) {
        while let Some((due_ms, id)) = self.deadlines.first().cloned()
            && due_ms <= now_ms
        {
            let row = self.rows.get(&id).expect("each deadline has a row");
            match &row.state {
                State::Published { lease } => {
                    self.lapse(&id, lease.clone(), now_ms);
                    counters.lapsed += 1;
                }
                State::Lapsed => {
                    self.delete(&id, clock.stamp(unix_ms), now_ms);
                    counters.forgotten += 1;
                }
                State::Deleted => self.drop_row(&id),
            }
        }
    }

    /// `down`, with the stamp of the lease that ran out: any later lease beats it.
    fn lapse(&mut self, id: &str, lease: Stamp, now_ms: u64) {
        let server = Server {
            status: Status::Down,
            updated: lease,
            ..self.shown(id).clone()
        };
        let entry = Entry {
            server,
            deleted: false,
        };
        self.show(entry, State::Lapsed, now_ms + self.keep.forget_after_ms);
    }

    fn delete(&mut self, id: &str, stamp: Stamp, now_ms: u64) {
        let server = Server {
            updated: stamp,
            ..self.shown(id).clone()
        };
        let entry = Entry {
            server,
            deleted: true,
        };
        self.show(entry, State::Deleted, now_ms + self.keep.tombstones_ms);
        if self.rows.len() - self.servers > self.keep.max_servers {
            self.drop_oldest_tombstone();
        }
    }

    fn drop_oldest_tombstone(&mut self) {
        let is_deleted = |id: &Arc<str>| !self.is_server(id);
        let oldest = self
            .deadlines
            .iter()
            .map(|(_, id)| id)
            .find(|id| is_deleted(id));
        if let Some(id) = oldest.cloned() {
            self.drop_row(&id);
        }
    }

    fn drop_row(&mut self, id: &str) {
        if let Some((id, row)) = self.rows.remove_entry(id) {
            self.deadlines.remove(&(row.due_ms, id));
        }
        if let Ok(place) = self.view.position(id) {
            let view = Arc::make_mut(&mut self.view);
            view.entries.remove(place);
            view.revision += 1;
        }
    }

    fn shown(&self, id: &str) -> &Server {
        &self.view.find(id).expect("each row is shown").server
    }

    /// Puts an entry into the view, as one more revision, and its row into a state that ends at `due_ms`.
    fn show(&mut self, entry: Entry, state: State, due_ms: u64) {
        let id = Arc::clone(&entry.server.id);
        let announced = self.rows.get(&id).and_then(|row| row.announced);
        let view = Arc::make_mut(&mut self.view);
        let place = view.position(&id);
        let before = place.ok().map(|place| &*view.entries[place]);
        let classes = Classes::of(before, &entry, announced);
        let load = entry.server.load;
        match place {
            Ok(place) => view.entries[place] = Arc::new(entry),
            Err(place) => view.entries.insert(place, Arc::new(entry)),
        }
        view.revision += 1;
        let revision = view.revision;
        let marks = [
            (classes.urgent, &mut view.urgent),
            (classes.notable, &mut view.notable),
            (classes.load, &mut view.load),
        ];
        for (_, mark) in marks.into_iter().filter(|(is_moved, _)| *is_moved) {
            *mark = revision;
        }
        let row = self.enter(id, state, due_ms);
        if classes != Classes::default() {
            row.announced = load;
        }
    }

    /// Moves a row, which may be new, into a state that ends at `due_ms`.
    fn enter(&mut self, id: Arc<str>, state: State, due_ms: u64) -> &mut Row {
        let was_server = self.is_server(&id);
        let is_server = state != State::Deleted;
        self.servers = self.servers + usize::from(is_server) - usize::from(was_server);
        let row = self.rows.entry(Arc::clone(&id)).or_insert_with(|| Row {
            state: State::Deleted,
            due_ms,
            announced: None,
            answers: SmallVec::new(),
            take_overs: SmallVec::new(),
        });
        self.deadlines.remove(&(row.due_ms, Arc::clone(&id)));
        self.deadlines.insert((due_ms, id));
        (row.state, row.due_ms) = (state, due_ms);
        row
    }

    fn keep_answer(&mut self, id: &str, answer: Answer) {
        let answers = &mut self
            .rows
            .get_mut(id)
            .expect("what was answered has a row")
            .answers;
        let is_fresh = |kept: &mut Answer| answer.at_ms < kept.at_ms + TIMER_J_MS;
        answers.retain(is_fresh);
        if answers.len() == MAX_ANSWERS {
            answers.remove(0);
        }
        answers.push(answer);
    }
}

impl Classes {
    fn of(before: Option<&Entry>, after: &Entry, announced: Option<u8>) -> Self {
        let Some(before) = before.filter(|before| before.deleted == after.deleted) else {
            return Classes {
                urgent: true,
                ..Classes::default()
            };
        };
        let (one, other) = (&before.server, &after.server);
        let said = |server: &Server| (server.priority, server.weight);
        Classes {
            urgent: one.status != other.status,
            notable: said(one) != said(other)
                || one.addresses != other.addresses
                || one.services != other.services
                || one.attributes != other.attributes,
            load: counts(announced, other.load),
        }
    }
}

/// Whether a change of load counts as one: from 5 points on, when it crosses 0, 50, 80, 90 or 100, and when it becomes
/// known or unknown.
fn counts(announced: Option<u8>, load: Option<u8>) -> bool {
    let band = |load: u8| [1, 50, 80, 90, 100].partition_point(|bound| *bound <= load);
    match (announced, load) {
        (Some(one), Some(other)) => one.abs_diff(other) >= LOAD_STEP || band(one) != band(other),
        (one, other) => one.is_some() != other.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_counts_from_five_points_on_and_across_the_bounds() {
        for (one, other, expected) in [
            (10, 14, false),
            (10, 15, true),
            (10, 5, true),
            (0, 1, true),
            (1, 0, true),
            (1, 2, false),
            (49, 50, true),
            (50, 49, true),
            (50, 51, false),
            (79, 80, true),
            (89, 90, true),
            (99, 100, true),
            (96, 99, false),
        ] {
            assert_eq!(counts(Some(one), Some(other)), expected, "{one} {other}");
        }
        assert!(counts(None, Some(0)) && counts(Some(0), None) && !counts(None, None));
    }
}
