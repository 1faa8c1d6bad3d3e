//! SIPp as a subscriber that does what the RFCs ask.

use std::time::Duration;

use crate::publishers::{modify, publish, remove};
use crate::quiet_node;
use crate::sipp::{Message, Sipp, Transport, run};
use crate::support::Node;

#[test]
fn subscribes_refreshes_and_unsubscribes() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run("lifecycle", transport, &node, &[]);
    }
    let counters = node.wait_for("acknowledged", 6);
    for (name, count) in [
        ("subscribed", 2),
        ("refreshed", 4),
        ("unsubscribed", 2),
        ("removed", 0),
        ("live", 0),
    ] {
        assert_eq!(counters.get(name), count, "{name}\n{}", node.stderr());
    }
}

#[test]
fn subscribes_to_a_node_without_io_uring() {
    let node = Node::start(&["--io", "mmsg", "--refresh-interval", "1h"]);
    for transport in Transport::BOTH {
        run("lifecycle", transport, &node, &[]);
    }
}

#[test]
fn fetches_the_full_state() {
    let node = quiet_node();
    publish(&node, Transport::Udp, "300");
    for transport in Transport::BOTH {
        run("fetch", transport, &node, &[]);
    }
}

#[test]
fn hears_over_udp_a_server_come_change_and_go() {
    hears_changes(Transport::Udp, Transport::Tcp);
}

#[test]
fn hears_over_tcp_a_server_come_change_and_go() {
    hears_changes(Transport::Tcp, Transport::Udp);
}

fn hears_changes(subscriber: Transport, publisher: Transport) {
    let node = quiet_node();
    let watch = Sipp::start("watch", subscriber, subscriber.of(&node), &[]);
    node.wait_for("acknowledged", 1);
    let tag = publish(&node, publisher, "300");
    node.wait_for("acknowledged", 2);
    let tag = modify(&node, publisher, &tag);
    node.wait_for("acknowledged", 3);
    remove(&node, publisher, &tag);
    watch.finish(&node);
}

#[test]
fn hears_a_lease_run_out() {
    let node = quiet_node();
    let hear = Sipp::start("hear_down", Transport::Udp, node.udp, &[]);
    node.wait_for("acknowledged", 1);
    publish(&node, Transport::Udp, "2");
    hear.finish(&node);
}

#[test]
fn hears_the_full_state_periodically() {
    let node = Node::start(&["--refresh-interval", "1s"]);
    let udp = Sipp::start("periodic", Transport::Udp, node.udp, &[]);
    let tcp = Sipp::start("periodic", Transport::Tcp, node.tcp, &[]);
    udp.finish(&node);
    tcp.finish(&node);
}

#[test]
fn is_told_nothing_where_its_condition_holds() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run("conditional", transport, &node, &[]);
    }
}

#[test]
fn asks_for_json_and_by_a_filter() {
    let node = quiet_node();
    publish(&node, Transport::Tcp, "300");
    for transport in Transport::BOTH {
        run("filter_json", transport, &node, &[]);
    }
}

#[test]
fn hears_no_faster_than_it_asked_to() {
    let node = quiet_node();
    let hear = Sipp::start("throttled", Transport::Udp, node.udp, &[]);
    node.wait_for("acknowledged", 1);
    let tag = publish(&node, Transport::Udp, "300");
    node.wait_for("acknowledged", 2);
    modify(&node, Transport::Udp, &tag);
    let messages = hear.finish(&node);
    let came: Vec<Duration> = messages
        .iter()
        .filter(|message| message.is_notify())
        .map(|notify| notify.at)
        .collect();
    // A tenth is left to how SIPp was late.
    let least = Duration::from_millis(1_800);
    assert!(came[1] - came[0] >= least, "{came:?}");
    assert!(came[2] - came[1] >= least, "{came:?}");
}

/// Servers in a table too large for a datagram.
const SERVERS: usize = 100;

#[test]
fn fetches_a_large_table_over_udp_in_parts() {
    let node = node_with_many_servers();
    let messages = run("fetch_all", Transport::Udp, &node, &[]);
    let parts: Vec<&Message> = messages
        .iter()
        .filter(|message| message.is_notify())
        .collect();
    let count = parts.len();
    // An entry takes 210 bytes here, what surrounds it less than 800.
    assert!((2..=SERVERS / 2).contains(&count), "{count} parts");
    for (place, part) in parts.iter().enumerate() {
        // SIPp's trace ends each message with a line end of its own.
        assert!(part.text.trim_end().len() <= 1_300, "{}", part.text);
        for (name, value) in [
            ("version", place + 1),
            ("part", place + 1),
            ("parts", count),
        ] {
            let said = attribute(part, name);
            assert_eq!(said, value.to_string(), "{name} of {}", part.text);
        }
        assert_eq!(attribute(part, "view"), attribute(parts[0], "view"));
    }
    assert_eq!(servers(&parts), all_servers());
}

#[test]
fn fetches_a_large_table_over_tcp_whole() {
    let node = node_with_many_servers();
    let messages = run("fetch_all", Transport::Tcp, &node, &[]);
    let notifies: Vec<&Message> = messages
        .iter()
        .filter(|message| message.is_notify())
        .collect();
    assert_eq!(notifies.len(), 1);
    assert_eq!(servers(&notifies), all_servers());
}

fn node_with_many_servers() -> Node {
    let node = quiet_node();
    Sipp::calls(SERVERS, "publish_many", Transport::Udp, node.udp, &[]).finish(&node);
    node
}

fn attribute<'a>(notify: &'a Message, name: &str) -> &'a str {
    let (_, element) = notify.text.split_once("<serverinfo ").expect("a document");
    let (_, value) = element
        .split_once(&format!(" {name}=\""))
        .unwrap_or_else(|| panic!("no {name}: {}", notify.text));
    value.split('"').next().unwrap_or_default()
}

/// The servers named, each as often as it stands there, sorted.
fn servers(notifies: &[&Message]) -> Vec<String> {
    let named = notifies
        .iter()
        .flat_map(|notify| notify.text.split("<server id=\"").skip(1))
        .filter_map(|rest| rest.split('"').next());
    let mut named: Vec<String> = named.map(str::to_owned).collect();
    named.sort();
    named
}

fn all_servers() -> Vec<String> {
    let mut all: Vec<String> = (1..=SERVERS).map(|number| format!("p{number}")).collect();
    all.sort();
    all
}

#[test]
fn is_told_when_the_node_ends() {
    let mut node = quiet_node();
    let udp = Sipp::start("drained", Transport::Udp, node.udp, &[]);
    let tcp = Sipp::start("drained", Transport::Tcp, node.tcp, &[]);
    node.wait_for("acknowledged", 2);
    let status = node.terminate();
    assert!(status.success(), "{status}\n{}", node.stderr());
    udp.finish(&node);
    tcp.finish(&node);
}
