//! Sockets of one address for several shards: who may have the address, what the queues hold, and which shard an answer
//! reaches. Against the real kernel.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use fanfare::io::sockets::{BindError, RECEIVE_BUFFER, bind_shards, receive_buffer};
use fanfare::io::steering;

const PATIENCE: Duration = Duration::from_secs(20);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("the text is an address")
}

#[test]
fn shards_share_one_port_that_nobody_else_gets() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let sockets = bind_shards(address(any), 4, None).unwrap();
        let bound = sockets[0].local_addr().unwrap();
        assert_ne!(bound.port(), 0);
        for socket in &sockets {
            assert_eq!(socket.local_addr().unwrap(), bound);
        }
        for shards in [1, 4] {
            // Another node of the same user sets SO_REUSEPORT just as well.
            let refused = bind_shards(bound, shards, None);
            assert!(
                matches!(refused, Err(BindError::InUse { address }) if address == bound),
                "{refused:?}"
            );
        }
        drop(sockets);
        bind_shards(bound, 2, None).unwrap();
    }
}

#[test]
fn an_address_that_a_stranger_owns_is_refused_by_name() {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    for wanted in [taken, address(&format!("0.0.0.0:{}", taken.port()))] {
        let refused = bind_shards(wanted, 2, None).unwrap_err();
        assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains(&wanted.to_string()));
    }
    let foreign = bind_shards(address("192.0.2.1:0"), 1, None).unwrap_err();
    assert!(
        matches!(
            foreign,
            BindError::Io {
                operation: "bind",
                ..
            }
        ),
        "{foreign}"
    );
}

