//! The engine by gossip. chitchat knows who is alive and makes up for whatever was lost; what is new is beside that told to
//! the living at once, and a publication counts as kept when one of them confirms it. Knows no SIP and no table.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use parking_lot::Mutex;
use rand::seq::IteratorRandom;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::frame::Frames;
use super::link::{Link, Opened};
use super::membership::{Membership, Peer};
use super::message::{Message, Place, UNCONFIRMED, batch};
use super::sync::{Page, Step, Sync};
use super::{Counters, FromCluster, Queues, SYNC_WITHIN, Settings, ToCluster};
use crate::compositor::Record;
use crate::log::Seldom;

/// A node is suspected that was silent for so many of the intervals seen before. By 8, chitchat's own, one death in ten
/// was known to the last node after more than 3 s.
const PHI: f64 = 7.0;
/// It is dead when it was suspected for so many rounds of gossip: those intervals are short where much is said, and a node
/// may hold its breath for a moment.
const SUSPECTED: u32 = 3;
/// Intervals remembered of each node.
const SAMPLES: usize = 100;
/// What a dead node knew is kept so long here; the living have taken it over by then.
const DEAD_FOR: Duration = Duration::from_secs(600);
/// A key that was taken back is remembered so long.
const TOMBSTONES: Duration = Duration::from_secs(600);
/// What was not confirmed is told again, once.
const TELL_AGAIN: Duration = Duration::from_millis(60);
/// A publication waits no longer for its confirmation.
const TELL_WITHIN: Duration = Duration::from_millis(200);
/// Nodes told of what need not be known everywhere at once.
const FEW: usize = 2;
/// A node without seeds waits so long for others that remember it.
const ALONE_WITHIN: Duration = Duration::from_secs(2);
/// Nodes that are not alive, and seeds while nobody is, are looked for so often.
const LOOK_FOR: Duration = Duration::from_secs(5);
/// The former process of this node's name is seen alive for a while after a restart.
const FORMER_LIFE: Duration = Duration::from_secs(10);
/// Addresses of seeds that may wait.
const SEEDS_FOUND: usize = 64;
/// Our own messages that may wait.
const INBOUND: usize = 1_024;

/// One life of the engine: until told to leave, or an error where it has to begin anew.
pub async fn live(
    settings: &Settings,
    socket: std::net::UdpSocket,
    (inbox, out): Queues<'_>,
    counters: &Arc<Mutex<Counters>>,
    membership: &mut Membership,
) -> anyhow::Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let frames = Frames::new(&settings.cluster_id, settings.secret.as_deref());
    let (inbound_to, mut inbound) = mpsc::channel(INBOUND);
    let link = Link::new(
        socket,
        frames,
        settings.allow.clone(),
        Arc::clone(counters),
        inbound_to,
    );
    let handle = spawn_chitchat(
        configuration(settings),
        Vec::new(),
        &Opened(Arc::clone(&link)),
    )
    .await?;
    membership.begin_again();
    let mut look = tokio::time::interval(settings.interval);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (found_to, mut found) = mpsc::channel(SEEDS_FOUND);
    let mut look_for = tokio::time::interval(LOOK_FOR);
    look_for.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let within = match settings.seeds[..] {
        // Whoever is there tells himself soon.
        [] => ALONE_WITHIN,
        _ => SYNC_WITHIN,
    };
    let ended = handle.termination_watcher();
    tokio::pin!(ended);
    let mut engine = Engine {
        settings,
        out,
        link,
        handle,
        counters: Arc::clone(counters),
        membership,
        found: found_to,
        read: BTreeMap::new(),
        tellings: HashMap::new(),
        next: UNCONFIRMED,
        sync: Sync::begin(Instant::now(), rand::random(), within),
        began: Instant::now(),
        warned: None,
        is_twin: false,
        // In a later life nobody is to be taken for dead because nobody was seen yet.
        is_first_look: settings.generation == settings.first_generation,
    };
    loop {
        let wake = engine.next_deadline();
        tokio::select! {
            told = inbox.recv() => match told {
                None | Some(ToCluster::Leave) => break,
                Some(told) => engine.take(told).await,
            },
            message = inbound.recv() => match message {
                Some((from, message)) => engine.hear(from, message).await,
                None => return Err(anyhow::anyhow!("the link is gone")),
            },
            _ = look.tick() => {
                engine.look().await;
                engine.read().await;
            }
            _ = look_for.tick() => engine.look_for(),
            Some(seed) = found.recv() => engine.handle.gossip(seed)?,
            result = &mut ended => {
                result?;
                anyhow::bail!("chitchat has ended");
            }
            () = sleep_until(wake) => {}
        }
        engine.catch_up().await;
    }
    engine.handle.shutdown().await
}

