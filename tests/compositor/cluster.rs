//! Several compositors that tell each other records in any order, with loss and repetition: what they come to.

use std::collections::BTreeSet;
use std::sync::Arc;

use fanfare::compositor::{CompositorConfig, Lease, Record, Verdict};
use fanfare::info::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::publisher::*;

const NODES: usize = 3;
const IDS: [&str; 3] = ["a", "b", "c"];

fn node(number: usize) -> Arc<str> {
    format!("n{}", number + 1).into()
}

fn nodes() -> Vec<Arc<str>> {
    (0..NODES).map(node).collect()
}

fn config_of(number: usize) -> CompositorConfig {
    CompositorConfig {
        node: node(number),
        forget_after_s: 20,
        tombstones_s: 100_000,
        ..config(&["example.com"])
    }
}

/// Nodes of one cluster with a clock each.
struct Cluster {
    worlds: Vec<World>,
    /// Everything that anybody ever told, in order.
    told: Vec<Record>,
    /// What each keeps for others.
    held: [BTreeSet<String>; NODES],
}

impl Cluster {
    fn new() -> Self {
        let worlds = (0..NODES).map(|number| {
            let mut world = World::new(config_of(number));
            world.compositor.set_live(START, nodes());
            world
        });
        Cluster {
            worlds: worlds.collect(),
            told: Vec::new(),
            held: Default::default(),
        }
    }

    /// Sends a PUBLISH to a node; its record is told, and takes effect.
    fn publish(&mut self, at: usize, publish: &Publish) -> Option<Answer> {
        let world = &mut self.worlds[at];
        let bytes = world.write(publish);
        let mut response = Vec::new();
        let verdict = world
            .compositor
            .consider(world.now, SOURCE, &bytes, &mut response);
        match verdict {
            Verdict::Granted(grant) => {
                self.told.push(grant.record().clone());
                world.compositor.commit(world.now, grant);
            }
            Verdict::Unheard { .. } => return None,
            Verdict::Answered | Verdict::Busy => {}
        }
        self.gather(at);
        Some(Answer::read(&response))
    }

    fn gather(&mut self, at: usize) {
        let compositor = &mut self.worlds[at].compositor;
        self.told.extend(compositor.take_untold());
        self.told.extend(compositor.take_accused());
        self.held[at].extend(
            compositor
                .take_orphans()
                .iter()
                .map(|record| record.id().to_string()),
        );
        let released = compositor.take_released();
        for (_, id) in released.into_iter().chain(compositor.take_dropped()) {
            self.held[at].remove(&*id);
        }
    }

    fn tell(&mut self, to: usize, record: usize) {
        let world = &mut self.worlds[to];
        world.compositor.merge(world.now, self.told[record].clone());
        self.gather(to);
    }

    fn advance(&mut self, at: usize, ms: u64) {
        self.worlds[at].advance(ms);
        self.gather(at);
    }

    /// Tells everybody everything, until nobody has anything to say.
    fn heal(&mut self) {
        self.spread(0);
        // What came late may be due at once.
        let told = self.told.len();
        (0..NODES).for_each(|at| self.advance(at, 0));
        self.spread(told);
    }

    /// Tells everybody what was told from this place on, and what they say to it.
    fn spread(&mut self, mut from: usize) {
        while from < self.told.len() {
            (0..NODES).for_each(|to| self.tell(to, from));
            from += 1;
            assert!(from < 10_000, "they never agree");
        }
    }

    /// What a node shows: of each server its state and its stamp.
    fn entries(&self, at: usize) -> Vec<String> {
        let view = self.worlds[at].view();
        let says = |entry: &Arc<Entry>| {
            let (server, deleted) = (&entry.server, if entry.deleted { " deleted" } else { "" });
            format!(
                "{} {} {:?} {}{deleted}",
                server.id, server.status, server.load, server.updated
            )
        };
        view.entries.iter().map(says).collect()
    }

    fn entry(&self, at: usize, id: &str) -> Arc<Entry> {
        self.worlds[at].entry(id)
    }
}

