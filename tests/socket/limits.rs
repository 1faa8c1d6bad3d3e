//! Out of descriptors, subscriptions, filters: what finds no room is refused or waits, counted, and all others are served.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::node::{Node, until};
use crate::sip::{Tcp, Udp, options, publish, serves, subscribe};

/// Descriptors for a node with one shard and about ten connections.
const DESCRIPTORS: usize = 32;

/// A node that may open so many descriptors.
fn starved(io: &str) -> Node {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "ulimit -n {DESCRIPTORS}; exec '{}' serve --listen 127.0.0.1:0 --shards 1 --io {io}",
        env!("CARGO_BIN_EXE_fanfare")
    ));
    Node::spawn(&mut command)
}

#[test]
fn out_of_descriptors_udp_is_served_and_tcp_again_when_some_are_free() {
    for io in ["uring", "mmsg"] {
        let node = starved(io);
        let subscriber = Udp::new(node.address());
        subscriber.subscribe();
        let begun = Instant::now();
        // The kernel takes them all; the node cannot.
        let mut peers: Vec<Tcp> = (0..DESCRIPTORS + 8)
            .map(|_| Tcp::new(node.address()))
            .collect();
        node.counts("accept_failures", 3);
        serves(node.address());
        let publisher = Udp::new(node.address());
        let draft = publish("UDP", publisher.address, "p1");
        assert_eq!(publisher.ask(&draft).status(), 200);
        assert_eq!(subscriber.notified().servers(), ["p1"]);
        // A name cannot be looked up now, nor a connection opened: refused or retried, not fatal.
        let draft = subscribe("UDP", publisher.address)
            .with("Contact", "<sip:a@localhost:9;transport=tcp>");
        publisher.send(&draft.bytes());

        let warnings = node.log().matches("cannot accept connections").count();
        let seconds = begun.elapsed().as_secs() as usize;
        assert!(
            (1..=seconds + 1).contains(&warnings),
            "{warnings} in {seconds} s"
        );

        let last = peers.pop().expect("many");
        for peer in peers.drain(..) {
            peer.close();
        }
        let mut last = last;
        let draft = options("TCP", last.address);
        assert_eq!(last.ask(&draft).status(), 200, "it waited in the queue");
        serves(node.address());
        assert!(node.stop().status.success());
    }
}

#[test]
fn a_full_table_refuses_with_retry_after_and_serves_those_in_it() {
    for limit in ["subscriptions-most = 2", "unproven-most = 2"] {
        let node = Node::configured(limit, &["--shards", "1"]);
        let proven = Udp::new(node.address());
        proven.subscribe();
        node.counts("acknowledged", 1);
        let silent: Vec<Udp> = (0..2)
            .map(|_| {
                let peer = Udp::new(node.address());
                peer.send(&subscribe("UDP", peer.address).bytes());
                peer
            })
            .collect();
        // A table of two is full with the second; the unproven are full with two more.
        let places = if limit.starts_with("sub") { 1 } else { 2 };
        for (place, peer) in silent.iter().enumerate() {
            let status = if place < places { 200 } else { 503 };
            assert_eq!(peer.receive().status(), status, "{limit}");
        }
        let late = Udp::new(node.address());
        let answer = late.ask(&subscribe("UDP", late.address));
        assert_eq!(answer.status(), 503, "{limit}");
        let after: u32 = answer.get("Retry-After").parse().expect("seconds");
        assert!(after > 0);
        node.counts("full", 1);
        let publisher = Udp::new(node.address());
        let draft = publish("UDP", publisher.address, "p1");
        assert_eq!(publisher.ask(&draft).status(), 200);
        assert_eq!(proven.notified().servers(), ["p1"], "{limit}");
        serves(node.address());
    }
}

#[test]
fn a_place_given_up_is_given_to_another() {
    let node = Node::configured("subscriptions-most = 1", &["--shards", "1"]);
    let first = Udp::new(node.address());
    let draft = subscribe("UDP", first.address);
    let tag = first.ask(&draft).get("To").to_owned();
    first.notified();
    let end = draft.with("To", &tag).with("CSeq", "2 SUBSCRIBE");
    let end = end
        .with("Expires", "0")
        .with("Via", "SIP/2.0/UDP host;rport;branch=z9hG4bKend");
    assert_eq!(first.ask(&end).status(), 200);
    let last = first.notified();
    assert!(last.get("Subscription-State").starts_with("terminated"));
    // The slot lingers for repeats of its last SUBSCRIBE (Timer J), then the place is free: 503 says when to come back.
    let second = Udp::new(node.address());
    let answer = second.ask(&subscribe("UDP", second.address));
    assert!([200, 503].contains(&answer.status()), "{answer:?}");
}

