//! Which notifiers to be subscribed at, of those that were named and those that the table shows. Pure: is told what becomes
//! of each subscription, and says which to begin and which to end. Knows no SIP and no socket.
//!
//! With k notifiers subscribed the loss of k - 1 is not even a gap: what each says is kept apart, and the table is merged
//! of all that serve, so the last one's claims are in it all the time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::client::{Backoff, Chance};
use crate::info::{AddressTransport, DocumentEntry, Status, Table};
use crate::wire::Transport;

/// Those whom one notifier has lost go to the others spread over this time.
const SPREAD_MS: u64 = 300;
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
    /// What it said last.
    table: Option<Arc<Table>>,
}

impl Member {
    fn counts(&self) -> bool {
        self.standing != Standing::Fails && !self.is_leaving
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
    avoided: BTreeMap<SocketAddr, Avoided>,
    /// When a place that is free is filled; `None`: at once.
    fill_ms: Option<u64>,
    next: u32,
    table: Arc<Table>,
    revision: u64,
    orders: VecDeque<Order>,
}

impl Roster {
    /// Wants to be subscribed at so many notifiers, at least one, as soon as it is told the time. Seeds come first.
    pub fn new(seeds: Vec<SocketAddr>, transport: Transport, want: usize, chance: Chance) -> Self {
        Roster {
            seeds,
            transport,
            want: want.max(1),
            chance,
            members: Vec::new(),
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

    /// How many notifiers serve, know everything and will go on.
    pub fn serving(&self) -> usize {
        let serves = |member: &&Member| {
            let is_whole = member.table.as_ref().is_some_and(|table| !table.is_stale());
            member.standing == Standing::Serves && !member.is_leaving && is_whole
        };
        self.members.iter().filter(serves).count()
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
        self.fill_ms
    }

    pub fn advance(&mut self, now_ms: u64) {
        if self.fill_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.fill_ms = None;
            self.fill(now_ms);
        }
    }

    /// A notifier told a table. Whether that makes another one of what all say.
    pub fn told(&mut self, now_ms: u64, number: u32, table: Arc<Table>) -> bool {
        let Some(member) = self.member(number) else {
            return false;
        };
        member.table = Some(table);
        member.standing = Standing::Serves;
        let at = member.at;
        self.avoided.remove(&at);
        self.settle(now_ms)
    }

    /// It answers again.
    pub fn restored(&mut self, now_ms: u64, number: u32) -> bool {
        match self.member(number) {
            Some(member) if member.standing == Standing::Fails => {
                member.standing = match member.table {
                    Some(_) => Standing::Serves,
                    None => Standing::Begun,
                };
                self.settle(now_ms)
            }
            _ => false,
        }
    }

    /// It does not answer, or says what cannot be taken.
    pub fn fails(&mut self, now_ms: u64, number: u32) -> bool {
        match self.member(number) {
            Some(member) if member.counts() => {
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
        if counting < self.want && self.fill_ms.is_none() {
            // One who is alone waits for nobody, and many that have lost the same do not go on at once.
            let spread_ms = match self.serving() {
                0 if self.members.is_empty() => 0,
                _ => self.chance.within(0..SPREAD_MS),
            };
            self.fill_ms = Some(now_ms + spread_ms);
        }
        if self.serving() >= self.want {
            for member in &self.members {
                if !member.counts() {
                    let number = member.number;
                    self.orders.push_back(Order::End { number });
                }
            }
            // Theirs is no claim any more; what they say while they end is not heard.
            self.members.retain(Member::counts);
            return self.merge() | is_news;
        }
        is_news
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
        let view = self.revision + 1;
        let is_whole = tables.iter().any(|table| !table.is_stale());
        let merged = match tables[..] {
            // One alone speaks for itself, its view's number included.
            [only] if self.want == 1 && (is_whole || only.notifier() == self.table.notifier()) => {
                only.clone()
            }
            _ if is_whole => Table::merged(tables, view),
            _ => {
                let mut kept = Table::merged([&*self.table].into_iter().chain(tables), view);
                kept.mark_stale();
                kept
            }
        };
        let is_told = self.want == 1 && merged.view() != self.table.view();
        let is_news = merged.view().is_some() && (is_told || !merged.is_alike(&self.table));
        if is_news {
            self.revision = view;
            self.table = Arc::new(merged);
        }
        is_news
    }

    /// What others say of a notifier that is subscribed: one that is dead will not say so, and one that drains wants its
    /// subscribers elsewhere.
    fn look_at_notifiers(&mut self) {
        let shown = self.shown(|status| *status != Status::Up);
        for member in &mut self.members {
            member.is_leaving = shown.iter().any(|(_, at)| *at == member.at);
        }
    }

    /// Where notifiers of such a status take subscriptions over our transport, with their loads.
    fn shown(&self, wanted: impl Fn(&Status) -> bool) -> Vec<(Option<u8>, SocketAddr)> {
        let transport = match self.transport {
            Transport::Udp => AddressTransport::Udp,
            Transport::Tcp => AddressTransport::Tcp,
        };
        let mut shown = Vec::new();
        for entry in self.table.entries() {
            let DocumentEntry::Server(server) = entry else {
                continue;
            };
            if server.is_notifier() && wanted(&server.status) {
                let fitting = server
                    .addresses
                    .iter()
                    .filter(|address| address.transport == transport);
                let places = fitting.map(|address| SocketAddr::new(address.ip, address.port));
                shown.extend(places.map(|at| (server.load, at)));
            }
        }
        shown
    }

    fn shown_up(&self) -> Vec<(Option<u8>, SocketAddr)> {
        self.shown(Status::takes_work)
    }

    /// Begins as many as are wanting.
    fn fill(&mut self, now_ms: u64) {
        let counting = self.members.iter().filter(|member| member.counts()).count();
        for _ in counting..self.want {
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
                table: None,
            });
            self.orders.push_back(Order::Begin { number, at });
        }
    }

    /// Whom to ask next: of the notifiers that are shown to be up the less loaded of two; else one of those named, first
    /// those that nothing is known against. By chance, so that many subscribers spread.
    fn candidate(&mut self, now_ms: u64) -> Option<SocketAddr> {
        let is_free = |at: &SocketAddr| {
            let is_avoided = self
                .avoided
                .get(at)
                .is_some_and(|avoided| avoided.until_ms > now_ms);
            !is_avoided && self.members.iter().all(|member| member.at != *at)
        };
        let mut shown = self.shown_up();
        shown.retain(|(_, at)| is_free(at));
        let unfit = self.shown(|status| *status != Status::Up);
        let seeds = self.seeds.iter().filter(|at| is_free(at)).copied();
        let (last, first): (Vec<_>, Vec<_>) =
            seeds.partition(|seed| unfit.iter().any(|(_, at)| at == seed));
        let mut draw = |among: usize| self.chance.within(0..among as u64) as usize;
        if !shown.is_empty() {
            let two = [draw(shown.len()), draw(shown.len())].map(|one| shown[one]);
            let less = two.into_iter().min_by_key(|(load, _)| *load);
            return less.map(|(_, at)| at);
        }
        let seeds = if first.is_empty() { last } else { first };
        (!seeds.is_empty()).then(|| seeds[draw(seeds.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Format, parse};

    fn at(number: usize) -> SocketAddr {
        ([192, 0, 2, number as u8], 5060).into()
    }

    /// What notifier `by` says: notifiers with their status, and one server with the stamp of its last change.
    fn table(by: usize, notifiers: &[(usize, &str)], server: u64, stale: bool) -> Arc<Table> {
        let notifier = |(number, status): &(usize, &str)| {
            format!(
                "{{\"id\":\"n{number}\",\"status\":\"{status}\",\"updated\":\"5.0.n1\",\"services\":[\"notifier\"],\
                 \"addresses\":[{{\"ip\":\"192.0.2.{number}\",\"port\":5060,\"transport\":\"udp\"}}]}}"
            )
        };
        let mut servers: Vec<String> = notifiers.iter().map(notifier).collect();
        if server > 0 {
            servers.push(format!(
                "{{\"id\":\"p1\",\"status\":\"up\",\"load\":{},\"updated\":\"{server}.0.n1\",\"addresses\":\
                 [{{\"ip\":\"192.0.2.99\",\"port\":5060,\"transport\":\"udp\"}}]}}",
                server % 100
            ));
        }
        let text = format!(
            "{{\"domain\":\"d\",\"notifier\":\"n{by}@1\",\"version\":1,\"view\":1,\"state\":\"full\",\"stale\":{stale},\
             \"servers\":[{}]}}",
            servers.join(",")
        );
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        Arc::new(table)
    }

    /// A roster, and which attempts stand where.
    struct World {
        roster: Roster,
        now_ms: u64,
        stands: BTreeMap<u32, SocketAddr>,
    }

    impl World {
        fn new(seeds: &[usize], want: usize) -> World {
            let seeds = seeds.iter().map(|&number| at(number)).collect();
            let mut world = World {
                roster: Roster::new(seeds, Transport::Udp, want, Chance::new(5)),
                now_ms: 0,
                stands: BTreeMap::new(),
            };
            world.pass(0);
            world
        }

        fn pass(&mut self, ms: u64) {
            self.now_ms += ms;
            if self
                .roster
                .deadline_ms()
                .is_some_and(|at_ms| at_ms <= self.now_ms)
            {
                self.roster.advance(self.now_ms);
            }
            while let Some(order) = self.roster.next_order() {
                match order {
                    Order::Begin { number, at } => drop(self.stands.insert(number, at)),
                    Order::End { number } => drop(self.stands.remove(&number)),
                }
            }
        }

        fn number(&self, of: usize) -> u32 {
            let found = self.stands.iter().find(|(_, place)| **place == at(of));
            *found.expect("it is subscribed").0
        }

        fn tell(
            &mut self,
            by: usize,
            notifiers: &[(usize, &str)],
            server: u64,
            stale: bool,
        ) -> bool {
            let number = self.number(by);
            let is_news =
                self.roster
                    .told(self.now_ms, number, table(by, notifiers, server, stale));
            self.pass(0);
            is_news
        }

        fn places(&self) -> Vec<SocketAddr> {
            let mut places: Vec<_> = self.stands.values().copied().collect();
            places.sort();
            places
        }

        fn server(&self) -> Option<u64> {
            self.roster
                .table()
                .get("p1")
                .map(|entry| entry.updated().ms)
        }
    }

    #[test]
    fn the_newest_word_of_any_counts_and_none_goes_back() {
        let mut world = World::new(&[1, 2], 2);
        assert_eq!(world.places(), [at(1), at(2)]);
        assert!(world.tell(1, &[], 7, false));
        assert!(!world.tell(2, &[], 6, false), "an older word is no news");
        assert_eq!(world.server(), Some(7));
        assert!(world.tell(2, &[], 8, false));
        // One that regresses, or knows nothing yet, takes nothing back.
        assert!(!world.tell(1, &[], 3, false));
        assert!(!world.tell(1, &[], 0, true));
        assert_eq!(world.server(), Some(8));
    }

    #[test]
    fn a_claim_goes_with_the_last_who_makes_it() {
        let mut world = World::new(&[1, 2], 2);
        world.tell(1, &[], 7, false);
        world.tell(2, &[], 7, false);
        assert!(!world.tell(1, &[], 0, false));
        assert_eq!(world.server(), Some(7));
        assert!(world.tell(2, &[], 0, false));
        assert_eq!(world.server(), None);
    }

    #[test]
    fn one_of_two_is_lost_without_a_gap_and_another_takes_its_place() {
        let all = [(1, "up"), (2, "up"), (3, "up")];
        let mut world = World::new(&[1, 2], 2);
        world.tell(1, &all, 7, false);
        world.tell(2, &all, 7, false);
        let number = world.number(1);
        assert!(
            !world.roster.fails(world.now_ms, number),
            "the table is the same"
        );
        assert!(!world.roster.table().is_stale());
        world.pass(SPREAD_MS);
        assert_eq!(world.places(), [at(1), at(2), at(3)]);
        // The one that fails is given up when the other serves.
        world.tell(3, &all, 7, false);
        assert_eq!(world.places(), [at(2), at(3)]);
    }

    #[test]
    fn one_that_the_other_calls_dead_or_that_drains_is_replaced_and_heard_until_then() {
        for status in ["down", "draining"] {
            let all = [(1, "up"), (2, "up"), (3, "up")];
            let mut world = World::new(&[1, 2], 2);
            world.tell(1, &all, 7, false);
            world.tell(2, &all, 7, false);
            world.tell(2, &[(1, status), (2, "up"), (3, "up")], 7, false);
            // Both say so of equal stamps: the first counts, as long as it is heard.
            world.tell(1, &[(1, status), (2, "up"), (3, "up")], 8, false);
            assert_eq!(world.server(), Some(8));
            world.pass(SPREAD_MS);
            assert_eq!(world.places(), [at(1), at(2), at(3)], "{status}");
            world.tell(3, &[(1, status), (2, "up"), (3, "up")], 8, false);
            assert_eq!(world.places(), [at(2), at(3)], "{status}");
        }
    }

    #[test]
    fn who_is_alone_keeps_the_last_good_table_and_asks_whom_it_knows() {
        let mut world = World::new(&[1], 1);
        world.tell(1, &[(1, "up"), (2, "up")], 7, false);
        let number = world.number(1);
        assert!(world.roster.fails(world.now_ms, number), "it is stale now");
        assert!(world.roster.table().is_stale());
        assert_eq!(world.server(), Some(7));
        world.pass(SPREAD_MS);
        assert_eq!(world.places(), [at(1), at(2)]);
        // The next one is starting: what it does not know yet is not gone, and the first is not given up for it.
        world.tell(2, &[], 0, true);
        assert_eq!(world.server(), Some(7));
        assert_eq!(world.places(), [at(1), at(2)]);
        world.tell(2, &[(2, "up")], 9, false);
        assert!(!world.roster.table().is_stale());
        assert_eq!((world.server(), world.places()), (Some(9), vec![at(2)]));
    }

    #[test]
    fn who_refuses_is_asked_no_more_and_who_ends_is_asked_later() {
        let mut world = World::new(&[1, 2], 1);
        let first = world.places()[0];
        let number = *world.stands.keys().next().expect("one");
        world.stands.clear();
        world.roster.ended(world.now_ms, number, true);
        world.pass(SPREAD_MS);
        let second = world.places()[0];
        assert_ne!(first, second);
        let number = *world.stands.keys().next().expect("one");
        world.stands.clear();
        world.roster.ended(world.now_ms, number, false);
        assert!(!world.roster.is_over());
        world.pass(SPREAD_MS);
        assert_eq!(world.places(), [], "it waits");
        world.pass(1_000);
        assert_eq!(world.places(), [second]);
        let number = *world.stands.keys().next().expect("one");
        world.roster.ended(world.now_ms, number, true);
        assert!(world.roster.is_over());
    }

    #[test]
    fn many_subscribers_spread_over_the_notifiers_that_are_shown() {
        let all = [(1, "up"), (2, "up"), (3, "up"), (4, "up")];
        let mut counts = BTreeMap::new();
        for seed in 0..300 {
            let mut world = World::new(&[1], 1);
            world.roster.chance = Chance::new(seed);
            world.tell(1, &all, 7, false);
            let number = world.number(1);
            world.roster.fails(world.now_ms, number);
            world.pass(SPREAD_MS);
            let next = *world.stands.values().last().expect("one");
            *counts.entry(next).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 3);
        assert!(
            counts.values().all(|count| (60..140).contains(count)),
            "{counts:?}"
        );
    }
}
