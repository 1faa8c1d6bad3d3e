//! kill -9 at random points while publications flow, of nodes and of etcd, against a model: what was answered 200 is there at
//! every survivor, or has run out by its own time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::farm::{Answer, Node, Publisher, View, Watch};
use crate::process::PATIENCE;
use crate::promises::{Act, Promises};
use crate::store::Etcd;

const SERVERS: usize = 20;
const PUBLICATIONS: usize = 240;
/// After all but the last have died, or etcd is back.
const MORE: usize = 80;
/// Longer than an answer takes when the one asked lives: a second for another node's confirmation included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
const LONG_S: u32 = 600;

fn seed() -> u64 {
    let given = std::env::var("FANFARE_SEED").ok();
    given.map_or_else(rand::random, |seed| seed.parse().expect("a number"))
}

/// The publishers of a few servers, and what they were promised.
struct Traffic {
    random: StdRng,
    publisher: Publisher,
    promises: Promises,
    /// A load that a server never had before says which publication a view shows.
    published: u32,
    refused: usize,
    /// Answered 200: publications with a brief lease, refreshes, removals.
    done: [usize; 3],
}

impl Traffic {
    fn new(random: StdRng) -> Traffic {
        Traffic {
            random,
            publisher: Publisher::new(),
            promises: Promises::default(),
            published: 0,
            refused: 0,
            done: [0; 3],
        }
    }

    /// One server asks this node for something.
    fn ask(&mut self, to: SocketAddr) {
        let id = format!("p{}", self.random.random_range(0..SERVERS));
        let act = self.choose(&id);
        let tag = self.promises.0[&id].tag.clone();
        let (sent, answer) = self.send(to, &id, act, tag.as_deref());
        if answer.as_ref().is_none_or(|answer| answer.status != 412) {
            return self.judge(&id, act, sent, answer);
        }
        let one = self.promises.0.get_mut(&id).expect("it was chosen for");
        assert!(tag.is_some() && one.may_be_mismatched(), "{id} {one:?}");
        one.tag = None;
        // Where there is nothing to refresh any more a publisher publishes anew.
        if let Act::Publish { .. } = act {
            let (sent, answer) = self.send(to, &id, act, None);
            self.judge(&id, act, sent, answer);
        }
    }

    fn choose(&mut self, id: &str) -> Act {
        let one = self.promises.0.entry(id.to_owned()).or_default();
        let expires_s = match self.random.random_ratio(1, 3) {
            true => self.random.random_range(3..=5),
            false => LONG_S,
        };
        match self.random.random_range(0..8) {
            0 | 1 if one.tag.is_some() && one.is_fresh() => Act::Refresh { expires_s },
            2 if one.tag.is_some() => Act::Remove,
            _ => {
                self.published += 1;
                let load = (self.published % 100) as u8;
                Act::Publish { load, expires_s }
            }
        }
    }

    fn send(
        &mut self,
        to: SocketAddr,
        id: &str,
        act: Act,
        tag: Option<&str>,
    ) -> (Instant, Option<Answer>) {
        let (said, expires_s) = match act {
            Act::Publish { load, expires_s } => (Some((id, load)), expires_s),
            Act::Refresh { expires_s } => (None, expires_s),
            Act::Remove => (None, 0),
        };
        let sent = Instant::now();
        let answer = self
            .publisher
            .attempt(to, tag, said, expires_s, ANSWERED_WITHIN);
        (sent, answer)
    }

    fn judge(&mut self, id: &str, act: Act, sent: Instant, answer: Option<Answer>) {
        let one = self.promises.0.get_mut(id).expect("it was chosen for");
        let Some(answer) = answer else {
            return one.unknown(act, sent);
        };
        match answer.status {
            200 => {
                let tag = (act != Act::Remove).then(|| answer.tag());
                one.done(act, sent, tag);
                self.count(act);
            }
            // Nothing was promised; etcd may have died after it had written.
            503 => {
                assert!(answer.text.contains("Retry-After: "), "{}", answer.text);
                one.unknown(act, sent);
                self.refused += 1;
            }
            // Taken over too often, by who does not know the tag.
            403 => assert!(one.tag.is_none(), "{}", answer.text),
            _ => panic!("{}", answer.text),
        }
    }

    fn count(&mut self, act: Act) {
        let place = match act {
            Act::Publish { expires_s, .. } if expires_s == LONG_S => return,
            Act::Publish { .. } => 0,
            Act::Refresh { .. } => 1,
            Act::Remove => 2,
        };
        self.done[place] += 1;
    }

    /// From the view on that shows what was published last, every view is right, until the last brief lease has run out and
    /// these nodes are down.
    fn is_seen_by(&mut self, watches: &[Watch], at: SocketAddr, dead: &[String]) {
        assert!(self.done.iter().all(|&count| count > 0), "{:?}", self.done);
        self.publisher.publish(at, "last", 1, LONG_S).tag();
        let mut ends = Vec::new();
        for watch in watches {
            let promises = &self.promises;
            let mut view = watch.view_where(|view| {
                view.status("last") == Some("up") && promises.broken_in(view).is_none()
            });
            let are_down = |view: &View| dead.iter().all(|id| view.status(id) == Some("down"));
            while !(promises.are_over_in(&view) && are_down(&view)) {
                view = watch.view_where(|_| true);
                let broken = promises.broken_in(&view);
                assert!(!view.is_stale() && broken.is_none(), "{broken:?} {view:?}");
            }
            ends.push(published(&view));
        }
        // Where an answer was lost two views may be right: in the end there is one.
        for (watch, end) in watches.iter().zip(&ends) {
            if *end != ends[0] {
                watch.view_where(|view| published(view) == ends[0]);
            }
        }
    }
}