#[test]
fn too_many_filters_are_refused_and_the_known_ones_go_on() {
    let node = Node::start(&["--shards", "1"]);
    let peer = Udp::new(node.address());
    let filtered = |number: usize| {
        let body = format!(
            "<filter xmlns=\"urn:fanfare:serverinfo:1\"><service name=\"s{number}\"/></filter>"
        );
        subscribe("UDP", peer.address).body("application/serverinfo", body.as_bytes())
    };
    let mut refused = None;
    for number in 0..300 {
        let draft = filtered(number);
        peer.send(&draft.bytes());
        let status = until("an answer", || {
            let message = peer.receive();
            if message.is_notify() {
                peer.send(&message.response("200 OK"));
                return None;
            }
            Some(message.status())
        });
        if status != 200 {
            refused = Some((number, status));
            break;
        }
    }
    let (number, status) = refused.expect("256 filters are the most");
    assert_eq!(status, 403);
    assert_eq!(number, 256);
    assert_eq!(node.counter("full"), 1);
    let known = Udp::new(node.address());
    let draft = filtered(0).with("Contact", &format!("<sip:a@{}>", known.address));
    assert_eq!(known.ask(&draft).status(), 200);
    known.notified();
    // Who asks for no filter is let in, and is told what no filter shows.
    let plain = Udp::new(node.address());
    plain.subscribe();
    let publisher = Udp::new(node.address());
    let draft = publish("UDP", publisher.address, "p1");
    assert_eq!(publisher.ask(&draft).status(), 200);
    assert_eq!(plain.notified().servers(), ["p1"]);
    assert!(known.receive_within(Duration::from_millis(300)).is_none());
}

#[test]
fn a_full_receive_queue_is_counted_and_the_node_goes_on() {
    let node = Node::start(&["--shards", "1", "--rcvbuf", "4096"]);
    let peer = Udp::new(node.address());
    let draft = options("UDP", peer.address).bytes();
    until("a drop", || {
        for _ in 0..500 {
            peer.send(&draft);
        }
        (node.counter("receive_drops") > 0).then_some(())
    });
    serves(node.address());
    let said = node.log().matches("the kernel refused or dropped").count();
    assert!(said >= 1);
}

#[test]
fn answers_that_a_small_receive_buffer_loses_cost_no_change_and_no_other_peer() {
    for io in ["uring", "mmsg"] {
        // The least that may be asked for: it holds the answers of three peers.
        let node = Node::start(&["--rcvbuf", "4096", "--shards", "1", "--io", io]);
        let subscribers: Vec<Udp> = (0..24).map(|_| Udp::new(node.address())).collect();
        let gone = Udp::new(node.address());
        for subscriber in subscribers.iter().chain([&gone]) {
            subscriber.subscribe();
        }
        // What is sent here from now on, an ICMP message refuses.
        drop(gone);
        let mut publisher = Tcp::new(node.address());
        let draft = publish("TCP", publisher.address, "p1");
        assert_eq!(publisher.ask(&draft).status(), 200);
        let told: Vec<_> = subscribers.iter().map(Udp::receive).collect();

        node.signal(Signal::STOP);
        until("the node stands still", || {
            stands_still(&node).then_some(())
        });
        for (subscriber, notify) in subscribers.iter().zip(&told) {
            subscriber.send(&notify.response("200 OK"));
        }
        node.signal(Signal::CONT);
        let draft = publish("TCP", publisher.address, "p2");
        assert_eq!(publisher.ask(&draft).status(), 200);
        for (subscriber, former) in subscribers.iter().zip(&told) {
            loop {
                let notify = subscriber.notified();
                if notify.servers().contains(&"p2") {
                    break;
                }
                // RFC 3261 17.1.2.2: the retransmission is the same request, though its view is no longer the newest.
                assert_eq!(
                    (&notify.fields, &notify.body),
                    (&former.fields, &former.body)
                );
            }
        }
        node.counts("receive_drops", 1);
        assert!(node.counter("retransmissions") > 0);
        assert!(node.stop().status.success());
    }
}

/// Whether all threads of a node are stopped.
fn stands_still(node: &Node) -> bool {
    let tasks = format!("/proc/{}/task", node.pid().as_raw_nonzero());
    let tasks = std::fs::read_dir(tasks).expect("the node runs");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    })
}
