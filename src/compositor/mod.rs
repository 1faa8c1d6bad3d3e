//! The event state compositor of RFC 3903: publications, their leases and entity-tags, the views made of them, and how what
//! other nodes know is merged. Knows no clock, no socket, no thread, no subscriber, and no way to other nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::counters::counters;
use crate::info::{Entry, MAX_SERVERS, Server, View};
use crate::rendezvous::rendezvous;
use crate::sip::request::Request;
use crate::sip::scan::{Name, scan};

mod clock;
mod publish;
mod record;
mod table;
mod tag;

use clock::Clock;
use publish::{Change, Refusal, Wait, domain_of};
use table::{Keep, Merged, Table, Word};
use tag::Tags;

pub use publish::Kind;
pub use record::{Lease, MAX_RECORD_BYTES, Record, RecordError};

/// A stamp further ahead of the time of day than this is of a clock gone wrong, and waits until it is due
/// (event-package.md, `updated`).
const AHEAD_MS: u64 = 10_000;
/// Records of one server that wait.
const EARLY_MOST: usize = 8;
/// Nodes that were alive once, and are remembered as dead.
const DEAD_MOST: usize = 1_024;

/// What time it is: the monotonic clock for leases, the time of day for stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub mono_ms: u64,
    pub unix_ms: u64,
}

#[derive(Debug, Clone)]
pub struct CompositorConfig {
    /// The domains served; none: every domain names the one table, `*`.
    pub domains: Vec<Arc<str>>,
    /// This node's id, 1 to 64 of letters, digits, `.`, `_`, `-`.
    pub node: Arc<str>,
    /// The lease of a publisher that asks for none, in seconds.
    pub default_expires_s: u32,
    /// The shortest lease, in seconds.
    pub min_expires_s: u32,
    /// The longest lease, in seconds.
    pub max_expires_s: u32,
    /// So long after its lease ran out a server is shown as down, in seconds.
    pub forget_after_s: u32,
    /// So long a deleted server is remembered, in seconds.
    pub tombstones_s: u32,
    /// The most servers of a domain, and the most deleted ones.
    pub max_servers: usize,
    /// A node's own entry may come before the node is known to be alive, by no more than this, in ms.
    pub new_node_ms: u64,
}

impl CompositorConfig {
    /// The values of event-package.md, for every domain.
    pub fn new(node: Arc<str>) -> Self {
        CompositorConfig {
            domains: Vec::new(),
            node,
            default_expires_s: 30,
            min_expires_s: 1,
            max_expires_s: 3600,
            forget_after_s: 3600,
            tombstones_s: 7200,
            max_servers: MAX_SERVERS,
            new_node_ms: 5_000,
        }
    }
}

counters! {
    /// Publications without an entity-tag.
    initial,
    /// Publications with an entity-tag and a body that says something new.
    modified,
    /// Publications that only prolonged a lease.
    refreshed,
    removed,
    /// Requests repeated, and answered as before.
    repeated,
    /// Initial publications of an id whose lease was another's.
    taken_over,
    /// Leases that ran out.
    lapsed,
    /// Servers deleted long after their lease ran out.
    forgotten,
    /// 400: malformed, or the body is.
    malformed,
    /// 403: taken over too often.
    contested,
    /// 404.
    unknown_domain,
    /// 412.
    tag_mismatch,
    /// 413.
    too_large,
    /// 415.
    unsupported,
    /// 416.
    uri_scheme,
    /// 423.
    too_brief,
    /// 489.
    bad_event,
    /// 503: the table is full.
    full,
    /// 503: the cluster could not be told.
    unkept,
    /// What could not be answered at all.
    unanswerable,
    /// Records of other nodes that told something new.
    merged,
    /// Records of domains that are not served here.
    foreign,
    /// Records with a stamp far ahead of the time of day, which wait until it is due.
    early,
    /// Records dropped because the table, or the room for early ones, is full.
    merge_overflows,
    /// Leases held here that another node thought had ended.
    reasserted,
}

/// What became of a PUBLISH so far.
#[derive(Debug)]
pub enum Verdict {
    /// Answered for good.
    Answered,
    /// Granted if the other nodes can be told: see [`Compositor::commit`] and [`Compositor::decline`]. The response is what
    /// is answered then.
    Granted(Grant),
    /// Its entity-tag is of a lease that this node has not heard of: the node that gave it may tell, of the server at this
    /// place (domain and id).
    Unheard {
        node: Arc<str>,
        place: (Arc<str>, Arc<str>),
    },
    /// An earlier one for the same server is neither committed nor declined.
    Busy,
}

