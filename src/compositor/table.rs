//! One domain's servers and the view made of them. Knows leases, deadlines and classes of change; no SIP, and no way to
//! other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use super::classes::Classes;
use super::clock::Clock;
use super::record::{Lease, Record};
use super::{Counters, Now};
use crate::info::{Entry, Server, Stamp, Status, View};

/// How many answers a publication keeps for repeats of their requests.
const MAX_ANSWERS: usize = 4;
/// RFC 3261 17.2.2, Timer J on UDP: so long a request may be repeated.
const TIMER_J_MS: u64 = 32_000;
/// A newcomer that would be one take-over more than this in [`TAKE_OVER_MS`] is refused.
const MAX_TAKE_OVERS: usize = 3;
const TAKE_OVER_MS: u64 = 60_000;
/// Clocks of nodes that are no further apart than this do no harm.
const CLOCKS_APART_MS: u64 = 10_000;
/// The node that gave a lease tells when it ended; another finds out by itself so much later.
const GRACE_MS: u64 = 300;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// The longest that a lease runs here, whatever its record says.
    pub(super) lease_ms: u64,
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

/// What is known of one server.
#[derive(Debug)]
struct Row {
    /// What was said last.
    said: Arc<Entry>,
    lease: Option<Lease>,
    /// The lease ended so long ago that the server is shown as deleted.
    is_forgotten: bool,
    /// When the stage ends: the lease, the time shown as down, the time kept as deleted. Monotonic.
    due_ms: Option<u64>,
    /// When the lease was last asserted, as far as this node knows. Monotonic.
    asserted_ms: u64,
    /// The load that was last announced as changed.
    announced: Option<u8>,
    answers: SmallVec<[Answer; 1]>,
    /// When publishers took the id from another, of the last [`TAKE_OVER_MS`].
    take_overs: SmallVec<[u64; 1]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Without a publisher, for as long as its node says so.
    Held,
    Published,
    /// The lease ran out: shown as down.
    Lapsed,
    Deleted,
}

#[derive(Debug)]
pub(super) struct Table {
    view: Arc<View>,
    rows: BTreeMap<Arc<str>, Row>,
    deadlines: BTreeSet<(u64, Arc<str>)>,
    /// Rows that are not deleted.
    servers: usize,
    /// Ids that were forgotten, until they are asked for.
    dropped: Vec<Arc<str>>,
    keep: Keep,
    taken: u64,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merged {
    /// All of it was known, or is older than what is.
    Known,
    Taken,
    /// The table is full.
    Full,
}

/// Whose word a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// This node's, of now.
    Own,
    Others,
}

impl Row {
    fn stage(&self) -> Stage {
        match &self.lease {
            _ if self.said.deleted => Stage::Deleted,
            None => Stage::Held,
            Some(lease) if lease.ended.is_none() => Stage::Published,
            Some(_) if self.is_forgotten => Stage::Deleted,
            Some(_) => Stage::Lapsed,
        }
    }

    /// What subscribers are shown.
    fn shown(&self, forget_after_ms: u64) -> Arc<Entry> {
        let said = &self.said.server;
        let Some(lease) = &self.lease else {
            return Arc::clone(&self.said);
        };
        let (status, updated, deleted) = match (self.stage(), &lease.ended) {
            // `down`, with the stamp of the lease that ran out: any later lease beats it.
            (Stage::Lapsed, _) => (
                Status::Down,
                newest(&said.updated, Some(&lease.held)),
                false,
            ),
            // Every node comes to this by itself, and to the same stamp.
            (Stage::Deleted, Some(ended)) if !self.said.deleted => {
                let updated = Stamp {
                    ms: ended.ms.saturating_add(forget_after_ms),
                    ..ended.clone()
                };
                (Status::Down, updated, true)
            }
            (Stage::Published, _) if lease.since.as_ref() > Some(&said.updated) => {
                let updated = newest(&said.updated, lease.since.as_ref());
                (said.status.clone(), updated, false)
            }
            _ => return Arc::clone(&self.said),
        };
        let server = Server {
            status,
            updated,
            ..said.clone()
        };
        Arc::new(Entry { server, deleted })
    }
}

