//! A compositor among others: what it merges, what it has to tell and to keep, and the entries of the nodes themselves.
//! Knows no way to other nodes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::record::{Lease, Record};
use super::table::{Merged, Table, Word};
use super::{Compositor, Grant, Now};
use crate::info::{Entry, Server, Status};
use crate::rendezvous::rendezvous;

/// A stamp further ahead of the time of day than this is of a clock gone wrong, and waits until it is due
/// (event-package.md, `updated`).
pub const AHEAD_MS: u64 = 10_000;
/// Nodes that were away have told what they were told meanwhile after this.
const THAW_MS: u64 = 5_000;
/// Records of one server that wait.
const EARLY_MOST: usize = 8;
/// Nodes that were alive once, and are remembered as dead.
const DEAD_MOST: usize = 1_024;

/// Servers without room that are remembered, and how many of them are asked for at once, and how often.
const REFUSED_MOST: usize = 1_024;
const WANTED_MOST: usize = 32;
const ASKED_MOST: u32 = 5;

/// A domain and an id.
type Place = (Arc<str>, Arc<str>);

/// A server that there was no room for when it was told.
#[derive(Debug)]
pub(super) struct Refused {
    /// Which node said the newest of it.
    author: Arc<str>,
    /// How often it was asked for since.
    asked: u32,
}

/// What became of another node's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    New,
    /// This node knows all of it, or better.
    Known,
    /// It is not known here, or not yet: its domain is not served, there is no room for it, or its stamp is too far ahead.
    Refused,
}

impl Compositor {
    /// Takes what another node knows.
    pub fn merge(&mut self, now: Now, record: Record) -> Heard {
        let is_its = |table: &Table| table.view().domain == record.domain;
        let Some(place) = self.tables.iter().position(is_its) else {
            self.counters.foreign += 1;
            return Heard::Refused;
        };
        if record.stamp().ms > now.unix_ms + AHEAD_MS {
            self.put_off(now, place, record);
            return Heard::Refused;
        }
        self.clock.observe(record.stamp());
        let key = (place, Arc::clone(record.id()));
        let table = &mut self.tables[place];
        // A node that holds a lease knows better than one that thinks it ended, and says so with a newer stamp than the end's.
        if table.contradicts(&record, &self.config.node) {
            table.reassert(record.id(), &self.clock.stamp(now.unix_ms));
            self.untold.insert(key);
            self.counters.reasserted += 1;
            return Heard::New;
        }
        match table.merge(&record, now, Word::Others) {
            Merged::Known => return Heard::Known,
            Merged::Taken => self.counters.merged += 1,
            Merged::Full => {
                self.refuse(key, record.author());
                return Heard::Refused;
            }
        }
        self.refused.remove(&key);
        let known = table.record(record.id());
        let author = known.as_ref().map_or(record.author(), Record::author);
        if *author == self.config.node || self.dead.contains(author) {
            self.orphans.insert(key);
        } else {
            self.orphans.remove(&key);
            self.released.insert(key);
        }
        Heard::New
    }

    /// Remembers that there is one more server than there is room for.
    fn refuse(&mut self, key: (usize, Arc<str>), author: &Arc<str>) {
        self.counters.merge_overflows += 1;
        if self.refused.len() < REFUSED_MOST || self.refused.contains_key(&key) {
            let author = Arc::clone(author);
            self.refused.insert(key, Refused { author, asked: 0 });
        }
    }

    /// Servers that were refused and that there is room for now, each with the node that knows it best: a few at once, and
    /// each a few times, for answers get lost. To be called now and then.
    pub fn take_wanted(&mut self) -> Vec<(Arc<str>, Place)> {
        let mut room: Vec<usize> = self.tables.iter().map(Table::room).collect();
        let mut wanted = Vec::new();
        for ((place, id), refused) in &mut self.refused {
            if room[*place] == 0 || wanted.len() == WANTED_MOST {
                continue;
            }
            room[*place] -= 1;
            refused.asked += 1;
            let domain = Arc::clone(&self.tables[*place].view().domain);
            wanted.push((Arc::clone(&refused.author), (domain, Arc::clone(id))));
        }
        self.refused.retain(|_, refused| refused.asked < ASKED_MOST);
        wanted
    }

