//! The roster against notifiers of a few lines: by hand, and in a world where they die, start, fall silent and hear late.

use super::*;
use crate::info::{Document, Format, parse};
use proptest::prelude::*;

fn at(number: usize) -> SocketAddr {
    ([192, 0, 2, number as u8], 5060).into()
}

/// What notifier `by` says: notifiers with their status, and one server with the stamp of its last change.
fn document(
    by: usize,
    life: u64,
    notifiers: &[(usize, &str)],
    server: u64,
    stale: bool,
) -> Document {
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
        "{{\"domain\":\"d\",\"notifier\":\"n{by}@{life}\",\"version\":1,\"view\":1,\"state\":\"full\",\"stale\":{stale},\
         \"servers\":[{}]}}",
        servers.join(",")
    );
    parse(text.as_bytes(), Format::Json).expect("a document")
}

fn table(by: usize, notifiers: &[(usize, &str)], server: u64, stale: bool) -> Arc<Table> {
    let mut table = Table::new();
    table.apply(document(by, 1, notifiers, server, stale));
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

    fn tell(&mut self, by: usize, notifiers: &[(usize, &str)], server: u64, stale: bool) -> bool {
        let number = self.number(by);
        let is_news = self
            .roster
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
fn one_that_drained_and_is_gone_counts_no_more_though_its_last_word_was_lost() {
    let mut world = World::new(&[1, 2], 2);
    for by in [1, 2] {
        world.tell(by, &[(1, "draining"), (2, "up")], 7, false);
    }
    assert_eq!(world.roster.relied_on().collect::<Vec<_>>(), [at(2)]);
    for by in [1, 2] {
        world.tell(by, &[(2, "up")], 7, false);
    }
    assert_eq!(world.roster.relied_on().collect::<Vec<_>>(), [at(2)]);
    // Until it is shown again.
    for by in [1, 2] {
        world.tell(by, &[(1, "up"), (2, "up")], 7, false);
    }
    assert_eq!(world.roster.relied_on().count(), 2);
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

#[test]
fn a_leaving_notifier_that_dies_takes_its_old_table_with_it() {
    let mut world = World::new(&[1, 2], 2);
    world.tell(1, &[(1, "up"), (2, "up")], 7, false);
    world.tell(2, &[(1, "down"), (2, "up")], 9, false);
    let numbers = [1, 2].map(|of| world.number(of));
    world.roster.fails(world.now_ms, numbers[0]);
    world.roster.fails(world.now_ms, numbers[1]);
    assert!(world.roster.table().is_stale());
    assert_eq!((world.server(), world.roster.serving()), (Some(9), 0));
}

#[test]
fn who_never_tells_all_is_replaced_and_heard_until_then() {
    let mut world = World::new(&[1, 2], 1);
    let first = world.places()[0];
    let by = if first == at(1) { 1 } else { 2 };
    world.tell(by, &[], 7, true);
    world.pass(WHOLE_WITHIN_MS);
    world.pass(SPREAD_MS);
    assert_eq!(world.places(), [at(1), at(2)]);
    assert_eq!(world.server(), Some(7));
    world.tell(3 - by, &[], 8, false);
    assert_eq!(world.places(), [at(3 - by)]);
}

#[test]
fn a_wait_for_one_who_refused_does_not_hold_up_another() {
    let mut world = World::new(&[1, 2], 2);
    let number = world.number(1);
    world.stands.remove(&number);
    world.roster.ended(world.now_ms, number, true);
    world.tell(2, &[], 7, false);
    world.pass(SPREAD_MS);
    assert_eq!(world.places(), [at(2)]);
    world.tell(2, &[(3, "up")], 7, false);
    world.pass(SPREAD_MS);
    assert_eq!(world.places(), [at(2), at(3)]);
}

#[test]
fn one_node_at_two_addresses_is_one_notifier() {
    let mut world = World::new(&[1, 2], 2);
    world.tell(1, &[], 7, false);
    // It answers at the second address as well.
    let number = world.number(2);
    let same = table(1, &[], 7, false);
    world.roster.told(world.now_ms, number, same);
    world.pass(0);
    assert_eq!(world.places(), [at(1)]);
}

#[test]
fn while_nobody_serves_not_all_who_are_known_are_asked_at_once() {
    let all: Vec<(usize, &str)> = (1..=50).map(|number| (number, "up")).collect();
    let mut world = World::new(&[1], 1);
    world.tell(1, &all, 7, false);
    for _ in 0..100 {
        let numbers: Vec<u32> = world.stands.keys().copied().collect();
        for number in numbers {
            world.roster.fails(world.now_ms, number);
        }
        world.pass(4_000);
        assert!(world.stands.len() <= 4, "{}", world.stands.len());
    }
    assert_eq!(world.server(), Some(7));
}

#[test]
fn an_empty_table_is_told_too() {
    let mut world = World::new(&[1, 2], 2);
    assert!(world.tell(1, &[], 0, false));
    assert!(!world.tell(2, &[], 0, false));
}

/// Notifiers in the world.
const NODES: usize = 5;
/// A dead node is shown so after this.
const DETECTED_MS: u64 = 3_000;
/// A subscription that is not answered says so after this (`client::PATIENCE_MS`).
const PATIENCE_MS: u64 = 4_000;
/// A node that has started knows everything after this.
const WHOLE_MS: u64 = 2_000;
/// What one node learns the others know within this.
const SPREAD_MOST_MS: u64 = 200;
/// A lost notifier is replaced within this: it is known to be lost, others are asked and answer.
const REPLACED_MS: u64 = PATIENCE_MS + SPREAD_MS + 500;
const STEP_MS: u64 = 10;

/// One notifier as it really is.
#[derive(Debug, Clone, Default)]
struct Node {
    /// Since when it runs; `None`: it does not.
    since_ms: Option<u64>,
    /// When it died last.
    died_ms: u64,
    /// The stamp of the server that it knows, and what comes to it, and when.
    knows: u64,
    coming: Vec<(u64, u64)>,
    lives: u64,
}

impl Node {
    fn is_whole(&self, now_ms: u64) -> bool {
        self.since_ms
            .is_some_and(|since_ms| since_ms + WHOLE_MS <= now_ms)
    }
}

/// What a node's document says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    life: u64,
    down: [bool; NODES],
    stamp: u64,
    is_whole: bool,
}

/// One subscription of the entity.
#[derive(Debug)]
struct Line {
    to: usize,
    begun_ms: u64,
    /// What the entity was told last.
    told: Option<Said>,
    /// What it makes of all that.
    table: Table,
    /// Since when nothing comes from there.
    silent_ms: Option<u64>,
    has_failed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill(usize),
    Start(usize),
    /// The server says something new.
    News,
    Wait(u64),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let one = prop_oneof![
        (0..NODES).prop_map(Fault::Kill),
        (0..NODES).prop_map(Fault::Start),
        (0..NODES).prop_map(Fault::Start),
        Just(Fault::News),
        (0u64..8_000).prop_map(Fault::Wait),
        (0u64..8_000).prop_map(Fault::Wait),
    ];
    prop::collection::vec(one, 1..60)
}

struct Simulation {
    now_ms: u64,
    nodes: Vec<Node>,
    roster: Roster,
    lines: BTreeMap<u32, Line>,
    truth: u64,
    chance: Chance,
    /// The greatest stamp that the entity has shown.
    shown: u64,
    /// Since when fewer serve than are wanted though enough could.
    short_ms: u64,
}

impl Simulation {
    fn new(seed: u64, want: usize) -> Simulation {
        let node = Node {
            since_ms: Some(0),
            knows: 1,
            ..Node::default()
        };
        let seeds = (1..=2).map(at).collect();
        Simulation {
            // All are whole.
            now_ms: WHOLE_MS,
            nodes: vec![node; NODES],
            roster: Roster::new(seeds, Transport::Udp, want, Chance::new(seed)),
            lines: BTreeMap::new(),
            truth: 1,
            chance: Chance::new(!seed),
            shown: 0,
            short_ms: WHOLE_MS,
        }
    }

    /// What a node says now.
    fn says(&self, number: usize) -> Said {
        let is_whole = self.nodes[number].is_whole(self.now_ms);
        let is_dead =
            |node: &Node| node.since_ms.is_none() && node.died_ms + DETECTED_MS <= self.now_ms;
        Said {
            life: self.nodes[number].lives,
            // Who has just started knows nobody but itself.
            down: std::array::from_fn(|other| is_whole && is_dead(&self.nodes[other])),
            stamp: if is_whole {
                self.nodes[number].knows
            } else {
                0
            },
            is_whole,
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        for node in &mut self.nodes {
            let due = node.coming.iter().filter(|(at_ms, _)| *at_ms <= now_ms);
            let newest = due.map(|(_, stamp)| *stamp).max().unwrap_or(0);
            node.knows = node.knows.max(newest);
            node.coming.retain(|(at_ms, _)| *at_ms > now_ms);
        }
        if self
            .roster
            .deadline_ms()
            .is_some_and(|at_ms| at_ms <= now_ms)
        {
            self.roster.advance(now_ms);
        }
        let numbers: Vec<u32> = self.lines.keys().copied().collect();
        for number in numbers {
            self.hear(number);
        }
        while let Some(order) = self.roster.next_order() {
            match order {
                Order::Begin { number, at: place } => {
                    let to = (0..NODES).find(|node| at(node + 1) == place);
                    let line = Line {
                        to: to.expect("there is no other"),
                        begun_ms: now_ms,
                        told: None,
                        table: Table::new(),
                        silent_ms: None,
                        has_failed: false,
                    };
                    self.lines.insert(number, line);
                }
                Order::End { number } => drop(self.lines.remove(&number)),
            }
        }
        self.judge();
    }

    fn hear(&mut self, number: u32) {
        let now_ms = self.now_ms;
        let Some(line) = self.lines.get(&number) else {
            return;
        };
        let (to, begun_ms) = (line.to, line.begun_ms);
        if self.nodes[to].since_ms.is_none() || begun_ms + 20 > now_ms {
            let line = self.lines.get_mut(&number).expect("it is there");
            let silent_ms = *line.silent_ms.get_or_insert(now_ms);
            if silent_ms + PATIENCE_MS <= now_ms && !line.has_failed {
                line.has_failed = true;
                self.roster.fails(now_ms, number);
            }
            return;
        }
        let said = self.says(to);
        let line = self.lines.get_mut(&number).expect("it is there");
        line.silent_ms = None;
        let was_failing = std::mem::take(&mut line.has_failed);
        let is_news = line.told != Some(said);
        line.told = Some(said);
        if was_failing {
            self.roster.restored(now_ms, number);
        }
        if is_news {
            let all = (0..NODES).filter(|other| said.is_whole || *other == to);
            let status = |other: usize| if said.down[other] { "down" } else { "up" };
            let all: Vec<_> = all.map(|other| (other + 1, status(other))).collect();
            let told = document(to + 1, said.life, &all, said.stamp, !said.is_whole);
            let line = self.lines.get_mut(&number).expect("it is there");
            line.table.apply(told);
            let table = Arc::new(line.table.clone());
            self.roster.told(now_ms, number, table);
        }
    }

    /// Judges by what the nodes really are, not by what the roster thinks of them.
    fn judge(&mut self) {
        let now_ms = self.now_ms;
        let stamp = |table: &Table| table.get("p1").map_or(0, |entry| entry.updated().ms);
        let shown = stamp(self.roster.table());
        assert!(
            shown >= self.shown,
            "the view went back: {shown} after {}",
            self.shown
        );
        self.shown = shown;
        let heard: Vec<&Line> = self
            .lines
            .values()
            .filter(|line| line.told.is_some() && self.nodes[line.to].is_whole(now_ms))
            .collect();
        for line in &heard {
            assert!(
                shown >= self.nodes[line.to].knows,
                "a subscribed notifier knows more"
            );
        }
        assert!(
            heard.is_empty() || !self.roster.table().is_stale(),
            "a gap, though {} is subscribed and knows everything",
            heard[0].to + 1
        );
        let whole = self
            .nodes
            .iter()
            .filter(|node| node.is_whole(now_ms))
            .count();
        let serving: std::collections::BTreeSet<usize> = heard.iter().map(|line| line.to).collect();
        if serving.len() >= whole.min(2) {
            self.short_ms = now_ms;
        }
        assert!(self.lines.len() <= 6, "{} subscriptions", self.lines.len());
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    fn suffer(&mut self, fault: Fault) {
        let now_ms = self.now_ms;
        match fault {
            Fault::Kill(number) => {
                if self.nodes[number].since_ms.take().is_some() {
                    self.nodes[number].died_ms = now_ms;
                }
            }
            Fault::Start(number) => {
                let truth = self.truth;
                let node = &mut self.nodes[number];
                if node.since_ms.is_none() {
                    let lives = node.lives + 1;
                    *node = Node {
                        since_ms: Some(now_ms),
                        knows: truth,
                        lives,
                        ..Node::default()
                    };
                }
            }
            Fault::News => {
                self.truth += 1;
                for node in &mut self.nodes {
                    let at_ms = now_ms + self.chance.within(0..SPREAD_MOST_MS);
                    node.coming.push((at_ms, self.truth));
                }
            }
            Fault::Wait(ms) => self.run(ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    /// With two subscribed: the view never goes back, is the newest that any of them has, is never stale while one that
    /// knows everything is subscribed; and when the world is quiet there are two again, if there are so many.
    #[test]
    fn in_a_world_of_faults_nothing_is_lost_that_one_of_them_knows(seed: u64, faults in faults()) {
        let mut simulation = Simulation::new(seed, 2);
        simulation.run(1_000);
        for fault in faults {
            simulation.suffer(fault);
        }
        // Nobody comes or goes any more.
        simulation.run(WHOLE_WITHIN_MS + 2 * REPLACED_MS + 10_000);
        let quiet_ms = simulation.now_ms - simulation.short_ms;
        prop_assert!(quiet_ms < 100, "short of notifiers since {quiet_ms} ms: {:#?}", simulation.lines);
        if simulation.nodes.iter().any(|node| node.is_whole(simulation.now_ms)) {
            prop_assert_eq!(simulation.shown, simulation.truth);
        }
    }
}