#[derive(Debug, Clone)]
enum Action {
    Publish { at: usize, id: usize, load: u8 },
    Refresh { at: usize, tag: usize, expires: u32 },
    Tell { to: usize, record: usize },
    Advance { at: usize, ms: u64 },
    Live { at: usize, dead: usize },
}

fn action() -> impl Strategy<Value = Action> {
    let at = 0..NODES;
    prop_oneof![
        3 => (at.clone(), 0..IDS.len(), 0u8..=100)
            .prop_map(|(at, id, load)| Action::Publish { at, id, load }),
        5 => (at.clone(), 0usize..4, prop_oneof![1 => Just(0u32), 4 => 5u32..40])
            .prop_map(|(at, tag, expires)| Action::Refresh { at, tag, expires }),
        8 => (at.clone(), any::<usize>()).prop_map(|(to, record)| Action::Tell { to, record }),
        3 => (at.clone(), 0u64..20_000).prop_map(|(at, ms)| Action::Advance { at, ms }),
        1 => (at.clone(), at).prop_map(|(at, dead)| Action::Live { at, dead }),
    ]
}

proptest! {
    /// Whatever was lost, repeated and told late: once everybody heard everything, all views are one.
    #[test]
    fn nodes_that_heard_everything_agree(actions in vec(action(), 1..60)) {
        let mut cluster = Cluster::new();
        let mut tags: Vec<String> = Vec::new();
        for action in &actions {
            match action {
                Action::Publish { at, id, load } => {
                    let answer = cluster.publish(*at, &initial(&server(IDS[*id], *load)));
                    tags.extend(answer.filter(|answer| answer.status == 200).map(|answer| answer.tag()));
                }
                Action::Refresh { at, tag, expires } if !tags.is_empty() => {
                    let tag = &tags[tags.len() - 1 - tag % tags.len()];
                    let refresh = Publish { expires: Some(*expires), ..refresh(tag) };
                    let answer = cluster.publish(*at, &refresh);
                    tags.extend(answer.filter(|answer| answer.status == 200).map(|answer| answer.tag()));
                }
                Action::Tell { to, record } if !cluster.told.is_empty() => {
                    cluster.tell(*to, record % cluster.told.len());
                }
                Action::Advance { at, ms } => cluster.advance(*at, *ms),
                Action::Live { at, dead } => {
                    let live = nodes().into_iter().enumerate().filter(|(number, _)| number == at || number != dead);
                    let live = live.map(|(_, node)| node).collect();
                    let world = &mut cluster.worlds[*at];
                    world.compositor.set_live(world.now, live);
                    cluster.gather(*at);
                }
                Action::Refresh { .. } | Action::Tell { .. } => {}
            }
        }
        for world in &mut cluster.worlds {
            world.compositor.set_live(world.now, nodes());
        }
        // Clocks meet again: what is early comes due. Leases may end meanwhile.
        let latest = cluster.worlds.iter().map(|world| world.now.mono_ms).max().unwrap();
        for at in 0..NODES {
            let behind = latest - cluster.worlds[at].now.mono_ms;
            cluster.advance(at, behind);
        }
        cluster.heal();
        // A lease given by a clock that was ahead is forgotten so much later elsewhere.
        for _ in 0..40 {
            if (1..NODES).all(|at| cluster.entries(0) == cluster.entries(at)) {
                break;
            }
            (0..NODES).for_each(|at| cluster.advance(at, 1_000));
            cluster.heal();
        }
        for at in 1..NODES {
            prop_assert_eq!(cluster.entries(0), cluster.entries(at), "node {} of {:?}", at, &cluster.told);
        }
        // And when every lease has run out, they have the same memory of it.
        for _ in 0..3 {
            for at in 0..NODES {
                cluster.advance(at, 45_000);
            }
            cluster.heal();
        }
        for at in 1..NODES {
            prop_assert_eq!(cluster.entries(0), cluster.entries(at), "at last, node {}", at);
        }
        let shown = cluster.entries(0);
        prop_assert!(shown.iter().all(|says| says.ends_with("deleted")), "{:?}", shown);
    }

    #[test]
    fn joining_is_commutative_associative_and_idempotent(records in vec(record(), 3)) {
        let join = |one: &Record, other: &Record| {
            let mut joined = one.clone();
            joined.join(other);
            joined
        };
        let [a, b, c] = &records[..] else { unreachable!() };
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
        prop_assert_eq!(&join(a, a), a);
        let mut known = join(a, b);
        prop_assert!(!known.join(a) && !known.join(b), "nothing new the second time");
    }

    #[test]
    fn a_record_is_read_as_it_was_written(record in record()) {
        let text = record.to_string();
        prop_assert_eq!(&text.parse::<Record>().unwrap(), &record, "{}", text);
    }

    #[test]
    fn a_damaged_record_is_refused_or_another(record in record(), at in any::<usize>(), byte in any::<u8>()) {
        let mut text = record.to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let text = String::from_utf8_lossy(&text);
        if let Ok(read) = text.parse::<Record>() {
            prop_assert_eq!(read.to_string().parse::<Record>().unwrap(), read);
        }
        let cut: String = text.chars().take(at).collect();
        let _ = cut.parse::<Record>();
    }
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (0u64..4, 0u32..2, 0..NODES).prop_map(|(ms, counter, number)| Stamp {
        ms,
        counter,
        node: node(number),
    })
}