fn newest(one: &Stamp, other: Option<&Stamp>) -> Stamp {
    other.map_or(one, |other| other.max(one)).clone()
}

fn lived_ms(lease: &Lease) -> u64 {
    u64::from(lease.expires_s) * 1000
}

/// What is left of a time that began at a stamp, by this node's clock: all of it at the most, and more only where another
/// node's clock may be ahead.
fn left_ms(began: u64, lasts_ms: u64, now: Now, word: Word) -> u64 {
    let end = began.saturating_add(lasts_ms);
    let ahead_ms = match word {
        Word::Own => 0,
        Word::Others => CLOCKS_APART_MS,
    };
    end.saturating_sub(now.unix_ms).min(lasts_ms + ahead_ms)
}

impl Keep {
    /// When a lease ends here, monotonic. One that another node gave runs its whole time from when it came, unless its stamp
    /// says that it is older than clocks may be apart. A stamp by which the lease had ended before it came says more of the
    /// clocks than of the lease, if the server `is_known`: its publisher has just been heard of.
    fn end_of(&self, lease: &Lease, now: Now, word: Word, is_known: bool) -> u64 {
        let runs_ms = lived_ms(lease).min(self.lease_ms);
        match word {
            Word::Own => now.mono_ms + runs_ms,
            Word::Others => {
                let left_ms = left_ms(lease.granted.ms, runs_ms + CLOCKS_APART_MS, now, word);
                let left_ms = match left_ms {
                    0 if is_known => runs_ms,
                    left_ms => left_ms.min(runs_ms),
                };
                now.mono_ms + GRACE_MS + left_ms
            }
        }
    }
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
            dropped: Vec::new(),
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

    /// Says whether what is not named may merely be unknown: a change of view.
    pub(super) fn set_stale(&mut self, stale: bool) {
        if self.view.stale != stale {
            let view = Arc::make_mut(&mut self.view);
            view.stale = stale;
            view.revision += 1;
            view.urgent = view.revision;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(due_ms, _)| *due_ms)
    }

    /// How many more servers fit.
    pub(super) fn room(&self) -> usize {
        self.keep.max_servers.saturating_sub(self.servers)
    }

    /// Whether one more server fits beside `expected` others.
    pub(super) fn has_room_for(&self, id: &str, expected: usize) -> bool {
        self.servers + expected < self.keep.max_servers || self.is_server(id)
    }

    fn stage(&self, id: &str) -> Option<Stage> {
        self.rows.get(id).map(Row::stage)
    }

    pub(super) fn is_server(&self, id: &str) -> bool {
        self.stage(id).is_some_and(|stage| stage != Stage::Deleted)
    }

    /// The answer that a repeated request already got.
    pub(super) fn answer(&self, id: &str, transaction: u64, now_ms: u64) -> Option<&Answer> {
        let is_repeated = |answer: &&Answer| {
            answer.transaction == transaction && now_ms < answer.at_ms + TIMER_J_MS
        };
        self.rows.get(id)?.answers.iter().find(is_repeated)
    }

    /// Whether a tag is that of the lease that runs.
    pub(super) fn holds(&self, id: &str, granted: &Stamp) -> bool {
        let running = self.lease(id).filter(|_| self.is_published(id));
        running.is_some_and(|lease| lease.granted == *granted)
    }

    /// Whether a lease was given, or the server deleted, after all that is known here.
    pub(super) fn is_unheard(&self, id: &str, granted: &Stamp) -> bool {
        self.rows.get(id).is_none_or(|row| {
            let known = row.lease.as_ref().map(|lease| &lease.granted);
            row.said.server.updated < *granted && known.is_none_or(|known| known < granted)
        })
    }

    pub(super) fn lease(&self, id: &str) -> Option<&Lease> {
        self.rows.get(id)?.lease.as_ref()
    }

