//! SIPp as a subscriber that does what the RFCs ask.

use crate::publishers::{modify, publish, remove};
use crate::quiet_node;
use crate::sipp::{Sipp, Transport, run};
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