fn record() -> impl Strategy<Value = Record> {
    let maybe = || proptest::option::of(stamp());
    let lease = (stamp(), stamp(), 0u32..3, maybe(), maybe());
    let lease =
        proptest::option::of(
            lease.prop_map(|(held, granted, expires_s, ended, since)| Lease {
                granted,
                held,
                ended,
                since,
                expires_s,
            }),
        );
    let said = (stamp(), 0u8..3, any::<bool>(), "[ -~\u{e9}\n]{0,9}");
    (said, lease).prop_map(|((updated, load, deleted, region), lease)| {
        let server = Server {
            updated,
            attributes: vec![("region".into(), region.into())],
            ..server("p1", load)
        };
        Record {
            domain: "example.com".into(),
            said: Arc::new(Entry { server, deleted }),
            lease,
        }
    })
}

#[test]
fn a_refresh_may_go_to_another_node_than_the_publication() {
    let mut cluster = Cluster::new();
    let tag = cluster.publish(0, &initial(&server("a", 7))).unwrap().tag();
    assert!(
        cluster.publish(1, &refresh(&tag)).is_none(),
        "not heard of yet"
    );
    cluster.heal();
    let answer = cluster.publish(1, &refresh(&tag)).unwrap();
    let newer = answer.tag();
    assert_ne!(newer, tag);
    cluster.heal();
    assert_eq!(cluster.publish(0, &refresh(&tag)).unwrap().status, 412);
    let removed = cluster.publish(2, &remove(&newer)).unwrap();
    assert_eq!(removed.status, 200);
    cluster.heal();
    for at in 0..NODES {
        assert!(cluster.entry(at, "a").deleted);
    }
}

#[test]
fn a_later_lease_beats_down_and_the_holder_says_so_at_once() {
    let mut cluster = Cluster::new();
    let tag = cluster.publish(0, &initial(&server("a", 7))).unwrap().tag();
    cluster.heal();
    // Cut off from the node that holds the lease, the others see it run out; one of them tells.
    for at in [1, 2] {
        let world = &mut cluster.worlds[at];
        let live = vec![node(1), node(2)];
        world.compositor.set_live(world.now, live);
        cluster.gather(at);
    }
    cluster.advance(0, 20_000);
    assert_eq!(cluster.publish(0, &refresh(&tag)).unwrap().status, 200);
    let unheard = cluster.told.len();
    for at in [1, 2] {
        cluster.advance(at, 31_000);
        assert_eq!(cluster.entry(at, "a").server.status, Status::Down);
    }
    cluster.advance(0, 10_000);
    let down = cluster.entry(1, "a").server.updated.clone();
    assert_eq!(
        cluster.told[unheard..]
            .iter()
            .filter(|record| record
                .lease
                .as_ref()
                .is_some_and(|lease| lease.ended.is_some()))
            .count(),
        1,
        "one node speaks for the missing"
    );
    cluster.heal();
    for at in 0..NODES {
        let entry = cluster.entry(at, "a");
        assert_eq!(entry.server.status, Status::Up);
        assert!(
            entry.server.updated > down,
            "entities that merge notifiers believe it too"
        );
    }
    assert_eq!(cluster.worlds[0].compositor.counters().reasserted, 1);
    // The assertion prolonged nothing: the lease ends when it would have.
    cluster.advance(0, 20_000);
    assert_eq!(cluster.entry(0, "a").server.status, Status::Down);
}

