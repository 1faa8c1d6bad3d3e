//! One notifier and all its subscribers in one process, in virtual time: what the notifier does can be measured apart
//! from what its peers do, with no socket between them. Knows no measure: the gauge brings it.

#![allow(dead_code, reason = "each of its users needs a part of it")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use fanfare::info::View;
use fanfare::notifier::drain::Other;
use fanfare::notifier::handle::{HandleKey, Tag};
use fanfare::notifier::settings::Settings;
use fanfare::notifier::{Notifier, Outbox};
use fanfare::wire::{Datagram, Flow, Transport};

use super::cluster;

/// So many that the whole document goes into one datagram.
const SERVERS: usize = 1;
/// As a shard has it.
const BATCH: usize = 4_096 + 256;
const RECEIVE_BUFFER: usize = 16 << 20;
/// SUBSCRIBEs of one turn.
const TOGETHER: usize = 64;
/// A slot of the notifier's wheel.
const SLOT_MS: u64 = 10;
/// Between two rounds: every interval of the notifier has passed.
const PAUSE_MS: u64 = 1_000;

/// Does the work and tells what it cost, in whatever unit.
pub type Gauge = fn(&mut dyn FnMut()) -> u64;

/// Whom the subscribers are behind.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Next hops that they share; `None`: each its own.
    pub hops: Option<usize>,
    /// Each dialog has a Record-Route of its own.
    pub routes: bool,
}

impl Shape {
    pub const OWN: Shape = Shape {
        hops: None,
        routes: false,
    };

    fn address(self, number: usize) -> Ipv4Addr {
        Ipv4Addr::from(0x7f01_0000 + self.hops.map_or(number, |hops| number % hops) as u32)
    }

    fn flow(self, number: usize) -> Flow {
        Flow::udp(0, (self.address(number), 5060).into())
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// NOTIFYs sent, answered and acknowledged; of SUBSCRIBEs, those served.
    pub exchanges: u64,
    /// The sum of the gauge over all that the notifier did, `learn` apart.
    pub cost: u64,
}

/// A message on its way to the notifier. Its buffer is used again.
#[derive(Debug, Default)]
struct Messages {
    texts: Vec<Vec<u8>>,
    flows: Vec<Flow>,
}

#[derive(Debug)]
pub struct Swarm {
    notifier: Notifier,
    out: Outbox,
    view: View,
    now_ms: u64,
    gauge: Gauge,
    shape: Shape,
    /// The notifier's tags, in the order of the subscribers.
    pub tags: Vec<Tag>,
    /// The entity-tag of the NOTIFY seen last.
    entity_tag: Vec<u8>,
    inbound: Messages,
    cseq: u32,
    /// SUBSCRIBEs of this round make subscriptions.
    subscribing: bool,
}

/// What a SUBSCRIBE says beside the subscriber's own names.
#[derive(Debug, Clone, Copy)]
struct Wish<'a> {
    cseq: u32,
    to_tag: Option<&'a Tag>,
    /// Suppress-If-Match.
    unless: Option<&'a [u8]>,
}

impl Swarm {
    /// Subscribes `count` entities and answers their first NOTIFYs. The round tells of these.
    pub fn new(shape: Shape, count: usize, gauge: Gauge) -> (Self, Round) {
        Self::watching(shape, SERVERS, count, gauge)
    }

    /// The same with a cluster of so many servers to watch: documents that go in parts.
    pub fn watching(shape: Shape, servers: usize, count: usize, gauge: Gauge) -> (Self, Round) {
        Self::made(shape, servers, count, RECEIVE_BUFFER, gauge)
    }

    /// The same at a node with a receive buffer of so many bytes.
    pub fn made(
        shape: Shape,
        servers: usize,
        count: usize,
        receive_buffer: usize,
        gauge: Gauge,
    ) -> (Self, Round) {
        let listen = SocketAddr::from(([127, 0, 0, 1], 5060));
        let settings = Arc::new(Settings::for_address(listen));
        let view = cluster::view(servers);
        let views = vec![Arc::new(view.clone())];
        let key = HandleKey([7; 16]);
        let mut swarm = Swarm {
            notifier: Notifier::new(settings, 0, key, 1, receive_buffer, views, 0),
            out: Outbox::new(BATCH),
            view,
            now_ms: 0,
            gauge,
            shape,
            tags: Vec::with_capacity(count),
            entity_tag: Vec::new(),
            inbound: Messages::default(),
            cseq: 0,
            subscribing: false,
        };
        let round = swarm.join(count);
        (swarm, round)
    }