/// A publication that has not taken effect yet.
#[derive(Debug)]
pub struct Grant {
    kind: Kind,
    change: Change,
}

impl Grant {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What other nodes are to be told.
    pub fn record(&self) -> &Record {
        &self.change.record
    }

    /// The lease given, in seconds.
    pub fn expires_s(&self) -> u32 {
        self.change.answer.expires_s
    }
}

/// Takes publications, keeps leases, and says what the cluster looks like.
#[derive(Debug)]
pub struct Compositor {
    config: CompositorConfig,
    tables: Vec<Table>,
    /// The canonical names of the tables' domains; none where the one table serves all.
    domains: Vec<String>,
    clock: Clock,
    tags: Tags,
    key: [u8; 16],
    /// Granted, and neither committed nor declined.
    pending: Vec<(usize, Arc<str>)>,
    /// The nodes that are alive, this one among them; none where there is no cluster.
    live: Vec<Arc<str>>,
    /// Nodes that were alive, and are not.
    dead: BTreeSet<Arc<str>>,
    /// What other nodes are to be told, by table and id.
    untold: BTreeSet<(usize, Arc<str>)>,
    /// What this node is to keep for others because nobody else alive has said it, and what it need no longer.
    orphans: BTreeSet<(usize, Arc<str>)>,
    released: BTreeSet<(usize, Arc<str>)>,
    /// Nodes that are to hear that they are taken for dead.
    accused: BTreeSet<(usize, Arc<str>)>,
    /// Records that wait until the time of day comes near their stamps, of each server in the order they came; what comes
    /// after [`EARLY_MOST`] is joined to the last.
    early: BTreeMap<(usize, Arc<str>), VecDeque<Record>>,
    /// When the first of them is due, monotonic.
    early_due_ms: Option<u64>,
    counters: Counters,
}

impl Compositor {
    /// `key` makes entity-tags unforgeable; nodes of one cluster share it.
    pub fn new(config: CompositorConfig, key: [u8; 16], now: Now) -> Self {
        let notifier: Arc<str> = format!("{}@{}", config.node, now.unix_ms).into();
        let seconds = |seconds: u32| u64::from(seconds) * 1000;
        let keep = Keep {
            lease_ms: seconds(config.max_expires_s),
            forget_after_ms: seconds(config.forget_after_s),
            tombstones_ms: seconds(config.tombstones_s),
            max_servers: config.max_servers,
        };
        let canonical = |domain: &Arc<str>| {
            domain_of(domain.as_bytes()).unwrap_or_else(|| domain.to_ascii_lowercase())
        };
        let domains: Vec<String> = config.domains.iter().map(canonical).collect();
        let names = if domains.is_empty() {
            &["*".into()]
        } else {
            &domains[..]
        };
        let table = |name: &String| Table::new(name.as_str().into(), Arc::clone(&notifier), keep);
        Compositor {
            tables: names.iter().map(table).collect(),
            domains,
            clock: Clock::new(Arc::clone(&config.node)),
            tags: Tags::new(key),
            config,
            key,
            pending: Vec::new(),
            live: Vec::new(),
            dead: BTreeSet::new(),
            untold: BTreeSet::new(),
            orphans: BTreeSet::new(),
            released: BTreeSet::new(),
            accused: BTreeSet::new(),
            early: BTreeMap::new(),
            early_due_ms: None,
            counters: Counters::default(),
        }
    }

    /// Answers a PUBLISH whose general checks (Via, From, CSeq, Require ...) the notifier has made: appends the
    /// response, or nothing where the bytes are no request. `source` is where the request came from. What it says takes
    /// effect at once, whether other nodes hear of it or not.
    pub fn publish(&mut self, now: Now, source: SocketAddr, bytes: &[u8], response: &mut Vec<u8>) {
        match self.consider(now, source, bytes, response) {
            Verdict::Answered | Verdict::Busy => {}
            Verdict::Granted(grant) => self.commit(now, grant),
            Verdict::Unheard { .. } => {
                self.answer(source, bytes, Err(Refusal::TagMismatch), response)
            }
        }
    }