    fn put_off(&mut self, now: Now, place: usize, record: Record) {
        self.counters.early += 1;
        let has_room = self.early.len() < self.config.max_servers;
        let key = (place, Arc::clone(record.id()));
        let due_ms = early_due_ms(now, &record);
        match self.early.get_mut(&key) {
            Some(waiting) if waiting.len() < EARLY_MOST => waiting.push_back(record),
            Some(waiting) => {
                waiting.back_mut().map(|last| last.join(&record));
            }
            None if has_room => {
                self.early.insert(key, VecDeque::from([record]));
            }
            None => return self.counters.merge_overflows += 1,
        }
        self.early_due_ms = Some(self.early_due_ms.map_or(due_ms, |first| first.min(due_ms)));
    }

    /// Merges what was put off and is due.
    pub(super) fn merge_due(&mut self, now: Now) {
        let is_due = |due_ms: u64| due_ms <= now.mono_ms;
        if self.early_due_ms.is_none_or(|due_ms| !is_due(due_ms)) {
            return;
        }
        let early = std::mem::take(&mut self.early);
        self.early_due_ms = None;
        // What is still too far ahead is put off again.
        let counted = self.counters.early;
        for record in early.into_values().flatten() {
            self.merge(now, record);
        }
        self.counters.early = counted;
    }

    /// Says which nodes of the cluster are alive, this one among them. A node's own entry ends with it; what it said of others
    /// each of the living keeps for it.
    pub fn set_live(&mut self, now: Now, live: Vec<Arc<str>>) {
        let former = std::mem::replace(&mut self.live, live);
        let gone: Vec<Arc<str>> = former
            .iter()
            .filter(|node| !self.live.contains(node))
            .cloned()
            .collect();
        for node in &self.live {
            self.dead.remove(node);
        }
        for place in 0..self.tables.len() {
            for node in &gone {
                self.end_node(place, node, now);
            }
            let table = &self.tables[place];
            // Whoever is gone may have kept what was said by one that this node never saw alive.
            let is_left = |author: &Arc<str>| !gone.is_empty() && !self.live.contains(author);
            let left = table.authored().filter(|(_, author)| is_left(author));
            self.orphans
                .extend(left.map(|(id, _)| (place, Arc::clone(id))));
            // Back, it hears what was said of it.
            let back = self.live.iter().filter(|node| !former.contains(node));
            let accused = back.filter(|node| table.has_lapsed(node));
            self.accused
                .extend(accused.map(|node| (place, Arc::clone(node))));
        }
        self.dead.extend(gone);
        while self.dead.len() > DEAD_MOST {
            self.dead.pop_first();
        }
    }

    /// The nodes that are alive, this one among them; none where there is no cluster.
    pub fn live(&self) -> &[Arc<str>] {
        &self.live
    }

    /// Those of the living that take new work, as their own entries say; all of them where none does.
    pub fn working(&self) -> Vec<Arc<str>> {
        let takes_work = |node: &&Arc<str>| {
            let view = self.tables[0].view();
            let entry = view.find(node).filter(|_| self.is_of_node(node));
            entry.is_none_or(|entry| !entry.deleted && entry.server.status != Status::Draining)
        };
        let working: Vec<_> = self.live.iter().filter(takes_work).cloned().collect();
        match working[..] {
            [] => self.live.clone(),
            _ => working,
        }
    }

