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
use rustix::process::Signal;

/// What is published at n1 is seen at n1, n2 and n3, and each of them takes its refresh.
fn publish_everywhere(nodes: &[Node]) {
    let watches: Vec<_> = nodes.iter().map(Node::watch).collect();
    for watch in &watches {
        watch.view_where(|view| {
            ["n1", "n2", "n3"]
                .iter()
                .all(|node| view.status(node) == Some("up"))
        });
    }
    let mut publisher = Publisher::new();
    let tag = publisher.publish(nodes[0].sip, "p1", 7, 60).tag();
    for watch in &watches {
        watch.status("p1", "up");
    }
    let newer = publisher.refresh(nodes[1].sip, &tag, 60).tag();
    let removed = publisher.refresh(nodes[2].sip, &newer, 0);
    assert_eq!(removed.status, 200);
    for watch in &watches {
        watch.status("p1", "deleted");
    }
}

#[test]
fn a_publication_at_one_node_is_seen_at_all_and_each_takes_its_refresh() {
    publish_everywhere(&Node::farm(3));
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
    let second = Node::start("n2", &[first.gossip], &[]);
    let all =
        |view: &farm::View| (0..300).all(|number| view.status(&format!("p{number}")) == Some("up"));
    let watch = second.watch();
    watch.view_where(|view| all(view) && !view.is_stale());
    // Nobody there: stale, then on with what it has.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let alone = Node::start("n3", &[nobody.local_addr().expect("bound")], &[]);
    let watch = alone.watch();
    watch.view_where(farm::View::is_stale);
    let at = Instant::now();
    watch.view_where(|view| !view.is_stale());
    assert!(at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
}