    /// From now on, what the notifier does is measured so.
    pub fn measure_by(&mut self, gauge: Gauge) {
        self.gauge = gauge;
    }

    /// So many more entities subscribe and answer their first NOTIFYs.
    pub fn join(&mut self, count: usize) -> Round {
        let members = self.tags.len();
        self.subscribing = true;
        let round = self.subscribe_all(members..members + count, None);
        self.subscribing = false;
        assert_eq!(
            self.tags.len(),
            members + count,
            "every SUBSCRIBE was answered 200"
        );
        round
    }

    /// One server changes; turns until every subscriber has acknowledged the change.
    pub fn change(&mut self) -> Round {
        self.now_ms += PAUSE_MS;
        self.view = cluster::changed(&self.view);
        self.notifier.learn(0, Arc::new(self.view.clone()));
        self.settle()
    }

    /// Every subscriber refreshes: SUBSCRIBE, 200, NOTIFY, 200.
    pub fn refresh(&mut self) -> Round {
        self.now_ms += PAUSE_MS;
        self.subscribe_all(0..self.tags.len(), None)
    }

    /// Every subscriber refreshes and has the state already: SUBSCRIBE, 204 (RFC 5839 6.3).
    pub fn refresh_unchanged(&mut self) -> Round {
        self.now_ms += PAUSE_MS;
        let tag = self.entity_tag.clone();
        self.subscribe_all(0..self.tags.len(), Some(&tag))
    }

    /// So long nothing happens but what the notifier's timers bring, a slot of its wheel at a time.
    pub fn idle(&mut self, duration_ms: u64) -> Round {
        let until_ms = self.now_ms + duration_ms;
        let mut sum = Round::default();
        while self.now_ms < until_ms {
            let slot_ms = self.now_ms.next_multiple_of(SLOT_MS);
            self.now_ms = if slot_ms > self.now_ms {
                slot_ms
            } else {
                slot_ms + SLOT_MS
            };
            let round = self.settle();
            sum.exchanges += round.exchanges;
            sum.cost += round.cost;
        }
        sum
    }

    fn subscribe_all(&mut self, members: Range<usize>, unless: Option<&[u8]>) -> Round {
        let mut sum = Round::default();
        let mut told = 0;
        self.cseq += 1;
        for first in members.clone().step_by(TOGETHER) {
            self.inbound.clear();
            for number in first..members.end.min(first + TOGETHER) {
                let wish = Wish {
                    cseq: self.cseq,
                    to_tag: self.tags.get(number),
                    unless,
                };
                let text = self.inbound.next(self.shape.flow(number));
                subscribe(self.shape, number, wish, text);
                sum.exchanges += 1;
            }
            sum.cost += self.receive();
            let round = self.settle();
            sum.cost += round.cost;
            told += round.exchanges;
        }
        match unless {
            // Periodic NOTIFYs may fall into the round.
            None => assert!(told >= sum.exchanges, "a NOTIFY follows every SUBSCRIBE"),
            Some(_) => assert!(told < sum.exchanges, "no NOTIFY follows a 204"),
        }
        sum
    }

