//! Unmodified SIP software that profits: SIPp calls servers by way of the redirect adapter and by way of a Kamailio whose
//! destinations the dispatcher adapter keeps, while servers are killed, overloaded and taken away.

#[allow(dead_code, reason = "shared with a benchmark")]
mod balancer;
mod by_dns;
mod calls;
#[path = "../nodes/farm.rs"]
#[allow(dead_code, reason = "shared with the tests of nodes")]
mod farm;
#[path = "../tools/process.rs"]
#[allow(dead_code, reason = "shared with the tests of the tools")]
mod process;
mod servers;
#[path = "../interop/sipp.rs"]
#[allow(dead_code, reason = "shared with the tests of interoperation")]
mod sipp;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of interoperation")]
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use balancer::Balancer;
use calls::{Call, calls, lost, taken_at};
use farm::{Node, Publisher};
use process::Fanfare;
use rustix::process::Signal;
use servers::{SHORT, Server, now};
use sipp::{Sipp, Transport};
use support::wait_until;

const DOMAIN: [&str; 2] = ["--domain", "example.com"];

/// How many calls each of these servers took.
fn taken_by(calls: &[Call], servers: &[Server]) -> Vec<usize> {
    let one = |server: &Server| taken_at(calls, server.at);
    servers.iter().map(one).collect()
}

fn adapt(adapter: &str, node: &Node, more: &[&str]) -> Fanfare {
    let via = node.sip.to_string();
    let flags = ["adapt", adapter, "--via", &via, "--service", "proxy"];
    Fanfare::run(&[&flags[..], &DOMAIN, more].concat())
}

fn redirect(node: &Node) -> (Fanfare, SocketAddr) {
    let adapter = adapt("redirect", node, &["--listen", "127.0.0.1:0"]);
    let ready = adapter.line();
    let at = ready
        .strip_prefix("fanfare redirect ready udp=")
        .expect("it says where it is");
    let at = at.parse().expect("an address");
    await_redirection(at);
    (adapter, at)
}

