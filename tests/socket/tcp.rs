//! SIP over TCP (RFC 3261 18): framing, connections that live, end, or never come to be, and bounds on what a peer may do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use crate::node::{Node, PATIENCE, until};
use crate::sip::{Draft, Message, Tcp, Udp, document, options, publish, serves, subscribe};

const V4: &str = "127.0.0.1:0";

/// Publishes a new server over UDP, again until it is answered as Timer E would.
fn announce(node: SocketAddr, id: &str) {
    let peer = Udp::new(node);
    let draft = publish("UDP", peer.address, id);
    let answer = until("the answer to PUBLISH", || {
        peer.send(&draft.bytes());
        peer.receive_within(Duration::from_secs(4))
    });
    assert_eq!(answer.status(), 200, "{answer:?}");
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(V4).expect("loopback has ports");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn accept(listener: &TcpListener) -> Tcp {
    listener.set_nonblocking(true).expect("it can");
    let stream = until("a connection of the node", || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("it can");
    Tcp::of(stream)
}

fn contact(draft: Draft, address: SocketAddr) -> Draft {
    draft.with("Contact", &format!("<sip:test@{address};transport=tcp>"))
}

#[test]
fn a_subscription_and_its_changes_stay_on_one_connection() {
    for (io, listen) in [("uring", V4), ("mmsg", V4), ("uring", "[::1]:0")] {
        let node = Node::start(&["--io", io, "--shards", "2", "--listen", listen]);
        let mut peer = Tcp::new(node.address());
        let first = peer.subscribe();
        assert!(first.get("Via").starts_with("SIP/2.0/TCP "), "{first:?}");
        assert_eq!(first.attribute("state"), Some("full"));
        announce(node.address(), "p1");
        let change = peer.notified();
        assert_eq!(change.servers(), ["p1"]);
        assert_eq!(node.counter("opened"), 0, "no other connection was needed");
        assert!(node.stop().status.success());
    }
}

#[test]
fn a_refresh_and_an_end_go_by_the_same_connection() {
    let node = Node::start(&["--shards", "2"]);
    let mut peer = Tcp::new(node.address());
    let draft = subscribe("TCP", peer.address);
    let tag = peer.ask(&draft).get("To").to_owned();
    peer.notified();
    let refresh = draft.clone().with("To", &tag).with("CSeq", "2 SUBSCRIBE");
    let refresh = refresh.with("Via", "SIP/2.0/TCP host;branch=z9hG4bKrefresh");
    assert_eq!(peer.ask(&refresh).status(), 200);
    peer.notified();
    let end = refresh.with("CSeq", "3 SUBSCRIBE").with("Expires", "0");
    let end = end.with("Via", "SIP/2.0/TCP host;branch=z9hG4bKend");
    assert_eq!(peer.ask(&end).status(), 200);
    let last = peer.notified();
    let state = last.get("Subscription-State");
    assert!(state.starts_with("terminated;reason=timeout"), "{state}");
}

#[test]
fn single_bytes_and_many_messages_in_one_segment_are_the_same_messages() {
    for io in ["uring", "mmsg"] {
        let node = Node::start(&["--io", io, "--shards", "1"]);
        let mut peer = Tcp::new(node.address());
        let address = peer.address;
        for byte in options("TCP", address).bytes() {
            peer.send(&[byte]);
        }
        assert_eq!(peer.receive().status(), 200);
        let drafts: Vec<Draft> = (0..100).map(|_| options("TCP", address)).collect();
        let segment: Vec<u8> = drafts.iter().flat_map(Draft::bytes).collect();
        peer.send(&segment);
        for draft in &drafts {
            assert_eq!(peer.receive().get("Call-ID"), draft.get("Call-ID"));
        }
    }
}

#[test]
fn keep_alives_stand_between_messages_and_a_double_one_is_answered() {
    let node = Node::start(&["--shards", "1"]);
    let mut peer = Tcp::new(node.address());
    peer.send(b"\r\n\r\n");
    let mut pong = [0; 2];
    peer.stream.read_exact(&mut pong).expect("a pong");
    assert_eq!(&pong, b"\r\n");
    let draft = options("TCP", peer.address);
    peer.send(
        &[
            b"\r\n",
            &draft.bytes()[..],
            b"\r\n\r\n",
            &draft.bytes(),
            b"\r\n",
        ]
        .concat(),
    );
    assert_eq!(peer.receive().status(), 200);
    assert_eq!(peer.receive().status(), 200);
    assert_eq!(node.counter("bad_streams"), 0);
}

#[test]
fn after_its_connection_closed_a_subscription_goes_on_by_one_to_its_contact() {
    for io in ["uring", "mmsg"] {
        let node = Node::start(&["--io", io, "--shards", "2"]);
        let (listener, address) = listener();
        let mut peer = Tcp::new(node.address());
        let draft = contact(subscribe("TCP", peer.address), address);
        assert_eq!(peer.ask(&draft).status(), 200);
        let first = peer.notified();
        // The node has taken the 200 before the end of the connection.
        node.counts("acknowledged", 1);
        peer.close();
        // The new target shows that it wants NOTIFYs before any change goes there.
        let mut back = accept(&listener);
        let full = back.notified();
        assert_eq!(full.attribute("state"), Some("full"));
        assert_eq!(full.get("Call-ID"), first.get("Call-ID"));
        announce(node.address(), "p1");
        let next = back.notified();
        assert_eq!(next.servers(), ["p1"], "the open connection is reused");
        assert_eq!(node.counter("opened"), 1);
        // Requests that come on the connection the node opened are answered on it.
        let ask = options("TCP", back.address);
        assert_eq!(back.ask(&ask).status(), 200);
        node.counts("acknowledged", 3);
        back.close();
        node.counts("closed", 2);
        announce(node.address(), "p2");
        assert_eq!(accept(&listener).notified().servers(), ["p2"]);
    }
}

#[test]
fn a_refresh_on_the_connection_that_the_node_opened_binds_nothing_to_its_number() {
    let node = Node::start(&["--shards", "1"]);
    let (listener, address) = listener();
    let udp = Udp::new(node.address());
    let draft = contact(subscribe("UDP", udp.address), address);
    let answer = udp.ask(&draft);
    assert_eq!(answer.status(), 200);
    let mut back = accept(&listener);
    back.notified();
    let refresh = draft
        .clone()
        .with("To", answer.get("To"))
        .with("CSeq", "2 SUBSCRIBE");
    let refresh = refresh.with("Via", "SIP/2.0/TCP host;branch=z9hG4bKrefresh");
    assert_eq!(back.ask(&refresh).status(), 200);
    back.notified();
    node.counts("acknowledged", 2);
    back.close();
    let mut again = accept(&listener);
    assert_eq!(again.notified().get("Call-ID"), draft.get("Call-ID"));
    announce(node.address(), "p1");
    assert_eq!(again.notified().servers(), ["p1"]);
}

#[test]
fn a_contact_that_refuses_connections_is_tried_again_and_then_removed() {
    let node = Node::start(&["--shards", "1"]);
    // A port that was free a moment ago, and refuses.
    let (_, address) = listener();
    let peer = Udp::new(node.address());
    let draft = contact(subscribe("UDP", peer.address), address);
    assert_eq!(peer.ask(&draft).status(), 200);
    node.counts("connect_failures", 2);
    until("its removal", || {
        let counters = node.counters();
        let removed = counters.get("removed").copied();
        (removed == Some(1) && counters["live"] == 0).then_some(())
    });
    let counters = node.counters();
    assert!(counters["connect_failures"] >= 5, "{counters:?}");
    assert!(counters["transport_errors"] >= 5, "{counters:?}");
    serves(node.address());
}

#[test]
fn a_contact_over_tcp_gets_its_notifys_by_tcp_though_it_subscribed_by_udp() {
    let node = Node::start(&["--shards", "2"]);
    let (listener, address) = listener();
    let peer = Udp::new(node.address());
    let draft = contact(subscribe("UDP", peer.address), address);
    assert_eq!(peer.ask(&draft).status(), 200);
    let mut back = accept(&listener);
    let first = back.notified();
    assert!(first.get("Via").starts_with("SIP/2.0/TCP "));
    assert_eq!(first.get("Call-ID"), draft.get("Call-ID"));
    announce(node.address(), "p1");
    assert_eq!(back.notified().servers(), ["p1"]);
}

#[test]
fn publishers_over_tcp_publish_refresh_and_remove() {
    for io in ["uring", "mmsg"] {
        let node = Node::start(&["--io", io, "--shards", "2"]);
        let mut peer = Tcp::new(node.address());
        let answer = peer.ask(&publish("TCP", peer.address, "p1"));
        assert_eq!(answer.status(), 200);
        let refresh = publish("TCP", peer.address, "p1")
            .body("application/serverinfo+xml", b"")
            .without("Content-Type")
            .add("SIP-If-Match", answer.get("SIP-ETag"));
        let answer = peer.ask(&refresh);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let mut subscriber = Tcp::new(node.address());
        assert_eq!(subscriber.subscribe().servers(), ["p1"]);
        let remove = refresh.with("SIP-If-Match", answer.get("SIP-ETag"));
        let remove = remove
            .with("Expires", "0")
            .with("Via", "SIP/2.0/TCP host;branch=z9hG4bKremove");
        assert_eq!(peer.ask(&remove).status(), 200);
        let change = subscriber.notified();
        assert!(change.body.contains("state=\"deleted\""), "{change:?}");
    }
}

const SERVERS: usize = 500;

/// A table of 500 servers, published over one connection.
fn populate(node: SocketAddr) {
    let mut peer = Tcp::new(node);
    let address = peer.address;
    let more = "<service name=\"proxy\"/><attribute name=\"region\">eu-1</attribute>";
    for number in 0..SERVERS {
        let id = format!("server-{number:03}");
        let draft = publish("TCP", address, &id)
            .body("application/serverinfo+xml", &document(&id, "up", more));
        peer.send(&draft.bytes());
    }
    for _ in 0..SERVERS {
        assert_eq!(peer.receive().status(), 200);
    }
}

fn ids() -> Vec<String> {
    (0..SERVERS)
        .map(|number| format!("server-{number:03}"))
        .collect()
}

#[test]
fn five_hundred_servers_reach_tcp_whole_and_udp_in_parts() {
    let node = Node::start(&["--shards", "2"]);
    populate(node.address());
    let mut tcp = Tcp::new(node.address());
    let whole = tcp.subscribe();
    assert_eq!(whole.attribute("state"), Some("full"));
    assert_eq!(whole.attribute("parts"), None);
    assert_eq!(whole.servers(), ids());

    let udp = Udp::new(node.address());
    assert_eq!(udp.ask(&subscribe("UDP", udp.address)).status(), 200);
    let parts = until_complete(&udp);
    let servers: Vec<&str> = parts.iter().flat_map(Message::servers).collect();
    assert_eq!(servers, ids());
    for (place, part) in parts.iter().enumerate() {
        assert!(part.len <= 1_300, "{} bytes", part.len);
        assert_eq!(part.attribute("view"), whole.attribute("view"));
        assert_eq!(part.attribute("part"), Some(&*(place + 1).to_string()));
        assert_eq!(part.attribute("version"), Some(&*(place + 1).to_string()));
    }
}

/// Takes parts until the last, each answered.
fn until_complete(peer: &Udp) -> Vec<Message> {
    let mut parts: Vec<Message> = Vec::new();
    loop {
        let part = peer.notified();
        // A repeat of what was answered late.
        if parts
            .last()
            .is_some_and(|last| last.get("CSeq") == part.get("CSeq"))
        {
            continue;
        }
        let all: usize = part
            .attribute("parts")
            .expect("a part")
            .parse()
            .expect("a count");
        parts.push(part);
        if parts.len() == all {
            return parts;
        }
    }
}

#[test]
fn connections_without_a_message_or_with_half_of_one_are_cut() {
    for io in ["uring", "mmsg"] {
        let node = Node::configured("tcp-stall = \"300ms\"", &["--io", io, "--shards", "1"]);
        let mut silent = Tcp::new(node.address());
        let mut half = Tcp::new(node.address());
        let draft = options("TCP", half.address);
        assert_eq!(half.ask(&draft).status(), 200);
        half.send(&draft.bytes()[..40]);
        // A head that trickles is no life.
        let mut trickle = TcpStream::connect(node.address()).expect("the node listens");
        let trickling = std::thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            trickle
                .write_all(b"OPTIONS sip:a SIP/2.0\r\nX: ")
                .expect("open");
            while Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
                if trickle.write_all(b"x").is_err() {
                    return true;
                }
            }
            false
        });
        assert!(silent.next().is_none());
        assert!(half.next().is_none());
        assert!(
            trickling.join().expect("no panic"),
            "the trickle is never cut"
        );
        assert_eq!(node.counter("bad_streams"), 3);
        serves(node.address());
    }
}

