//! kill -9 at random points while publications flow, against a model: what was answered 200 is there at every survivor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::farm::{Node, Publisher};
use crate::store::Etcd;

const SERVERS: usize = 12;
const PUBLICATIONS: usize = 240;
/// Longer than an answer takes when the one asked lives: a second for another node's confirmation included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// What a view may say of a server.
#[derive(Default)]
struct Expected {
    tag: Option<String>,
    /// The load that was answered 200 last, and those after it that were not answered at all.
    loads: Vec<u64>,
}

fn seed() -> u64 {
    let given = std::env::var("FANFARE_SEED").ok();
    given.map_or_else(rand::random, |seed| seed.parse().expect("a number"))
}

/// Two of the nodes die while all are published to.
fn publish_while_nodes_die(mut nodes: Vec<Node>) {
    let seed = seed();
    println!("FANFARE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let watches: Vec<_> = nodes[..2].iter().map(Node::watch).collect();
    for watch in &watches {
        watch.view_where(|view| {
            let mut names = (1..=4).map(|number| format!("n{number}"));
            names.all(|name| view.status(&name) == Some("up"))
        });
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.sip).collect();
    let kills: Vec<usize> = (1..=2)
        .map(|third| third * PUBLICATIONS / 3 + random.random_range(0..40))
        .collect();
    let done = AtomicUsize::new(0);
    let dead = AtomicUsize::new(0);
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    thread::scope(|scope| {
        let (done, dead) = (&done, &dead);
        let killer = scope.spawn(move || {
            for at in kills {
                while done.load(Ordering::Relaxed) < at {
                    thread::sleep(Duration::from_micros(200));
                }
                // The last of those that are left.
                nodes.pop().expect("there is one").kill();
                dead.fetch_add(1, Ordering::Relaxed);
            }
            nodes
        });
        let mut publisher = Publisher::new();
        for number in 0..PUBLICATIONS {
            done.store(number, Ordering::Relaxed);
            let id = format!("p{}", random.random_range(0..SERVERS));
            let load = random.random_range(1..=100);
            // A publisher asks a node that it thinks is alive: the one that dies next among them.
            let alive = addresses.len() - dead.load(Ordering::Relaxed);
            let to = addresses[random.random_range(0..alive)];
            let one = expected.entry(id.clone()).or_default();
            let what = (id.as_str(), load);
            let mut answer = publisher.attempt(to, one.tag.as_deref(), what, ANSWERED_WITHIN);
            if answer.as_ref().is_some_and(|answer| answer.status == 412) {
                // An answer with a newer tag was lost with its node.
                answer = publisher.attempt(to, None, what, ANSWERED_WITHIN);
            }
            match answer {
                Some(answer) if answer.status == 200 => {
                    one.tag = Some(answer.tag());
                    one.loads = vec![u64::from(load)];
                }
                // Nothing was promised.
                Some(answer) => assert!([403, 503].contains(&answer.status), "{}", answer.text),
                None => one.loads.push(u64::from(load)),
            }
        }
        done.store(PUBLICATIONS, Ordering::Relaxed);
        let is_as_expected = |loads: &BTreeMap<String, u64>| {
            let mut all = expected.iter().filter(|(_, one)| one.tag.is_some());
            all.all(|(id, one)| loads.get(id).is_some_and(|load| one.loads.contains(load)))
        };
        let first = watches[0].view_where(|view| {
            let ended = ["n3", "n4"].map(|name| view.status(name) == Some("down"));
            ended == [true; 2] && is_as_expected(&view.loads())
        });
        let published = |mut loads: BTreeMap<String, u64>| {
            loads.retain(|id, _| id.starts_with('p'));
            loads
        };
        let first = published(first.loads());
        watches[1].view_where(|view| published(view.loads()) == first);
        // The survivors live until here.
        drop(killer.join());
    });
}

#[test]
fn by_gossip() {
    publish_while_nodes_die(Node::farm(4));
}

#[test]
fn by_etcd() {
    let etcd = Etcd::start();
    let nodes = (1..=4).map(|number| etcd.node(&format!("n{number}"), &[]));
    publish_while_nodes_die(nodes.collect());
}
