//! The engine by gossip. chitchat knows who is alive and makes up for whatever was lost; what is new is beside that told to
//! the living at once, and a publication counts as kept when one of them confirms it. Knows no SIP and no table.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use parking_lot::Mutex;
use rand::seq::IteratorRandom;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::frame::Frames;
use super::link::{Link, Opened};
use super::message::{Message, Place, batch};
use super::{Counters, FromCluster, SYNC_WITHIN, Settings, ToCluster};
use crate::compositor::Record;

/// A node is suspected that was silent for so many of the intervals seen before.
const PHI: f64 = 8.0;
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
/// A page that did not come is asked for again.
const PULL_AGAIN: Duration = Duration::from_millis(250);
/// The former process of this node's name is seen alive for a while after a restart.
const FORMER_LIFE: Duration = Duration::from_secs(10);
/// Addresses of seeds that may wait.
const SEEDS_FOUND: usize = 64;
/// Our own messages that may wait.
const INBOUND: usize = 1_024;
/// Dead nodes whose addresses are remembered.
const FORMER_MOST: usize = 1_024;
/// Pages asked for in vain before another seed is asked.
const TRIES: u32 = 4;
/// Keys that others changed and that may wait.
const CHANGED_MOST: usize = 65_536;
/// A gossip that broke down begins anew after this.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// Values of other nodes that changed, and that nobody has looked at.
#[derive(Debug)]
enum Values {
    /// By node and key: the newest of each.
    Some(HashMap<(ChitchatId, String), String>),
    /// All have to be looked at.
    TooMany,
}

impl Default for Values {
    fn default() -> Self {
        Values::Some(HashMap::new())
    }
}

type Changed = Arc<Mutex<Values>>;

/// Runs until told to leave.
pub fn run(
    settings: &Settings,
    socket: &std::net::UdpSocket,
    mut inbox: mpsc::Receiver<ToCluster>,
    out: &mpsc::Sender<FromCluster>,
    counters: &Arc<Mutex<Counters>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "no runtime for gossip: this node stands alone"),
    };
    let mut settings = settings.clone();
    let mut known = Known::default();
    loop {
        let life = || match socket.try_clone() {
            Ok(socket) => {
                let queues = (&mut inbox, out);
                runtime.block_on(live(&settings, socket, queues, counters, &mut known))
            }
            Err(error) => Err(error.into()),
        };
        // A panic here has been reported; nothing that it may have left half done is used again.
        let ended = catch_unwind(AssertUnwindSafe(life))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        let Err(error) = ended else { return };
        counters.lock().cluster_restarts += 1;
        error!(%error, "gossip ended, and begins anew");
        std::thread::sleep(BEGIN_AGAIN);
        settings.generation += 1;
        // The control thread has ended: so does this one.
        if out.blocking_send(FromCluster::Restarted).is_err() {
            return;
        }
    }
}

