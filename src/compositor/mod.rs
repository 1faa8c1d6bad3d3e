//! The event state compositor of RFC 3903: publications, their leases and entity-tags, the views made of them, and how what
//! other nodes know is merged. Knows no clock, no socket, no thread, no subscriber, and no way to other nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::counters::counters;
use crate::info::{MAX_SERVERS, View};
use crate::sip::request::Request;
use crate::sip::scan::{Name, scan};

mod among;
mod classes;
mod clock;
mod publish;
mod record;
mod table;
mod tag;

use among::Refused;
use clock::Clock;
use publish::{Change, Refusal, Wait, domain_of};
use table::{Keep, Table, Word};
use tag::Tags;

pub use among::{AHEAD_MS, Heard};
pub use publish::Kind;
pub use record::{Lease, MAX_RECORD_BYTES, Record, RecordError};

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
    /// Servers that the table was too full for.
    refused: BTreeMap<(usize, Arc<str>), Refused>,
    /// Records that wait until the time of day comes near their stamps, of each server in the order they came; what comes
    /// after `EARLY_MOST` is joined to the last.
    early: BTreeMap<(usize, Arc<str>), VecDeque<Record>>,
    /// When the first of them is due, monotonic.
    early_due_ms: Option<u64>,
    /// No lease runs out before, in monotonic ms.
    frozen_until_ms: u64,
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
            refused: BTreeMap::new(),
            early: BTreeMap::new(),
            early_due_ms: None,
            frozen_until_ms: 0,
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

    /// Answers a PUBLISH of a lease not heard of while nobody can be asked: 503.
    pub fn refuse_unkept(&mut self, source: SocketAddr, bytes: &[u8], response: &mut Vec<u8>) {
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

    /// Lets leases run out. To be called at [`Compositor::next_deadline`]; earlier or later does no harm.
    pub fn tick(&mut self, now: Now) {
        let is_frozen = now.mono_ms < self.frozen_until_ms;
        for place in (0..self.tables.len()).filter(|_| !is_frozen) {
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
            self.released.clear();
            drop(self.take_dropped());
        }
        self.merge_due(now);
    }

    /// When `tick` has something to do next, in monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let leases = self.tables.iter().filter_map(Table::next_deadline);
        let leases = leases.map(|due_ms| due_ms.max(self.frozen_until_ms));
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