#[test]
fn an_endless_head_a_huge_body_and_no_length_are_cut_at_once() {
    let node = Node::start(&["--shards", "1"]);
    let start = &b"OPTIONS sip:a SIP/2.0\r\n"[..];
    let endless = [start, b"X: ", &vec![b'x'; 70_000]].concat();
    let lines = [start, &b"X: x\r\n".repeat(12_000)].concat();
    let noise = vec![0x55; 70_000];
    let huge = [start, b"Content-Length: 999999999\r\n\r\n"].concat();
    let lengthless = [start, b"Via: SIP/2.0/TCP a;branch=z9hG4bKa\r\n\r\n"].concat();
    let overflowing = [start, b"l: 18446744073709551616\r\n\r\n"].concat();
    for (count, stream) in [endless, lines, noise, huge, lengthless, overflowing]
        .iter()
        .enumerate()
    {
        let mut peer = Tcp::new(node.address());
        // The node may cut while we still write.
        let _ = peer.stream.write_all(stream);
        assert!(peer.next().is_none());
        assert_eq!(node.counter("bad_streams"), count as u64 + 1);
    }
    serves(node.address());
}

#[test]
fn what_was_asked_before_a_bad_message_or_the_end_is_still_answered() {
    let node = Node::start(&["--shards", "1"]);
    let mut peer = Tcp::new(node.address());
    let draft = options("TCP", peer.address);
    peer.send(&[&draft.bytes()[..], b"\0\0\0\r\n\r\n"].concat());
    assert_eq!(peer.receive().status(), 200);
    assert!(peer.next().is_none());
    let mut peer = Tcp::new(node.address());
    peer.send(&options("TCP", peer.address).bytes());
    let shut = peer.stream.shutdown(std::net::Shutdown::Write);
    shut.expect("the connection is open");
    assert_eq!(peer.receive().status(), 200);
    assert!(peer.next().is_none(), "a half-closed connection is closed");
}

