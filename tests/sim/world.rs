//! The simulated world: shards of the notifier, the compositor, model peers, and the network between them, on one virtual
//! clock. It moves messages; the judge and the model subscribers say what is wrong.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::compositor::{Compositor, CompositorConfig, Now};
use fanfare::notifier::counters::Counters;
use fanfare::notifier::handle::HandleKey;
use fanfare::notifier::names::{Location, Target};
use fanfare::notifier::settings::Settings;
use fanfare::notifier::{Effect, Footprint, Notifier, Outbox};
use fanfare::wire::{Datagram, Flow, Transport};
use rand::RngExt;

use crate::judge::{Judge, Tally};
use crate::net::{Event, Letter, Net, Token};
use crate::plan::{Case, Ending, Kind, Plan};
use crate::publisher::Publisher;
use crate::reader::rows_of;
use crate::subscriber::Subscriber;
use crate::text::Sip;

/// Unix time at the virtual clock's zero.
const EPOCH_MS: u64 = 1_795_379_461_000;
/// The time over which an ending node lets its subscriptions go to others.
const DRAIN_MS: u64 = 10_000;

#[derive(Debug)]
struct Shard {
    notifier: Notifier,
    outbox: Outbox,
    empty: Footprint,
    /// Datagrams of the batch that were judged.
    judged: usize,
    /// Something came for it since its last turn.
    touched: bool,
    /// When its next turn is due.
    due_ms: u64,
}

#[derive(Debug)]
pub struct World {
    case: Case,
    plan: Plan,
    net: Net,
    judge: Judge,
    shards: Vec<Shard>,
    compositor: Compositor,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    at: HashMap<SocketAddr, usize>,
    /// Hand-overs keep their order: when the last of each channel arrives.
    channels: HashMap<(u8, u8), u64>,
    torture: Vec<Vec<u8>>,
    published: std::collections::HashSet<String>,
    /// When the compositor is woken next.
    lease_ms: u64,
    /// Part of a Call-ID whose messages are printed.
    trace: Option<String>,
}

impl World {
    pub fn new(plan: Plan, torture: &[Vec<u8>]) -> World {
        let case = Case { seed: plan.seed };
        let mut net = Net::new(&plan);
        let mut judge = Judge::new(case, &plan);
        let mut settings = Settings::for_address(([127, 0, 0, 1], 5060).into());
        settings.shards = plan.shards;
        settings.batch = plan.batch;
        settings.effects_most = plan.effects_most;
        let settings = Arc::new(settings);
        let now = Now {
            mono_ms: net.now_ms,
            unix_ms: EPOCH_MS + net.now_ms,
        };
        let mut compositor = Compositor::new(CompositorConfig::new("n1".into()), [9; 16], now);
        fill_table(&mut compositor, &plan, now);
        let view = compositor.views().next().expect("one domain").clone();
        compositor.take_changed();
        judge.truth.learn(view.clone(), net.now_ms);
        let shards = (0..plan.shards)
            .map(|shard| {
                let notifier = Notifier::new(
                    settings.clone(),
                    shard,
                    HandleKey([5; 16]),
                    plan.seed + u64::from(shard),
                    plan.receive_buffer,
                    vec![view.clone()],
                    net.now_ms,
                );
                judge.learned(shard, view.revision);
                Shard {
                    empty: notifier.footprint(),
                    judged: 0,
                    touched: true,
                    due_ms: 0,
                    notifier,
                    outbox: Outbox::new(if plan.kind == Kind::Clean {
                        256
                    } else {
                        plan.batch
                    }),
                }
            })
            .collect();
        let mut at = HashMap::new();
        let subscribers: Vec<Subscriber> = (0..plan.subscribers)
            .map(|index| {
                let host = if plan.one_hop { 0 } else { index };
                let address = ([127, 1, (host / 200) as u8, (host % 200) as u8 + 1], 5060).into();
                let subscriber = Subscriber::new(index, address, &net);
                for address in subscriber.addresses() {
                    at.insert(address, index);
                }
                if net.chance(100) && plan.lost > 0 {
                    net.deaf.push(address);
                }
                subscriber
            })
            .collect();
        let publishers = (0..plan.publishers)
            .map(|index| Publisher::new(index, &mut net))
            .collect();
        World {
            case,
            plan,
            net,
            judge,
            shards,
            compositor,
            subscribers,
            publishers,
            at,
            channels: HashMap::new(),
            torture: torture.to_vec(),
            published: std::collections::HashSet::new(),
            lease_ms: u64::MAX,
            trace: std::env::var("FANFARE_TRACE").ok(),
        }
    }

