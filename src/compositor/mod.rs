//! The event state compositor of RFC 3903: publications, their leases and entity-tags, and the views made of them.
//! Knows no clock, no socket, no thread and no subscriber.

use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::info::{MAX_SERVERS, View};
use crate::sip::request::Request;
use crate::sip::scan::{Name, scan};

mod clock;
mod publish;
mod table;
mod tag;

use clock::Clock;
use publish::domain_of;
use table::{Keep, Table};
use tag::Tags;

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
        }
    }
}

/// What became of the PUBLISH requests, and of the leases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Publications without an entity-tag.
    pub initial: u64,
    /// Publications with an entity-tag and a body that says something new.
    pub modified: u64,
    /// Publications that only prolonged a lease.
    pub refreshed: u64,
    pub removed: u64,
    /// Requests repeated, and answered as before.
    pub repeated: u64,
    /// Initial publications of an id whose lease was another's.
    pub taken_over: u64,
    /// Leases that ran out.
    pub lapsed: u64,
    /// Servers deleted long after their lease ran out.
    pub forgotten: u64,
    /// 400: malformed, or the body is.
    pub malformed: u64,
    /// 403: taken over too often.
    pub contested: u64,
    /// 404.
    pub unknown_domain: u64,
    /// 412.
    pub tag_mismatch: u64,
    /// 413.
    pub too_large: u64,
    /// 415.
    pub unsupported: u64,
    /// 416.
    pub uri_scheme: u64,
    /// 423.
    pub too_brief: u64,
    /// 489.
    pub bad_event: u64,
    /// 503: the table is full.
    pub full: u64,
    /// What could not be answered at all.
    pub unanswerable: u64,
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
    counters: Counters,
}

impl Compositor {
    /// `key` makes entity-tags unforgeable; nodes of one cluster share it.
    pub fn new(config: CompositorConfig, key: [u8; 16], now: Now) -> Self {
        let notifier: Arc<str> = format!("{}@{}", config.node, now.unix_ms).into();
        let seconds = |seconds: u32| u64::from(seconds) * 1000;
        let keep = Keep {
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
            counters: Counters::default(),
        }
    }

    /// Answers a PUBLISH whose general checks (Via, From, CSeq, Require ...) the notifier has made: appends the
    /// response, or nothing where the bytes are no request. `source` is where the request came from.
    pub fn publish(&mut self, now: Now, source: SocketAddr, bytes: &[u8], response: &mut Vec<u8>) {
        self.tick(now);
        let Ok(message) = scan(bytes) else {
            self.counters.unanswerable += 1;
            return;
        };
        let (transaction, outcome) = match Request::parse(&message) {
            Ok(request) => {
                let transaction = self.transaction(&request);
                (transaction, self.judge(now, request, transaction))
            }
            Err(malformed) => (self.hash([bytes]), Err(malformed.into())),
        };
        self.count(&outcome);
        if publish::write(&message, source, transaction, &outcome, response).is_err() {
            self.counters.unanswerable += 1;
        }
    }

    /// Lets leases run out. To be called at [`Compositor::next_deadline`]; earlier or later does no harm.
    pub fn tick(&mut self, now: Now) {
        for table in &mut self.tables {
            table.tick(
                now.mono_ms,
                now.unix_ms,
                &mut self.clock,
                &mut self.counters,
            );
        }
    }

    /// When `tick` has something to do next, in monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.tables.iter().filter_map(Table::next_deadline).min()
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
