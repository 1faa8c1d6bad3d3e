//! Real peers: SIPp as subscriber and publisher, Kamailio as a record-routing proxy between it and a node. Each test runs
//! a node of its own; what the peers do and expect stands in `scenarios/` and `kamailio.cfg`.

mod kamailio;
mod misbehaviour;
mod proxied;
mod publishers;
mod refusals;
#[allow(dead_code, reason = "shared with the tests of failover")]
mod sipp;
mod subscribers;
#[path = "../support/mod.rs"]
mod support;

use support::Node;

/// A node that sends nothing by time alone while a test lasts, so that each NOTIFY has a cause.
fn quiet_node() -> Node {
    Node::start(&["--domain", "example.com", "--refresh-interval", "1h"])
}
