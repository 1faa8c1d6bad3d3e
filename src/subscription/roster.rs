//! Which notifiers to be subscribed at, of those that were named and those that the table shows. Pure: is told what becomes
//! of each subscription, and says which to begin and which to end. Knows no SIP and no socket.
//!
//! With k notifiers subscribed the loss of k - 1 is not even a gap: what each says is kept apart, and the table is merged
//! of all that serve, so the last one's claims are in it all the time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::client::{Backoff, Chance};
use crate::info::{Address, AddressTransport, DocumentEntry, NOTIFIER_SERVICE, Status, Table};
use crate::wire::Transport;

/// Those whom one notifier has lost go to the others spread over this time.
const SPREAD_MS: u64 = 300;
/// What one node knows the others know within this.
const KNOWN_WITHIN_MS: u64 = 2_000;
/// One that does not tell a whole table within this is replaced, and heard until then. Nodes are whole within 10 s of their
/// start.
const WHOLE_WITHIN_MS: u64 = 12_000;
/// One that refused for good is asked again after this, if there is nobody else.
const REFUSED_MS: u64 = 60_000;
/// Notifiers that are remembered as having failed.
const AVOIDED_MOST: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Subscribe there. The number names this attempt from now on.
    Begin { number: u32, at: SocketAddr },
    /// Unsubscribe, as soon as that is possible.
    End { number: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing has come yet.
    Begun,
    Serves,
    /// It does not answer; its subscription goes on trying.
    Fails,
}

#[derive(Debug)]
struct Member {
    number: u32,
    at: SocketAddr,
    standing: Standing,
    /// The table shows it draining or dead: it is to be replaced, and heard until then.
    is_leaving: bool,
    /// Since when a table that lacks nothing is waited for.
    lacks_since_ms: Option<u64>,
    /// It is waited for too long.
    is_late: bool,
    /// What it said last.
    table: Option<Arc<Table>>,
}

impl Member {
    /// Whether it serves, or may soon.
    fn counts(&self) -> bool {
        self.standing != Standing::Fails && !self.is_leaving && !self.is_late
    }

    /// It serves, knows everything and will go on.
    fn serves(&self) -> bool {
        let is_whole = self.lacks_since_ms.is_none();
        self.standing == Standing::Serves && !self.is_leaving && is_whole
    }

    fn late_ms(&self) -> Option<u64> {
        let since_ms = self.lacks_since_ms.filter(|_| !self.is_late)?;
        Some(since_ms + WHOLE_WITHIN_MS)
    }
}

#[derive(Debug, Default)]
struct Avoided {
    backoff: Backoff,
    until_ms: u64,
    /// It refused for good.
    has_refused: bool,
}

/// The notifiers of one subscriber.
#[derive(Debug)]
pub struct Roster {
    seeds: Vec<SocketAddr>,
    transport: Transport,
    want: usize,
    chance: Chance,
    members: Vec<Member>,
    /// What those said last who were left while they served, for a while longer: the others may not know all of it yet.
    parting: Vec<(u64, Arc<Table>)>,
    avoided: BTreeMap<SocketAddr, Avoided>,
    /// When a place that is free is filled; `None`: at once.
    fill_ms: Option<u64>,
    next: u32,
    table: Arc<Table>,
    revision: u64,
    orders: VecDeque<Order>,
}

impl Roster {
    /// Wants to be subscribed at so many notifiers, at least one, as soon as it is told the time.
    pub fn new(seeds: Vec<SocketAddr>, transport: Transport, want: usize, chance: Chance) -> Self {
        Roster {
            seeds,
            transport,
            want: want.max(1),
            chance,
            members: Vec::new(),
            parting: Vec::new(),
            avoided: BTreeMap::new(),
            fill_ms: Some(0),
            next: 0,
            table: Arc::default(),
            revision: 0,
            orders: VecDeque::new(),
        }
    }

    /// What all say together.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// The notifiers whose word is in the table now.
    pub fn heard(&self) -> impl Iterator<Item = SocketAddr> {
        let heard = |member: &&Member| member.standing == Standing::Serves;
        self.members.iter().filter(heard).map(|member| member.at)
    }

