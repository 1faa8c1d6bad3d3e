//! The world: nodes, publishers and the messages between them on one clock; and the judge of what they come to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::cluster::member::{Member, Request};
use fanfare::cluster::message::Message;
use fanfare::cluster::{FromCluster, ToCluster};
use fanfare::compositor::{Compositor, CompositorConfig, Now};
use fanfare::info::{Address, AddressTransport, Server, Status};
use fanfare::wire::Flow;
use rand::rngs::SmallRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::engine::{Engine, Sync, Telling};

const EPOCH_MS: u64 = 1_795_379_461_000;
const GOSSIP_MS: u64 = 250;
/// How long faults last, and then how long all is well before it is judged.
const FAULTS_MS: u64 = 60_000;
const REST_MS: u64 = 45_000;
/// What was answered 200 may be on its way to all for so long.
const SPREAD_MS: u64 = 1_500;

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub publishers: usize,
    pub kills: bool,
    pub partitions: bool,
    pub loss: f64,
    /// Clocks of the nodes are apart by no more than this.
    pub skew_ms: u64,
}

impl Plan {
    pub fn quiet(seed: u64) -> Plan {
        Plan {
            seed,
            nodes: 3,
            publishers: 6,
            kills: false,
            partitions: false,
            loss: 0.0,
            skew_ms: 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A message between nodes, by its place among those under way.
    Letter {
        to: usize,
        from: usize,
        number: u64,
    },
    Publisher(usize),
    Gossip(usize),
    Wake(usize),
    Fault,
}

struct Node {
    member: Member,
    engine: Engine,
}

/// What a publisher was told last.
#[derive(Debug, Clone)]
struct Acked {
    by: usize,
    until_ms: u64,
    load: u8,
    removed: bool,
}

struct Publisher {
    id: String,
    tag: Option<String>,
    load: u8,
    expires_s: u32,
    /// Says nothing any more.
    silent: bool,
    removing: bool,
    cseq: u32,
    /// The request that is not answered, its node, and how often it was sent.
    waiting: Option<(Vec<u8>, usize, u32)>,
    acked: Option<Acked>,
}

pub struct World {
    plan: Plan,
    random: SmallRng,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    letters: BTreeMap<u64, Message>,
    names: Vec<Arc<str>>,
    nodes: Vec<Option<Node>>,
    lives: Vec<u64>,
    skews: Vec<u64>,
    /// Which side of a partition each node is on.
    sides: Vec<u8>,
    publishers: Vec<Publisher>,
    at_ease: bool,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut random = SmallRng::seed_from_u64(plan.seed);
        let names: Vec<Arc<str>> = (0..plan.nodes)
            .map(|node| format!("n{node}").into())
            .collect();
        let skews = (0..plan.nodes)
            .map(|_| random.random_range(0..=plan.skew_ms))
            .collect();
        let publishers = (0..plan.publishers).map(|number| Publisher {
            id: format!("p{number}"),
            tag: None,
            load: 0,
            expires_s: random.random_range(4..15),
            silent: false,
            removing: false,
            cseq: 0,
            waiting: None,
            acked: None,
        });
        let mut world = World {
            publishers: publishers.collect(),
            nodes: (0..plan.nodes).map(|_| None).collect(),
            lives: vec![0; plan.nodes],
            sides: vec![0; plan.nodes],
            now_ms: 0,
            events: BinaryHeap::new(),
            order: 0,
            letters: BTreeMap::new(),
            at_ease: false,
            plan,
            random,
            names,
            skews,
        };
        for node in 0..world.plan.nodes {
            world.start(node);
        }
        for publisher in 0..world.plan.publishers {
            let at_ms = world.random.random_range(1_000..4_000);
            world.push(at_ms, Event::Publisher(publisher));
        }
        world.push(5_000, Event::Fault);
        world
    }

    pub fn run(mut self) {
        self.until(FAULTS_MS);
        self.at_ease = true;
        self.sides.fill(0);
        for node in 0..self.plan.nodes {
            if self.nodes[node].is_none() {
                self.start(node);
            }
        }
        self.until(FAULTS_MS + REST_MS);
        self.judge();
    }

    fn push(&mut self, at_ms: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at_ms, self.order, event)));
    }

    fn until(&mut self, end_ms: u64) {
        while let Some(Reverse((at_ms, ..))) = self.events.peek()
            && *at_ms <= end_ms
        {
            let Reverse((at_ms, _, event)) = self.events.pop().expect("it was just seen");
            self.now_ms = at_ms;
            self.step(event);
        }
        self.now_ms = end_ms;
    }

    fn now(&self, node: usize) -> Now {
        Now {
            mono_ms: self.now_ms,
            unix_ms: EPOCH_MS + self.now_ms + self.skews[node],
        }
    }

    fn start(&mut self, node: usize) {
        self.lives[node] += 1;
        let life = (node, self.lives[node]);
        let is_first = node == 0 && self.lives[node] == 1;
        let now = self.now(node);
        let config = CompositorConfig::new(Arc::clone(&self.names[node]));
        let compositor = Compositor::new(config, [7; 16], now);
        let own = Server {
            id: Arc::clone(&self.names[node]),
            status: Status::Up,
            load: None,
            priority: 0,
            weight: 1,
            updated: "0.0.x".parse().expect("a stamp"),
            addresses: vec![Address {
                ip: [192, 0, 2, node as u8 + 1].into(),
                port: 5060,
                transport: AddressTransport::Udp,
                host: None,
                service: None,
            }],
            services: vec!["notifier".into()],
            attributes: Vec::new(),
        };
        self.nodes[node] = Some(Node {
            member: Member::among(now, compositor, own),
            engine: Engine::new(life, is_first, self.now_ms),
        });
        let at_ms = self.now_ms + self.random.random_range(1..GOSSIP_MS);
        self.push(at_ms, Event::Gossip(node));
        self.settle(node);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Letter { to, from, number } => {
                let message = self.letters.remove(&number).expect("it is under way");
                if self.sides[to] == self.sides[from] && self.nodes[to].is_some() {
                    self.take(to, from, message);
                }
            }
            Event::Publisher(publisher) => self.publish(publisher),
            Event::Gossip(node) => self.gossip(node),
            Event::Wake(node) => {
                if self.nodes[node].is_some() {
                    self.settle(node);
                }
            }
            Event::Fault => self.fault(),
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.random.random_bool(self.plan.loss) && !self.at_ease {
            return;
        }
        self.order += 1;
        let number = self.order;
        self.letters.insert(number, message);
        let at_ms = self.now_ms + self.random.random_range(1..20);
        self.push(at_ms, Event::Letter { to, from, number });
    }

    /// A message at a node.
    fn take(&mut self, node: usize, from: usize, message: Message) {
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        let address = SocketAddr::from(([127, 0, 0, 1], 7_000 + from as u16));
        match message {
            Message::Tell { number, records } => {
                let from = address;
                let told = FromCluster::Told {
                    from,
                    number,
                    records,
                };
                one.member.hear(now, told);
            }
            Message::Told { number } => {
                if let Some(telling) = one.engine.tellings.remove(&number) {
                    let ticket = telling.ticket;
                    one.member.hear(now, FromCluster::Kept { ticket });
                }
            }
            Message::Ask { place } => {
                let from = address;
                one.member.hear(now, FromCluster::Asked { from, place });
            }
            Message::Pull { number, after } => {
                let from = address;
                let pulled = FromCluster::Pulled {
                    from,
                    number,
                    after,
                };
                one.member.hear(now, pulled);
            }
            Message::Page {
                number: page,
                is_last,
                is_whole,
                records,
            } => {
                let Sync::Asking {
                    number,
                    after,
                    whom,
                    tries,
                    ..
                } = &mut one.engine.sync
                else {
                    return;
                };
                if page != *number || whom.is_some_and(|whom| whom != from) {
                    return;
                }
                if let Some(last) = records.last() {
                    *after = Some((Arc::clone(&last.domain), Arc::clone(last.id())));
                }
                *tries = 0;
                (*number, *whom) = (*number + 1, Some(from));
                if is_last && !is_whole {
                    (*after, *whom) = (None, None);
                }
                one.member.hear(now, FromCluster::Records(records));
                if is_last && is_whole {
                    one.engine.sync = Sync::Done;
                    one.member.hear(now, FromCluster::Synced);
                }
            }
        }
        self.settle(node);
    }

    /// Lets a node act on what it heard and on the time.
    fn settle(&mut self, node: usize) {
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        one.member.tick(now, || Some(10));
        let mut said = Vec::new();
        one.member.say(|message| {
            said.push(message);
            Ok(())
        });
        for message in said {
            self.obey(node, message);
        }
        let one = self.nodes[node].as_mut().expect("it is alive");
        for answer in one.member.take_answers() {
            self.answered(node, answer.flow.peer.port(), &answer.bytes);
        }
        let one = self.nodes[node].as_ref().expect("it is alive");
        if let Some(due_ms) = one.member.next_deadline() {
            self.push(due_ms.max(self.now_ms + 1), Event::Wake(node));
        }
    }

    /// What a member wants of its engine.
    fn obey(&mut self, node: usize, message: ToCluster) {
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        match message {
            ToCluster::Keep {
                ticket,
                record,
                everyone,
            } => {
                one.engine.set(&record);
                if one.engine.peers.is_empty() && matches!(one.engine.sync, Sync::Done) {
                    one.member.hear(now, FromCluster::Kept { ticket });
                    return self.push(self.now_ms + 1, Event::Wake(node));
                }
                one.engine.next += 1;
                let number = one.engine.next;
                let records = vec![*record];
                let message = Message::Tell { number, records };
                let telling = Telling {
                    ticket,
                    since_ms: self.now_ms,
                    repeated: false,
                    message: message.clone(),
                };
                one.engine.tellings.insert(number, telling);
                let most = if everyone { usize::MAX } else { 2 };
                let peers = one.engine.peers.clone();
                for peer in peers.into_iter().sample(&mut self.random, most.min(64)) {
                    self.send(node, peer, message.clone());
                }
            }
            ToCluster::Tell(records) => {
                records.iter().for_each(|record| one.engine.set(record));
                for peer in one.engine.peers.clone() {
                    let records = records.clone();
                    self.send(node, peer, Message::Tell { number: 0, records });
                }
            }
            ToCluster::Hold(records) => {
                records.iter().for_each(|record| one.engine.set(record));
            }
            ToCluster::Accuse(records) => {
                for record in records {
                    let accused = self.names.iter().position(|name| name == record.id());
                    if let Some(accused) = accused {
                        let records = vec![record];
                        self.send(node, accused, Message::Tell { number: 0, records });
                    }
                }
            }
            ToCluster::Ask { place, .. } => {
                for peer in one.engine.peers.clone() {
                    let place = place.clone();
                    self.send(node, peer, Message::Ask { place });
                }
            }
            ToCluster::Answer { to, message } => {
                let peer = usize::from(to.port() - 7_000);
                self.send(node, peer, message);
            }
            ToCluster::Release(places) | ToCluster::Forget(places) => {
                places.iter().for_each(|place| one.engine.forget(place));
            }
            ToCluster::Leave => {}
        }
    }

    /// One round of a node's gossip, and what its engine does by the time.
    fn gossip(&mut self, node: usize) {
        let Some(one) = &mut self.nodes[node] else {
            return;
        };
        one.engine.beat();
        // In a model all gossip is one exchange of all that is known, with two others.
        let others: Vec<usize> = (0..self.plan.nodes)
            .filter(|other| *other != node && self.sides[*other] == self.sides[node])
            .filter(|other| self.nodes[*other].is_some())
            .collect();
        for other in others.into_iter().sample(&mut self.random, 2) {
            if self.random.random_bool(self.plan.loss) && !self.at_ease {
                continue;
            }
            for (to, from) in [(other, node), (node, other)] {
                let states = self.nodes[from]
                    .as_ref()
                    .expect("alive")
                    .engine
                    .states
                    .clone();
                let now = self.now(to);
                let one = self.nodes[to].as_mut().expect("alive");
                let news = one.engine.learn(&states, self.now_ms);
                if !news.is_empty() {
                    one.member.hear(now, FromCluster::Records(news));
                }
                self.settle(to);
            }
        }
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        if let Some(live) = one.engine.look(self.now_ms, &self.names) {
            one.member.hear(now, live);
        }
        self.engine_timers(node);
        self.settle(node);
        self.push(self.now_ms + GOSSIP_MS, Event::Gossip(node));
    }

    fn engine_timers(&mut self, node: usize) {
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        let peers = one.engine.peers.clone();
        let mut letters = Vec::new();
        let numbers: Vec<u32> = one.engine.tellings.keys().copied().collect();
        for number in numbers {
            let telling = one.engine.tellings.get_mut(&number).expect("it is there");
            if self.now_ms >= telling.since_ms + 200 {
                let ticket = telling.ticket;
                one.engine.tellings.remove(&number);
                one.member.hear(now, FromCluster::Kept { ticket });
            } else if !std::mem::replace(&mut telling.repeated, true) {
                let message = &telling.message;
                letters.extend(peers.iter().map(|peer| (*peer, message.clone())));
            }
        }
        if let Sync::Asking {
            number,
            after,
            whom,
            tries,
            until_ms,
        } = &mut one.engine.sync
        {
            if self.now_ms >= *until_ms {
                one.engine.sync = Sync::Done;
                one.member.hear(now, FromCluster::Synced);
            } else {
                *tries += 1;
                if *tries > 4 {
                    (*after, *whom, *tries) = (None, None, 0);
                }
                let message = Message::Pull {
                    number: *number,
                    after: after.clone(),
                };
                let asked = whom.map_or_else(|| (0..self.plan.nodes).collect(), |whom| vec![whom]);
                letters.extend(
                    asked
                        .into_iter()
                        .filter(|seed| *seed != node)
                        .map(|seed| (seed, message.clone())),
                );
            }
        }
        for (to, message) in letters {
            self.send(node, to, message);
        }
    }

    fn fault(&mut self) {
        if self.at_ease {
            return;
        }
        if self.plan.kills {
            let alive: Vec<usize> = (0..self.plan.nodes)
                .filter(|node| self.nodes[*node].is_some())
                .collect();
            if alive.len() > 2 && self.random.random_bool(0.6) {
                let node = *alive
                    .iter()
                    .choose(&mut self.random)
                    .expect("some are alive");
                self.kill(node);
            } else if let Some(node) = (0..self.plan.nodes).find(|node| self.nodes[*node].is_none())
            {
                self.start(node);
            }
        }
        if self.plan.partitions {
            let split = self.random.random_bool(0.5);
            let mut order: Vec<usize> = (0..self.plan.nodes).collect();
            order.shuffle(&mut self.random);
            self.sides.fill(0);
            let cut = if split {
                self.random.random_range(1..self.plan.nodes)
            } else {
                0
            };
            for node in &order[..cut] {
                self.sides[*node] = 1;
            }
        }
        let at_ms = self.now_ms + self.random.random_range(3_000..9_000);
        self.push(at_ms, Event::Fault);
    }

    /// What a node was last to say 200 to is known to the others, a moment after its death.
    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        for publisher in &mut self.publishers {
            if publisher
                .waiting
                .as_ref()
                .is_some_and(|(_, at, _)| *at == node)
            {
                publisher.waiting = None;
            }
        }
        // Where messages are lost, or half of the farm is out of reach, a confirmation may have been given up.
        if self.plan.loss > 0.0 || self.plan.partitions {
            return;
        }
        let by = |acked: &Acked| {
            acked.by == node && !acked.removed && acked.until_ms > self.now_ms + 3_000
        };
        let left: Vec<(usize, Acked)> = self
            .publishers
            .iter()
            .enumerate()
            .filter_map(|(number, publisher)| Some((number, publisher.acked.clone().filter(by)?)))
            .collect();
        let known = left.iter().filter(|(number, acked)| {
            let id = &self.publishers[*number].id;
            self.nodes.iter().flatten().any(|one| {
                let view = one.member.compositor.views().next().expect("one domain");
                view.find(id)
                    .is_some_and(|entry| entry.server.load == Some(acked.load))
            })
        });
        // One that was still alone had nobody to tell.
        assert!(
            known.count() == left.len() || self.now_ms < 8_000 + SPREAD_MS,
            "seed {}: {} took with it what it had answered 200: {left:?}",
            self.plan.seed,
            self.names[node]
        );
    }

    fn publish(&mut self, number: usize) {
        let alive: Vec<usize> = (0..self.plan.nodes)
            .filter(|node| self.nodes[*node].is_some())
            .collect();
        let any = *alive
            .iter()
            .choose(&mut self.random)
            .expect("never do all die");
        let publisher = &mut self.publishers[number];
        if publisher.silent {
            return;
        }
        let next_ms = match &mut publisher.waiting {
            // As Timer E does; then another node is asked.
            Some((_, node, sent)) if *sent < 3 && self.nodes[*node].is_some() => {
                *sent += 1;
                500
            }
            _ => {
                let action = self.random.random_range(0..10);
                if !self.at_ease && action == 0 && publisher.acked.is_some() {
                    publisher.silent = true;
                    return;
                }
                publisher.removing = !self.at_ease && action == 1 && publisher.tag.is_some();
                if publisher.tag.is_none() || action > 6 {
                    publisher.load = self.random.random_range(0..=100);
                }
                publisher.cseq += 1;
                let bytes = publisher.request(number, action > 6);
                publisher.waiting = Some((bytes, any, 1));
                500
            }
        };
        let (bytes, node, _) = publisher.waiting.clone().expect("it was just made");
        self.push(self.now_ms + next_ms, Event::Publisher(number));
        let now = self.now(node);
        let one = self.nodes[node].as_mut().expect("it is alive");
        let request = Request {
            shard: 0,
            flow: Flow::udp(0, ([192, 0, 2, 9], 10_000 + number as u16).into()),
            bytes,
        };
        one.member.publish(now, request);
        self.settle(node);
    }

    fn answered(&mut self, node: usize, port: u16, response: &[u8]) {
        let number = usize::from(port - 10_000);
        let text = String::from_utf8_lossy(response);
        let publisher = &mut self.publishers[number];
        let is_ours = text.contains(&format!("CSeq: {} PUBLISH", publisher.cseq));
        if !is_ours || publisher.waiting.take().is_none() {
            return;
        }
        let status: u16 = status_of(&text);
        match status {
            200 => {
                let tag = text
                    .lines()
                    .find_map(|line| line.strip_prefix("SIP-ETag: "));
                publisher.tag = tag.map(str::to_owned).filter(|_| !publisher.removing);
                publisher.acked = Some(Acked {
                    by: node,
                    until_ms: self.now_ms + u64::from(publisher.expires_s) * 1000,
                    load: publisher.load,
                    removed: publisher.removing,
                });
                publisher.silent |= publisher.removing;
            }
            // Published anew, in full. Contended ids, and nodes that cannot tell others, are tried again.
            412 | 403 | 503 => publisher.tag = None,
            _ => panic!("seed {}: {text}", self.plan.seed),
        }
    }

    fn judge(&self) {
        let seed = self.plan.seed;
        let seen = |node: usize| -> BTreeMap<String, String> {
            let one = self.nodes[node].as_ref().expect("all are alive again");
            let view = one.member.compositor.views().next().expect("one domain");
            assert!(!view.stale, "seed {seed}: {} is stale", self.names[node]);
            let entries = view.entries.iter().map(|entry| {
                let server = &entry.server;
                let deleted = if entry.deleted { " deleted" } else { "" };
                let says = format!(
                    "{} {:?} {}{deleted}",
                    server.status, server.load, server.updated
                );
                (server.id.to_string(), says)
            });
            entries.collect()
        };
        let first = seen(0);
        for node in 1..self.plan.nodes {
            let other = seen(node);
            assert_eq!(
                first, other,
                "seed {seed}: n0 and {} differ",
                self.names[node]
            );
        }
        for name in &self.names {
            let says = &first[&**name];
            assert!(says.starts_with("up"), "seed {seed}: {name} {says}");
        }
        for publisher in &self.publishers {
            let Some(acked) = &publisher.acked else {
                panic!("seed {seed}: {} was never told 200", publisher.id);
            };
            let says = first.get(&publisher.id).map_or("nothing", String::as_str);
            let expected = match (acked.removed, publisher.silent) {
                (true, _) => says.ends_with("deleted"),
                (false, true) => says.starts_with("down"),
                (false, false) => says.starts_with(&format!("up Some({})", acked.load)),
            };
            assert!(
                expected,
                "seed {seed}: {} was told {acked:?} (silent: {}), and is {says}",
                publisher.id, publisher.silent
            );
        }
    }
}

fn status_of(response: &str) -> u16 {
    let status = response
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.expect("a response has a status")
}

impl Publisher {
    fn request(&self, number: usize, modify: bool) -> Vec<u8> {
        let (id, load, cseq) = (&self.id, self.load, self.cseq);
        let body = match (&self.tag, modify, self.removing) {
            (Some(_), false, _) | (Some(_), _, true) => String::new(),
            _ => format!(
                "{{\"domain\":\"x\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\"load\":{load},\
                 \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}]}}]}}"
            ),
        };
        let expires = if self.removing { 0 } else { self.expires_s };
        let tag = self
            .tag
            .as_ref()
            .map_or_else(String::new, |tag| format!("SIP-If-Match: {tag}\r\n"));
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/serverinfo+json\r\n"
        };
        format!(
            "PUBLISH sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:{};branch=z9hG4bK{number}.{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:p@x>;tag=f\r\nTo: <sip:x>\r\nCall-ID: c{number}\r\nCSeq: {cseq} PUBLISH\r\nEvent: SIPserver\r\n\
             Expires: {expires}\r\n{tag}{kind}Content-Length: {}\r\n\r\n{body}",
            10_000 + number,
            body.len()
        )
        .into_bytes()
    }
}