/// A connection whose receive window is as small as can be.
fn narrow(node: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket
        .set_recv_buffer_size(1)
        .expect("the kernel has a least");
    socket.connect(&node.into()).expect("the node listens");
    socket.into()
}

#[test]
fn a_slow_reader_is_cut_while_others_are_served() {
    for io in ["uring", "mmsg"] {
        let node = Node::configured(
            "tcp-stall = \"500ms\"\ntcp-queue-most = 65536",
            &["--io", io, "--shards", "1"],
        );
        let (listener, address) = listener();
        // It asks and asks, and reads nothing.
        let mut slow = narrow(node.address());
        slow.set_write_timeout(Some(Duration::from_millis(200)))
            .expect("it can");
        let draft = options("TCP", address).add("X", &"x".repeat(1_000)).bytes();
        let (enough, stop) = std::sync::mpsc::channel::<()>();
        let asking = std::thread::spawn(move || {
            while stop.try_recv() == Err(TryRecvError::Empty) {
                // Sooner or later the node takes no more of it, or has cut it.
                let _ = slow.write_all(&draft);
            }
        });
        let mut other = Tcp::new(node.address());
        other.subscribe();
        announce(node.address(), "p1");
        assert_eq!(other.notified().servers(), ["p1"]);
        node.counts("slow_readers", 1);
        node.counts("closed", 1);
        drop(enough);
        asking.join().expect("no panic");
        announce(node.address(), "p2");
        assert_eq!(other.notified().servers(), ["p2"]);
        drop(listener);
    }
}

