//! Requests of SIPp's that are refused, each with the status that is due.

use crate::quiet_node;
use crate::sipp::{Transport, run};
use crate::support::Node;

#[test]
fn requests_are_refused_with_the_status_that_is_due() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run("refused", transport, &node, &[]);
    }
    // The fetches that end the scenario.
    let counters = node.wait_for_nobody();
    assert_eq!(counters.get("subscribed"), 2, "{}", node.stderr());
}

#[test]
fn networks_that_are_not_allowed_are_forbidden() {
    let node = Node::start(&[
        "--allow-subscribe",
        "192.0.2.0/24",
        "--allow-publish",
        "192.0.2.0/24",
    ]);
    for transport in Transport::BOTH {
        run("forbidden", transport, &node, &["-key", "load", "10"]);
    }
    assert_eq!(node.counters().get("subscribed"), 0, "{}", node.stderr());
}

#[test]
fn repeated_merged_and_old_requests_make_no_second_subscription() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run("repeats", transport, &node, &[]);
    }
    let counters = node.counters();
    assert_eq!(counters.get("subscribed"), 2, "{}", node.stderr());
    assert!(counters.get("repeats") >= 2, "{}", node.stderr());
}
