//! The control thread: the compositor, connections, lookups of names, signals, and the end. It serves no datagram; what
//! it changes reaches the shards as views and messages.

mod connection;
pub mod connections;
mod framing;
mod probes;
pub mod stream;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::TrySendError;
use hickory_resolver::TokioResolver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use crate::cluster::member::{Answer, Member, Request};
use crate::cluster::{Cluster, FromCluster};
use crate::compositor::Now;
use crate::config::TcpBounds;
use crate::counters::counters;
use crate::info::{Address, AddressTransport, Server, View};
use crate::load;
use crate::notifier::Effect;
use crate::notifier::drain::Other;
use crate::notifier::names::{Location, Target};
use crate::probe::Prober;
use crate::resolver;
use crate::shard::{FromShard, Report, ShardHandle, ToShard};
use crate::wire::{Datagram, Flow, Transport};
use connections::{Connections, SWEEP_EVERY};
use probes::Probes;
use stream::Listener;

/// SUBSCRIBEs that may wait for lookups.
const PARKED_MOST: usize = 4_096;
/// Lookups under way at once.
const LOOKUPS_MOST: usize = 256;
/// A lookup is given up after this: its SUBSCRIBE is then refused.
const LOOKUP_WITHIN: Duration = Duration::from_secs(3);
/// At the end, answers to the last NOTIFYs are waited for so long.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// What a full shard did not take is offered again after this.
const OFFER_AGAIN: Duration = Duration::from_millis(2);
/// Messages taken from shards between two rests: while its thread never rests, tokio-uring submits nothing, and no other
/// connection is read.
const TAKEN_BETWEEN_RESTS: usize = 256;
const REST: Duration = Duration::from_millis(1);
/// Counters are waited for so long; a shard that is busier is left out.
const REPORT_WITHIN: Duration = Duration::from_millis(500);

counters! {
    /// Lookups of names begun.
    lookups,
    /// SUBSCRIBEs dropped because too many waited for lookups.
    lookup_overflows,
    /// Answers to PUBLISH that a shard had no room for.
    answers_dropped,
}

/// What the control thread needs to begin.
#[derive(Debug)]
pub struct Parts {
    pub member: Member,
    pub shards: Vec<ShardHandle>,
    pub from_shards: mpsc::Receiver<FromShard>,
    /// One listener for each listening address, in the order of `Flow::local`.
    pub listeners: Vec<TcpListener>,
    pub tcp: TcpBounds,
    /// Names in Contacts and routes are looked up.
    pub resolve: bool,
    /// Whom to ask for them; none: whom the system asks.
    pub nameservers: Vec<SocketAddr>,
    /// The way to other nodes.
    pub cluster: Option<Cluster>,
    /// Servers that do not publish.
    pub prober: Option<Prober>,
    /// The time over which subscriptions end where others can take them.
    pub drain_over: Duration,
    /// Times count from here, the same as the shards'.
    pub start: Instant,
}

/// The control thread's state.
#[derive(Debug)]
pub struct Control {
    member: Member,
    cluster: Option<Cluster>,
    probes: Option<Probes>,
    shards_load: load::Shards,
    shards: Vec<ShardHandle>,
    from_shards: mpsc::Receiver<FromShard>,
    connections: Rc<Connections>,
    lookups: Rc<Lookups>,
    /// Views that a full shard has still to be given, the newest of each domain.
    owed: HashMap<(usize, u16), Arc<View>>,
    /// Shards to be told that a connection which they wrote to is gone.
    gone: HashSet<(usize, Flow)>,
    /// Messages taken since the last rest.
    taken: usize,
    /// Shards without subscriptions since `drain`.
    drained: usize,
    drain_over: Duration,
    start: Instant,
    counters: Counters,
}

/// SUBSCRIBEs that wait for a lookup, each with the flow it came on.
type Parked = Vec<(Flow, Vec<u8>)>;