    /// The whole run: faults, then quiet, then the end; the tally says that something happened.
    pub fn run(mut self) -> Tally {
        let start_ms = self.net.now_ms;
        let spread_ms = if self.plan.kind == Kind::Crowd {
            5_000
        } else {
            self.plan.duration_ms / 8
        };
        for index in 0..self.subscribers.len() {
            let at_ms = start_ms + self.net.random.random_range(0..=spread_ms);
            self.net.push(
                at_ms,
                Event::Subscriber {
                    index,
                    token: Token::Act,
                },
            );
        }
        for index in 0..self.publishers.len() {
            let at_ms = start_ms + self.net.random.random_range(0..=self.plan.change_ms);
            self.net.push(
                at_ms,
                Event::Publisher {
                    index,
                    token: Token::Act,
                },
            );
        }
        self.net.push(start_ms, Event::Tick);
        self.spread();
        if self.plan.garbage > 0 || self.plan.lost > 0 {
            self.net.push(start_ms + 1, Event::Garbage);
        }
        self.until(start_ms + self.plan.duration_ms);
        self.net.quiet = true;
        // The longest of: Timer F, backoff, a lease and its refresh, the slowest max-rate; twice the periodic interval.
        self.until(self.net.now_ms + 240_000);
        self.converged();
        self.finish();
        self.judge.tally
    }

    fn converged(&mut self) {
        let mut served = 0;
        for subscriber in &self.subscribers {
            served += usize::from(subscriber.is_served(&self.judge));
            if let Some(told) = subscriber.objection(&mut self.judge, self.net.now_ms) {
                self.case.fail(
                    "nobody keeps an older view for ever",
                    self.net.now_ms,
                    &told,
                );
            }
        }
        let live = self.live();
        if self.judge.live().is_some_and(|known| known != live) {
            let detail = format!("{live} live, should be {:?}", self.judge.live());
            self.case
                .fail("the node serves whom it accepted", self.net.now_ms, &detail);
        }
        if self.plan.kind == Kind::Clean && served < self.subscribers.len() {
            let judge = &self.judge;
            let left = self
                .subscribers
                .iter()
                .filter(|subscriber| !subscriber.is_served(judge));
            let left: Vec<String> = left.map(|subscriber| subscriber.host()).collect();
            let detail = format!("not served: {left:?}");
            self.case
                .fail("everybody is served in the end", self.net.now_ms, &detail);
        }
    }

    fn live(&self) -> usize {
        self.shards.iter().map(|shard| shard.notifier.live()).sum()
    }

    fn finish(&mut self) {
        let polite = self.plan.ending == Ending::Unsubscribe;
        for subscriber in &mut self.subscribers {
            subscriber.leave(&mut self.net, polite);
        }
        let mut rest_ms = 1_800_000 + 32_000 + 70_000;
        if self.plan.ending == Ending::Drain {
            self.judge.draining = true;
            let others = self.plan.others();
            self.judge.has_others = !others.is_empty();
            let over_ms = if others.is_empty() { 0 } else { DRAIN_MS };
            self.judge.drained_ms = self.net.now_ms + over_ms;
            for shard in &mut self.shards {
                shard
                    .notifier
                    .drain(self.net.now_ms, others.clone(), DRAIN_MS);
                shard.touched = true;
                shard.due_ms = 0;
            }
            rest_ms = 120_000;
        }
        self.until(self.net.now_ms + rest_ms);
        self.emptied();
        self.counted();
    }