    /// Whether another publisher's lease runs.
    pub(super) fn is_published(&self, id: &str) -> bool {
        self.stage(id) == Some(Stage::Published)
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

    /// Whether publishers took an id from one another so often that the next may not.
    pub(super) fn is_contested(&self, id: &str, now_ms: u64) -> bool {
        let recent = |at_ms: &&u64| now_ms < **at_ms + TAKE_OVER_MS;
        let row = self.rows.get(id);
        row.is_some_and(|row| row.take_overs.iter().filter(recent).count() >= MAX_TAKE_OVERS)
    }

    /// Counts that a publisher took an id from another.
    pub(super) fn take_over(&mut self, id: &str, now_ms: u64) {
        if let Some(row) = self.rows.get_mut(id) {
            row.take_overs
                .retain(|at_ms| now_ms < *at_ms + TAKE_OVER_MS);
            row.take_overs.push(now_ms);
        }
    }

    /// What was said of a server last.
    pub(super) fn said(&self, id: &str) -> Option<&Arc<Entry>> {
        self.rows.get(id).map(|row| &row.said)
    }

    /// All that is known of a server, for other nodes.
    pub(super) fn record(&self, id: &str) -> Option<Record> {
        let row = self.rows.get(id)?;
        Some(Record {
            domain: Arc::clone(&self.view.domain),
            said: Arc::clone(&row.said),
            lease: row.lease.clone(),
        })
    }

    pub(super) fn ids_after(&self, after: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<str>> {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(Arc::clone(id)));
        self.rows.range((from, Bound::Unbounded)).map(|(id, _)| id)
    }

    /// The ids of which nothing is remembered any more, since the last call.
    pub(super) fn take_dropped(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.dropped)
    }

    /// Each id with the node that said the newest of it.
    pub(super) fn authored(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.rows.iter().map(|(id, row)| {
            let said = &row.said.server.updated;
            let held = row.lease.as_ref().map(|lease| &lease.held);
            (id, &held.map_or(said, |held| held.max(said)).node)
        })
    }

    /// Whether a record tells of the end of a lease that `node` gave and that still runs, in words that an entity takes for
    /// newer than what is shown here.
    pub(super) fn contradicts(&self, record: &Record, node: &str) -> bool {
        let Some(row) = self.rows.get(record.id()) else {
            return false;
        };
        let (Some(ours), Some(theirs)) = (&row.lease, &record.lease) else {
            return false;
        };
        let of = |lease: &Lease| (lease.granted.clone(), lease.held.clone());
        row.stage() == Stage::Published
            && *ours.held.node == *node
            && theirs.ended.is_some()
            && (of(theirs) == of(ours)
                || (of(theirs) < of(ours)
                    && theirs.held > newest(&row.said.server.updated, ours.since.as_ref())))
    }

    /// Says again, with a newer stamp, that a server is there and its lease runs; the lease ends when it would have.
    pub(super) fn reassert(&mut self, id: &Arc<str>, stamp: &Stamp) {
        let row = self.rows.get_mut(id).expect("what is held has a row");
        if let Some(lease) = &mut row.lease {
            lease.held = stamp.clone();
            lease.since = Some(stamp.clone());
        }
        let due_ms = row.due_ms;
        self.settle(id, true, due_ms);
    }