    /// Ends the entries of nodes that are not alive, and were not when they were last heard of; and tells the living of whom
    /// that was said. To be called now and then.
    pub fn check_nodes(&mut self, now: Now) {
        for place in 0..self.tables.len() {
            let settled_ms = now.mono_ms.saturating_sub(self.config.new_node_ms);
            for node in self.tables[place].entries_of_the_dead(&self.live, settled_ms) {
                self.end_node(place, &node, now);
            }
            // What was said of one that is alive got lost on its way.
            let table = &self.tables[place];
            let lapsed = self.live.iter().filter(|node| table.has_lapsed(node));
            self.accused
                .extend(lapsed.map(|node| (place, Arc::clone(node))));
        }
    }

    fn end_node(&mut self, place: usize, node: &Arc<str>, now: Now) {
        if self.tables[place].end_lease_of(node, now, &mut self.clock) {
            self.counters.lapsed += 1;
            // A node that was not dead hears it even where nobody else thinks so.
            self.accused.insert((place, Arc::clone(node)));
            if self.speaks_for(place, node) {
                self.untold.insert((place, Arc::clone(node)));
            }
        }
    }

    /// Whether it is for this node to tell what nobody alive has said.
    pub(super) fn speaks_for(&self, place: usize, id: &str) -> bool {
        let domain = &self.tables[place].view().domain;
        rendezvous(&self.live, &[&**domain, id]) == Some(&self.config.node)
    }

    /// Shows an entry of this node's own in every domain, under a lease that ends with this node; to be renewed well within
    /// `CompositorConfig::max_expires_s`.
    pub fn announce(&mut self, now: Now, server: &Server) {
        self.show(now, server, self.config.max_expires_s);
    }

    /// Shows in every domain what this node knows of a server, for so many seconds; what is shown already is prolonged.
    pub fn show(&mut self, now: Now, server: &Server, expires_s: u32) {
        let expires_s = expires_s.min(self.config.max_expires_s);
        for place in 0..self.tables.len() {
            let [updated, granted] = [(); 2].map(|()| self.clock.stamp(now.unix_ms));
            let table = &mut self.tables[place];
            // What is shown of a server whose lease ran out is not what was said of it.
            let says_so = table.is_published(&server.id) && table.says(server);
            let said = match table.said(&server.id).filter(|_| says_so) {
                Some(said) => Arc::clone(said),
                None => Arc::new(Entry {
                    server: Server {
                        updated,
                        ..server.clone()
                    },
                    deleted: false,
                }),
            };
            let record = Record {
                domain: Arc::clone(&table.view().domain),
                said,
                lease: Some(Lease {
                    held: granted.clone(),
                    granted,
                    ended: None,
                    since: table
                        .lease(&server.id)
                        .and_then(|lease| lease.since.clone()),
                    expires_s,
                }),
            };
            table.merge(&record, now, Word::Own);
            self.untold.insert((place, Arc::clone(record.id())));
        }
    }

    /// Whether an entry is what a node says of itself, not what a publisher said.
    pub fn is_of_node(&self, id: &Arc<str>) -> bool {
        let leases = self.tables.iter().filter_map(|table| table.lease(id));
        leases.into_iter().any(|lease| lease.held.node == *id)
    }

    /// Whether every domain shows all that `server` says.
    pub fn shows(&self, server: &Server) -> bool {
        self.tables.iter().all(|table| table.says(server))
    }

    /// Says of every domain whether what is not named in it may merely be unknown.
    pub fn set_stale(&mut self, stale: bool) {
        for table in &mut self.tables {
            table.set_stale(stale);
        }
    }

    /// Lets a publication take effect of which other nodes are to be told later.
    pub fn commit_untold(&mut self, now: Now, grant: Grant) {
        let place = grant.change.place;
        let id = Arc::clone(grant.record().id());
        self.commit(now, grant);
        self.untold.insert((place, id));
    }

    /// No lease runs out from now on: nobody goes down because this node hears of nobody.
    pub fn freeze(&mut self) {
        self.frozen_until_ms = u64::MAX;
    }

    /// Leases run out again, after a time in which other nodes tell what they were told meanwhile.
    pub fn thaw(&mut self, now: Now) {
        self.frozen_until_ms = now.mono_ms + THAW_MS;
    }