    /// The same, but what it says takes effect with [`Compositor::commit`] only; nothing is appended where the PUBLISH has
    /// to wait.
    pub fn consider(
        &mut self,
        now: Now,
        source: SocketAddr,
        bytes: &[u8],
        response: &mut Vec<u8>,
    ) -> Verdict {
        self.tick(now);
        let Ok(message) = scan(bytes) else {
            self.counters.unanswerable += 1;
            return Verdict::Answered;
        };
        let (transaction, outcome) = match Request::parse(&message) {
            Ok(request) => {
                let transaction = self.transaction(&request);
                match self.judge(now, request, transaction) {
                    Ok(outcome) => (transaction, outcome),
                    Err(Wait::Unheard { node, place }) => return Verdict::Unheard { node, place },
                    Err(Wait::Busy) => return Verdict::Busy,
                }
            }
            Err(malformed) => (self.hash([bytes]), Err(malformed.into())),
        };
        self.count(&outcome);
        if publish::write(&message, source, transaction, &outcome, response).is_err() {
            self.counters.unanswerable += 1;
        }
        let Ok(granted) = outcome else {
            return Verdict::Answered;
        };
        let Some(change) = granted.change else {
            return Verdict::Answered;
        };
        let kind = granted.kind;
        self.pending
            .push((change.place, Arc::clone(change.record.id())));
        Verdict::Granted(Grant { kind, change })
    }

    /// Lets a publication take effect: its answer may go out once the view is with the subscribers.
    pub fn commit(&mut self, now: Now, grant: Grant) {
        let Change {
            place,
            record,
            answer,
        } = grant.change;
        self.settle(place, record.id());
        let table = &mut self.tables[place];
        table.merge(&record, now, Word::Own);
        if grant.kind == (Kind::Initial { is_take_over: true }) {
            table.take_over(record.id(), now.mono_ms);
        }
        table.keep_answer(record.id(), answer);
        // It may have been released to another node's word meanwhile.
        self.released.remove(&(place, Arc::clone(record.id())));
    }

    /// Takes a publication back whose record could not be kept: 503, in place of the response that it would have had.
    pub fn decline(
        &mut self,
        grant: Grant,
        source: SocketAddr,
        bytes: &[u8],
        response: &mut Vec<u8>,
    ) {
        self.settle(grant.change.place, grant.change.record.id());
        self.answer(source, bytes, Err(Refusal::Unkept), response);
    }

    /// Answers a PUBLISH that waited in vain for a record of its lease: 412.
    pub fn mismatch(&mut self, source: SocketAddr, bytes: &[u8], response: &mut Vec<u8>) {
        self.answer(source, bytes, Err(Refusal::TagMismatch), response);
    }

    fn settle(&mut self, place: usize, id: &str) {
        self.pending
            .retain(|(at, pending)| *at != place || **pending != *id);
    }

    fn answer(
        &mut self,
        source: SocketAddr,
        bytes: &[u8],
        outcome: publish::Outcome,
        response: &mut Vec<u8>,
    ) {
        self.count(&outcome);
        let tag = self.hash([bytes]);
        let written = scan(bytes)
            .ok()
            .and_then(|message| publish::write(&message, source, tag, &outcome, response).ok());
        if written.is_none() {
            self.counters.unanswerable += 1;
        }
    }