/// Until it sends callers elsewhere: it listens before it has heard of any server, and refuses until then.
fn await_redirection(at: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let from = socket.local_addr().expect("its address");
    socket.connect(at).expect("an address to send to");
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a time above 0");
    let mut asked = 0;
    wait_until(&|| "nobody is redirected".to_owned(), || {
        asked += 1;
        let request = format!(
            "OPTIONS sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{asked}\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@{from}>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {asked}@{from}\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        );
        // An adapter that is not there yet, or is slow, is asked again.
        socket.send(request.as_bytes()).ok()?;
        let mut bytes = [0; 2_048];
        let length = socket.recv(&mut bytes).ok()?;
        bytes[..length].starts_with(b"SIP/2.0 302 ").then_some(())
    });
}

/// So many callers, 50 a second.
fn callers(scenario: &str, at: SocketAddr, calls: usize) -> Sipp {
    Sipp::calls(calls, scenario, Transport::Udp, at, &["-r", "50"])
}

/// Until the callers have ended so many calls.
fn await_calls(callers: &Sipp, count: usize) {
    let short = || format!("not {count} calls have ended");
    wait_until(&short, || (callers.ended_calls() >= count).then_some(()));
}

/// Three servers that are up at a node, and a watch that has seen them.
fn three(node: &Node) -> (Vec<Server>, farm::Watch) {
    let servers: Vec<Server> = [50, 30, 20]
        .iter()
        .zip(1..)
        .map(|(weight, number)| Server::start(&format!("p{number}"), *weight, node.sip))
        .collect();
    let watch = node.watch();
    watch.view_where(|view| {
        servers
            .iter()
            .all(|server| view.status(&server.id) == Some("up"))
    });
    (servers, watch)
}

#[test]
fn callers_that_are_redirected_lose_no_call_once_a_dead_server_is_known_to_be_dead() {
    let node = Node::start("n1", &[], &[]);
    let (mut servers, watch) = three(&node);
    servers[0].publish_for(SHORT, node.sip);
    let (_adapter, at) = redirect(&node);
    let callers = callers("call_redirected", at, 500);
    await_calls(&callers, 100);
    let killed = servers.remove(0).kill();
    watch.status("p1", "down");
    let known = now();
    let calls = calls(&callers.messages_at_the_end());
    assert_eq!(calls.len(), 500);
    let lost = lost(&calls);
    // The adapter hears it when the watch does, give or take what else the machine does.
    let slack = Duration::from_secs(1);
    for call in &lost {
        assert!(
            call.begun + Duration::from_secs(1) > killed && call.begun < known + slack,
            "killed at {killed:?}, known at {known:?}: {call:?}"
        );
    }
    let taken = taken_by(&calls, &servers);
    assert!(
        !lost.is_empty() && taken.iter().all(|taken| *taken > 0),
        "{} lost; {taken:?}",
        lost.len()
    );
    println!(
        "{} of 500 calls lost, known after {:?}",
        lost.len(),
        known - killed
    );
}

#[test]
fn a_server_that_is_taken_away_gently_loses_no_call() {
    let node = Node::start("n1", &[], &[]);
    let (mut servers, watch) = three(&node);
    let (_adapter, at) = redirect(&node);
    let callers = callers("call_redirected", at, 400);
    await_calls(&callers, 100);
    let leaving = servers.remove(0);
    leaving.publisher.signal(Signal::TERM);
    watch.status("p1", "deleted");
    await_calls(&callers, 250);
    leaving.kill();
    let calls = calls(&callers.messages_at_the_end());
    let lost = lost(&calls);
    assert_eq!((calls.len(), lost.len()), (400, 0), "{lost:?}");
}

#[test]
fn kamailio_balances_by_weight_and_load_and_leaves_whom_the_table_says_to_leave() {
    let node = Node::start("n1", &[], &[]);
    let (mut servers, watch) = three(&node);
    let balancer = Balancer::start();
    let rpc = balancer.rpc.to_string();
    let _adapter = adapt("dispatcher", &node, &["--rpc", &rpc]);
    balancer.await_set(&[("p1", true), ("p2", true), ("p3", true)], 3);
    // A hundred calls in a row are spread exactly; the shares are by weight, for the loads are alike.
    let callers_of = |count| callers("call", balancer.sip, count);
    let spread = calls(&callers_of(300).messages_at_the_end());
    let broken = lost(&spread);
    assert_eq!((spread.len(), broken.len()), (300, 0), "{broken:?}");
    for (taken, share) in taken_by(&spread, &servers).into_iter().zip([150, 90, 60]) {
        assert!(
            taken.abs_diff(share) <= share / 10,
            "{taken} of 300, {share} are right"
        );
    }
    // One is full: its share is nothing, and what it has stays.
    let overloaded = format!(
        "{{\"domain\":\"example.com\",\"servers\":[{{\"id\":\"p2\",\"status\":\"overloaded\",\"load\":100,\"weight\":30,\
         \"addresses\":[{{\"ip\":\"{}\",\"port\":{},\"transport\":\"udp\"}}],\"services\":[\"proxy\"]}}]}}",
        servers[1].at.ip(),
        servers[1].at.port()
    );
    servers[1].publisher.signal(Signal::KILL);
    Publisher::new().publish_body(node.sip, &overloaded).tag();
    balancer.await_set(&[("p1", true), ("p2", false), ("p3", true)], 3);
    let without = calls(&callers_of(100).messages_at_the_end());
    let broken = lost(&without);
    assert_eq!((without.len(), broken.len()), (100, 0), "{broken:?}");
    assert_eq!(taken_by(&without, &servers)[1], 0);
    // One dies: nothing is lost that begins once that is known.
    servers[0].publish_for(SHORT, node.sip);
    let callers = callers_of(300);
    await_calls(&callers, 50);
    servers.remove(0).kill();
    watch.status("p1", "down");
    balancer.await_set(&[("p1", false), ("p2", false), ("p3", true)], 3);
    let known = now();
    let calls = calls(&callers.messages_at_the_end());
    let lost = lost(&calls);
    let late = |call: &&&Call| call.begun > known;
    assert_eq!(lost.iter().find(late), None, "known at {known:?}");
    println!("{} of {} calls lost", lost.len(), calls.len());
}

#[test]
fn a_kamailio_that_was_away_is_set_straight_when_it_is_back() {
    let node = Node::start("n1", &[], &[]);
    let mut publisher = Publisher::new();
    publisher.publish(node.sip, "p1", 10, 600).tag();
    let mut balancer = Balancer::start();
    let rpc = balancer.rpc.to_string();
    let adapter = adapt("dispatcher", &node, &["--rpc", &rpc]);
    balancer.await_set(&[("p1", true)], 1);
    balancer.kill();
    let body = "{\"domain\":\"example.com\",\"servers\":[{\"id\":\"p2\",\"status\":\"up\",\"services\":[\"proxy\"],\
                \"addresses\":[{\"ip\":\"192.0.2.2\",\"port\":5070,\"transport\":\"tcp\"}]}]}";
    let tag = publisher.publish_body(node.sip, body).tag();
    let said = || adapter.log();
    wait_until(&said, || {
        adapter
            .log()
            .contains("trying until it works")
            .then_some(())
    });
    balancer.start_again();
    balancer.await_set(&[("p1", true), ("p2", true)], 2);
    // What leaves the table leaves the set.
    publisher.refresh(node.sip, &tag, 0);
    balancer.await_set(&[("p1", true)], 1);
    wait_until(&said, || {
        adapter.log().contains("takes calls again").then_some(())
    });
    adapter.signal(Signal::TERM);
    let (status, log) = adapter.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_notifier_that_begins_anew_does_not_empty_kamailio() {
    let node = Node::start("n1", &[], &[]);
    let sip = node.sip.to_string();
    Publisher::new().publish(node.sip, "p1", 10, 600).tag();
    let balancer = Balancer::start();
    let rpc = balancer.rpc.to_string();
    let _adapter = adapt("dispatcher", &node, &["--rpc", &rpc]);
    balancer.await_set(&[("p1", true)], 1);
    node.process.signal(Signal::TERM);
    assert_eq!(node.process.end().0.code(), Some(0));
    let node = Node::start("n1", &[], &["--listen", &sip]);
    let body = "{\"domain\":\"example.com\",\"servers\":[{\"id\":\"p2\",\"status\":\"up\",\"services\":[\"proxy\"],\
                \"addresses\":[{\"ip\":\"192.0.2.2\",\"port\":5070,\"transport\":\"tcp\"}]}]}";
    Publisher::new().publish_body(node.sip, body).tag();
    // What the table says of one that it knows is done; of the other it has not heard yet.
    let both = [("p1", true), ("p2", true)];
    balancer.await_set(&both, 2);
    // It may change the list 1.1 s after it last did.
    balancer.keeps_set(&both, 2, Duration::from_secs(3));
}