    /// One server changes while so many more entities subscribe in every millisecond; the way to a peer and back takes
    /// about `path_ms`, and each `dead_each`th NOTIFY is never answered (0: all are). Virtual milliseconds until as many NOTIFYs
    /// of the change went out as there were subscribers, and the longest time without any; `None`: not within `most_ms`.
    /// The notifier has turns only when it asked for them, and when something came.
    pub fn change_amid(
        &mut self,
        path_ms: u64,
        dead_each: usize,
        join_each_ms: usize,
        most_ms: u64,
    ) -> Option<(u64, u64)> {
        let members = self.tags.len();
        self.now_ms += PAUSE_MS;
        self.view = cluster::changed(&self.view);
        self.notifier.learn(0, Arc::new(self.view.clone()));
        let (begun_ms, mut sent, mut joined) = (self.now_ms, 0, 0);
        let (mut told_ms, mut longest_ms) = (begun_ms, 0);
        let mut answers: BTreeMap<(u64, u64), (Flow, Vec<u8>)> = BTreeMap::new();
        let mut order = 0;
        while self.now_ms < begun_ms + most_ms {
            self.inbound.clear();
            while let Some(entry) = answers
                .first_entry()
                .filter(|one| one.key().0 <= self.now_ms)
            {
                let (flow, text) = entry.remove();
                self.inbound.next(flow).extend_from_slice(&text);
            }
            for number in members + joined..members + joined + join_each_ms {
                let wish = Wish {
                    cseq: 1,
                    to_tag: None,
                    unless: None,
                };
                let text = self.inbound.next(self.shape.flow(number));
                subscribe(self.shape, number, wish, text);
            }
            joined += join_each_ms;
            self.receive();
            self.fill();
            for datagram in self.out.batch.datagrams() {
                if !datagram.bytes.starts_with(b"NOTIFY ") {
                    continue;
                }
                let is_first = !memmem(&datagram.bytes, b"state=\"partial\"");
                sent += usize::from(!is_first);
                if !is_first {
                    longest_ms = longest_ms.max(self.now_ms - told_ms);
                    told_ms = self.now_ms;
                }
                if dead_each == 0 || sent % dead_each != 0 {
                    let mut text = Vec::new();
                    answer(datagram, &mut text);
                    // Not all at once.
                    order += 1;
                    let way_ms = path_ms / 2 + order * 7 % path_ms.max(1);
                    answers.insert((self.now_ms + way_ms, order), (datagram.flow, text));
                }
            }
            self.out.batch.clear();
            if sent >= members {
                return Some((self.now_ms - begun_ms, longest_ms));
            }
            let deadline = self.notifier.next_deadline_ms(self.now_ms);
            let answered = answers.keys().next().map(|(due_ms, _)| *due_ms);
            let joins = (join_each_ms > 0).then_some(self.now_ms + 1);
            let next = [deadline, answered, joins].into_iter().flatten().min()?;
            // A turn takes time, however short.
            self.now_ms = next.max(self.now_ms + 1);
        }
        None
    }

    /// The notifier drains for so long, and another is alive: when each subscription was told that it ends, in virtual
    /// milliseconds since then. The notifier has turns only when it asked for them, and when something came.
    pub fn drain(&mut self, over_ms: u64) -> Vec<u64> {
        let other = Other {
            address: SocketAddr::from(([127, 0, 0, 2], 5060)),
            transport: Transport::Udp,
        };
        self.now_ms += PAUSE_MS;
        let begun_ms = self.now_ms;
        self.notifier.drain(begun_ms, vec![other], over_ms);
        let mut ends_ms = Vec::new();
        loop {
            self.fill();
            let ends = self.out.batch.datagrams().iter().filter(|datagram| {
                let state = b"Subscription-State: terminated;reason=deactivated";
                memmem(&datagram.bytes, state)
            });
            ends_ms.extend(ends.map(|_| self.now_ms - begun_ms));
            self.answer_all();
            self.receive();
            let Some(next_ms) = self.notifier.next_deadline_ms(self.now_ms) else {
                return ends_ms;
            };
            // A turn takes time, however short.
            self.now_ms = next_ms.max(self.now_ms + 1);
        }
    }

    /// Turns of the notifier until it sends nothing more: what it sends is answered 200 within the millisecond.
    fn settle(&mut self) -> Round {
        let before = self.notifier.counters();
        let mut cost = 0;
        loop {
            cost += self.fill();
            if self.out.batch.is_empty() {
                break;
            }
            self.answer_all();
            cost += self.receive();
            self.now_ms += 1;
        }
        let counters = self.notifier.counters();
        let exchanges = counters.acknowledged - before.acknowledged;
        assert_eq!(exchanges, counters.notifies - before.notifies);
        assert_eq!((counters.retransmissions, counters.late_answers), (0, 0));
        Round { exchanges, cost }
    }