    /// Those of them that know everything and will go on.
    pub fn relied_on(&self) -> impl Iterator<Item = SocketAddr> {
        let serving = self.members.iter().filter(|member| member.serves());
        serving.map(|member| member.at)
    }

    /// How many notifiers serve, know everything and will go on.
    fn serving(&self) -> usize {
        self.relied_on().count()
    }

    /// Whether all who were named have refused for good, and nobody else is known.
    pub fn is_over(&self) -> bool {
        let refuses = |at: &SocketAddr| {
            self.avoided
                .get(at)
                .is_some_and(|avoided| avoided.has_refused)
        };
        self.members.is_empty() && self.seeds.iter().all(refuses) && self.shown_up().is_empty()
    }

    pub fn deadline_ms(&self) -> Option<u64> {
        let late = self.members.iter().filter_map(Member::late_ms);
        let parting = self.parting.iter().map(|(until_ms, _)| *until_ms);
        late.chain(parting).chain(self.fill_ms).min()
    }

    /// Does what the time demands; whether that makes another table.
    pub fn advance(&mut self, now_ms: u64) -> bool {
        let mut is_news = false;
        let mut is_due = self.parting.iter().any(|(until_ms, _)| *until_ms <= now_ms);
        self.parting.retain(|(until_ms, _)| *until_ms > now_ms);
        for member in &mut self.members {
            let is_late = member.late_ms().is_some_and(|late_ms| late_ms <= now_ms);
            member.is_late |= is_late;
            is_due |= is_late;
        }
        if is_due {
            is_news = self.settle(now_ms);
        }
        if self.fill_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.fill_ms = None;
            self.fill(now_ms);
        }
        is_news
    }

    /// A notifier told a table. Whether that makes another one of what all say.
    pub fn told(&mut self, now_ms: u64, number: u32, table: Arc<Table>) -> bool {
        let Some(place) = self
            .members
            .iter()
            .position(|member| member.number == number)
        else {
            return false;
        };
        let is_same = |other: &Member| {
            let others = other.table.as_ref().filter(|_| other.number != number);
            others.is_some_and(|others| others.notifier() == table.notifier())
        };
        if self.members.iter().any(is_same) {
            // One node at two addresses is one that can be lost.
            let member = self.members.remove(place);
            self.orders.push_back(Order::End { number });
            self.avoid(now_ms, member.at, false);
            return self.settle(now_ms);
        }
        let member = &mut self.members[place];
        if table.is_stale() {
            member.lacks_since_ms.get_or_insert(now_ms);
        } else {
            member.lacks_since_ms = None;
            member.is_late = false;
        }
        member.table = Some(table);
        member.standing = Standing::Serves;
        let at = member.at;
        self.avoided.remove(&at);
        self.settle(now_ms)
    }

    /// It answers again. What it said before it failed counts no more: it is to tell its table anew.
    pub fn restored(&mut self, now_ms: u64, number: u32) -> bool {
        match self.member(number) {
            Some(member) if member.standing == Standing::Fails => {
                member.standing = Standing::Begun;
                member.lacks_since_ms = Some(now_ms);
                member.is_late = false;
                self.settle(now_ms)
            }
            _ => false,
        }
    }

    /// It does not answer, or says what cannot be taken.
    pub fn fails(&mut self, now_ms: u64, number: u32) -> bool {
        match self.member(number) {
            Some(member) if member.standing != Standing::Fails => {
                member.standing = Standing::Fails;
                self.settle(now_ms)
            }
            _ => false,
        }
    }

    /// Its subscription has ended, and no other is begun there by itself; `refused`: none would be taken.
    pub fn ended(&mut self, now_ms: u64, number: u32, refused: bool) -> bool {
        let Some(place) = self
            .members
            .iter()
            .position(|member| member.number == number)
        else {
            return false;
        };
        let member = self.members.remove(place);
        self.avoid(now_ms, member.at, refused);
        self.settle(now_ms)
    }

    fn member(&mut self, number: u32) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.number == number)
    }

    fn avoid(&mut self, now_ms: u64, at: SocketAddr, refused: bool) {
        if self.avoided.len() >= AVOIDED_MOST {
            self.avoided.retain(|_, avoided| avoided.until_ms > now_ms);
        }
        let avoided = self.avoided.entry(at).or_default();
        avoided.has_refused = refused;
        let wait_ms = avoided.backoff.next_ms(&mut self.chance);
        avoided.until_ms = now_ms + if refused { REFUSED_MS } else { wait_ms };
    }

    /// Draws what follows from what has changed.
    fn settle(&mut self, now_ms: u64) -> bool {
        let is_news = self.merge();
        self.look_at_notifiers();
        let counting = self.members.iter().filter(|member| member.counts()).count();
        if counting < self.want {
            // One who is alone waits for nobody, and many that have lost the same do not go on at once.
            let spread_ms = match self.members.is_empty() {
                true => 0,
                false => self.chance.within(0..SPREAD_MS),
            };
            let at_ms = now_ms + spread_ms;
            self.fill_ms = Some(self.fill_ms.map_or(at_ms, |fill_ms| fill_ms.min(at_ms)));
        }
        if self.serving() < self.want {
            return is_news;
        }
        // Nobody else is needed. Their claims go with them, and what they say while they end is not heard.
        let mut kept = 0;
        let (stay, go): (Vec<_>, Vec<_>) = self.members.drain(..).partition(|member| {
            kept += usize::from(member.serves());
            member.serves() && kept <= self.want
        });
        self.members = stay;
        if go.is_empty() {
            return is_news;
        }
        for Member {
            number,
            standing,
            table,
            ..
        } in go
        {
            self.orders.push_back(Order::End { number });
            let table = table.filter(|_| standing == Standing::Serves);
            self.parting
                .extend(table.map(|table| (now_ms + KNOWN_WITHIN_MS, table)));
        }
        self.merge() | is_news
    }

    /// Merges what those say who serve. Where that may lack something, what was known stays, and is added to.
    fn merge(&mut self) -> bool {
        let tables = self
            .members
            .iter()
            .filter(|member| member.standing == Standing::Serves);
        let tables: Vec<&Table> = tables
            .filter_map(|member| member.table.as_deref())
            .collect();
        let parting = self.parting.iter().map(|(_, table)| &**table);
        let view = self.revision + 1;
        let is_whole = tables.iter().any(|table| !table.is_stale());
        let merged = match tables[..] {
            // One alone speaks for itself, its view's number included.
            [only]
                if self.want == 1
                    && self.parting.is_empty()
                    && (is_whole || only.notifier() == self.table.notifier()) =>
            {
                only.clone()
            }
            _ if is_whole => Table::merged(tables.into_iter().chain(parting), view),
            _ => {
                let mut kept = Table::merged([&*self.table].into_iter().chain(tables), view);
                kept.mark_stale();
                kept
            }
        };
        let is_told = self.want == 1 && merged.view() != self.table.view();
        let is_first = self.table.view().is_none();
        let is_news =
            merged.view().is_some() && (is_first || is_told || !merged.is_alike(&self.table));
        if is_news {
            self.revision = view;
            self.table = Arc::new(merged);
        }
        is_news
    }

    /// What others say of a notifier that is subscribed: one that is dead will not say so, and one that drains wants its
    /// subscribers elsewhere.
    fn look_at_notifiers(&mut self) {
        let (up, unfit) = (
            self.shown(|status| *status == Status::Up),
            self.shown(|status| *status != Status::Up),
        );
        for member in &mut self.members {
            let is_among =
                |all: &[Shown]| all.iter().any(|shown| shown.places.contains(&member.at));
            // Who drains is shown no more once it has ended, and its last NOTIFY may be lost.
            member.is_leaving = is_among(&unfit) || (member.is_leaving && !is_among(&up));
        }
    }

    /// Notifiers of such a status that take subscriptions over our transport.
    fn shown(&self, wanted: impl Fn(&Status) -> bool) -> Vec<Shown> {
        let transport = match self.transport {
            Transport::Udp => AddressTransport::Udp,
            Transport::Tcp => AddressTransport::Tcp,
        };
        let fits = |address: &&Address| {
            let service = address.service.as_deref();
            address.transport == transport && service.is_none_or(|name| name == NOTIFIER_SERVICE)
        };
        let shown = self.table.entries().filter_map(|entry| match entry {
            DocumentEntry::Server(server) if server.is_notifier() && wanted(&server.status) => {
                let places = server.addresses.iter().filter(fits);
                let places = places.map(|address| SocketAddr::new(address.ip, address.port));
                Some(Shown {
                    load: server.load,
                    places: places.collect(),
                })
            }
            _ => None,
        });
        shown.collect()
    }

    fn shown_up(&self) -> Vec<Shown> {
        self.shown(Status::takes_work)
    }

    /// Begins as many as are wanting.
    fn fill(&mut self, now_ms: u64) {
        let counting = self.members.iter().filter(|member| member.counts()).count();
        for _ in counting..self.want {
            self.give_up_the_oldest(now_ms);
            let Some(at) = self.candidate(now_ms) else {
                // Who is avoided is asked again in time.
                let later = self.avoided.values().map(|avoided| avoided.until_ms);
                self.fill_ms = later.filter(|until_ms| *until_ms > now_ms).min();
                return;
            };
            let number = self.next;
            self.next += 1;
            self.members.push(Member {
                number,
                at,
                standing: Standing::Begun,
                is_leaving: false,
                lacks_since_ms: Some(now_ms),
                is_late: false,
                table: None,
            });
            self.orders.push_back(Order::Begin { number, at });
        }
    }

    /// Where nobody serves for long, not everybody who is known is asked at once.
    fn give_up_the_oldest(&mut self, now_ms: u64) {
        if self.members.len() < 3 * self.want {
            return;
        }
        let failing = |member: &Member| member.standing == Standing::Fails;
        if let Some(place) = self.members.iter().position(failing) {
            let member = self.members.remove(place);
            let number = member.number;
            self.orders.push_back(Order::End { number });
            self.avoid(now_ms, member.at, false);
        }
    }

    /// Whom to ask next: of the notifiers that are shown to be up the less loaded of two; else one of those named that are not
    /// known to be dead, if there is one. Where nobody serves, what is shown may be old, so it may be anybody. By chance, so
    /// that many subscribers spread.
    fn candidate(&mut self, now_ms: u64) -> Option<SocketAddr> {
        let is_taken = |at: &SocketAddr| self.members.iter().any(|member| member.at == *at);
        let is_avoided = |at: &SocketAddr| {
            let avoided = self.avoided.get(at);
            avoided.is_some_and(|avoided| avoided.until_ms > now_ms)
        };
        let mut shown = self.shown_up();
        // A node is one notifier, at however many addresses.
        shown.retain(|shown| !shown.places.iter().any(is_taken));
        for one in &mut shown {
            one.places.retain(|at| !is_avoided(at));
        }
        shown.retain(|shown| !shown.places.is_empty());
        let unfit = self.shown(|status| *status != Status::Up);
        let is_unfit = |at: &SocketAddr| unfit.iter().any(|shown| shown.places.contains(at));
        let serves = self.serving() > 0;
        let mut seeds = self.seeds.clone();
        if !serves {
            // Who was dead may be back, and nobody would say so.
            seeds.extend(unfit.iter().flat_map(|shown| &shown.places));
        } else if !seeds.iter().all(is_unfit) {
            seeds.retain(|at| !is_unfit(at));
        }
        seeds.retain(|at| !is_taken(at) && !is_avoided(at));
        let mut draw = |among: usize| self.chance.within(0..among as u64) as usize;
        let from_shown = match (shown.is_empty(), seeds.is_empty()) {
            (true, true) => return None,
            (false, false) => serves || draw(2) == 0,
            (_, is_shown) => is_shown,
        };
        if !from_shown {
            return Some(seeds[draw(seeds.len())]);
        }
        let two = [draw(shown.len()), draw(shown.len())].map(|one| &shown[one]);
        let less = two.into_iter().min_by_key(|shown| shown.load)?;
        less.places.first().copied()
    }
}

/// A notifier as the table shows it.
#[derive(Debug)]
struct Shown {
    load: Option<u8>,
    places: Vec<SocketAddr>,
}

#[cfg(test)]
mod tests;