fn configuration(settings: &Settings) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(
            settings.node.to_string(),
            settings.generation,
            settings.advertise,
        ),
        cluster_id: settings.cluster_id.clone(),
        gossip_interval: settings.interval,
        listen_addr: settings.advertise,
        // Names are looked up beside it: it would wait for each before it does anything.
        seed_nodes: settings
            .seeds
            .iter()
            .filter(|seed| seed.parse::<SocketAddr>().is_ok())
            .cloned()
            .collect(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: PHI,
            sampling_window_size: SAMPLES,
            max_interval: settings.interval * 10,
            initial_interval: settings.interval,
            dead_node_grace_period: DEAD_FOR,
        },
        marked_for_deletion_grace_period: TOMBSTONES,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

/// Records told and not confirmed.
struct Telling {
    ticket: u64,
    message: Message,
    since: Instant,
    is_repeated: bool,
}

struct Engine<'e> {
    settings: &'e Settings,
    out: &'e mpsc::Sender<FromCluster>,
    link: Arc<Link>,
    handle: ChitchatHandle,
    counters: Arc<Mutex<Counters>>,
    membership: &'e mut Membership,
    /// Seeds that were looked up.
    found: mpsc::Sender<SocketAddr>,
    /// Up to which version the values of each node's state were read.
    read: BTreeMap<ChitchatId, u64>,
    tellings: HashMap<u32, Telling>,
    next: u32,
    sync: Sync,
    began: Instant,
    /// When another node of this name was last complained of.
    warned: Option<Instant>,
    /// An older process of this node's name is alive.
    is_twin: bool,
    is_first_look: bool,
}