    /// The entries that nodes have of themselves, last asserted at `settled_ms` or before, and whose nodes are not among the
    /// living.
    pub(super) fn entries_of_the_dead(&self, live: &[Arc<str>], settled_ms: u64) -> Vec<Arc<str>> {
        let is_own = |(id, row): &(&Arc<str>, &Row)| {
            let holder = row.lease.as_ref().map(|lease| &lease.held.node);
            row.stage() == Stage::Published
                && holder == Some(*id)
                && row.said.server.is_notifier()
                && !live.contains(id)
                && row.asserted_ms <= settled_ms
        };
        let dead = self.rows.iter().filter(is_own);
        dead.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Whether a node's own entry is shown as down.
    pub(super) fn has_lapsed(&self, node: &Arc<str>) -> bool {
        let holder = self.lease(node).map(|lease| &lease.held.node);
        holder == Some(node) && self.stage(node) == Some(Stage::Lapsed)
    }

    /// Ends the lease that a node gave its own entry, before its time; whether there was one.
    pub(super) fn end_lease_of(&mut self, node: &Arc<str>, now: Now, clock: &mut Clock) -> bool {
        let is_running = self.is_published(node);
        let Some(mut record) = self.record(node).filter(|_| is_running) else {
            return false;
        };
        let Some(lease) = record
            .lease
            .as_mut()
            .filter(|lease| lease.held.node == *node)
        else {
            return false;
        };
        lease.ended = Some(clock.stamp(now.unix_ms));
        self.set(&record, now, Word::Others);
        true
    }

    /// Takes what is newer in a record.
    pub(super) fn merge(&mut self, record: &Record, now: Now, word: Word) -> Merged {
        let id = record.id();
        let Some(mut known) = self.record(id) else {
            if self.is_over(record, now) {
                return Merged::Known;
            }
            let is_one_more = !record.said.deleted && word == Word::Others;
            if is_one_more && self.servers >= self.keep.max_servers {
                return Merged::Full;
            }
            self.set(record, now, word);
            return Merged::Taken;
        };
        if !known.join(record) {
            return Merged::Known;
        }
        if !known.said.deleted && word == Word::Others && !self.has_room_for(id, 0) {
            return Merged::Full;
        }
        self.set(&known, now, word);
        Merged::Taken
    }

    /// Whether a record is of something that would be forgotten by now.
    fn is_over(&self, record: &Record, now: Now) -> bool {
        let ended = record.lease.as_ref().and_then(|lease| lease.ended.as_ref());
        let (began, lasts_ms) = match (record.said.deleted, ended) {
            (true, _) => (&record.said.server.updated, self.keep.tombstones_ms),
            (false, Some(ended)) => (ended, self.keep.forget_after_ms + self.keep.tombstones_ms),
            (false, None) => return false,
        };
        left_ms(began.ms, lasts_ms, now, Word::Others) == 0
    }

    /// Keeps the answer to a PUBLISH, for repeats of it.
    pub(super) fn keep_answer(&mut self, id: &str, answer: Answer) {
        let Some(row) = self.rows.get_mut(id) else {
            return;
        };
        let is_fresh = |kept: &mut Answer| answer.at_ms < kept.at_ms + TIMER_J_MS;
        row.answers.retain(is_fresh);
        if row.answers.len() == MAX_ANSWERS {
            row.answers.remove(0);
        }
        row.answers.push(answer);
    }

    /// Lets leases run out and old entries go; `lapsed` hears of the leases, and which nodes held them.
    pub(super) fn tick(
        &mut self,
        now: Now,
        clock: &mut Clock,
        counters: &mut Counters,
        mut lapsed: impl FnMut(&Arc<str>, &Arc<str>),
    ) {
        while let Some((due_ms, id)) = self.deadlines.first().cloned()
            && due_ms <= now.mono_ms
        {
            match self.stage(&id).expect("each deadline has a row") {
                Stage::Held => unreachable!("without a lease there is no deadline"),
                Stage::Published => {
                    let mut record = self.record(&id).expect("it has a stage");
                    let lease = record.lease.as_mut().expect("a publication has one");
                    // Every node comes to this by itself, and to the same stamp.
                    lease.ended = Some(Stamp {
                        ms: lease.granted.ms.saturating_add(lived_ms(lease)),
                        ..lease.granted.clone()
                    });
                    lapsed(&id, &lease.held.node);
                    self.set(&record, now, Word::Own);
                    counters.lapsed += 1;
                }
                Stage::Lapsed => {
                    // What is said next is newer.
                    clock.observe(&self.forget(&id, now));
                    counters.forgotten += 1;
                }
                Stage::Deleted => self.drop_row(&id),
            }
        }
    }

    /// Replaces what is known of a server.
    fn set(&mut self, record: &Record, now: Now, word: Word) {
        let id = record.id();
        let was_server = self.is_server(id);
        let is_known = self.rows.contains_key(id);
        let row = self.rows.entry(Arc::clone(id)).or_insert_with(|| Row {
            said: Arc::clone(&record.said),
            lease: None,
            is_forgotten: false,
            due_ms: None,
            asserted_ms: now.mono_ms,
            announced: None,
            answers: SmallVec::new(),
            take_overs: SmallVec::new(),
        });
        let held = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.held.clone());
        let is_asserted = held(&row.lease) != held(&record.lease);
        let former = (row.stage(), row.due_ms);
        row.said = Arc::clone(&record.said);
        row.lease.clone_from(&record.lease);
        row.is_forgotten = false;
        if is_asserted {
            row.asserted_ms = now.mono_ms;
        }
        let due_ms = match (row.stage(), &record.lease) {
            (Stage::Published, Some(lease)) => match former {
                (Stage::Published, Some(due_ms)) if !is_asserted => Some(due_ms),
                _ => Some(self.keep.end_of(lease, now, word, is_known)),
            },
            (Stage::Lapsed, Some(lease)) => {
                let ended = lease.ended.as_ref().map_or(0, |ended| ended.ms);
                Some(now.mono_ms + left_ms(ended, self.keep.forget_after_ms, now, word))
            }
            (Stage::Deleted, _) => {
                let deleted = record.said.server.updated.ms;
                Some(now.mono_ms + left_ms(deleted, self.keep.tombstones_ms, now, word))
            }
            _ => None,
        };
        self.settle(id, was_server, due_ms);
    }