#[test]
fn both_families_have_one_port_side_by_side() {
    let v6 = bind_shards(address("[::]:0"), 2, None).unwrap();
    let port = v6[0].local_addr().unwrap().port();
    // Another process may own the port's IPv4 side by now: that is no fault of ours.
    match bind_shards(address(&format!("0.0.0.0:{port}")), 2, None) {
        Ok(v4) => assert_eq!(v4.len(), 2),
        Err(BindError::InUse { .. }) => {
            UdpSocket::bind(("127.0.0.1", port)).unwrap_err();
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_receive_buffer_holds_what_was_asked_for() {
    let plain = bind_shards(address("127.0.0.1:0"), 2, Some(212_992)).unwrap();
    for socket in &plain {
        assert_eq!(receive_buffer(socket).unwrap(), 212_992);
    }
    let untouched = UdpSocket::bind("127.0.0.1:0").unwrap();
    let large = bind_shards(address("127.0.0.1:0"), 1, None).unwrap();
    let got = receive_buffer(&large[0]).unwrap();
    assert!(got > receive_buffer(&untouched).unwrap() && got <= RECEIVE_BUFFER);
}

fn steered(any: &str, shards: usize) -> (Vec<UdpSocket>, SocketAddr, String) {
    let sockets = bind_shards(address(any), shards, None).expect("loopback has ports");
    let bound = sockets[0].local_addr().expect("the socket is bound");
    let sent_by = bound.to_string();
    steering::attach(&sockets, &[&sent_by, "fanfare.example.com:5060"])
        .expect("the kernel takes the program");
    for socket in &sockets {
        socket
            .set_nonblocking(true)
            .expect("a socket can be nonblocking");
    }
    (sockets, bound, sent_by)
}

/// Which of the sockets got the one datagram that is under way.
fn taker(sockets: &[UdpSocket], expected: &[u8]) -> usize {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while std::time::Instant::now() < deadline {
        for (shard, socket) in sockets.iter().enumerate() {
            if let Ok(len) = socket.recv(&mut buffer) {
                assert_eq!(buffer[..len], *expected);
                return shard;
            }
        }
        std::thread::yield_now();
    }
    panic!("the datagram did not arrive");
}

/// To which shards a message goes that is sent from many ports, as the kernel's hash needs to spread it.
fn takers(sockets: &[UdpSocket], bound: SocketAddr, message: &[u8]) -> BTreeSet<usize> {
    (0..40)
        .map(|_| {
            let peer = UdpSocket::bind((bound.ip(), 0)).expect("loopback has ports");
            peer.send_to(message, bound)
                .expect("loopback takes a datagram");
            taker(sockets, message)
        })
        .collect()
}

const REST: &str = ";rport=5060\r\nFrom: <sip:example.com>;tag=a1\r\nTo: <sip:bob@example.com>;tag=b2\r\nCall-ID: 12345678@192.0.2.1\r\nCSeq: 1 NOTIFY\r\nContent-Length: 0\r\n\r\n";

fn answer(status: &str, via: &str, sent_by: &str, branch: &str) -> Vec<u8> {
    format!("SIP/2.0 {status}\r\n{via}SIP/2.0/UDP {sent_by};branch={branch}{REST}").into_bytes()
}

#[test]
fn an_answer_reaches_the_shard_that_its_branch_names() {
    let (sockets, bound, sent_by) = steered("127.0.0.1:0", 4);
    let statuses = [
        "200 OK",
        "200 ",
        "481 Call/Transaction Does Not Exist",
        "202 Accepted",
    ];
    for shard in 0..4 {
        let branch = format!("z9hG4bK{shard:02x}00000000abcdef");
        for status in statuses {
            for via in ["Via: ", "Via:", "via: ", "v: ", "v:", "V: ", "VIA:"] {
                for sent_by in [&sent_by, "fanfare.example.com:5060"] {
                    let message = answer(status, via, sent_by, &branch);
                    let reached = takers(&sockets, bound, &message);
                    assert_eq!(reached, BTreeSet::from([shard]), "{status} {via}{sent_by}");
                }
            }
        }
    }
}

#[test]
fn shards_beyond_ten_are_read_too() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let (sockets, bound, sent_by) = steered(any, 32);
        for shard in [0, 9, 10, 15, 16, 26, 31] {
            let branch = format!("z9hG4bK{shard:02x}77");
            let message = answer("200 OK", "Via: ", &sent_by, &branch);
            let reached = takers(&sockets, bound, &message);
            assert_eq!(reached, BTreeSet::from([shard]), "{sent_by}");
        }
    }
}

#[test]
fn what_cannot_be_read_goes_by_the_hash_and_is_not_lost() {
    let (sockets, bound, sent_by) = steered("127.0.0.1:0", 4);
    let long_reason = format!("200 {}", "x".repeat(80));
    let unreadable = [
        answer("200 OK", "Via: ", &sent_by, "z9hG4bK04aaaa"),
        answer("200 OK", "Via: ", &sent_by, "z9hG4bKffaaaa"),
        answer("200 OK", "Via: ", &sent_by, "z9hG4bK0Gaaaa"),
        answer("200 OK", "Via: ", &sent_by, "z9hG4bK0Aaaaa"),
        answer("200 OK", "Via: ", &sent_by, "z9hG4bK /aaaa"),
        answer("200 OK", "Via: ", &sent_by, "z9hG4bL00aaaa"),
        answer("200 OK", "Via: ", "a.b:1", "z9hG4bK00aaaa"),
        answer("200 OK", "From:", &sent_by, "z9hG4bK00aaaa"),
        answer(&long_reason, "Via: ", &sent_by, "z9hG4bK00aaaa"),
        format!("SUBSCRIBE sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {sent_by};branch=z9hG4bK00aaaa{REST}").into_bytes(),
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP ".to_vec(),
        b"SIP/2.0 200 OK\r\n".to_vec(),
        b"SIP/".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"S".to_vec(),
        Vec::new(),
        vec![b'\r'; 600],
        vec![b'S'; 600],
    ];
    for message in &unreadable {
        let reached = takers(&sockets, bound, message);
        assert!(
            reached.len() > 1,
            "all went to {reached:?}: {}",
            String::from_utf8_lossy(message)
        );
    }
}

#[test]
fn one_shard_needs_no_steering() {
    let (sockets, bound, sent_by) = steered("127.0.0.1:0", 1);
    let message = answer("200 OK", "Via: ", &sent_by, "z9hG4bK07aaaa");
    assert_eq!(takers(&sockets, bound, &message), BTreeSet::from([0]));
}