impl Engine<'_> {
    async fn take(&mut self, told: ToCluster) {
        match told {
            ToCluster::Keep {
                ticket,
                record,
                everyone,
            } => self.keep(ticket, *record, everyone).await,
            ToCluster::Tell(records) => {
                self.set(&records).await;
                let mut records = VecDeque::from(records);
                while let batch @ [_, ..] = &batch(&mut records)[..] {
                    let message = Message::Tell {
                        number: self.number(),
                        records: batch.to_vec(),
                    };
                    self.send_all(&message).await;
                }
            }
            ToCluster::Ask { node, place } => {
                let message = Message::Ask { place };
                // The node that gave the lease knows for certain; it may be dead, and others have heard of it.
                debug!(%node, "asking for a lease");
                self.send_all(&message).await;
            }
            ToCluster::Hold(records) => self.set(&records).await,
            ToCluster::Accuse(records) => {
                for record in records {
                    let Some(whom) = self.membership.address(record.id()) else {
                        continue;
                    };
                    let message = Message::Tell {
                        number: self.number(),
                        records: vec![record],
                    };
                    self.link.send(whom, &message).await;
                }
            }
            ToCluster::Answer { to, message } => self.link.send(to, &message).await,
            ToCluster::Release(places) | ToCluster::Forget(places) => {
                let chitchat = self.handle.chitchat();
                let mut chitchat = chitchat.lock().await;
                let ours = chitchat.self_node_state();
                for key in places.iter().map(key) {
                    if ours.contains_key(&key) {
                        ours.delete(&key);
                    }
                }
            }
            ToCluster::Leave => {}
        }
    }

    async fn keep(&mut self, ticket: u64, record: Record, everyone: bool) {
        self.set(std::slice::from_ref(&record)).await;
        let all = self.targets();
        // While this node looks for the others it may find one in time.
        if all.is_empty() && self.sync.is_done() {
            return self.give(FromCluster::Kept { ticket }).await;
        }
        let number = self.number();
        let message = Message::Tell {
            number,
            records: vec![record],
        };
        let told = match everyone {
            true => all,
            false => all.into_iter().sample(&mut rand::rng(), FEW),
        };
        for peer in told {
            self.link.send(peer, &message).await;
        }
        let telling = Telling {
            ticket,
            message,
            since: Instant::now(),
            is_repeated: false,
        };
        self.tellings.insert(number, telling);
    }

    async fn send_all(&self, message: &Message) {
        for target in self.targets() {
            self.link.send(target, message).await;
        }
    }

    /// The living, and who was heard of lately: a node that comes is there before it is known to be alive.
    fn targets(&self) -> Vec<SocketAddr> {
        let peers = self.membership.peers().values();
        let mut targets: Vec<SocketAddr> = peers.map(|peer| peer.address).collect();
        targets.extend(self.link.lately());
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// Makes records part of what gossip tells.
    async fn set(&mut self, records: &[Record]) {
        let chitchat = self.handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        for record in records {
            chitchat.self_node_state().set(key(&record.place()), record);
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.checked_add(1).unwrap_or(UNCONFIRMED + 1);
        self.next
    }

    async fn give(&self, told: FromCluster) {
        // The control thread has ended: so does this one, soon.
        let _ = self.out.send(told).await;
    }

    async fn hear(&mut self, from: SocketAddr, message: Message) {
        match message {
            Message::Tell { number, records } => {
                self.give(FromCluster::Told {
                    from,
                    number,
                    records,
                })
                .await;
            }
            Message::Told { number } => {
                if let Some(telling) = self.tellings.remove(&number) {
                    let ticket = telling.ticket;
                    self.give(FromCluster::Kept { ticket }).await;
                }
            }
            Message::Ask { place } => self.give(FromCluster::Asked { from, place }).await,
            Message::Pull { number, after } => {
                self.give(FromCluster::Pulled {
                    from,
                    number,
                    after,
                })
                .await;
            }
            Message::Page {
                number,
                is_last,
                is_whole,
                records,
            } => {
                let page = Page {
                    from,
                    number,
                    is_last,
                    is_whole,
                    end: records.last().map(Record::place),
                };
                if !self.sync.page(Instant::now(), page) {
                    return;
                }
                self.learn(records).await;
                if self.sync.is_done() {
                    self.give(FromCluster::Synced).await;
                }
            }
        }
    }

    /// What gossip has brought since the last time.
    async fn read(&mut self) {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let mut values = Vec::new();
        for (id, state) in chitchat.node_states() {
            let read = self.read.entry(id.clone()).or_default();
            if id == chitchat.self_chitchat_id() || state.max_version() == *read {
                continue;
            }
            // A state that was forgotten and came again begins anew.
            let after = std::mem::replace(read, state.max_version());
            let after = if after > *read { 0 } else { after };
            let all = state.key_values_including_deleted();
            let new = all.filter(|(_, value)| value.version > after && !value.is_deleted());
            values.extend(new.map(|(_, value)| value.value.clone()));
        }
        self.read.retain(|id, _| chitchat.node_state(id).is_some());
        drop(chitchat);
        let mut records = Vec::new();
        for value in values {
            match value.parse() {
                Ok(record) => records.push(record),
                Err(error) => {
                    self.counters.lock().cluster_malformed += 1;
                    warn!(%error, "value of another node refused");
                }
            }
        }
        self.learn(records).await;
    }

    async fn learn(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            self.give(FromCluster::Records(records)).await;
        }
    }

    /// Who is alive?
    async fn look(&mut self) {
        let chitchat = self.handle.chitchat();
        let ids: Vec<ChitchatId> = chitchat.lock().await.live_nodes().cloned().collect();
        let ours = Arc::clone(&self.settings.node);
        let (own, others): (Vec<_>, Vec<_>) = ids.iter().partition(|id| *id.node_id == *ours);
        own.iter().for_each(|id| self.doubt(id));
        self.give_way(&own).await;
        let seen = others.into_iter().map(|id| {
            let peer = Peer {
                address: id.gossip_advertise_addr,
                generation: id.generation_id,
            };
            (Arc::clone(&id.node_id), peer)
        });
        let patience = self.settings.interval * SUSPECTED;
        let change = self.membership.see(Instant::now(), seen, patience);
        let is_first_look = std::mem::take(&mut self.is_first_look);
        if change.is_nothing() && !is_first_look {
            return;
        }
        change
            .ended
            .iter()
            .for_each(|node| warn!(%node, "node is dead"));
        change
            .begun
            .iter()
            .for_each(|node| info!(%node, "node is alive"));
        let peers = self.membership.peers().keys().chain([&ours]).cloned();
        let live: Vec<Arc<str>> = peers.collect();
        let reborn = change.reborn();
        if !reborn.is_empty() {
            let stayed = live.iter().filter(|node| !reborn.contains(node));
            self.give(FromCluster::Live(stayed.cloned().collect()))
                .await;
        }
        self.give(FromCluster::Live(live)).await;
    }

    /// A node of this name that is not this one: its former life, or a mistake.
    fn doubt(&mut self, id: &ChitchatId) {
        let is_this = id.generation_id == self.settings.generation
            && id.gossip_advertise_addr == self.settings.advertise;
        let seen = self.warned.unwrap_or(self.began);
        if !is_this && seen.elapsed() > FORMER_LIFE {
            self.warned = Some(Instant::now());
            self.counters.lock().cluster_name_conflicts += 1;
            error!(node = %self.settings.node, other = %id.gossip_advertise_addr, "another node of this name is alive: give each its own");
        }
    }

    /// Of two nodes of one name the younger says nothing of itself: else each would correct the other without end.
    async fn give_way(&mut self, own: &[&ChitchatId]) {
        let (generation, address) = (self.settings.generation, self.settings.advertise);
        let is_elder = |id: &&ChitchatId| {
            let theirs = (id.generation_id, id.gossip_advertise_addr);
            // At one address there is one process at a time.
            theirs.1 != address && theirs < (generation, address)
        };
        let is_twin = self.began.elapsed() > FORMER_LIFE && own.iter().any(is_elder);
        if std::mem::replace(&mut self.is_twin, is_twin) != is_twin {
            self.give(FromCluster::Twin(is_twin)).await;
        }
    }

    fn next_deadline(&self) -> Instant {
        let telling = |telling: &Telling| {
            let wait = if telling.is_repeated {
                TELL_WITHIN
            } else {
                TELL_AGAIN
            };
            telling.since + wait
        };
        let tellings = self.tellings.values().map(telling).min();
        let sync = self.sync.next_deadline();
        let far = Instant::now() + Duration::from_secs(60);
        tellings.into_iter().chain(sync).fold(far, Instant::min)
    }

    /// What time has brought.
    async fn catch_up(&mut self) {
        let now = Instant::now();
        let late: Vec<u32> = self
            .tellings
            .iter()
            .filter(|(_, telling)| now >= telling.since + TELL_AGAIN)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let telling = self.tellings.get_mut(&number).expect("it was just seen");
            if now >= telling.since + TELL_WITHIN {
                // They live, or did a moment ago, and say nothing. Gossip goes on; the publisher shall not wait for it.
                let ticket = telling.ticket;
                self.tellings.remove(&number);
                self.counters.lock().cluster_unconfirmed += 1;
                self.give(FromCluster::Kept { ticket }).await;
            } else if !std::mem::replace(&mut telling.is_repeated, true) {
                let message = telling.message.clone();
                self.send_all(&message).await;
            }
        }
        match self.sync.step(now) {
            Step::Nothing => {}
            Step::Ask(Some(whom), message) => self.link.send(whom, &message).await,
            Step::Ask(None, message) => {
                for whom in self.link.lately() {
                    self.link.send(whom, &message).await;
                }
                self.seek(Some(message));
            }
            Step::GivenUp => {
                let seeds = &self.settings.seeds;
                if !seeds.is_empty() {
                    warn!(
                        ?seeds,
                        "no node told all it knows: this one goes on with what it has"
                    );
                    self.counters.lock().cluster_silent_seeds += 1;
                }
                self.give(FromCluster::Synced).await;
            }
        }
    }

    /// Looks the seeds up, asks them what is to be asked, and gossips with them. None waits for another's name server.
    fn seek(&self, message: Option<Message>) {
        for seed in self.settings.seeds.clone() {
            let (link, ours) = (Arc::clone(&self.link), self.settings.advertise);
            let (message, found) = (message.clone(), self.found.clone());
            let counters = Arc::clone(&self.counters);
            tokio::spawn(async move {
                for at in resolve(&seed, &counters).await {
                    if at == ours {
                        continue;
                    }
                    if let Some(message) = &message {
                        link.send(at, message).await;
                    }
                    // With a full queue they are looked for again.
                    let _ = found.try_send(at);
                }
            });
        }
    }

    /// Looks for those who are not there: a farm that fell apart for long has forgotten its other half.
    fn look_for(&mut self) {
        if self.membership.peers().is_empty() || !self.membership.former().is_empty() {
            self.seek(None);
        }
        if let Some(former) = self.membership.former().values().choose(&mut rand::rng()) {
            // The engine has ended: so does this one.
            let _ = self.handle.gossip(*former);
        }
    }
}

/// One that cannot be looked up is said and counted.
async fn resolve(seed: &str, counters: &Mutex<Counters>) -> Vec<SocketAddr> {
    static UNKNOWN: Seldom = Seldom::new();
    match lookup_host(seed).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            counters.lock().cluster_unknown_seeds += 1;
            if UNKNOWN.permits(std::time::Instant::now()) {
                warn!(%seed, %error, "seed cannot be looked up");
            }
            Vec::new()
        }
    }
}

fn key((domain, id): &Place) -> String {
    format!("{domain}/{id}")
}
