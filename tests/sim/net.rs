//! The network between the node and its peers: a virtual clock, a queue of events, datagrams that get lost, doubled, late
//! and flipped, and connections that are reliable until they break. Knows no SIP.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use fanfare::info::View;
use fanfare::notifier::names::Target;
use fanfare::wire::{Flow, Transport};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::plan::{Kind, Plan};

/// A message on its way to the node, and what it was before a bit of it was flipped.
#[derive(Debug, Clone)]
pub struct Letter {
    pub flow: Flow,
    pub bytes: Rc<[u8]>,
    pub original: Option<Rc<[u8]>>,
}

/// What an actor asked to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Act,
    /// To subscribe anew, once.
    Anew,
    /// Timer E of a request, by its serial.
    Again(u64),
    /// The refresh of what was granted by this request.
    Refresh(u64),
}

#[derive(Debug)]
pub enum Event {
    Node(Letter),
    Shard {
        shard: u8,
        letter: Letter,
    },
    Located {
        shard: u8,
        target: Target,
        letter: Letter,
    },
    Peer {
        flow: Flow,
        bytes: Rc<[u8]>,
    },
    Subscriber {
        index: usize,
        token: Token,
    },
    Publisher {
        index: usize,
        token: Token,
    },
    Learn {
        shard: u8,
        view: Arc<View>,
    },
    Broken {
        flow: Flow,
    },
    Unreachable {
        shard: u8,
        flow: Flow,
    },
    Garbage,
    Tick,
    Lease,
}

#[derive(Debug)]
struct Queued {
    at_ms: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.order) == (other.at_ms, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.order).cmp(&(other.at_ms, other.order))
    }
}

#[derive(Debug)]
struct Connection {
    open: bool,
    /// How the node names it: number 0 for one that it opened itself.
    flow: Flow,
    to_node_ms: u64,
    to_peer_ms: u64,
}

#[derive(Debug)]
pub struct Net {
    pub now_ms: u64,
    pub random: SmallRng,
    pub plan: Plan,
    pub quiet: bool,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    connections: HashMap<u64, Connection>,
    opened_by_node: HashMap<SocketAddr, u64>,
    last_connection: u64,
    /// Addresses where nobody accepts connections.
    pub deaf: Vec<SocketAddr>,
    old_answers: Vec<Letter>,
}

/// Some worlds begin so late that short forms of the time go round in them: milliseconds in 32 bits after 49 days, the
/// wheel's slots after 497.
fn start_ms(seed: u64) -> u64 {
    let before_ms = seed / 4 % 300 * 1_000;
    match seed % 4 {
        0 => (1 << 32) - before_ms,
        1 => (10 << 32) - before_ms,
        _ => 1_000_000,
    }
}

impl Net {
    pub fn new(plan: &Plan) -> Net {
        Net {
            now_ms: start_ms(plan.seed),
            random: SmallRng::seed_from_u64(plan.seed),
            plan: plan.clone(),
            quiet: false,
            queue: BinaryHeap::new(),
            order: 0,
            connections: HashMap::new(),
            opened_by_node: HashMap::new(),
            last_connection: 0,
            deaf: Vec::new(),
            old_answers: Vec::new(),
        }
    }