/// Names being looked up, and what waits for them.
#[derive(Debug)]
struct Lookups {
    resolver: Option<TokioResolver>,
    waiting: RefCell<HashMap<(u8, Target), Parked>>,
}

enum Next {
    Shard(Option<FromShard>),
    Cluster(FromCluster),
    /// An answer to OPTIONS, from there.
    Probe(SocketAddr),
    Tick,
    Counters,
    End,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    report: Signal,
}

impl Control {
    /// Must be called within the runtime: takes up listening.
    pub async fn begin(parts: Parts, uring: bool) -> std::io::Result<Control> {
        let connections = Connections::new(uring, parts.tcp, parts.shards.clone());
        for (local, socket) in parts.listeners.into_iter().enumerate() {
            let listener = Listener::new(uring, socket)?;
            tokio::task::spawn_local(connections.clone().accept(local as u16, listener));
        }
        let resolver = parts
            .resolve
            .then(|| resolver::open(&parts.nameservers))
            .and_then(|opened| {
                let said = opened.inspect_err(
                    |error| warn!(%error, "no resolver: Contacts with names are refused"),
                );
                said.ok()
            });
        let probes = match parts.prober {
            Some(prober) => Some(Probes::begin(prober).await?),
            None => None,
        };
        Ok(Control {
            member: parts.member,
            cluster: parts.cluster,
            probes,
            shards_load: load::Shards::default(),
            shards: parts.shards,
            from_shards: parts.from_shards,
            connections,
            lookups: Rc::new(Lookups {
                resolver,
                waiting: RefCell::default(),
            }),
            owed: HashMap::new(),
            gone: HashSet::new(),
            taken: 0,
            drained: 0,
            drain_over: parts.drain_over,
            start: parts.start,
            counters: Counters::default(),
        })
    }