/// One life of the engine; an error where it has to begin anew.
async fn live(
    settings: &Settings,
    socket: std::net::UdpSocket,
    (inbox, out): (&mut mpsc::Receiver<ToCluster>, &mpsc::Sender<FromCluster>),
    counters: &Arc<Mutex<Counters>>,
    known: &mut Known,
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
    let (changed, woken) = listen(settings, &handle).await;
    let mut look = tokio::time::interval(settings.interval);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (found_to, mut found) = mpsc::channel(SEEDS_FOUND);
    let mut look_for = tokio::time::interval(LOOK_FOR);
    look_for.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let ended = handle.termination_watcher();
    tokio::pin!(ended);
    let mut engine = Engine {
        settings,
        out,
        link,
        handle,
        counters: Arc::clone(counters),
        known,
        found: found_to,
        suspects: BTreeMap::new(),
        tellings: HashMap::new(),
        next: 0,
        sync: Sync::begin(settings),
        began: Instant::now(),
        warned: None,
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
            () = woken.notified() => {
                let values = std::mem::take(&mut *changed.lock());
                match values {
                    Values::Some(values) => engine.read(values.into_values().collect()).await,
                    Values::TooMany => engine.read_all().await,
                }
            }
            _ = look.tick() => engine.look().await,
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

/// Collects what gossip brings.
async fn listen(settings: &Settings, handle: &ChitchatHandle) -> (Changed, Arc<Notify>) {
    let changed: Changed = Arc::default();
    let woken = Arc::new(Notify::new());
    let ours = handle.chitchat_id().clone();
    debug_assert_eq!(*ours.node_id, *settings.node);
    let chitchat = handle.chitchat();
    let chitchat = chitchat.lock().await;
    let (keep, wake) = (Arc::clone(&changed), Arc::clone(&woken));
    let listener = chitchat.subscribe_event("", move |event| {
        if *event.node == ours {
            return;
        }
        let mut values = keep.lock();
        if let Values::Some(some) = &mut *values {
            let place = (event.node.clone(), event.key.to_owned());
            some.insert(place, event.value.to_owned());
            if some.len() > CHANGED_MOST {
                *values = Values::TooMany;
            }
        }
        wake.notify_one();
    });
    listener.forever();
    (changed, woken)
}

/// One life of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    address: SocketAddr,
    generation: u64,
}

/// The other nodes, over all lives of the engine.
#[derive(Debug, Default)]
struct Known {
    /// Those alive.
    peers: BTreeMap<Arc<str>, Peer>,
    /// Where nodes were that are not.
    former: BTreeMap<Arc<str>, SocketAddr>,
}

/// Records told and not confirmed.
struct Telling {
    ticket: u64,
    message: Message,
    since: Instant,
    is_repeated: bool,
}

/// How far a starting node has asked others for all they know.
enum Sync {
    Asking {
        number: u32,
        after: Option<Place>,
        /// Whom; none: every seed.
        whom: Option<SocketAddr>,
        /// How often it was asked for the page in vain.
        tries: u32,
        again: Instant,
        until: Instant,
    },
    Done,
}

impl Sync {
    fn begin(settings: &Settings) -> Self {
        let within = match settings.seeds[..] {
            // Whoever is there tells himself soon.
            [] => ALONE_WITHIN,
            _ => SYNC_WITHIN,
        };
        Sync::Asking {
            number: rand::random(),
            after: None,
            whom: None,
            tries: 0,
            again: Instant::now(),
            until: Instant::now() + within,
        }
    }
}

struct Engine<'e> {
    settings: &'e Settings,
    out: &'e mpsc::Sender<FromCluster>,
    link: Arc<Link>,
    handle: ChitchatHandle,
    counters: Arc<Mutex<Counters>>,
    known: &'e mut Known,
    /// Seeds that were looked up.
    found: mpsc::Sender<SocketAddr>,
    /// Peers that are not heard of, and since when.
    suspects: BTreeMap<Arc<str>, Instant>,
    tellings: HashMap<u32, Telling>,
    next: u32,
    sync: Sync,
    began: Instant,
    /// When another node of this name was last complained of.
    warned: Option<Instant>,
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
                    let node = Arc::clone(record.id());
                    let peer = self.known.peers.get(&node).map(|peer| peer.address);
                    let whom = peer.or_else(|| self.known.former.get(&node).copied());
                    let Some(whom) = whom else { continue };
                    let message = Message::Tell {
                        number: self.number(),
                        records: vec![record],
                    };
                    self.link.send(whom, &message).await;
                }
            }
            ToCluster::Answer { to, message } => self.link.send(to, &message).await,
            ToCluster::Forget(places) => {
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
        if all.is_empty() && matches!(self.sync, Sync::Done) {
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
        let mut targets: Vec<SocketAddr> =
            self.known.peers.values().map(|peer| peer.address).collect();
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
            let place = (Arc::clone(&record.domain), Arc::clone(record.id()));
            chitchat.self_node_state().set(key(&place), record);
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    async fn give(&self, told: FromCluster) {
        // The control thread has ended: so does this one, soon.
        let _ = self.out.send(told).await;
    }

    async fn hear(&mut self, from: SocketAddr, message: Message) {
        match message {
            Message::Tell { number, records } => {
                self.link.send(from, &Message::Told { number }).await;
                self.learn(records).await;
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
                let is_end = is_last && is_whole;
                self.turn_page(from, number, (is_last, is_end), records)
                    .await;
            }
        }
    }

    async fn turn_page(
        &mut self,
        from: SocketAddr,
        page: u32,
        (is_last, is_end): (bool, bool),
        records: Vec<Record>,
    ) {
        let Sync::Asking {
            number,
            after,
            whom,
            tries,
            again,
            ..
        } = &mut self.sync
        else {
            return;
        };
        if page != *number || whom.is_some_and(|whom| whom != from) {
            return;
        }
        if let Some(last) = records.last() {
            *after = Some((Arc::clone(&last.domain), Arc::clone(last.id())));
        }
        if is_last && !is_end {
            // It is itself only starting, and knows no more than this: the seeds are asked again.
            (*after, *whom) = (None, None);
        } else {
            (*number, *whom, *again) = (number.wrapping_add(1), Some(from), Instant::now());
        }
        *tries = 0;
        self.learn(records).await;
        if is_end {
            self.sync = Sync::Done;
            self.give(FromCluster::Synced).await;
        }
    }

    /// Values that gossip brought.
    async fn read(&mut self, values: Vec<String>) {
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

    /// All that gossip ever brought and that still holds.
    async fn read_all(&mut self) {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let ours = chitchat.self_chitchat_id();
        let others = chitchat.node_states().iter().filter(|(id, _)| *id != ours);
        let values =
            others.flat_map(|(_, state)| state.key_values().map(|(_, value)| value.to_owned()));
        let values = values.collect();
        drop(chitchat);
        self.read(values).await;
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
        let mut newest: BTreeMap<Arc<str>, &ChitchatId> = BTreeMap::new();
        for id in &ids {
            if *id.node_id == *ours {
                self.doubt(id);
                continue;
            }
            let one = newest.entry(Arc::clone(&id.node_id)).or_insert(id);
            if id.generation_id > one.generation_id {
                *one = id;
            }
        }
        let peer = |id: &ChitchatId| Peer {
            address: id.gossip_advertise_addr,
            generation: id.generation_id,
        };
        let mut peers: BTreeMap<Arc<str>, Peer> = newest
            .into_iter()
            .map(|(node, id)| (node, peer(id)))
            .collect();
        let now = Instant::now();
        self.suspects.retain(|node, _| !peers.contains_key(node));
        for (node, peer) in &self.known.peers {
            if peers.contains_key(node) {
                continue;
            }
            let since = *self.suspects.entry(Arc::clone(node)).or_insert(now);
            if now < since + self.settings.interval * SUSPECTED {
                peers.insert(Arc::clone(node), *peer);
            }
        }
        if peers == self.known.peers && !self.is_first_look {
            return;
        }
        self.is_first_look = false;
        let mut ended = Vec::new();
        for (node, peer) in &self.known.peers {
            let next = peers.get(node);
            if next.is_none_or(|next| next.generation != peer.generation) {
                warn!(%node, "node is dead");
                self.suspects.remove(node);
                self.known.former.insert(Arc::clone(node), peer.address);
                ended.push(Arc::clone(node));
            }
        }
        let former = std::mem::replace(&mut self.known.peers, peers);
        let begun: Vec<Arc<str>> = self
            .known
            .peers
            .keys()
            .filter(|node| !former.contains_key(*node) || ended.contains(node))
            .cloned()
            .collect();
        for node in &begun {
            info!(%node, "node is alive");
            self.known.former.remove(node);
        }
        while self.known.former.len() > FORMER_MOST {
            self.known.former.pop_first();
        }
        // One that came back before it was missed has died all the same: what it said is kept by those who stayed.
        if begun.iter().any(|node| ended.contains(node)) {
            let stayed = self.known.peers.keys().filter(|node| !ended.contains(node));
            let stayed = stayed.chain([&ours]).cloned().collect();
            self.give(FromCluster::Live(stayed)).await;
        }
        let peers = self.known.peers.keys().cloned();
        self.give(FromCluster::Live(peers.chain([ours]).collect()))
            .await;
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
        let sync = match &self.sync {
            Sync::Asking { again, until, .. } => Some(*again.min(until)),
            Sync::Done => None,
        };
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
        self.go_on_asking(now).await;
    }

    async fn go_on_asking(&mut self, now: Instant) {
        let Sync::Asking {
            number,
            after,
            whom,
            tries,
            again,
            until,
        } = &mut self.sync
        else {
            return;
        };
        if now >= *until {
            if !self.settings.seeds.is_empty() {
                let seeds = &self.settings.seeds;
                warn!(
                    ?seeds,
                    "no node told all it knows: this one goes on with what it has"
                );
            }
            self.sync = Sync::Done;
            return self.give(FromCluster::Synced).await;
        }
        if now < *again {
            return;
        }
        *again = now + PULL_AGAIN;
        *tries += 1;
        if *tries > TRIES {
            (*after, *whom, *tries) = (None, None, 0);
        }
        let message = Message::Pull {
            number: *number,
            after: after.clone(),
        };
        if let Some(whom) = *whom {
            return self.link.send(whom, &message).await;
        }
        self.seek(Some(message));
        for whom in self.link.lately() {
            let Sync::Asking { number, after, .. } = &self.sync else {
                return;
            };
            let message = Message::Pull {
                number: *number,
                after: after.clone(),
            };
            self.link.send(whom, &message).await;
        }
    }

    /// Looks the seeds up, asks them what is to be asked, and gossips with them.
    fn seek(&self, message: Option<Message>) {
        let (link, ours) = (Arc::clone(&self.link), self.settings.advertise);
        let (seeds, found) = (self.settings.seeds.clone(), self.found.clone());
        tokio::spawn(async move {
            for seed in resolve(&seeds).await {
                if seed == ours {
                    continue;
                }
                if let Some(message) = &message {
                    link.send(seed, message).await;
                }
                // With a full queue they are looked for again.
                let _ = found.try_send(seed);
            }
        });
    }

    /// Looks for those who are not there: a farm that fell apart for long has forgotten its other half.
    fn look_for(&mut self) {
        if self.known.peers.is_empty() || !self.known.former.is_empty() {
            self.seek(None);
        }
        if let Some(former) = self.known.former.values().choose(&mut rand::rng()) {
            // The engine has ended: so does this one.
            let _ = self.handle.gossip(*former);
        }
    }
}

async fn resolve(seeds: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for seed in seeds {
        if let Ok(addresses) = lookup_host(seed).await {
            found.extend(addresses);
        }
    }
    found
}

fn key((domain, id): &Place) -> String {
    format!("{domain}/{id}")
}