#[test]
fn more_connections_than_allowed_are_closed_at_once() {
    for limit in ["tcp-connections-most = 3", "tcp-network-most = 3"] {
        let node = Node::configured(limit, &["--shards", "1"]);
        let mut peers: Vec<Tcp> = (0..3).map(|_| Tcp::new(node.address())).collect();
        for peer in &mut peers {
            let draft = options("TCP", peer.address);
            assert_eq!(peer.ask(&draft).status(), 200);
        }
        assert!(Tcp::new(node.address()).next().is_none(), "{limit}");
        assert_eq!(node.counter("connections_refused"), 1);
        let freed = peers.pop().expect("three");
        let draft = options("TCP", freed.address);
        freed.close();
        until("a free place", || {
            let mut peer = Tcp::new(node.address());
            // It may be closed under our hands while the place is not yet free.
            peer.stream.write_all(&draft.bytes()).ok()?;
            peer.next().filter(|answer| answer.status() == 200)
        });
    }
}

#[test]
fn a_name_in_the_contact_is_looked_up() {
    let node = Node::start(&["--shards", "2"]);
    let (listener, address) = listener();
    let udp = Udp::new(node.address());
    let named = format!("<sip:test@localhost:{};transport=tcp>", address.port());
    let draft = subscribe("UDP", udp.address).with("Contact", &named);
    assert_eq!(udp.ask(&draft).status(), 200);
    accept(&listener).notified();
    let port = udp.address.port();
    let named = subscribe("UDP", udp.address).with("Contact", &format!("<sip:a@localhost:{port}>"));
    assert_eq!(udp.ask(&named).status(), 200);
    udp.notified();
    assert!(node.counter("lookups") >= 2);
}

#[test]
fn a_name_that_leads_nowhere_is_refused_and_told() {
    for resolver in ["true", "false"] {
        let toml = format!("resolver = {resolver}");
        let node = Node::configured(&toml, &["--shards", "1"]);
        let udp = Udp::new(node.address());
        let draft = subscribe("UDP", udp.address).with("Contact", "<sip:a@nowhere.invalid>");
        let answer = udp.ask(&draft);
        assert_eq!(answer.status(), 400);
        let warning = answer.get("Warning");
        assert!(warning.contains("nowhere.invalid"), "{warning}");
        serves(node.address());
    }
}