    /// Serves until SIGTERM or SIGINT, ends every subscription, and stops the shards. `ready` is called once signals are
    /// caught. A second signal ends the process at once.
    pub async fn run(mut self, ready: impl FnOnce()) -> std::io::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
        };
        let mut sweep = Instant::now() + SWEEP_EVERY;
        let mut answer = Vec::new();
        ready();
        loop {
            let wake = self.next_deadline().unwrap_or(sweep).min(sweep);
            let next = tokio::select! {
                message = self.from_shards.recv() => Next::Shard(message),
                told = from_cluster(&mut self.cluster) => Next::Cluster(told),
                source = from_probes(&self.probes, &mut answer) => Next::Probe(source),
                () = sleep_until(wake.into()) => Next::Tick,
                _ = signals.report.recv() => Next::Counters,
                _ = signals.terminate.recv() => Next::End,
                _ = signals.interrupt.recv() => Next::End,
            };
            match next {
                Next::Shard(Some(message)) => self.take_many(message).await,
                Next::Shard(None) => return Err(std::io::Error::other("every shard has ended")),
                Next::Cluster(told) => self.member.hear(self.now(), told),
                Next::Probe(source) => self.probed(source, &answer),
                Next::Tick => {}
                Next::Counters => self.log_counters().await,
                Next::End => break,
            }
            if Instant::now() >= sweep {
                self.connections.sweep(Instant::now());
                sweep = Instant::now() + SWEEP_EVERY;
            }
            self.catch_up();
        }
        self.member.drain(self.now());
        self.catch_up();
        tokio::task::spawn_local(async move {
            tokio::select! {
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
            }
            std::process::exit(1);
        });
        self.drain().await;
        self.member.retire(self.now());
        self.catch_up();
        if let Some(cluster) = &mut self.cluster {
            cluster.leave();
        }
        self.log_counters().await;
        for shard in 0..self.shards.len() {
            self.insist(shard, ToShard::Stop).await;
        }
        Ok(())
    }

    fn now(&self) -> Now {
        now_since(self.start)
    }

    /// Takes an answer to OPTIONS.
    fn probed(&mut self, source: SocketAddr, answer: &[u8]) {
        let now_ms = self.now().mono_ms;
        if let Some(probes) = &mut self.probes {
            probes.prober.receive(now_ms, source, answer);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.owed.is_empty() || !self.gone.is_empty() {
            return Some(Instant::now() + OFFER_AGAIN);
        }
        let probes = self.probes.as_ref();
        let probes = probes.and_then(|probes| probes.prober.next_deadline());
        let due_ms = self.member.next_deadline().into_iter().chain(probes).min();
        due_ms.map(|due_ms| self.start + Duration::from_millis(due_ms))
    }

    /// What time has brought; then tells subscribers, publishers and other nodes what is new.
    fn catch_up(&mut self) {
        let load = || self.shards_load.sample(Instant::now());
        let now = now_since(self.start);
        self.member.tick(now, load);
        if let Some(probes) = &mut self.probes {
            let compositor = &mut self.member.compositor;
            // Who drains leaves its servers to the others while it is still here.
            probes.prober.share(now.mono_ms, &compositor.working());
            probes.tick(now.mono_ms);
            for found in probes.prober.take_findings() {
                info!(server = %found.server.id, status = %found.server.status, "probed");
                compositor.show(now, &found.server, found.holds_s);
            }
        }
        if let Some(cluster) = &self.cluster {
            self.member.say(|message| cluster.tell(message));
        }
        self.broadcast();
    }

    /// Takes what waits, with a rest now and then.
    async fn take_many(&mut self, first: FromShard) {
        let mut next = Ok(first);
        while let Ok(message) = next {
            self.take(message);
            self.taken += 1;
            if self.taken == TAKEN_BETWEEN_RESTS {
                self.taken = 0;
                self.broadcast();
                return tokio::time::sleep(REST).await;
            }
            next = self.from_shards.try_recv();
        }
    }

    fn take(&mut self, message: FromShard) {
        match message {
            FromShard::Effect { shard, effect } => self.effect(shard, effect),
            FromShard::Drained(_) => self.drained += 1,
            // It came after its time.
            FromShard::Report(_) => {}
        }
    }

    fn effect(&mut self, shard: u8, effect: Effect) {
        match effect {
            Effect::Stream(message) => {
                if !self.connections.send(&message) {
                    // What it said of the connection's end came before the shard began this.
                    self.gone.insert((usize::from(shard), message.flow));
                }
            }
            Effect::Publish { flow, bytes } => {
                let request = Request { shard, flow, bytes };
                self.member.publish(self.now(), request);
            }
            Effect::Locate {
                target,
                flow,
                bytes,
            } => self.locate(shard, target, flow, bytes),
            Effect::HandOver { .. } => unreachable!("shards hand over among themselves"),
        }
    }

    /// Answers the PUBLISHes whose views the shards were given: nobody is told 200 who then could see an older view.
    fn answer(&mut self) {
        for answer in self.member.take_answers() {
            let Answer { shard, flow, bytes } = answer;
            if flow.transport.is_reliable() {
                // Its publisher asks again if its connection is gone; that is counted there.
                self.connections.send(&Datagram { flow, bytes });
                continue;
            }
            let answer = ToShard::Send { flow, bytes };
            if self.shards[usize::from(shard)].tell(answer).is_err() {
                self.counters.answers_dropped += 1;
            }
        }
    }

    /// Gives changed views to all shards; what a full one does not take is kept, the newest only.
    fn broadcast(&mut self) {
        for (domain, view) in self.member.compositor.take_changed() {
            for shard in 0..self.shards.len() {
                self.owed.insert((shard, domain), view.clone());
            }
        }
        let shards = &self.shards;
        self.owed.retain(|&(shard, domain), view| {
            shards[shard]
                .tell(ToShard::View {
                    domain,
                    view: view.clone(),
                })
                .is_err()
        });
        self.gone.retain(|&(shard, flow)| {
            let told = shards[shard].tell(ToShard::Disconnected(flow));
            told.is_err()
        });
        self.answer();
    }

    fn locate(&mut self, shard: u8, target: Target, flow: Flow, bytes: Vec<u8>) {
        let mut waiting = self.lookups.waiting.borrow_mut();
        let parked: usize = waiting.values().map(Vec::len).sum();
        let key = (shard, target.clone());
        let is_new = !waiting.contains_key(&key);
        if parked >= PARKED_MOST || (is_new && waiting.len() >= LOOKUPS_MOST) {
            self.counters.lookup_overflows += 1;
            return;
        }
        waiting.entry(key).or_default().push((flow, bytes));
        drop(waiting);
        if is_new {
            self.counters.lookups += 1;
            let handle = self.shards[usize::from(shard)].clone();
            tokio::task::spawn_local(self.lookups.clone().look_up(shard, handle, target));
        }
    }

    /// The other notifiers that are up, as the table of the first domain has them.
    fn other_notifiers(&self) -> Vec<Other> {
        let Some(own) = self.member.own() else {
            return Vec::new();
        };
        let views = self.member.compositor.views().take(1);
        let entries = views.flat_map(|view| view.entries.iter().filter(|entry| !entry.deleted));
        let is_other = |server: &&Server| {
            server.is_notifier()
                && server.status.takes_work()
                && server.id != own.id
                && self.member.compositor.is_of_node(&server.id)
        };
        let others = entries.map(|entry| &entry.server).filter(is_other);
        let addresses = others.flat_map(|server| &server.addresses);
        let other = |address: &Address| {
            let transport = match address.transport {
                AddressTransport::Udp => Transport::Udp,
                AddressTransport::Tcp => Transport::Tcp,
                _ => return None,
            };
            Some(Other {
                address: SocketAddr::new(address.ip, address.port),
                transport,
            })
        };
        addresses.filter_map(other).collect()
    }

    /// Ends every subscription, and waits for the answers.
    async fn drain(&mut self) {
        let mut others = self.other_notifiers();
        let over = match others[..] {
            [] => Duration::ZERO,
            _ => self.drain_over,
        };
        info!(others = others.len(), ?over, "ending all subscriptions");
        for shard in 0..self.shards.len() {
            let others = others.clone();
            self.insist(shard, ToShard::Drain { others, over }).await;
        }
        let deadline = Instant::now() + over + DRAIN_WITHIN;
        let mut answer = Vec::new();
        while self.drained < self.shards.len() || !self.connections.is_flushed() {
            let Some(wait) = deadline.checked_duration_since(Instant::now()) else {
                warn!("some subscribers did not answer the last NOTIFY");
                return;
            };
            tokio::select! {
                message = self.from_shards.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                told = from_cluster(&mut self.cluster) => self.member.hear(self.now(), told),
                // Where nobody else is this node goes on probing.
                source = from_probes(&self.probes, &mut answer) => self.probed(source, &answer),
                () = tokio::time::sleep(wait.min(Duration::from_millis(20))) => {}
            }
            self.catch_up();
            // Who comes now is not sent to one that has died meanwhile.
            let alive = self.other_notifiers();
            if others != alive {
                others = alive;
                for shard in 0..self.shards.len() {
                    self.insist(shard, ToShard::Others(others.clone())).await;
                }
            }
        }
    }

    /// Tells a shard something that must not be lost. A full shard may itself wait until its effects are taken.
    async fn insist(&mut self, shard: usize, message: ToShard) {
        let mut message = message;
        loop {
            match self.shards[shard].inbox.try_send(message) {
                Ok(()) => return self.shards[shard].waker.wake(),
                // The shard has ended: nobody will take it.
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => message = back,
            }
            while let Ok(waiting) = self.from_shards.try_recv() {
                self.take(waiting);
            }
            tokio::time::sleep(OFFER_AGAIN).await;
        }
    }

    /// One line with every counter that is not zero.
    async fn log_counters(&mut self) {
        let mut reports: Vec<Report> = Vec::new();
        let mut asked = 0;
        for shard in &self.shards {
            asked += usize::from(shard.tell(ToShard::Report).is_ok());
        }
        let deadline = Instant::now() + REPORT_WITHIN;
        while reports.len() < asked {
            let Some(wait) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            match timeout(wait, self.from_shards.recv()).await {
                Ok(Some(FromShard::Report(report))) => {
                    // One that was asked for before came late: the newer counts.
                    reports.retain(|former| former.shard != report.shard);
                    reports.push(report);
                }
                Ok(Some(message)) => self.take(message),
                Ok(None) | Err(_) => break,
            }
        }
        info!("{}", self.counters_line(&reports));
    }

    fn counters_line(&self, reports: &[Report]) -> String {
        let mut notifier = crate::notifier::counters::Counters::default();
        let mut io = crate::shard::Counters::default();
        for report in reports {
            notifier.add(&report.notifier);
            io.add(&report.io);
        }
        let live: usize = reports.iter().map(|report| report.live).sum();
        let mut line = format!("counters shards={} live={live}", reports.len());
        if let [_, _, ..] = reports {
            // How evenly the subscriptions are spread.
            let each: Vec<String> = reports
                .iter()
                .map(|report| report.live.to_string())
                .collect();
            line.push_str(&format!(" live_by_shard={}", each.join("/")));
        }
        let connections = self.connections.counters();
        let cluster = self.cluster.as_ref().map(Cluster::counters);
        let cluster = cluster.unwrap_or_default();
        let probes = self.probes.as_ref().map(|probes| *probes.prober.counters());
        let probes = probes.unwrap_or_default();
        let publications = self.member.compositor.counters().each();
        for (name, count) in publications.filter(|&(_, count)| count > 0) {
            line.push_str(&format!(" publish_{name}={count}"));
        }
        let all = notifier
            .each()
            .chain(io.each())
            .chain(connections.each())
            .chain(cluster.each())
            .chain(probes.each())
            .chain(self.counters.each());
        let overflows = [("publish_overflows", self.member.overflows)];
        for (name, count) in all.chain(overflows).filter(|&(_, count)| count > 0) {
            line.push_str(&format!(" {name}={count}"));
        }
        line
    }
}