#[test]
fn the_same_lease_seen_to_end_too_early_is_asserted_again_and_its_tag_stays_good() {
    let mut cluster = Cluster::new();
    let tag = cluster.publish(0, &initial(&server("a", 7))).unwrap().tag();
    cluster.heal();
    let world = &mut cluster.worlds[1];
    world.compositor.set_live(world.now, vec![node(1)]);
    cluster.advance(1, 31_000);
    assert_eq!(cluster.entry(1, "a").server.status, Status::Down);
    // Its clock was 6 s fast.
    cluster.advance(0, 25_000);
    cluster.heal();
    assert_eq!(cluster.entry(1, "a").server.status, Status::Up);
    assert_eq!(cluster.publish(0, &refresh(&tag)).unwrap().status, 200);
}

#[test]
fn a_clock_an_hour_fast_poisons_nothing() {
    let mut cluster = Cluster::new();
    cluster.worlds[2].now.unix_ms += 3_600_000;
    let tag = cluster.publish(0, &initial(&server("a", 7))).unwrap().tag();
    cluster.heal();
    let answer = cluster.publish(2, &initial(&server("a", 99))).unwrap();
    assert_eq!(answer.status, 200);
    cluster.heal();
    for at in [0, 1] {
        assert_eq!(cluster.entry(at, "a").server.load, Some(7));
        assert_eq!(cluster.worlds[at].compositor.counters().early, 1);
    }
    assert_eq!(cluster.publish(0, &refresh(&tag)).unwrap().status, 200);
    let stamp = cluster.told.last().unwrap().stamp().clone();
    assert!(
        stamp.ms < START.unix_ms + 1_000,
        "the clock was not dragged along: {stamp}"
    );
    // It is merged once the time of day has come near.
    cluster.advance(0, 3_590_000 - 1);
    assert_eq!(cluster.entry(0, "a").server.load, Some(7));
    cluster.advance(0, 1);
    assert_eq!(cluster.entry(0, "a").server.load, Some(99));
}

/// Clocks of one node that are far from the others': its leases, and the others' at it.
#[test]
fn a_clock_far_off_brings_no_live_server_down() {
    for (fast_s, slow_s) in [(3_600, 0), (0, 45), (0, 3_600)] {
        let mut cluster = Cluster::new();
        cluster.worlds[2].now.unix_ms += fast_s * 1_000;
        cluster.worlds[2].now.unix_ms -= slow_s * 1_000;
        let mut tags = [0, 2].map(|at| {
            let id = ["a", "b", "c"][at];
            (
                at,
                cluster.publish(at, &initial(&server(id, 7))).unwrap().tag(),
            )
        });
        for round in 0..12 {
            let from = cluster.told.len();
            for (at, tag) in &mut tags {
                *tag = cluster.publish(*at, &refresh(tag)).unwrap().tag();
            }
            cluster.spread(from);
            for at in 0..NODES {
                cluster.advance(at, 5_000);
            }
            cluster.spread(from);
            // It may hold the others' stamps, or they its, for too far ahead to be true: then they are not shown yet, or not
            // shown anew; but nothing that lives is shown as down.
            for (at, id) in (0..NODES).flat_map(|at| ["a", "c"].map(|id| (at, id))) {
                let view = cluster.worlds[at].view();
                let status = view.find(id).map(|entry| entry.server.status.clone());
                let must_be_up = at < 2 && (id == "a" || slow_s > 0);
                assert!(
                    round == 0 || status == Some(Status::Up) || (!must_be_up && status.is_none()),
                    "{fast_s} s fast, {slow_s} s slow, round {round}: {id} at {at} is {status:?}"
                );
            }
        }
        let reasserted: u64 = cluster
            .worlds
            .iter()
            .map(|world| world.compositor.counters().reasserted)
            .sum();
        assert!(reasserted < 10, "they argue without end: {reasserted}");
    }
}

