//! Several nodes as processes over loopback, by gossip and by etcd: what one learns all know, whichever dies.

mod etcd;
mod farm;
mod following;
mod hostile;
mod killing;
mod liar;
mod partition;
mod probing;
#[path = "../tools/process.rs"]
#[allow(dead_code, reason = "shared with the tests of the tools")]
mod process;
mod promises;
mod rogue;
mod store;

use std::time::{Duration, Instant};

use farm::{Entity, Node, Publisher};
use rand::RngExt;
use rustix::process::Signal;

/// What is published at n1 is seen at all of n1, n2 ... and each of them takes its refresh.
fn publish_everywhere(nodes: &[Node]) {
    let watches: Vec<_> = nodes.iter().map(Node::watch).collect();
    let names: Vec<String> = (1..=nodes.len())
        .map(|number| format!("n{number}"))
        .collect();
    for watch in &watches {
        watch.view_where(|view| names.iter().all(|node| view.status(node) == Some("up")));
    }
    let mut publisher = Publisher::new();
    let mut tag = publisher.publish(nodes[0].sip, "p1", 7, 60).tag();
    for watch in &watches {
        watch.status("p1", "up");
    }
    for node in &nodes[1..] {
        tag = publisher.refresh(node.sip, &tag, 60).tag();
    }
    let last = nodes.last().expect("there are some");
    assert_eq!(publisher.refresh(last.sip, &tag, 0).status, 200);
    for watch in &watches {
        watch.status("p1", "deleted");
    }
}

#[test]
fn a_publication_at_one_node_is_seen_at_all_and_each_takes_its_refresh() {
    publish_everywhere(&Node::farm(3));
}

#[test]
fn so_it_is_with_five_nodes_and_with_the_four_that_are_left_of_them() {
    let mut nodes = Node::farm(5);
    publish_everywhere(&nodes);
    let mut publisher = Publisher::new();
    let victim = nodes.remove(killing::random().random_range(1..5));
    let mut tag = publisher.publish(victim.sip, "p2", 1, 60).tag();
    let name = victim.name.clone();
    println!("{name} dies");
    victim.kill();
    for node in &nodes {
        tag = publisher.refresh(node.sip, &tag, 60).tag();
    }
    let watches: Vec<_> = nodes.iter().map(Node::watch).collect();
    for (number, node) in nodes.iter().enumerate() {
        let id = format!("q{number}");
        publisher.publish(node.sip, &id, 1, 60).tag();
        for watch in &watches {
            watch.status(&id, "up");
        }
    }
    for watch in &watches {
        let view = watch.status(&name, "down");
        let mut up = view.statuses();
        assert_eq!(up.remove(&name).as_deref(), Some("down"));
        assert!(
            up.len() == 9 && up.values().all(|status| status == "up"),
            "{up:?}"
        );
    }
}

#[test]
fn what_a_killed_node_had_answered_200_lives_on_and_the_node_is_down() {
    let mut nodes = Node::farm(3);
    let mut publisher = Publisher::new();
    let watch = nodes[1].watch();
    watch.view_where(|view| {
        ["n1", "n2", "n3"]
            .iter()
            .all(|node| view.status(node) == Some("up"))
    });
    let long = publisher.publish(nodes[0].sip, "long", 1, 600).tag();
    let _brief = publisher.publish(nodes[0].sip, "brief", 2, 5).tag();
    // Between its 200 and its death a node has no time to gossip.
    let last = publisher.publish(nodes[0].sip, "last", 3, 600).tag();
    nodes.remove(0).kill();
    let at = Instant::now();
    let live_on =
        |view: &farm::View| view.status("long") == Some("up") && view.status("last") == Some("up");
    let ended = |view: &farm::View| {
        view.status("n1") == Some("down") && view.status("brief") == Some("down")
    };
    watch.view_where(|view| live_on(view) && ended(view));
    let took = at.elapsed();
    assert!(took < Duration::from_secs(20), "down after {took:?}");
    for tag in [long, last] {
        assert_eq!(publisher.refresh(nodes[0].sip, &tag, 600).status, 200);
    }
    // One that comes now learns all of it from those that are left.
    let late = Node::start("n4", &[nodes[1].gossip], &[]);
    let watch = late.watch();
    watch.view_where(|view| {
        let is = |id, status| view.status(id) == Some(status);
        is("long", "up") && is("last", "up") && is("brief", "down") && is("n1", "down")
    });
}

#[test]
fn a_node_that_comes_back_with_its_name_is_up_again() {
    let mut nodes = Node::farm(2);
    let watch = nodes[0].watch();
    watch.status("n2", "up");
    let gone = nodes.remove(1);
    let (sip, gossip) = (gone.sip.to_string(), gone.gossip.to_string());
    gone.kill();
    watch.status("n2", "down");
    let _again = Node::start(
        "n2",
        &[nodes[0].gossip],
        &["--listen", &sip, "--gossip", &gossip],
    );
    watch.status("n2", "up");
}

