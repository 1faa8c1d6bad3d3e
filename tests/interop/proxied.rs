//! SIPp behind Kamailio: route sets and stacks of Via header fields as they are in the field.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::kamailio::Kamailio;
use crate::publishers::publish;
use crate::quiet_node;
use crate::sipp::{Message, Sipp, Transport};
use crate::support::{Node, wait_until};

#[test]
fn subscribes_through_a_proxy_over_udp() {
    lives_behind_a_proxy(Transport::Udp, Transport::Udp);
}

#[test]
fn subscribes_through_a_proxy_over_tcp() {
    lives_behind_a_proxy(Transport::Tcp, Transport::Tcp);
}

#[test]
fn subscribes_by_udp_to_a_proxy_that_speaks_tcp_to_the_node() {
    lives_behind_a_proxy(Transport::Udp, Transport::Tcp);
}

#[test]
fn subscribes_by_tcp_to_a_proxy_that_speaks_udp_to_the_node() {
    lives_behind_a_proxy(Transport::Tcp, Transport::Udp);
}

fn lives_behind_a_proxy(outside: Transport, inside: Transport) {
    let node = quiet_node();
    let proxy = Kamailio::before(&node, inside);
    let subscriber = Sipp::start("lifecycle", outside, proxy.address, &[]);
    let messages = finish(subscriber, &node, &proxy);
    came_through(&proxy, &messages, 3);
    // The refresh, the end, and the one for a dialog that is gone.
    proxy.wait_for_routed("SUBSCRIBE", 3);
    let recorded = if outside == inside { 1 } else { 2 };
    let accepted = messages
        .iter()
        .find(|message| message.text.starts_with("SIP/2.0 200"))
        .expect("a 200");
    assert_eq!(accepted.fields("Record-Route").count(), recorded);
    node.wait_for("acknowledged", 3);
}

#[test]
fn twenty_subscribers_behind_a_proxy_hear_a_change() {
    const SUBSCRIBERS: usize = 20;
    let node = quiet_node();
    let proxy = Kamailio::before(&node, Transport::Udp);
    let hear = Sipp::calls(SUBSCRIBERS, "hear", Transport::Udp, proxy.address, &[]);
    node.wait_for("acknowledged", SUBSCRIBERS as u64);
    publish(&node, Transport::Udp, "300");
    let messages = finish(hear, &node, &proxy);
    came_through(&proxy, &messages, 2 * SUBSCRIBERS);
    node.wait_for("acknowledged", 2 * SUBSCRIBERS as u64);
}

#[test]
fn a_connection_that_the_proxy_closed_is_opened_anew() {
    let node = quiet_node();
    let proxy = Kamailio::idle(&node, Transport::Tcp, Duration::from_secs(2));
    let hear = Sipp::start("hear_at_last", Transport::Udp, proxy.address, &[]);
    node.wait_for("acknowledged", 1);
    let lasting = || format!("the connection lasts:\n{}", node.stderr());
    wait_until(&lasting, || (!is_connected_to(node.tcp)).then_some(()));
    // Another connection to the same proxy has to prove itself first.
    node.wait_for("acknowledged", 2);
    publish(&node, Transport::Udp, "300");
    finish(hear, &node, &proxy);
    let counters = node.counters();
    assert!(counters.get("opened") > 0, "{}", node.stderr());
    assert_eq!(counters.get("removed"), 0, "{}", node.stderr());
}

/// Whether anybody holds a connection to this listener.
fn is_connected_to(listener: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    let port = format!(":{:04X}", listener.port());
    // Columns: number, local address, remote address, state; 01 is established.
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields.get(3) == Some(&"01")
    })
}

fn finish(subscriber: Sipp, node: &Node, proxy: &Kamailio) -> Vec<Message> {
    let finished =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| subscriber.finish(node)));
    finished.unwrap_or_else(|failure| {
        eprintln!("--- Kamailio\n{}", proxy.log());
        std::panic::resume_unwind(failure)
    })
}

/// Every NOTIFY passed the proxy, which recorded itself in it; none came twice.
fn came_through(proxy: &Kamailio, messages: &[Message], count: usize) {
    let notifies: Vec<&Message> = messages
        .iter()
        .filter(|message| message.is_notify())
        .collect();
    let own = proxy.address.to_string();
    for notify in &notifies {
        let vias: Vec<&str> = notify.fields("Via").collect();
        assert_eq!(vias.len(), 2, "{}", notify.text);
        assert!(vias[0].contains(&own), "{}", notify.text);
        assert!(notify.fields("Record-Route").count() > 0, "{}", notify.text);
        assert_eq!(notify.fields("Route").count(), 0, "{}", notify.text);
    }
    assert!(notifies.len() >= count, "{} NOTIFYs", notifies.len());
    proxy.wait_for_routed("NOTIFY", count);
}