    fn emptied(&self) {
        if self.live() > 0 {
            let detail = format!("{} live", self.live());
            self.case
                .fail("all subscriptions end", self.net.now_ms, &detail);
        }
        for shard in &self.shards {
            let left = shard.notifier.footprint();
            if left != shard.empty {
                let detail = format!("{left:?} left of nothing");
                self.case
                    .fail("what ended leaves nothing behind", self.net.now_ms, &detail);
            }
        }
    }

    fn counted(&self) {
        let mut sum = Counters::default();
        self.shards
            .iter()
            .for_each(|shard| sum.add(&shard.notifier.counters()));
        let accounted =
            sum.acknowledged + sum.rejected + sum.timeouts + sum.abandoned + sum.transport_errors;
        if sum.notifies != accounted {
            let detail = format!("{} begun, {accounted} ended: {sum:?}", sum.notifies);
            self.case
                .fail("each NOTIFY has one counted end", self.net.now_ms, &detail);
        }
        let counted = Tally {
            notifies: sum.notifies,
            retransmissions: sum.retransmissions,
            acknowledged: sum.acknowledged,
            rejected: sum.rejected,
            timeouts: sum.timeouts,
            abandoned: sum.abandoned,
            transport_errors: sum.transport_errors,
            subscribed: sum.subscribed,
        };
        let seen = self.judge.tally;
        let exact = self.judge.live().is_some() && !self.judge.unsure;
        if exact && counted != seen {
            let detail = format!("counted {counted:?}, seen {seen:?}");
            self.case
                .fail("the counters say what happened", self.net.now_ms, &detail);
        }
    }

    // ---- time ----

    fn until(&mut self, end_ms: u64) {
        loop {
            let due_ms = self.shards.iter().map(|shard| shard.due_ms).min();
            let next_ms = due_ms.into_iter().chain(self.net.next_ms()).min();
            let next_ms = next_ms.unwrap_or(u64::MAX);
            if next_ms > end_ms {
                self.net.now_ms = end_ms;
                self.judge.advance(end_ms);
                return;
            }
            self.net.now_ms = next_ms.max(self.net.now_ms);
            self.judge.advance(self.net.now_ms);
            while let Some(event) = self.net.pop() {
                self.happen(event);
            }
            for number in 0..self.plan.shards {
                let shard = &mut self.shards[usize::from(number)];
                if std::mem::take(&mut shard.touched) || shard.due_ms <= self.net.now_ms {
                    self.turn(number);
                }
            }
        }
    }

    /// A shard's notifier, which gets a turn before time goes on.
    fn notifier(&mut self, number: u8) -> &mut Notifier {
        let shard = &mut self.shards[usize::from(number)];
        shard.touched = true;
        &mut shard.notifier
    }

    fn turn(&mut self, number: u8) {
        let now_ms = self.net.now_ms;
        self.flush(number);
        for _ in 0..100_000 {
            let shard = &mut self.shards[usize::from(number)];
            shard.notifier.fill(now_ms, &mut shard.outbox);
            self.flush(number);
            let shard = &mut self.shards[usize::from(number)];
            shard.due_ms = shard.notifier.next_deadline_ms(now_ms).unwrap_or(u64::MAX);
            if shard.due_ms > now_ms {
                return self.judge.turn_done(number);
            }
        }
        self.case.fail(
            "a turn ends",
            now_ms,
            &format!("shard {number} is always due"),
        );
    }

    fn flush(&mut self, number: u8) {
        let now_ms = self.net.now_ms;
        let shard = &mut self.shards[usize::from(number)];
        for datagram in &shard.outbox.batch.datagrams()[shard.judged..] {
            print(&self.trace, now_ms, number, datagram);
            self.judge.message_out(number, datagram);
        }
        for datagram in shard.outbox.batch.datagrams() {
            if self.net.is_full(datagram.flow) {
                shard.notifier.unsent(now_ms, &datagram.bytes);
                continue;
            }
            self.net
                .send_to_peer(datagram.flow, datagram.bytes.clone(), number);
        }
        shard.outbox.batch.clear();
        shard.judged = 0;
        let effects: Vec<Effect> = shard.outbox.effects.drain(..).collect();
        for effect in effects {
            self.effect(number, effect, None);
        }
    }