    /// Takes what another node knows; whether it was anything new.
    pub fn merge(&mut self, now: Now, record: Record) -> bool {
        let is_its = |table: &Table| table.view().domain == record.domain;
        let Some(place) = self.tables.iter().position(is_its) else {
            self.counters.foreign += 1;
            return false;
        };
        if record.stamp().ms > now.unix_ms + AHEAD_MS {
            self.put_off(now, place, record);
            return false;
        }
        self.clock.observe(record.stamp());
        let key = (place, Arc::clone(record.id()));
        let table = &mut self.tables[place];
        // A node that holds a lease knows better than one that thinks it ended, and says so with a newer stamp than the end's.
        if table.contradicts(&record, &self.config.node) {
            table.reassert(record.id(), &self.clock.stamp(now.unix_ms));
            self.untold.insert(key);
            self.counters.reasserted += 1;
            return true;
        }
        match table.merge(&record, now, Word::Others) {
            Merged::Known => return false,
            Merged::Taken => self.counters.merged += 1,
            Merged::Full => {
                self.counters.merge_overflows += 1;
                return false;
            }
        }
        let known = table.record(record.id());
        let author = known.as_ref().map_or(record.author(), Record::author);
        if *author == self.config.node || self.dead.contains(author) {
            self.orphans.insert(key);
        } else {
            self.orphans.remove(&key);
            self.released.insert(key);
        }
        true
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
            let left = table.authored().filter(|(_, author)| gone.contains(author));
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
    fn speaks_for(&self, place: usize, id: &str) -> bool {
        let domain = &self.tables[place].view().domain;
        rendezvous(&self.live, &[&**domain, id]) == Some(&self.config.node)
    }

    /// Shows an entry of this node's own in every domain, under a lease that ends with this node; to be renewed well within
    /// [`CompositorConfig::max_expires_s`].
    pub fn announce(&mut self, now: Now, server: &Server) {
        for place in 0..self.tables.len() {
            let [updated, granted] = [(); 2].map(|()| self.clock.stamp(now.unix_ms));
            let table = &mut self.tables[place];
            let says_so = table.says(server);
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
                    expires_s: self.config.max_expires_s,
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

    /// Makes all that this node has to keep for others due again: what it said itself, and what the dead did.
    pub fn keep_again(&mut self) {
        for (place, table) in self.tables.iter().enumerate() {
            let is_ours =
                |author: &Arc<str>| *author == self.config.node || self.dead.contains(author);
            let ours = table.authored().filter(|(_, author)| is_ours(author));
            self.orphans
                .extend(ours.map(|(id, _)| (place, Arc::clone(id))));
        }
    }

    /// What this node need no longer keep for others: another one alive knows better, or nobody remembers it.
    pub fn take_released(&mut self) -> Vec<(Arc<str>, Arc<str>)> {
        let released = std::mem::take(&mut self.released);
        let mut places: Vec<_> = released
            .into_iter()
            .map(|(place, id)| (Arc::clone(&self.tables[place].view().domain), id))
            .collect();
        for table in &mut self.tables {
            let domain = Arc::clone(&table.view().domain);
            let ids = table.take_dropped();
            places.extend(ids.into_iter().map(|id| (Arc::clone(&domain), id)));
        }
        places
    }

    /// Nodes that are to hear that they are taken for dead, with what is known of them.
    pub fn take_accused(&mut self) -> Vec<Record> {
        let accused = std::mem::take(&mut self.accused);
        let record = |(place, node): (usize, Arc<str>)| self.tables[place].record(&node);
        accused.into_iter().filter_map(record).collect()
    }

    /// Lets leases run out. To be called at [`Compositor::next_deadline`]; earlier or later does no harm.
    pub fn tick(&mut self, now: Now) {
        for place in 0..self.tables.len() {
            let mut lapsed = Vec::new();
            let table = &mut self.tables[place];
            table.tick(now, &mut self.clock, &mut self.counters, |id, holder| {
                lapsed.push((Arc::clone(id), Arc::clone(holder)));
            });
            for (id, holder) in lapsed {
                // A holder that lives is told, too: it knows better if it says nothing.
                if self.live.contains(&holder) || self.speaks_for(place, &id) {
                    self.untold.insert((place, id));
                }
            }
        }
        if self.live.is_empty() {
            self.untold.clear();
            drop(self.take_released());
        }
        if self
            .early_due_ms
            .is_some_and(|due_ms| due_ms <= now.mono_ms)
        {
            let early = std::mem::take(&mut self.early);
            self.early_due_ms = None;
            // What is still too far ahead is put off again.
            let counted = self.counters.early;
            for record in early.into_values().flatten() {
                self.merge(now, record);
            }
            self.counters.early = counted;
        }
    }

    /// When `tick` has something to do next, in monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let leases = self.tables.iter().filter_map(Table::next_deadline);
        leases.chain(self.early_due_ms).min()
    }

    /// The current view of each domain, in the order of the configuration.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.tables.iter().map(Table::view)
    }

    /// The place of each domain whose view changed since the last call, and its view.
    pub fn take_changed(&mut self) -> Vec<(u16, Arc<View>)> {
        let changed = |(place, table): (u16, &mut Table)| Some((place, table.take_changed()?));
        (0..).zip(&mut self.tables).filter_map(changed).collect()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What names the transaction of a request (RFC 3261 17.2.3), as a keyed hash.
    fn transaction(&self, request: &Request<'_, '_>) -> u64 {
        let via = &request.via;
        let number = request.cseq.number.to_be_bytes();
        // Without the magic cookie a branch need not be unique (8.1.1.7): the whole Via and From stand in.
        let from = request.message.first(Name::From).unwrap_or_default();
        let unique = |branch: &&[u8]| branch.starts_with(b"z9hG4bK");
        let branch = via.branch.filter(unique).unwrap_or(via.raw);
        self.hash([branch, via.host, request.call_id, &number, from])
    }

    fn hash<const N: usize>(&self, parts: [&[u8]; N]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for part in parts {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// When the stamps of a record are near enough, in monotonic ms.
fn early_due_ms(now: Now, record: &Record) -> u64 {
    now.mono_ms + record.stamp().ms.saturating_sub(now.unix_ms + AHEAD_MS)
}