/// How the servers stand in a view.
fn published(view: &View) -> Vec<(String, String, Option<u64>)> {
    let statuses = view.statuses().into_iter();
    let servers = statuses.filter(|(id, _)| id.starts_with('p'));
    let one = |(id, status): (String, String)| {
        let load = view.load(&id);
        (id, status, load)
    };
    servers.map(one).collect()
}

fn reaches(count: &AtomicUsize, least: usize) {
    let until = Instant::now() + 2 * PATIENCE;
    while count.load(Relaxed) < least {
        assert!(Instant::now() < until, "{} of {least}", count.load(Relaxed));
        thread::sleep(Duration::from_micros(200));
    }
}

pub fn random() -> StdRng {
    let seed = seed();
    println!("FANFARE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Three of the five die, two while all are published to, and one after the last answer. How many were refused.
fn publish_while_nodes_die(mut nodes: Vec<Node>) -> usize {
    let mut random = random();
    let names: Vec<_> = nodes.iter().map(|node| node.name.clone()).collect();
    nodes.shuffle(&mut random);
    let watches: Vec<_> = nodes[..2].iter().map(Node::watch).collect();
    for watch in &watches {
        let is_up = |view: &View, name: &String| view.status(name) == Some("up");
        // Whoever still asks what there is may lose the one that was to tell.
        watch.view_where(|view| !view.is_stale() && names.iter().all(|name| is_up(view, name)));
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.sip).collect();
    let dead: Vec<_> = nodes[2..].iter().map(|node| node.name.clone()).collect();
    println!("{dead:?} die, the last first");
    let kills = [1, 2].map(|third| third * PUBLICATIONS / 3 + random.random_range(0..40));
    let (asked, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut traffic = Traffic::new(random);
    thread::scope(|scope| {
        let (asked, killed) = (&asked, &killed);
        let killer = scope.spawn(move || {
            for at in kills {
                reaches(asked, at);
                nodes.pop().expect("there is one").kill();
                killed.fetch_add(1, Relaxed);
            }
            nodes
        });
        let mut ask = || {
            // A publisher asks a node that it thinks is alive: the one that dies next among them.
            let alive = addresses.len() - killed.load(Relaxed);
            let to = addresses[traffic.random.random_range(0..alive)];
            traffic.ask(to);
            asked.fetch_add(1, Relaxed);
        };
        (0..PUBLICATIONS).for_each(|_| ask());
        let mut nodes = killer.join().expect("it has killed");
        // A refresh is confirmed by one other node: who dies with it at once takes it along.
        let are_down = |view: &View| dead[1..].iter().all(|id| view.status(id) == Some("down"));
        watches
            .iter()
            .for_each(|watch| drop(watch.view_where(are_down)));
        (0..MORE).for_each(|_| ask());
        nodes.pop().expect("there is one").kill();
        traffic.is_seen_by(&watches, addresses[0], &dead);
    });
    traffic.refused
}

#[test]
fn by_gossip() {
    let refused = publish_while_nodes_die(Node::farm(5));
    assert_eq!(refused, 0, "no store can be away");
}

#[test]
fn by_etcd() {
    let etcd = Etcd::start();
    let nodes = (1..=5).map(|number| etcd.node(&format!("n{number}"), &[]));
    publish_while_nodes_die(nodes.collect());
}

/// etcd dies twice at random points; it is back once every view is stale and some publishers were refused.
#[test]
fn etcd_itself_is_killed_and_comes_back() {
    let mut random = random();
    let mut etcd = Etcd::start();
    let nodes = ["n1", "n2", "n3"].map(|name| etcd.node(name, &[]));
    let watches = nodes.each_ref().map(Node::watch);
    for watch in &watches {
        watch.view_where(|view| {
            ["n1", "n2", "n3"]
                .iter()
                .all(|id| view.status(id) == Some("up"))
        });
    }
    let kills = [1, 2].map(|_| random.random_range(80..160));
    let (asked, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut traffic = Traffic::new(random);
    thread::scope(|scope| {
        let (asked, refused) = (&asked, &refused);
        let killer = scope.spawn(move || {
            for more in kills {
                let (asked_before, refused_before) = (asked.load(Relaxed), refused.load(Relaxed));
                reaches(asked, asked_before + more);
                etcd.kill();
                watches
                    .iter()
                    .for_each(|watch| drop(watch.view_where(View::is_stale)));
                reaches(refused, refused_before + 20);
                etcd.restart();
                for watch in &watches {
                    watch.view_where(|view| !view.is_stale());
                }
            }
            (etcd, watches)
        });
        let mut ask = || {
            let to = nodes[traffic.random.random_range(0..nodes.len())].sip;
            let before = traffic.refused;
            traffic.ask(to);
            asked.fetch_add(1, Relaxed);
            if traffic.refused > before {
                refused.fetch_add(1, Relaxed);
                // Who is refused does not ask again at once.
                thread::sleep(Duration::from_millis(5));
            }
        };
        while !killer.is_finished() {
            ask();
        }
        let (etcd, watches) = killer.join().expect("it has killed");
        (0..MORE).for_each(|_| ask());
        traffic.is_seen_by(&watches, nodes[0].sip, &[]);
        let late = etcd.node("n4", &[]);
        late.watch()
            .view_where(|view| !view.is_stale() && traffic.promises.are_over_in(view));
    });
}