fn now_since(start: Instant) -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        mono_ms: start.elapsed().as_millis() as u64,
        unix_ms: unix.as_millis() as u64,
    }
}

/// What other nodes tell; never, where there are none.
async fn from_cluster(cluster: &mut Option<Cluster>) -> FromCluster {
    if let Some(cluster) = cluster
        && let Some(told) = cluster.from.recv().await
    {
        return told;
    }
    std::future::pending().await
}

/// The next answer to OPTIONS; never, where nothing is probed.
async fn from_probes(probes: &Option<Probes>, answer: &mut Vec<u8>) -> SocketAddr {
    match probes {
        Some(probes) => probes.receive(answer).await,
        None => std::future::pending().await,
    }
}

impl Lookups {
    async fn look_up(self: Rc<Self>, shard: u8, handle: ShardHandle, target: Target) {
        let nowhere = Location {
            addresses: Vec::new(),
            ttl_ms: 0,
        };
        let location = match &self.resolver {
            Some(resolver) => timeout(LOOKUP_WITHIN, resolver::locate(resolver, &target))
                .await
                .unwrap_or(nowhere),
            None => nowhere,
        };
        let waiting = self
            .waiting
            .borrow_mut()
            .remove(&(shard, target.clone()))
            .unwrap_or_default();
        let mut message = ToShard::Located {
            target,
            location,
            waiting,
        };
        while let Err(back) = handle.tell(message) {
            message = back;
            tokio::time::sleep(OFFER_AGAIN).await;
        }
    }
}