    /// What other nodes are to be told since the last call, beside what was granted.
    pub fn take_untold(&mut self) -> Vec<Record> {
        let untold = std::mem::take(&mut self.untold);
        let record = |(place, id): (usize, Arc<str>)| self.tables[place].record(&id);
        untold.into_iter().filter_map(record).collect()
    }

    /// What is known of one server.
    pub fn record(&self, (domain, id): &(Arc<str>, Arc<str>)) -> Option<Record> {
        let table = self
            .tables
            .iter()
            .find(|table| table.view().domain == *domain);
        table?.record(id)
    }

    /// All that is known of the servers after this one, in a fixed order.
    pub fn records_after(&self, after: Option<&(Arc<str>, Arc<str>)>) -> VecDeque<Record> {
        let first = after.map_or(0, |(domain, _)| {
            let is_its = |table: &Table| table.view().domain == *domain;
            self.tables.iter().position(is_its).unwrap_or_default()
        });
        let records = self
            .tables
            .iter()
            .enumerate()
            .skip(first)
            .flat_map(|(place, table)| {
                let from = after.filter(|_| place == first).map(|(_, id)| id);
                table.ids_after(from).filter_map(move |id| table.record(id))
            });
        records.collect()
    }

    /// Deletes this node's own entry.
    pub fn retire(&mut self, now: Now, id: &Arc<str>) {
        for place in 0..self.tables.len() {
            let Some(mut record) = self.tables[place].record(id) else {
                continue;
            };
            let said = Arc::make_mut(&mut record.said);
            said.server.updated = self.clock.stamp(now.unix_ms);
            said.deleted = true;
            self.tables[place].merge(&record, now, Word::Own);
            self.untold.insert((place, Arc::clone(id)));
        }
    }

    /// What this node is from now on to keep for others, since the last call.
    pub fn take_orphans(&mut self) -> Vec<Record> {
        let orphans = std::mem::take(&mut self.orphans);
        let record = |(place, id): (usize, Arc<str>)| self.tables[place].record(&id);
        orphans.into_iter().filter_map(record).collect()
    }

    /// Makes all that this node has to keep for others due again: what it said itself, and what nobody alive did.
    pub fn keep_again(&mut self) {
        for (place, table) in self.tables.iter().enumerate() {
            let is_ours =
                |author: &Arc<str>| *author == self.config.node || !self.live.contains(author);
            let ours = table.authored().filter(|(_, author)| is_ours(author));
            self.orphans
                .extend(ours.map(|(id, _)| (place, Arc::clone(id))));
        }
    }

    /// What this node need no longer keep for others, since the last call: another one alive knows better.
    pub fn take_released(&mut self) -> Vec<(Arc<str>, Arc<str>)> {
        let released = std::mem::take(&mut self.released).into_iter();
        let domain = |place: usize| Arc::clone(&self.tables[place].view().domain);
        released.map(|(place, id)| (domain(place), id)).collect()
    }

    /// What this node has forgotten since the last call: nobody need remember it any more.
    pub fn take_dropped(&mut self) -> Vec<(Arc<str>, Arc<str>)> {
        let dropped = self.tables.iter_mut().flat_map(|table| {
            let domain = Arc::clone(&table.view().domain);
            let ids = table.take_dropped().into_iter();
            ids.map(move |id| (Arc::clone(&domain), id))
        });
        dropped.collect()
    }

    /// Nodes that are to hear that they are taken for dead, with what is known of them.
    pub fn take_accused(&mut self) -> Vec<Record> {
        let accused = std::mem::take(&mut self.accused);
        let record = |(place, node): (usize, Arc<str>)| self.tables[place].record(&node);
        accused.into_iter().filter_map(record).collect()
    }
}

/// When the stamps of a record are near enough, in monotonic ms.
fn early_due_ms(now: Now, record: &Record) -> u64 {
    now.mono_ms + record.stamp().ms.saturating_sub(now.unix_ms + AHEAD_MS)
}
