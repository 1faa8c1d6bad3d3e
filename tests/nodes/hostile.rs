//! What may come to a cluster's port that should not: none of it is believed, all of it is counted, and the node goes on.

use std::net::UdpSocket;
use std::time::Instant;

use fanfare::cluster::frame::{Frames, Kind};

use crate::farm::{Node, Publisher};
use crate::process::PATIENCE;

#[test]
fn datagrams_of_strangers_other_clusters_and_wrong_secrets_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let good = config("good", "[cluster]\nsecret = \"correct horse\"\n");
    let bad = config("bad", "cluster-secret = \"battery staple\"\n");
    let first = Node::start("n1", &[], &["--config", &good]);
    let second = Node::start("n2", &[first.gossip], &["--config", &good]);
    let forger = Node::start("n3", &[first.gossip], &["--config", &bad]);
    let plain = Node::start("n4", &[first.gossip], &[]);
    let other = Node::start("n5", &[first.gossip], &["--cluster-id", "other"]);
    let noise = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for length in [0, 1, 12, 17, 18, 100, 60_000] {
        noise
            .send_to(&vec![b'F'; length], first.gossip)
            .expect("sent");
        let mut near = b"FF1".to_vec();
        near.resize(length + 3, 0);
        noise.send_to(&near, first.gossip).expect("sent");
    }
    let mut publisher = Publisher::new();
    for (number, node) in [&forger, &plain, &other].into_iter().enumerate() {
        publisher
            .publish(node.sip, &format!("bad{number}"), 1, 600)
            .tag();
    }
    let watch = first.watch();
    publisher.publish(second.sip, "good", 1, 600).tag();
    let view = watch
        .view_where(|view| view.status("good") == Some("up") && view.status("n2") == Some("up"));
    for id in ["bad0", "bad1", "bad2", "n3", "n4", "n5"] {
        assert_eq!(view.status(id), None, "{id}");
    }
    // The others have asked for all that is known every quarter of a second.
    for name in ["cluster_malformed", "cluster_forged", "cluster_wrong_id"] {
        first.await_count(name);
    }
}

/// Speaks to a node until it has counted this, and its log has named the reason.
fn refuses(node: &Node, count: &str, reason: &str, mut speak: impl FnMut()) {
    let until = Instant::now() + PATIENCE;
    let is_told = || {
        let log = node.process.log();
        let refused = "datagram of the cluster refused";
        let mut lines = log.lines().filter(|line| line.contains(refused));
        lines.any(|line| line.contains(reason)) && node.counter(count) > 0
    };
    assert_eq!(node.counter(count), 0);
    // One line a second stands for all that is refused in it.
    while !is_told() {
        assert!(Instant::now() < until, "{reason} {}", node.process.log());
        speak();
    }
}

#[test]
fn every_datagram_that_is_refused_has_its_counter_and_a_line_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "cluster-secret = \"correct horse\"\n").expect("written");
    let secret = ["--config", path.to_str().expect("text")];
    let noise = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = |node: &Node, cluster_id: &str, secret: Option<&[u8]>, kind, message: &[u8]| {
        for datagram in Frames::new(cluster_id, secret).seal(kind, message) {
            noise.send_to(&datagram, node.gossip).expect("sent");
        }
    };
    let node = Node::start("n1", &[], &[]);
    refuses(&node, "cluster_malformed", "it is none of ours", || {
        noise
            .send_to(b"FF0 is another protocol", node.gossip)
            .expect("sent");
    });
    refuses(
        &node,
        "cluster_wrong_id",
        "it is of another cluster",
        || {
            send(&node, "other", None, Kind::Gossip, b"");
        },
    );
    // Framed as ours, and yet no gossip and no message.
    for kind in [Kind::Gossip, Kind::Tell, Kind::Pull, Kind::Page] {
        let before = node.counter("cluster_malformed");
        let until = Instant::now() + PATIENCE;
        while node.counter("cluster_malformed") == before {
            assert!(Instant::now() < until, "{kind:?} {}", node.process.log());
            send(&node, "fanfare", None, kind, &[0xff; 40]);
        }
    }
    let node = Node::start("n1", &[], &secret);
    for key in [None, Some(&b"battery staple"[..])] {
        let before = node.counter("cluster_forged");
        send(&node, "fanfare", key, Kind::Gossip, b"");
        let until = Instant::now() + PATIENCE;
        while node.counter("cluster_forged") == before {
            assert!(Instant::now() < until, "{}", node.process.log());
        }
    }
    node.await_log("its check is wrong");
    let node = Node::start("n1", &[], &["--gossip-allow", "192.0.2.0/24"]);
    refuses(
        &node,
        "cluster_strangers",
        "it may not speak to this node",
        || {
            send(&node, "fanfare", None, Kind::Gossip, b"");
        },
    );
}

#[test]
fn networks_that_are_not_allowed_are_not_heard() {
    let first = Node::start("n1", &[], &["--gossip-allow", "192.0.2.0/24"]);
    let second = Node::start("n2", &[first.gossip], &[]);
    let watch = second.watch();
    // It gives up asking after ten seconds.
    let view = watch.view_where(|view| !view.is_stale());
    assert_eq!(view.status("n1"), None);
    second.await_log("no node told all it knows");
    first.await_count("cluster_strangers");
}

#[test]
fn of_two_nodes_of_one_name_the_log_tells_and_the_elder_is_shown() {
    let first = Node::start("n1", &[], &[]);
    let elder = Node::start("n2", &[first.gossip], &[]);
    let twin = Node::start("n2", &[first.gossip], &[]);
    let mut publisher = Publisher::new();
    publisher.publish(elder.sip, "a", 1, 600).tag();
    publisher.publish(twin.sip, "b", 1, 600).tag();
    let watch = first.watch();
    watch.view_where(|view| view.status("a") == Some("up") && view.status("b") == Some("up"));
    twin.await_log("another node of this name");
    twin.await_count("cluster_name_conflicts");
    shows_for_long(&first, "n2", &elder);
}

/// Of the nodes of one name, `node` is shown by `by`, and no other for some seconds.
pub fn shows_for_long(by: &Node, name: &str, node: &Node) {
    let watch = by.watch();
    let port = Some(u64::from(node.sip.port()));
    watch.view_where(|view| view.port(name) == port);
    let mut publisher = Publisher::new();
    let mut tag = None;
    // Changes of load are shown once a second: between two of them every node has looked at itself.
    for load in [10, 30, 50, 70, 90] {
        let answer =
            publisher.attempt(by.sip, tag.as_deref(), Some(("clock", load)), 600, PATIENCE);
        tag = Some(answer.expect("it answers").tag());
        watch.view_where(|view| {
            assert_eq!(view.port(name), port, "the other {name} is shown");
            view.load("clock") == Some(u64::from(load))
        });
    }
}
