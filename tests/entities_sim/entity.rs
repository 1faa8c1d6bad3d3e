//! One entity: the library's cores, joined as its driver joins them, but over the world's network. Judges nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fanfare::client::{Agent, Chance, Local};
use fanfare::info::Table;
use fanfare::subscription::{Event, Order, Pick, Picker, Roster, Subscription, Wish, Work};
use fanfare::wire::Transport;

use crate::node::address;

const EXPIRES_S: u32 = 60;
/// The first port; each attempt has one of its own.
const PORT: u32 = 10_000;
const PORTS: u32 = 50_000;
/// As long as the driver waits for the end of a subscription.
const GRACE_MS: u64 = 2_000;

/// One subscription.
#[derive(Debug)]
pub struct Line {
    subscription: Subscription,
    pub local: SocketAddr,
    /// The node that it is at.
    pub at: SocketAddr,
    pub begun_ms: u64,
    /// It has failed since it told its table.
    is_owed: bool,
    /// It was told to end.
    pub ends_by_ms: Option<u64>,
}

#[derive(Debug)]
pub struct Entity {
    ip: IpAddr,
    pub roster: Roster,
    picker: Picker,
    pub lines: BTreeMap<u32, Line>,
    chance: Chance,
    /// Subscriptions begun so far.
    pub begun: u64,
}

impl Entity {
    pub fn new(index: usize, seeds: Vec<SocketAddr>, want: usize, seed: u64) -> Entity {
        let mut chance = Chance::new(seed);
        let mut next = || Chance::new(chance.within(0..u64::MAX));
        Entity {
            ip: [127, 3, 0, index as u8 + 1].into(),
            roster: Roster::new(seeds, Transport::Udp, want, next()),
            picker: Picker::new(next()),
            lines: BTreeMap::new(),
            chance: next(),
            begun: 0,
        }
    }

    pub fn table(&self) -> &Arc<Table> {
        self.roster.table()
    }

    pub fn pick(&mut self, now_ms: u64) -> Option<Pick> {
        let work = Work {
            service: Some("proxy"),
            ..Work::default()
        };
        self.picker.pick(self.roster.table(), work, now_ms)
    }

    pub fn receive(&mut self, now_ms: u64, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        if let Some(line) = self.lines.values_mut().find(|line| line.local == to) {
            line.subscription.receive(now_ms, from, bytes);
        }
    }

    /// Does what is due, and sends what that makes.
    pub fn turn(&mut self, now_ms: u64, mut send: impl FnMut(SocketAddr, SocketAddr, Vec<u8>)) {
        loop {
            if self
                .roster
                .deadline_ms()
                .is_some_and(|at_ms| at_ms <= now_ms)
            {
                self.roster.advance(now_ms);
            }
            while let Some(order) = self.roster.next_order() {
                self.obey(now_ms, order);
            }
            let mut is_quiet = true;
            let numbers: Vec<u32> = self.lines.keys().copied().collect();
            for number in numbers {
                is_quiet &= !self.work(now_ms, number, &mut send);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn obey(&mut self, now_ms: u64, order: Order) {
        match order {
            Order::Begin { number, at } => {
                let port = PORT + number % PORTS;
                let local = SocketAddr::new(self.ip, port as u16);
                let wish = Wish {
                    domain: "example.com".to_owned(),
                    filter: None,
                    expires_s: EXPIRES_S,
                };
                let end = Local {
                    transport: Transport::Udp,
                    address: local,
                };
                let chance = Chance::new(self.chance.within(0..u64::MAX));
                let line = Line {
                    subscription: Subscription::new(wish, end, chance),
                    local,
                    at,
                    begun_ms: now_ms,
                    is_owed: false,
                    ends_by_ms: None,
                };
                self.begun += 1;
                self.lines.insert(number, line);
            }
            Order::End { number } => {
                if let Some(line) = self.lines.get_mut(&number) {
                    line.subscription.stop(now_ms);
                    line.ends_by_ms = Some(now_ms + GRACE_MS);
                }
            }
        }
    }

    /// One subscription's turn; whether anything happened.
    fn work(
        &mut self,
        now_ms: u64,
        number: u32,
        send: &mut impl FnMut(SocketAddr, SocketAddr, Vec<u8>),
    ) -> bool {
        let Some(line) = self.lines.get_mut(&number) else {
            return false;
        };
        let due_ms = line.subscription.deadline_ms();
        if due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            line.subscription.advance(now_ms);
        }
        if let Some(peer) = line.subscription.peer() {
            line.at = peer;
        }
        while let Some(message) = line.subscription.next_message() {
            send(line.local, message.to.unwrap_or(line.at), message.bytes);
        }
        let event = line.subscription.next_event();
        let is_late = line.ends_by_ms.is_some_and(|by_ms| by_ms <= now_ms);
        let is_over = is_late || line.subscription.deadline_ms().is_none();
        let Some(event) = event else {
            if is_over {
                self.lines.remove(&number);
                self.roster.ended(now_ms, number, false);
            }
            return is_over;
        };
        let is_table = match event {
            Event::View => true,
            Event::Notified => line.is_owed && !line.subscription.is_failing(),
            _ => false,
        };
        match event {
            _ if is_table => {
                line.is_owed = false;
                let table = Arc::new(line.subscription.table().clone());
                self.roster.told(now_ms, number, table);
            }
            Event::View | Event::Notified => {}
            Event::Failing(_) => {
                line.is_owed = true;
                self.roster.fails(now_ms, number);
            }
            Event::Restored => drop(self.roster.restored(now_ms, number)),
            Event::Refused(_) | Event::Terminated(_) => {
                self.lines.remove(&number);
                self.roster.ended(now_ms, number, true);
            }
            Event::Over => {
                self.lines.remove(&number);
                self.roster.ended(now_ms, number, false);
            }
        }
        true
    }
}

/// The nodes that an entity begins with.
pub fn seeds(count: usize) -> Vec<SocketAddr> {
    (0..count).map(address).collect()
}
