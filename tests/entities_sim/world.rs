//! What is true, what happens to it, and what must never be. Knows of an entity only what it sends, shows and picks.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::info::{Address, AddressTransport, DocumentEntry, Server, Stamp, Status};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::entity::{Entity, seeds};
use crate::node::{Node, address};

const NODES: usize = 4;
const SERVERS: usize = 5;
const ENTITIES: usize = 6;
const STEP_MS: u64 = 5;
/// Faults come for so long; then the network is quiet and everything must come right.
const FAULTS_MS: u64 = 180_000;
const QUIET_MS: u64 = 150_000;
/// A node that died is known to be dead after this.
const DETECTED_MS: u64 = 3_000;
const DRAIN_MS: u64 = 8_000;
/// What one node learns the others know within this.
const SPREAD_MS: u64 = 200;
/// What a notifier knows its entities know within this: a NOTIFY that is outstanding has to be answered first, and of each of
/// the two and its answers three in a row may be lost (Timer E: 0.5, 1.5, 3.5 s), beside the notifier's interval and the way.
const BOUND_MS: u64 = 8_000;
/// Datagrams of 1,000 that are lost, and that come twice.
const LOST: u32 = 30;
const DOUBLED: u32 = 20;
const DELAY_MS: u64 = 80;
const PICK_EVERY_MS: u64 = 50;

/// What happened, so that nothing is not mistaken for nothing wrong.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub picks: u64,
    /// Picks while a notifier had known long enough that some server was down.
    pub judged: u64,
    /// Subscriptions begun in place of others.
    pub replaced: u64,
}

impl Tally {
    pub fn and(self, other: Tally) -> Tally {
        Tally {
            picks: self.picks + other.picks,
            judged: self.judged + other.judged,
            replaced: self.replaced + other.replaced,
        }
    }
}

#[derive(Debug)]
struct Letter {
    to: SocketAddr,
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct World {
    seed: u64,
    now_ms: u64,
    random: SmallRng,
    nodes: Vec<Option<Node>>,
    entities: Vec<Entity>,
    want: Vec<usize>,
    /// The newest word of each server.
    truth: BTreeMap<Arc<str>, Server>,
    /// What will be said, and when: deaths that are still to be noticed.
    later: Vec<(u64, Server)>,
    stops: Vec<(u64, usize)>,
    letters: BTreeMap<(u64, u64), Letter>,
    order: u64,
    is_quiet: bool,
    /// By the address that it speaks from: since when a subscription is served, as the network saw it.
    served: HashMap<SocketAddr, u64>,
    tally: Tally,
}

fn server(id: &str, at: SocketAddr, service: &str, status: Status) -> Server {
    let mut server = Server::new(
        id.into(),
        status,
        vec![Address::new(at, AddressTransport::Udp)],
    );
    server.services = vec![service.into()];
    server.weight = 10;
    server
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = SmallRng::seed_from_u64(seed);
        let want: Vec<usize> = (0..ENTITIES).map(|entity| 1 + entity % 3).collect();
        let entity = |(index, want): (usize, &usize)| {
            Entity::new(index, seeds(2), *want, random.random_range(0..u64::MAX))
        };
        let entities = want.iter().enumerate().map(entity).collect();
        let mut world = World {
            seed,
            now_ms: 1_000,
            random,
            nodes: Vec::new(),
            entities,
            want,
            truth: BTreeMap::new(),
            later: Vec::new(),
            stops: Vec::new(),
            letters: BTreeMap::new(),
            order: 0,
            is_quiet: false,
            served: HashMap::new(),
            tally: Tally::default(),
        };
        for number in 0..SERVERS {
            let at = ([192, 0, 2, number as u8 + 1], 5060).into();
            world.say(server(&format!("p{}", number + 1), at, "proxy", Status::Up));
        }
        for number in 0..NODES {
            world.say(notifier(number, Status::Up));
        }
        for number in 0..NODES {
            let node = world.node(number);
            world.nodes.push(Some(node));
        }
        world
    }