    pub fn push(&mut self, at_ms: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued {
            at_ms: at_ms.max(self.now_ms),
            order: self.order,
            event,
        }));
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(next)| next.at_ms)
    }

    pub fn pop(&mut self) -> Option<Event> {
        let due = self.next_ms()? <= self.now_ms;
        due.then(|| self.queue.pop().map(|Reverse(next)| next.event))?
    }

    pub fn chance(&mut self, of_1000: u32) -> bool {
        self.random.random_range(0..1000) < of_1000
    }

    fn fault(&mut self, of_1000: u32) -> bool {
        !self.quiet && self.chance(of_1000)
    }

    fn delay_ms(&mut self) -> u64 {
        let most = if self.quiet {
            20
        } else {
            self.plan.delay_most_ms
        };
        self.random.random_range(0..=most)
    }

    /// The flow of a datagram from this address.
    pub fn datagram(&self, peer: SocketAddr) -> Flow {
        Flow::udp(0, peer)
    }

    /// A new connection from this address to the node.
    pub fn connect(&mut self, peer: SocketAddr) -> Flow {
        self.last_connection += 1;
        let port = 20_000 + (self.last_connection % 40_000) as u16;
        let flow = Flow {
            transport: Transport::Tcp,
            local: 0,
            peer: SocketAddr::new(peer.ip(), port),
            connection: self.last_connection,
        };
        self.connections.insert(
            self.last_connection,
            Connection {
                open: true,
                flow,
                to_node_ms: self.now_ms,
                to_peer_ms: self.now_ms,
            },
        );
        flow
    }

    pub fn is_open(&self, flow: Flow) -> bool {
        self.connections
            .get(&flow.connection)
            .is_some_and(|connection| connection.open)
    }

    /// Whether the kernel has no room for a datagram just now.
    pub fn is_full(&mut self, flow: Flow) -> bool {
        !flow.transport.is_reliable() && self.fault(self.plan.lost / 4)
    }

    /// Breaks a connection; what is on its way is lost.
    pub fn break_one(&mut self) {
        let mut open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.open)
            .map(|(&number, _)| number)
            .collect();
        open.sort_unstable();
        if open.is_empty() {
            return;
        }
        let number = open[self.random.random_range(0..open.len())];
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.open = false;
        let flow = connection.flow;
        if flow.connection == 0 {
            self.opened_by_node.remove(&flow.peer);
        }
        let at_ms = self.now_ms + self.random.random_range(0..50);
        self.push(at_ms, Event::Broken { flow });
    }

    /// When a datagram arrives at the node; in some worlds many do at once.
    fn arrival_ms(&mut self, after_ms: u64) -> u64 {
        let at_ms = self.now_ms + after_ms + self.delay_ms();
        let burst_ms = if self.quiet { 1 } else { self.plan.burst_ms };
        at_ms.next_multiple_of(burst_ms)
    }

    pub fn send_to_node(&mut self, flow: Flow, bytes: Vec<u8>, after_ms: u64) {
        let letter = Letter {
            flow,
            bytes: bytes.into(),
            original: None,
        };
        if flow.transport.is_reliable() {
            let delay_ms = self.delay_ms().min(200);
            let now_ms = self.now_ms;
            let Some(connection) = self.connections.get_mut(&flow.connection) else {
                return;
            };
            connection.to_node_ms = connection.to_node_ms.max(now_ms + after_ms + delay_ms);
            let at_ms = connection.to_node_ms;
            return self.push(at_ms, Event::Node(letter));
        }
        if letter.bytes.starts_with(b"SIP/2.0") && self.old_answers.len() < 64 {
            self.old_answers.push(letter.clone());
        }
        if self.fault(self.plan.doubled) {
            let at_ms = self.arrival_ms(after_ms);
            self.push(at_ms, Event::Node(letter.clone()));
        }
        if self.fault(self.plan.replayed) && !self.old_answers.is_empty() {
            let place = self.random.random_range(0..self.old_answers.len());
            let old = self.old_answers[place].clone();
            if self.old_answers.len() == 64 && self.chance(500) {
                self.old_answers.swap_remove(place);
            }
            let at_ms = self.arrival_ms(0);
            self.push(at_ms, Event::Node(old));
        }
        if self.fault(self.plan.lost) {
            return;
        }
        let at_ms = self.arrival_ms(after_ms);
        let letter = if self.fault(self.plan.flipped) {
            self.flip(letter)
        } else {
            letter
        };
        self.push(at_ms, Event::Node(letter));
    }

    fn flip(&mut self, letter: Letter) -> Letter {
        let mut bytes = letter.bytes.to_vec();
        let flips = self.random.random_range(1..4);
        for _ in 0..flips {
            let place = self.random.random_range(0..bytes.len());
            bytes[place] ^= 1 << self.random.random_range(0..8);
        }
        Letter {
            bytes: bytes.into(),
            original: Some(letter.bytes),
            ..letter
        }
    }

    /// From the node to a peer.
    pub fn send_to_peer(&mut self, flow: Flow, bytes: Vec<u8>, shard: u8) {
        let bytes: Rc<[u8]> = bytes.into();
        if flow.transport.is_reliable() {
            return self.stream(flow, bytes, shard);
        }
        if self.fault(self.plan.doubled) {
            let at_ms = self.now_ms + self.delay_ms();
            self.push(
                at_ms,
                Event::Peer {
                    flow,
                    bytes: bytes.clone(),
                },
            );
        }
        // A flipped bit towards a peer is what its checksum is for: a loss.
        if self.fault(self.plan.lost + self.plan.flipped) {
            return;
        }
        let at_ms = self.now_ms + self.delay_ms();
        self.push(at_ms, Event::Peer { flow, bytes });
    }

    fn stream(&mut self, flow: Flow, bytes: Rc<[u8]>, shard: u8) {
        let mut number = flow.connection;
        let mut more_ms = 0;
        if number == 0 {
            match self.opened_by_node.get(&flow.peer) {
                Some(&open) => number = open,
                None if self.deaf.contains(&flow.peer) && !self.quiet => {
                    let at_ms = self.now_ms + self.random.random_range(1..100);
                    return self.push(at_ms, Event::Unreachable { shard, flow });
                }
                None => {
                    number = self.connect(flow.peer).connection;
                    self.opened_by_node.insert(flow.peer, number);
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.flow = flow;
                    }
                    more_ms = self.delay_ms().min(200);
                }
            }
        }
        let delay_ms = self.delay_ms().min(200) + more_ms;
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if !connection.open {
            return;
        }
        connection.to_peer_ms = connection.to_peer_ms.max(now_ms + delay_ms);
        let at_ms = connection.to_peer_ms;
        let flow = Flow {
            connection: number,
            ..flow
        };
        self.push(at_ms, Event::Peer { flow, bytes });
    }

    pub fn is_clean(&self) -> bool {
        self.plan.kind == Kind::Clean
    }
}