    /// Shows a server as deleted whose lease ended long ago; with which stamp.
    fn forget(&mut self, id: &Arc<str>, now: Now) -> Stamp {
        let row = self.rows.get_mut(id).expect("what is forgotten was known");
        row.is_forgotten = true;
        let shown = row.shown(self.keep.forget_after_ms);
        let stamp = shown.server.updated.clone();
        let left_ms = left_ms(stamp.ms, self.keep.tombstones_ms, now, Word::Own);
        self.settle(id, true, Some(now.mono_ms + left_ms));
        stamp
    }

    /// Puts a row that moved in its place: among the deadlines, in the count of servers and in the view.
    fn settle(&mut self, id: &Arc<str>, was_server: bool, due_ms: Option<u64>) {
        let row = self.rows.get_mut(id).expect("what is settled has a row");
        if let Some(former_ms) = std::mem::replace(&mut row.due_ms, due_ms) {
            self.deadlines.remove(&(former_ms, Arc::clone(id)));
        }
        if let Some(due_ms) = due_ms {
            self.deadlines.insert((due_ms, Arc::clone(id)));
        }
        let is_deleted = row.stage() == Stage::Deleted;
        self.servers = self.servers + usize::from(!is_deleted) - usize::from(was_server);
        let entry = row.shown(self.keep.forget_after_ms);
        self.show(entry);
        if is_deleted && self.rows.len() - self.servers > self.keep.max_servers {
            self.drop_oldest_tombstone();
        }
    }

    fn drop_oldest_tombstone(&mut self) {
        let is_deleted = |id: &&Arc<str>| !self.is_server(id);
        let oldest = self.deadlines.iter().map(|(_, id)| id).find(is_deleted);
        if let Some(id) = oldest.cloned() {
            self.drop_row(&id);
        }
    }

    fn drop_row(&mut self, id: &str) {
        if let Some((id, row)) = self.rows.remove_entry(id) {
            if let Some(due_ms) = row.due_ms {
                self.deadlines.remove(&(due_ms, Arc::clone(&id)));
            }
            self.dropped.push(id);
        }
        if let Ok(place) = self.view.position(id) {
            let view = Arc::make_mut(&mut self.view);
            view.entries.remove(place);
            view.revision += 1;
        }
    }

    /// Puts an entry into the view, as one more revision, if it is another than the one there.
    fn show(&mut self, entry: Arc<Entry>) {
        let id = &entry.server.id;
        let place = self.view.position(id);
        if place.is_ok_and(|place| self.view.entries[place] == entry) {
            return;
        }
        let row = self.rows.get_mut(id).expect("what is shown has a row");
        let view = Arc::make_mut(&mut self.view);
        let before = place.ok().map(|place| &*view.entries[place]);
        let classes = Classes::of(before, &entry, row.announced);
        if classes != Classes::default() {
            row.announced = entry.server.load;
        }
        match place {
            Ok(place) => view.entries[place] = entry,
            Err(place) => view.entries.insert(place, entry),
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
    }
}