    pub fn run(mut self) -> Tally {
        let until_ms = self.now_ms + FAULTS_MS;
        let mut fault_ms = self.now_ms + 5_000;
        while self.now_ms < until_ms {
            if self.now_ms >= fault_ms {
                self.fault();
                fault_ms = self.now_ms + self.random.random_range(200..5_000);
            }
            self.step();
        }
        self.is_quiet = true;
        let until_ms = self.now_ms + QUIET_MS;
        while self.now_ms < until_ms {
            self.step();
        }
        self.converged();
        let begun: u64 = self.entities.iter().map(|entity| entity.begun).sum();
        let wanted: usize = self.want.iter().sum();
        self.tally.replaced = begun - wanted as u64;
        self.tally
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "{what}; after {} ms, again by FANFARE_SEED={} FANFARE_SEEDS=1",
            self.now_ms, self.seed
        );
    }

    fn node(&mut self, number: usize) -> Node {
        let seed = self.random.random_range(0..u64::MAX);
        Node::start(number, self.now_ms, seed, &self.truth)
    }

    /// A new word of a server, which comes to every node that lives.
    fn say(&mut self, mut server: Server) {
        self.order += 1;
        server.updated = Stamp {
            ms: self.now_ms + self.order,
            counter: 0,
            node: "n1".into(),
        };
        for node in self.nodes.iter_mut().flatten() {
            let after_ms = self.random.random_range(0..SPREAD_MS);
            node.hear(self.now_ms + after_ms, server.clone());
        }
        self.truth.insert(Arc::clone(&server.id), server);
    }

    fn fault(&mut self) {
        let number = self.random.random_range(0..NODES);
        let live = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| !node.drains)
            .count();
        match self.random.random_range(0..10) {
            0..6 => {
                let id = format!("p{}", self.random.random_range(1..=SERVERS));
                let mut server = self.truth[&*id].clone();
                server.status = match self.random.random_range(0..4) {
                    0 | 1 => Status::Up,
                    2 => Status::Down,
                    _ => Status::Overloaded,
                };
                self.say(server);
            }
            // One is left, so that somebody knows what is true.
            6 if live > 1 && self.is_up(number) => {
                self.nodes[number] = None;
                self.later
                    .push((self.now_ms + DETECTED_MS, notifier(number, Status::Down)));
            }
            7 if live > 1 && self.is_up(number) => {
                let others = (0..NODES).filter(|other| *other != number && self.is_up(*other));
                let others: Vec<SocketAddr> = others.map(address).collect();
                if let Some(node) = &mut self.nodes[number] {
                    node.drain(self.now_ms, &others, DRAIN_MS);
                }
                self.say(notifier(number, Status::Draining));
                self.stops.push((self.now_ms + DRAIN_MS + 2_000, number));
            }
            _ if self.nodes[number].is_none() => self.start(number),
            _ => {}
        }
    }

    fn is_up(&self, number: usize) -> bool {
        self.nodes[number].as_ref().is_some_and(|node| !node.drains)
    }

    fn start(&mut self, number: usize) {
        self.later
            .retain(|(_, server)| server.id != notifier(number, Status::Up).id);
        self.say(notifier(number, Status::Up));
        let node = self.node(number);
        self.nodes[number] = Some(node);
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at_ms, _)| *at_ms <= now_ms);
        self.later = later;
        due.into_iter().for_each(|(_, server)| self.say(server));
        let (due, stops): (Vec<_>, Vec<_>) = std::mem::take(&mut self.stops)
            .into_iter()
            .partition(|(at_ms, _)| *at_ms <= now_ms);
        self.stops = stops;
        for (_, number) in due {
            self.nodes[number] = None;
            self.say(notifier(number, Status::Down));
        }
        while let Some(entry) = self
            .letters
            .first_entry()
            .filter(|entry| entry.key().0 <= now_ms)
        {
            let letter = entry.remove();
            self.deliver(letter);
        }
        let mut sent = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let Some(node) = node else { continue };
            node.learn(now_ms);
            node.turn(now_ms, |to, bytes| sent.push((address(number), to, bytes)));
        }
        for entity in &mut self.entities {
            entity.turn(now_ms, |from, to, bytes| sent.push((from, to, bytes)));
        }
        for (from, to, bytes) in sent {
            self.send(from, to, bytes);
        }
        if now_ms.is_multiple_of(PICK_EVERY_MS) {
            self.judge();
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let mut fault = |of_1000| !self.is_quiet && self.random.random_range(0..1_000) < of_1000;
        let copies = match (fault(LOST), fault(DOUBLED)) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let at_ms = self.now_ms + self.random.random_range(1..DELAY_MS);
            self.order += 1;
            let bytes = bytes.clone();
            self.letters
                .insert((at_ms, self.order), Letter { to, from, bytes });
        }
    }

    fn deliver(&mut self, letter: Letter) {
        let Letter { to, from, bytes } = letter;
        if let Some(number) = (0..NODES).find(|number| address(*number) == to) {
            if let Some(node) = &mut self.nodes[number] {
                node.receive(self.now_ms, from, &bytes);
            }
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        if text.starts_with("NOTIFY ") {
            if text.contains("Subscription-State: terminated") {
                self.served.remove(&to);
            } else {
                self.served.entry(to).or_insert(self.now_ms);
            }
        }
        if let Some(entity) = self
            .entities
            .iter_mut()
            .find(|entity| entity.lines.values().any(|line| line.local == to))
        {
            entity.receive(self.now_ms, to, from, &bytes);
        }
    }

    /// The nodes that serve an entity for long enough, and still do.
    fn notifiers_of(&self, entity: usize) -> Vec<&Node> {
        let lines = self.entities[entity].lines.values();
        let nodes = lines.filter_map(|line| {
            let since_ms = self.served.get(&line.local)?;
            let number = (0..NODES).find(|number| address(*number) == line.at)?;
            let node = self.nodes[number].as_ref()?;
            let is_served = since_ms + BOUND_MS <= self.now_ms && node.since_ms <= line.begun_ms;
            (is_served && !node.drains && line.ends_by_ms.is_none()).then_some(node)
        });
        nodes.collect()
    }

    fn judge(&mut self) {
        let now_ms = self.now_ms;
        for index in 0..self.entities.len() {
            let Some(pick) = self.entities[index].pick(now_ms) else {
                continue;
            };
            self.tally.picks += 1;
            let notifiers = self.notifiers_of(index);
            let long_down = |node: &&Node| -> Vec<Arc<str>> {
                let down = node.down_since_ms.iter();
                let long = down.filter(|(_, since_ms)| **since_ms + BOUND_MS <= now_ms);
                long.map(|(id, _)| Arc::clone(id)).collect()
            };
            // Who is back may be known to others already.
            let is_so = |id: &Arc<str>| self.truth[id].status == Status::Down;
            let down = notifiers.iter().flat_map(long_down).filter(is_so);
            let down: Vec<Arc<str>> = down.collect();
            let is_gap = !notifiers.is_empty() && self.entities[index].table().is_stale();
            let judged = u64::from(!down.is_empty());
            if down.contains(&pick.id) {
                self.fail(&format!(
                    "entity {index} picks {}, which its notifiers know to be down",
                    pick.id
                ));
            }
            if is_gap {
                self.fail(&format!(
                    "the table of entity {index} is stale, though it is served"
                ));
            }
            self.tally.judged += judged;
        }
    }

    /// In the end everybody is subscribed as is wanted, and shows what is true.
    fn converged(&self) {
        let up = (0..NODES).filter(|number| self.is_up(*number)).count();
        for (index, entity) in self.entities.iter().enumerate() {
            let relied_on = entity.roster.relied_on().count();
            if relied_on != self.want[index].min(up) {
                self.fail(&format!(
                    "entity {index} relies on {relied_on} notifiers, {up} are up"
                ));
            }
            for server in self.truth.values() {
                let shown = match entity.table().get(&server.id) {
                    Some(DocumentEntry::Server(shown)) => Some(&shown.status),
                    _ => None,
                };
                if shown != Some(&server.status) {
                    self.fail(&format!(
                        "entity {index} shows {shown:?} of {}, true is {:?}",
                        server.id, server.status
                    ));
                }
            }
        }
        let held: usize = self.nodes.iter().flatten().map(Node::subscriptions).sum();
        let wanted: usize = self.want.iter().map(|want| (*want).min(up)).sum();
        if held != wanted {
            self.fail(&format!(
                "the nodes hold {held} subscriptions, {wanted} are wanted"
            ));
        }
        for node in self.nodes.iter().flatten() {
            if node
                .servers()
                .any(|server| self.truth[&server.id] != *server)
            {
                self.fail("a node does not know what is true: the world is wrong");
            }
        }
    }
}

fn notifier(number: usize, status: Status) -> Server {
    server(
        &format!("n{}", number + 1),
        address(number),
        "notifier",
        status,
    )
}