#[test]
fn a_node_that_died_is_down_at_once_and_its_publications_live_on() {
    let mut cluster = Cluster::new();
    for at in 0..NODES {
        let world = &mut cluster.worlds[at];
        let own = server(&node(at), 0);
        world.compositor.announce(world.now, &own);
        cluster.gather(at);
    }
    let tag = cluster.publish(0, &initial(&server("a", 7))).unwrap().tag();
    cluster.heal();
    for at in [1, 2] {
        let world = &mut cluster.worlds[at];
        world.compositor.set_live(world.now, vec![node(1), node(2)]);
    }
    for at in [1, 2] {
        assert_eq!(cluster.entry(at, "n1").server.status, Status::Down);
        assert_eq!(cluster.entry(at, "n2").server.status, Status::Up);
        assert_eq!(cluster.entry(at, "a").server.status, Status::Up);
    }
    // What it held each of the others keeps, for nodes that come later.
    for at in [1, 2] {
        cluster.gather(at);
        assert!(cluster.held[at].contains("a"), "{:?}", cluster.held[at]);
    }
    assert_eq!(cluster.publish(2, &refresh(&tag)).unwrap().status, 200);
    // It was not dead: it says so, and is believed.
    cluster.heal();
    for at in 0..NODES {
        assert_eq!(cluster.entry(at, "n1").server.status, Status::Up);
    }
}

#[test]
fn what_one_said_who_died_before_this_node_came_is_kept_when_its_keeper_dies() {
    let mut cluster = Cluster::new();
    cluster.publish(0, &initial(&server("a", 7))).unwrap();
    // This one never sees n1 alive.
    let mut world = World::new(config_of(2));
    world.compositor.set_live(world.now, vec![node(1), node(2)]);
    world.compositor.merge(world.now, cluster.told[0].clone());
    assert_eq!(world.compositor.take_orphans(), []);
    world.compositor.set_live(world.now, vec![node(2)]);
    assert_eq!(world.compositor.take_orphans(), cluster.told);
}

#[test]
fn a_publication_takes_effect_when_it_is_committed_and_never_when_it_is_declined() {
    let mut world = World::one();
    let bytes = world.write(&initial(&server("a", 7)));
    let consider = |world: &mut World, response: &mut Vec<u8>| {
        world
            .compositor
            .consider(world.now, SOURCE, &bytes, response)
    };
    let mut response = Vec::new();
    let Verdict::Granted(grant) = consider(&mut world, &mut response) else {
        panic!("not granted");
    };
    assert!(world.view().entries.is_empty());
    assert!(matches!(
        consider(&mut world, &mut Vec::new()),
        Verdict::Busy
    ));
    response.clear();
    world
        .compositor
        .decline(grant, SOURCE, &bytes, &mut response);
    let answer = Answer::read(&response);
    assert_eq!(
        (answer.status, answer.header("Retry-After")),
        (503, Some("2"))
    );
    assert!(world.view().entries.is_empty());
    response.clear();
    let Verdict::Granted(grant) = consider(&mut world, &mut response) else {
        panic!("not granted");
    };
    world.compositor.commit(world.now, grant);
    assert_eq!(world.entry("a").server.status, Status::Up);
    let mut again = Vec::new();
    assert!(matches!(
        consider(&mut world, &mut again),
        Verdict::Answered
    ));
    assert_eq!(again, response, "a repeat is answered as before");
}