    fn effect(&mut self, number: u8, effect: Effect, original: Option<std::rc::Rc<[u8]>>) {
        let letter = |flow, bytes: Vec<u8>| Letter {
            flow,
            bytes: bytes.into(),
            original: original.clone(),
        };
        match effect {
            Effect::Stream(datagram) => {
                print(&self.trace, self.net.now_ms, number, &datagram);
                self.judge.message_out(number, &datagram);
                self.net
                    .send_to_peer(datagram.flow, datagram.bytes.clone(), number);
            }
            Effect::Publish { flow, bytes } => self.publish(flow, &bytes, original.is_none()),
            Effect::HandOver { shard, flow, bytes } => {
                let channel = self.channels.entry((number, shard)).or_default();
                *channel = (*channel).max(self.net.now_ms + self.net.random.random_range(0..2));
                let event = Event::Shard {
                    shard,
                    letter: letter(flow, bytes),
                };
                self.net.push(*channel, event);
            }
            Effect::Locate {
                target,
                flow,
                bytes,
            } => {
                let at_ms = self.net.now_ms + self.net.random.random_range(1..300);
                let event = Event::Located {
                    shard: number,
                    target,
                    letter: letter(flow, bytes),
                };
                self.net.push(at_ms, event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Node(letter) => {
                let shard = self.steer(&letter);
                self.deliver(shard, letter);
            }
            Event::Shard { shard, letter } => self.deliver(shard, letter),
            Event::Located {
                shard,
                target,
                letter,
            } => {
                let location = self.locate(&target);
                let now_ms = self.net.now_ms;
                self.notifier(shard).located(now_ms, target, location);
                self.deliver(shard, letter);
            }
            Event::Peer { flow, bytes } => self.peer(flow, &bytes),
            Event::Subscriber { index, token } => {
                self.subscribers[index].wake(&mut self.net, token)
            }
            Event::Publisher { index, token } => self.publishers[index].wake(&mut self.net, token),
            Event::Learn { shard, view } => {
                let revision = view.revision;
                self.notifier(shard).learn(0, view);
                self.judge.learned(shard, revision);
            }
            Event::Broken { flow } => {
                for shard in 0..self.plan.shards {
                    let backoff_s = (flow.connection != 0).then_some(0);
                    self.judge.broken(shard, flow, backoff_s);
                    let now_ms = self.net.now_ms;
                    let shard = &mut self.shards[usize::from(shard)];
                    shard.touched = true;
                    shard.notifier.disconnected(now_ms, flow, &mut shard.outbox);
                }
            }
            Event::Unreachable { shard, flow } => {
                self.judge.broken(shard, flow, None);
                let now_ms = self.net.now_ms;
                self.notifier(shard).unreachable(now_ms, flow);
            }
            Event::Garbage => self.garbage(),
            Event::Tick => {
                self.judge.tick();
                self.net.push(self.net.now_ms + 1_000, Event::Tick);
            }
            Event::Lease => {
                self.lease_ms = u64::MAX;
                self.compositor.tick(self.now());
                self.spread();
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.net.now_ms,
            unix_ms: EPOCH_MS + self.net.now_ms,
        }
    }

    // ---- the node's edges ----

    /// Answers go to the shard that their branch names, most of the time; the rest by chance.
    fn steer(&mut self, letter: &Letter) -> u8 {
        let named = letter.bytes.starts_with(b"SIP/2.0").then(|| {
            let at = letter
                .bytes
                .windows(7)
                .position(|piece| piece == b"z9hG4bK")?;
            let digits = std::str::from_utf8(letter.bytes.get(at + 7..at + 9)?).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let stray = self.net.chance(self.plan.stray);
        match named.flatten() {
            Some(shard) if shard < self.plan.shards && !stray => shard,
            _ => self.net.random.random_range(0..self.plan.shards),
        }
    }

    fn deliver(&mut self, number: u8, letter: Letter) {
        let now_ms = self.net.now_ms;
        let sip = Sip::read(&letter.bytes);
        let came = Datagram {
            flow: letter.flow,
            bytes: letter.bytes.to_vec(),
        };
        print(&self.trace, now_ms, number, &came);
        let meant = letter.original.as_ref().unwrap_or(&letter.bytes);
        let is_answer = meant.starts_with(b"SIP/");
        if let Some(sip) = &sip {
            self.judge.request_in(sip, letter.original.is_none());
        }
        let shard = &mut self.shards[usize::from(number)];
        shard.touched = true;
        shard
            .notifier
            .receive(now_ms, letter.flow, &letter.bytes, &mut shard.outbox);
        for datagram in &shard.outbox.batch.datagrams()[shard.judged..] {
            print(&self.trace, now_ms, number, datagram);
            self.judge.message_out(number, datagram);
        }
        // It is sent with what the turn fills; until then a burst may leave no room.
        shard.judged = shard.outbox.batch.len();
        let effects: Vec<Effect> = shard.outbox.effects.drain(..).collect();
        let handed_over = effects
            .iter()
            .any(|effect| matches!(effect, Effect::HandOver { .. }));
        for effect in effects {
            self.effect(number, effect, letter.original.clone());
        }
        self.judge.request_done();
        match (is_answer && !handed_over, &letter.original, &sip) {
            (true, Some(original), _) => {
                if let Some(original) = Sip::read(original) {
                    self.judge.doubt(&original);
                }
            }
            (true, None, Some(sip)) => self.judge.answer_in(number, sip),
            _ => {}
        }
    }

    fn peer(&mut self, flow: Flow, bytes: &[u8]) {
        let Some(sip) = Sip::read(bytes) else { return };
        let call_id = sip.text("call-id");
        let number = |rest: &str| {
            rest.split('-')
                .next()
                .and_then(|text| text.parse::<usize>().ok())
        };
        let owner = |prefix| call_id.strip_prefix(prefix).and_then(number);
        if let Some(index) = owner('p').filter(|&index| index < self.publishers.len()) {
            return self.publishers[index].receive(&mut self.net, bytes);
        }
        let known = flow.transport == Transport::Tcp || self.at.contains_key(&flow.peer);
        let index = owner('s').filter(|&index| index < self.subscribers.len());
        let index = index.or_else(|| self.at.get(&flow.peer).copied());
        if let Some(index) = index.filter(|_| known) {
            self.subscribers[index].receive(&mut self.net, &mut self.judge, flow, bytes);
        }
    }

    fn locate(&mut self, target: &Target) -> Location {
        let found = self
            .subscribers
            .iter()
            .find(|subscriber| subscriber.host() == *target.host);
        let lost = self.plan.lost > 0 && !self.net.quiet && self.net.chance(50);
        let addresses = found.filter(|_| !lost).map(|subscriber| {
            (
                target.transport.unwrap_or(Transport::Udp),
                subscriber.address,
            )
        });
        Location {
            addresses: addresses.into_iter().collect(),
            ttl_ms: self.net.random.random_range(1_000..100_000),
        }
    }

    fn publish(&mut self, flow: Flow, bytes: &[u8], certain: bool) {
        let mut response = Vec::new();
        self.compositor
            .publish(self.now(), flow.peer, bytes, &mut response);
        if let (Some(request), Some(answer)) = (Sip::read(bytes), Sip::read(&response)) {
            let first = self.published.insert(request.branch().to_owned());
            if certain && first && answer.status() == Some(200) && !request.body.is_empty() {
                self.check_published(&request);
            }
        }
        self.spread();
        if !response.is_empty() {
            self.net.send_to_peer(flow, response, 0);
        }
    }

    /// A publication answered 200 is in the view of this node at once.
    fn check_published(&self, request: &Sip) {
        let rows = rows_of(self.compositor.views().next().expect("one domain"));
        let field = |name: &str| {
            let xml = format!(" {name}=\"");
            let json = format!("\"{name}\":\"");
            let rest = request
                .body
                .split_once(&xml)
                .or_else(|| request.body.split_once(&json))?;
            rest.1.split('"').next()
        };
        let shown = field("id").and_then(|id| rows.get(id));
        if shown.map(|row| row.status.as_str()) != field("status") {
            let detail = format!("{shown:?} for {}", request.body);
            self.case.fail(
                "a publication answered 200 is in the view",
                self.net.now_ms,
                &detail,
            );
        }
    }

    fn spread(&mut self) {
        if let Some(due_ms) = self.compositor.next_deadline()
            && due_ms < self.lease_ms
        {
            self.lease_ms = due_ms;
            self.net.push(due_ms, Event::Lease);
        }
        for (_, view) in self.compositor.take_changed() {
            self.judge.truth.learn(view.clone(), self.net.now_ms);
            for shard in 0..self.plan.shards {
                let channel = self.channels.entry((u8::MAX, shard)).or_default();
                *channel = (*channel).max(self.net.now_ms + self.net.random.random_range(0..3));
                let event = Event::Learn {
                    shard,
                    view: view.clone(),
                };
                self.net.push(*channel, event);
            }
        }
    }

    /// What no peer should send, and connections that break.
    fn garbage(&mut self) {
        if self.net.quiet {
            return;
        }
        let next_ms = self.net.now_ms + self.net.random.random_range(100..20_000);
        self.net.push(next_ms, Event::Garbage);
        if self.plan.lost > 0 && self.net.chance(300) {
            self.net.break_one();
        }
        if self.plan.garbage == 0 {
            return;
        }
        let place = self.net.random.random_range(0..self.torture.len());
        let mut bytes = self.torture[place].clone();
        if self.net.chance(500) && !bytes.is_empty() {
            let cut = self.net.random.random_range(0..bytes.len());
            bytes.truncate(cut);
        }
        let shard = self.net.random.random_range(0..self.plan.shards);
        let flow = self.net.datagram(([127, 3, 0, 1], 5060).into());
        let before = self.live();
        let letter = Letter {
            flow,
            bytes: bytes.into(),
            original: None,
        };
        self.deliver(shard, letter);
        if self.live() != before {
            self.case.fail(
                "garbage changes nothing",
                self.net.now_ms,
                &format!("torture file {place}"),
            );
        }
    }
}

fn print(trace: &Option<String>, now_ms: u64, shard: u8, datagram: &Datagram) {
    let Some(trace) = trace else { return };
    let bytes = &datagram.bytes;
    let text = String::from_utf8_lossy(bytes);
    if text.contains(trace.as_str()) {
        println!(
            "---- {now_ms} ms, shard {shard}, {:?}\n{text}",
            datagram.flow
        );
    }
}

/// Servers that are there from the start, with leases as long as they come.
fn fill_table(compositor: &mut Compositor, plan: &Plan, now: Now) {
    for number in 0..plan.servers {
        let body = format!(
            "<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"example.com\"><server id=\"b{number:03}\" status=\"up\" load=\"{}\"><address ip=\"198.51.100.{}\" port=\"5060\" transport=\"udp\"/><service name=\"{}\"/></server></serverinfo>",
            number % 100,
            number % 250 + 1,
            if number % 3 == 0 { "turn" } else { "proxy" },
        );
        let request = format!(
            "PUBLISH sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.2.0.200;branch=z9hG4bK-b{number}\r\nFrom: <sip:b@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: b{number}\r\nCSeq: 1 PUBLISH\r\nMax-Forwards: 70\r\nEvent: SIPserver\r\nExpires: 3600\r\nContent-Type: application/serverinfo+xml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut response = Vec::new();
        compositor.publish(
            now,
            ([127, 2, 0, 200], 5060).into(),
            request.as_bytes(),
            &mut response,
        );
        assert!(response.starts_with(b"SIP/2.0 200"), "the table is filled");
    }
}