    fn fill(&mut self) -> u64 {
        (self.gauge)(&mut || {
            self.notifier.fill(self.now_ms, &mut self.out);
            // As a shard asks before it waits.
            self.notifier.next_deadline_ms(self.now_ms);
        })
    }

    fn receive(&mut self) -> u64 {
        (self.gauge)(&mut || {
            for (flow, text) in self.inbound.flows.iter().zip(&self.inbound.texts) {
                self.notifier
                    .receive(self.now_ms, *flow, text, &mut self.out);
            }
        })
    }

    /// The subscribers' side: a 200 to every NOTIFY of the batch; the tags from the answers to SUBSCRIBEs.
    fn answer_all(&mut self) {
        self.inbound.clear();
        for datagram in self.out.batch.datagrams() {
            if datagram.bytes.starts_with(b"NOTIFY ") {
                answer(datagram, self.inbound.next(datagram.flow));
                self.entity_tag.clear();
                self.entity_tag
                    .extend_from_slice(entity_tag(&datagram.bytes));
            } else if self.subscribing {
                self.tags.push(to_tag(&datagram.bytes));
            }
        }
        self.out.batch.clear();
    }
}

impl Messages {
    fn clear(&mut self) {
        self.flows.clear();
    }

    fn next(&mut self, flow: Flow) -> &mut Vec<u8> {
        let place = self.flows.len();
        self.flows.push(flow);
        if place == self.texts.len() {
            self.texts.push(Vec::with_capacity(1_400));
        }
        self.texts[place].clear();
        &mut self.texts[place]
    }
}

/// With identifiers as long as those seen in the field: Call-ID 45, tag 10, URIs 30, Contact 60 bytes, Record-Route 70.
fn subscribe(shape: Shape, number: usize, wish: Wish<'_>, out: &mut Vec<u8>) {
    use std::io::Write;
    let address = shape.address(number);
    let cseq = wish.cseq;
    let route = if shape.routes {
        let fields = format!("<sip:{address};lr;ftag=ft{number:08x};did=4a1.{number:08x}");
        format!("Record-Route: {fields:x<69}>\r\n")
    } else {
        String::new()
    };
    let to_tag = wish.to_tag.map_or(String::new(), |tag| {
        format!(";tag={}", String::from_utf8_lossy(tag))
    });
    let condition = wish.unless.map_or(String::new(), |tag| {
        format!("Suppress-If-Match: {}\r\n", String::from_utf8_lossy(tag))
    });
    write!(
        out,
        "SUBSCRIBE sip:example.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP {address}:5060;rport;branch=z9hG4bKPj{number:010x}{cseq:010x}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:entity{number:07}@example.com>;tag=ft{number:08x}\r\n\
         To: <sip:server-info@sip.example.com>{to_tag}\r\n\
         Call-ID: 3c26700857a87f84f-{number:08x}@entity.example.com\r\n\
         CSeq: {cseq} SUBSCRIBE\r\n\
         {route}Contact: <sip:entity{number:07}-registered@{address};transport=udp;ob-2>\r\n\
         Event: SIPserver\r\n\
         {condition}Accept: application/serverinfo+xml\r\n\
         Expires: 3600\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .expect("a Vec takes all that is written");
}

fn memmem(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split_inclusive(|&byte| byte == b'\n')
}

fn answer(notify: &Datagram, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    let echoed: [&[u8]; 5] = [b"Via:", b"From:", b"To:", b"Call-ID:", b"CSeq:"];
    for line in lines(&notify.bytes) {
        if echoed.iter().any(|name| line.starts_with(name)) {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

fn entity_tag(notify: &[u8]) -> &[u8] {
    lines(notify)
        .find_map(|line| line.strip_prefix(b"SIP-ETag:"))
        .expect("a NOTIFY has an entity-tag")
        .trim_ascii()
}

fn to_tag(response: &[u8]) -> Tag {
    let to = lines(response)
        .find(|line| line.starts_with(b"To:"))
        .expect("a response has a To");
    let to = String::from_utf8_lossy(to);
    let (_, tag) = to.trim_end().split_once(";tag=").expect("To has a tag");
    tag.as_bytes().try_into().expect("one of the notifier's")
}