#[test]
fn a_node_that_is_told_to_end_says_so_lets_its_subscribers_go_and_is_gone() {
    let first = Node::start("n1", &[], &[]);
    let second = Node::start("n2", &[first.gossip], &["--drain-time", "5s"]);
    let watch = first.watch();
    watch.status("n2", "up");
    let mut entity = Entity::subscribe(second.sip);
    entity.notify_where(|notify| notify.contains("id=\"n1\" status=\"up\""));
    second.process.signal(Signal::TERM);
    watch.status("n2", "draining");
    // A new subscription is to be made elsewhere, and there; what is under way is served.
    let moved = entity.request(second.sip, 600);
    assert!(moved.starts_with("SIP/2.0 302 "), "{moved}");
    let contact = format!(
        "Contact: <sip:example.com:{};maddr=127.0.0.1>",
        first.sip.port()
    );
    assert!(moved.contains(&contact), "{moved}");
    let fetched = entity.request(second.sip, 0);
    assert!(fetched.starts_with("SIP/2.0 200 "), "{fetched}");
    let end = entity.notify_where(|notify| notify.contains("reason=deactivated"));
    assert!(!end.contains("retry-after"), "{end}");
    watch.status("n2", "deleted");
    assert_eq!(second.process.end().0.code(), Some(0));
}

#[test]
fn a_draining_node_sends_nobody_to_one_that_has_died_meanwhile() {
    let mut others = Node::farm(2);
    let draining = Node::start("n3", &[others[0].gossip], &["--drain-time", "60s"]);
    draining.watch().view_where(|view| {
        ["n1", "n2", "n3"]
            .iter()
            .all(|id| view.status(id) == Some("up"))
    });
    let mut entity = Entity::subscribe(draining.sip);
    draining.process.signal(Signal::TERM);
    let named = |node: &Node| format!(":{};maddr=", node.sip.port());
    let (dies, stays) = (named(&others[0]), named(&others[1]));
    let mut moved_where = |wanted: &dyn Fn(&str) -> bool| {
        let until = Instant::now() + process::PATIENCE;
        loop {
            let moved = entity.request(draining.sip, 600);
            if moved.starts_with("SIP/2.0 302 ") && wanted(&moved) {
                return;
            }
            assert!(Instant::now() < until, "{moved}");
        }
    };
    moved_where(&|moved| moved.contains(&dies) && moved.contains(&stays));
    others.remove(0).kill();
    moved_where(&|moved| !moved.contains(&dies) && moved.contains(&stays));
}

#[test]
fn a_starting_node_is_stale_until_it_knows_what_the_others_know() {
    let first = Node::start("n1", &[], &[]);
    let mut publisher = Publisher::new();
    for number in 0..300 {
        let id = format!("p{number}");
        publisher.publish(first.sip, &id, 1, 600).tag();
    }
    // The other is there and says nothing: so long nothing is known.
    first.process.signal(Signal::STOP);
    let second = Node::start("n2", &[first.gossip], &[]);
    let watch = second.watch();
    let view = watch.view_where(|_| true);
    assert!(view.is_stale() && view.status("p0").is_none(), "{view:?}");
    first.process.signal(Signal::CONT);
    let view = watch.view_where(|view| !view.is_stale());
    for number in 0..300 {
        let id = format!("p{number}");
        assert_eq!(view.status(&id), Some("up"), "{id}");
    }
}

#[test]
fn a_starting_node_that_finds_nobody_is_stale_for_ten_seconds() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // RFC 6761 6.4: the second is no name at all.
    let nowhere = ["--join", "nowhere.invalid:7946"];
    let alone = Node::start("n1", &[nobody.local_addr().expect("bound")], &nowhere);
    let watch = alone.watch();
    assert!(watch.view_where(|_| true).is_stale());
    watch.view_where(|view| !view.is_stale());
    // By the node's own clock, whatever else the machine has to do.
    let log = alone.process.log();
    let at = |text: &str| {
        let line = log.lines().find(|line| line.contains(text)).expect(text);
        seconds_of_day(line)
    };
    let began = at("engines open");
    let took = (at("no node told all it knows") - began).rem_euclid(86_400.0);
    assert!((9.5..12.0).contains(&took), "{took} s: {log}");
    alone.await_count("cluster_silent_seeds");
    alone.await_count("cluster_unknown_seeds");
    alone.await_log("seed cannot be looked up");
}

/// The time of day of a log line, as in `2026-11-23T18:36:58.414989Z  INFO`.
fn seconds_of_day(line: &str) -> f64 {
    let (_, time) = line.split_once('T').expect("a time");
    let (time, _) = time.split_once('Z').expect("a time");
    let parts = time
        .split(':')
        .map(|part| part.parse::<f64>().expect("a number"));
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}

#[test]
fn a_tag_that_no_peer_knows_is_refused_once_they_had_their_time() {
    let elsewhere = Node::start("n1", &[], &[]);
    let first = Node::start("n2", &[], &[]);
    let silent = Node::start("n3", &[first.gossip], &[]);
    first.watch().status("n3", "up");
    silent.process.signal(Signal::STOP);
    let mut publisher = Publisher::new();
    let mut took = Vec::new();
    for number in 0..5 {
        // Of the same cluster, and yet nobody here has heard of it.
        let tag = publisher
            .publish(elsewhere.sip, &format!("p{number}"), 1, 600)
            .tag();
        let sent = Instant::now();
        let answer = publisher.refresh(first.sip, &tag, 600);
        took.push(sent.elapsed());
        assert_eq!(answer.status, 412, "{}", answer.text);
    }
    // event-package.md: it asks for 200 ms at the most. Other work may hold one of them up.
    let fastest = *took.iter().min().expect("there are five");
    assert!(fastest < Duration::from_secs(1), "{took:?}");
    assert!(fastest >= Duration::from_millis(195), "{took:?}");
    silent.process.signal(Signal::CONT);
}
