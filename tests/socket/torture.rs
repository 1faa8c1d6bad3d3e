//! Bad input over the wire: RFC 4475's messages and our own. Each gets its status or a counted drop, and the node goes on.

#[path = "../torture/verdicts.rs"]
mod verdicts;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::node::{Node, PATIENCE, until};
use crate::sip::{Draft, Message, Tcp, Udp, document, options, publish, serves, subscribe};
use verdicts::{ANSWERED, Expected, VERDICTS};

/// Messages that do not say where they end on a stream, or not truly: the connection is cut.
const CUT: [&str; 6] = [
    // No Content-Length, a negative one, two of them, one beyond the body.
    "inv2543.dat",
    "ncl.dat",
    "mcl01.dat",
    "clerr.dat",
    // No empty line behind the header fields.
    "baddn.dat",
    // What begins so is not SIP.
    "bigcode.dat",
];

fn read(file: &str) -> Vec<u8> {
    let path = format!("{}/tests/torture/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the file is there")
}

/// The status that a message is due; `None` where nothing is sent.
fn due(file: &str, expected: Expected) -> Option<u16> {
    match expected {
        Expected::Status(status) => Some(status),
        Expected::Dropped => None,
        Expected::Parses => ANSWERED
            .iter()
            .find(|(name, _)| *name == file)
            .map(|(_, status)| *status),
    }
}

/// A host of our own, so that the well-known ports of the messages' sent-by are free: without rport, answers go to the
/// source address at that port (RFC 3261 18.2.2).
fn host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + (high ^ middle), low, 77)
}

fn dropped(node: &Node) -> u64 {
    let counters = node.counters();
    ["garbage", "late_answers"]
        .iter()
        .map(|name| counters.get(*name).copied().unwrap_or_default())
        .sum()
}

#[test]
fn every_message_of_rfc_4475_gets_its_verdict_over_udp() {
    let node = Node::start(&["--shards", "1"]);
    let at = |port| Udp::at((host(), port).into(), node.address());
    let (usual, other) = (at(5060), at(5050));
    for (file, expected) in VERDICTS {
        let before = dropped(&node);
        usual.send(&read(file));
        match due(file, expected) {
            Some(status) => {
                let peer = if file == "quotbal.dat" {
                    &other
                } else {
                    &usual
                };
                let answer = peer.receive_within(PATIENCE);
                let answer = answer.unwrap_or_else(|| panic!("{file} is not answered"));
                assert_eq!(answer.status(), status, "{file}: {answer:?}");
            }
            None => {
                until(file, || (dropped(&node) == before + 1).then_some(()));
            }
        }
        serves(node.address());
    }
    assert!(usual.receive_within(Duration::from_millis(1)).is_none());
    assert!(node.stop().status.success());
}

#[test]
fn every_message_of_rfc_4475_gets_its_verdict_or_is_cut_over_tcp() {
    let node = Node::configured("tcp-stall = \"500ms\"", &["--shards", "1"]);
    let mut wrong = Vec::new();
    for (file, expected) in VERDICTS {
        let mut peer = Tcp::new(node.address());
        let (before, cut) = (dropped(&node), node.counter("bad_streams"));
        peer.send(&read(file));
        let due = due(file, expected).filter(|_| !CUT.contains(&file));
        if due.is_none() && !CUT.contains(&file) {
            until(file, || (dropped(&node) == before + 1).then_some(()));
        } else {
            let found = peer.next().map(|answer| answer.status());
            if found != due {
                wrong.push((file, due, found));
            }
        }
        if due.is_none() && CUT.contains(&file) && node.counter("bad_streams") != cut + 1 {
            wrong.push((file, None, None));
        }
        serves(node.address());
    }
    assert!(wrong.is_empty(), "file, due, found: {wrong:?}");
    assert!(node.stop().status.success());
}

/// What a datagram of ours is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Status(u16),
    /// Nothing is sent; this counter counts it.
    Counted(&'static str),
    /// Nothing is sent and nothing is amiss.
    Silence,
}

use Due::{Counted, Silence, Status};

/// A fetch, so that no subscription is left behind where one is taken after all.
fn base(peer: SocketAddr) -> Draft {
    subscribe("UDP", peer).with("Expires", "0")
}

fn spoilt(draft: &Draft, from: &[u8], to: &[u8]) -> Vec<u8> {
    let bytes = draft.bytes();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .expect("the draft has it");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// Bytes of no SIP at all, or SIP that is broken off.
fn rubbish(peer: SocketAddr) -> Vec<(&'static str, Vec<u8>, Due)> {
    let whole = base(peer).bytes();
    vec![
        ("an empty datagram", Vec::new(), Silence),
        ("a keep-alive", b"\r\n\r\n".to_vec(), Silence),
        ("a short keep-alive", b"\r\n".to_vec(), Silence),
        ("a long keep-alive", b"\r\n".repeat(20_000), Silence),
        ("one NUL", vec![0], Counted("garbage")),
        ("the longest of NULs", vec![0; 65_507], Counted("garbage")),
        (
            "the longest of 0xff",
            vec![0xff; 65_507],
            Counted("garbage"),
        ),
        (
            "half a start line",
            b"SUBSCRIBE sip:exa".to_vec(),
            Counted("garbage"),
        ),
        (
            "a start line alone",
            b"OPTIONS sip:a SIP/2.0\r\n\r\n".to_vec(),
            Counted("garbage"),
        ),
        (
            "half a message",
            whole[..whole.len() / 2].to_vec(),
            Counted("garbage"),
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Counted("garbage"),
        ),
        (
            "a STUN binding",
            b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl".to_vec(),
            Counted("garbage"),
        ),
    ]
}

/// Requests with one thing wrong.
fn faulty(peer: SocketAddr) -> Vec<(&'static str, Vec<u8>, Due)> {
    let base = || base(peer);
    let many = |count: usize| {
        let mut draft = base();
        for number in 0..count {
            draft = draft.add("X", &number.to_string());
        }
        draft.bytes()
    };
    let field = |name: &str, value: &str| base().with(name, value).bytes();
    let bad = Status(400);
    vec![
        ("300 fields", many(300), bad),
        ("as many fields as a datagram holds", many(6_000), bad),
        (
            "a header field without colon",
            spoilt(&base(), b"Max-Forwards:", b"Max-Forwards "),
            bad,
        ),
        (
            "a NUL in a name",
            spoilt(&base(), b"Max-Forwards", b"Max-\0orwards"),
            bad,
        ),
        (
            "a NUL in the Request-URI",
            spoilt(&base(), b"sip:example.com SIP", b"sip:exa\0ple.com SIP"),
            bad,
        ),
        (
            "a NUL in the branch",
            spoilt(&base(), b"z9hG4bK", b"z9hG4bK\0"),
            bad,
        ),
        (
            "a NUL in the Call-ID",
            spoilt(&base(), b"@test\r\n", b"@te\0t\r\n"),
            bad,
        ),
        // Opaque to us, given back byte by byte.
        (
            "broken UTF-8 in the Call-ID",
            spoilt(&options("UDP", peer), b"@test\r\n", b"@te\xc3\r\n"),
            Status(200),
        ),
        (
            "broken UTF-8 in the tag",
            spoilt(&options("UDP", peer), b";tag=t", b";tag=\xe2\x82"),
            Status(200),
        ),
        ("CSeq of 2**32", field("CSeq", "4294967296 SUBSCRIBE"), bad),
        ("CSeq of 2**31", field("CSeq", "2147483648 SUBSCRIBE"), bad),
        (
            "CSeq of 40 digits",
            field("CSeq", &format!("{} SUBSCRIBE", "9".repeat(40))),
            bad,
        ),
        ("a negative CSeq", field("CSeq", "-1 SUBSCRIBE"), bad),
        ("CSeq without number", field("CSeq", "SUBSCRIBE"), bad),
        // RFC 4475 3.1.2.4: it may be taken as if it were absent.
        (
            "Max-Forwards of 256",
            options("UDP", peer).with("Max-Forwards", "256").bytes(),
            Status(200),
        ),
        ("a negative Max-Forwards", field("Max-Forwards", "-1"), bad),
        ("Expires of words", field("Expires", "soon"), bad),
        ("a negative Expires", field("Expires", "-600"), bad),
        (
            "Content-Length of 2**64",
            field("Content-Length", "18446744073709551616"),
            bad,
        ),
        (
            "Content-Length beyond the body",
            field("Content-Length", "1"),
            bad,
        ),
        (
            "Content-Length of words",
            field("Content-Length", "none"),
            bad,
        ),
        (
            "a negative Content-Length",
            field("Content-Length", "-0"),
            bad,
        ),
        (
            "Content-Length in hexadecimal",
            field("Content-Length", "0x0"),
            bad,
        ),
        (
            "a port of 65536 in the Contact",
            field("Contact", "<sip:a@127.0.0.1:65536>"),
            bad,
        ),
        (
            "a port of 0 in the Contact",
            field("Contact", "<sip:a@127.0.0.1:0>"),
            bad,
        ),
        (
            "a multicast Contact",
            field("Contact", "<sip:a@224.0.0.1>"),
            bad,
        ),
        (
            "a broadcast Contact",
            field("Contact", "<sip:a@255.255.255.255>"),
            bad,
        ),
        (
            "an unspecified Contact",
            field("Contact", "<sip:a@0.0.0.0>"),
            bad,
        ),
        (
            "a Contact of another family",
            field("Contact", "<sip:a@[::1]>"),
            bad,
        ),
        ("a telephone as Contact", field("Contact", "<tel:+1>"), bad),
        (
            "a Contact over TLS",
            field("Contact", "<sips:a@127.0.0.1>"),
            bad,
        ),
        (
            "a Contact over SCTP",
            field("Contact", "<sip:a@127.0.0.1;transport=sctp>"),
            bad,
        ),
        ("no Contact", base().without("Contact").bytes(), bad),
        ("no tag", field("From", "<sip:a@b>"), bad),
        (
            "an unknown dialog",
            field("To", "<sip:example.com>;tag=abcdef"),
            Status(481),
        ),
        ("no Event", base().without("Event").bytes(), Status(489)),
        ("another Event", field("Event", "presence"), Status(489)),
        (
            "Event in another case",
            field("Event", "sipSERVER"),
            Status(489),
        ),
        ("Require", field("Require", "100rel"), Status(420)),
        ("an odd Accept", field("Accept", "text/html"), Status(406)),
        ("a brief life", field("Expires", "1"), Status(423)),
        (
            "NOTIFY",
            options("UDP", peer).bytes_as("NOTIFY"),
            Status(405),
        ),
        (
            "an unknown method",
            options("UDP", peer).bytes_as("FANFARE"),
            Status(501),
        ),
        (
            "SIP/3.0",
            spoilt(&base(), b"SIP/2.0\r\n", b"SIP/3.0\r\n"),
            Status(505),
        ),
        // Behind Content-Length everything is discarded (RFC 3261 18.3).
        (
            "bytes behind the body",
            [&options("UDP", peer).bytes()[..], &[0xff; 1000]].concat(),
            Status(200),
        ),
        ("the longest datagram", longest(peer), Status(200)),
    ]
}

fn longest(peer: SocketAddr) -> Vec<u8> {
    let draft = options("UDP", peer);
    let missing = 65_507 - draft.bytes().len() - "X: \r\n".len();
    draft.add("X", &"x".repeat(missing)).bytes()
}

impl Draft {
    fn bytes_as(&self, method: &str) -> Vec<u8> {
        let mut draft = self.clone().with("CSeq", &format!("1 {method}"));
        draft.line = format!("{method} sip:example.com SIP/2.0");
        draft.bytes()
    }
}

/// Bodies that are none, in a PUBLISH and in a filter.
fn bodies(peer: SocketAddr) -> Vec<(&'static str, Vec<u8>, Due)> {
    let entities = "<!DOCTYPE serverinfo [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\
                    <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">]>";
    let outside = "<!DOCTYPE filter SYSTEM \"file:///etc/passwd\">";
    let say = |body: &[u8]| {
        publish("UDP", peer, "p1")
            .body("application/serverinfo+xml", body)
            .bytes()
    };
    let json = |body: &str| {
        publish("UDP", peer, "p1")
            .body("application/serverinfo+json", body.as_bytes())
            .bytes()
    };
    let filter = |body: &[u8]| base(peer).body("application/serverinfo", body).bytes();
    let plain = document("p1", "up", "");
    let text = String::from_utf8(plain.clone()).expect("our own");
    let xmlns = "xmlns=\"urn:fanfare:serverinfo:1\"";
    let deep = |name: &str| format!("<{name} {xmlns}>{}</{name}>", "<a>".repeat(9_000));
    let bad = Status(400);
    vec![
        (
            "PUBLISH of an XML bomb",
            say(format!("{entities}{}", text.replace("192.0.2.1", "&c;")).as_bytes()),
            bad,
        ),
        (
            "PUBLISH of a DTD",
            say(format!("{outside}{text}").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of an undeclared entity",
            say(text.replace("192.0.2.1", "&x;").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of a depth of 9,000",
            say(deep("serverinfo").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of half a document",
            say(&plain[..plain.len() - 20]),
            bad,
        ),
        (
            "PUBLISH of broken UTF-8",
            say(text
                .replace("p1", "p\u{80}")
                .replace('\u{80}', "\u{7f}")
                .as_bytes()),
            bad,
        ),
        (
            "PUBLISH of Latin-1",
            say(&[&plain[..plain.len() - 13], b"<x>\xe4\xff</x></serverinfo>"].concat()),
            bad,
        ),
        ("PUBLISH of a NUL", say(&[&plain[..], &[0]].concat()), bad),
        (
            "PUBLISH of load 101",
            say(text.replace(" status", " load=\"101\" status").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of port 65536",
            say(text.replace("5060", "65536").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of priority 65536",
            say(text
                .replace(" status", " priority=\"65536\" status")
                .as_bytes()),
            bad,
        ),
        (
            "PUBLISH of another domain",
            say(text.replace("example.com", "example.net").as_bytes()),
            bad,
        ),
        (
            "PUBLISH of too many addresses",
            say(text
                .replace(
                    "<address",
                    &"<address ip=\"192.0.2.9\" port=\"1\" transport=\"udp\"/>".repeat(20),
                )
                .replace("udp\"/> ip", "udp\"/><address ip")
                .as_bytes()),
            Status(413),
        ),
        (
            "PUBLISH of JSON of a depth of 9,000",
            json(&format!("{{\"domain\":{}", "[".repeat(9_000))),
            bad,
        ),
        (
            "PUBLISH of half JSON",
            json("{\"domain\":\"example.com\",\"servers\":[{\"id\":\"p1\""),
            bad,
        ),
        (
            "PUBLISH of a number out of range",
            json("{\"domain\":\"example.com\",\"servers\":[{\"id\":\"p1\",\"load\":1e999}]}"),
            bad,
        ),
        (
            "PUBLISH of text",
            publish("UDP", peer, "p1")
                .body("text/plain", b"p1 is up")
                .bytes(),
            Status(415),
        ),
        (
            "PUBLISH encoded",
            publish("UDP", peer, "p1")
                .add("Content-Encoding", "gzip")
                .bytes(),
            Status(415),
        ),
        (
            "PUBLISH with an unknown tag",
            publish("UDP", peer, "p1")
                .add("SIP-If-Match", "abc")
                .bytes(),
            Status(412),
        ),
        (
            "PUBLISH of nothing",
            publish("UDP", peer, "p1")
                .body("application/serverinfo+xml", b"")
                .bytes(),
            bad,
        ),
        (
            "a filter with a bomb",
            filter(
                format!("{entities}<filter {xmlns}><service name=\"&c;\"/></filter>").as_bytes(),
            ),
            bad,
        ),
        (
            "a filter with a DTD",
            filter(format!("{outside}<filter {xmlns}/>").as_bytes()),
            bad,
        ),
        (
            "a filter of a depth of 9,000",
            filter(deep("filter").as_bytes()),
            bad,
        ),
        (
            "a filter of the best 0",
            filter(format!("<filter {xmlns}><most>0</most></filter>").as_bytes()),
            bad,
        ),
        (
            "a filter of the best 99999999999",
            filter(format!("<filter {xmlns}><most>99999999999</most></filter>").as_bytes()),
            bad,
        ),
        (
            "a filter with an unknown element",
            filter(format!("<filter {xmlns}><colour/></filter>").as_bytes()),
            bad,
        ),
        (
            "a filter of another namespace",
            filter(b"<filter><most>1</most></filter>"),
            bad,
        ),
        (
            "a filter of text",
            base(peer).body("text/plain", b"all").bytes(),
            Status(415),
        ),
    ]
}

/// What was not as it should be.
fn wrong(cases: &[(&'static str, Vec<u8>, Due)], node: &Node, peer: &Udp) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, bytes, due) in cases {
        let before = match due {
            Counted(counter) => node.counter(counter),
            _ => 0,
        };
        peer.send(bytes);
        match due {
            Status(status) => match peer.receive_within(PATIENCE) {
                Some(answer) if answer.status() == *status => {}
                other => wrong.push(format!("{name}, due {status}: {other:?}")),
            },
            Counted(counter) => node.counts(counter, before + 1),
            Silence => {}
        }
        serves(node.address());
    }
    wrong
}

#[test]
fn our_own_bad_datagrams_get_a_status_or_are_counted() {
    for io in ["uring", "mmsg"] {
        let node = Node::start(&["--shards", "1", "--io", io]);
        let peer = Udp::new(node.address());
        for cases in [
            rubbish(peer.address),
            faulty(peer.address),
            bodies(peer.address),
        ] {
            let wrong = wrong(&cases, &node, &peer);
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        assert!(peer.receive_within(Duration::from_millis(1)).is_none());
        assert!(node.stop().status.success());
    }
}

#[test]
fn a_refused_filter_and_an_encoding_say_what_would_do() {
    let node = Node::start(&["--shards", "1"]);
    let peer = Udp::new(node.address());
    let text = base(peer.address).body("text/plain", b"all");
    assert_eq!(peer.ask(&text).get("Accept"), "application/serverinfo");
    let filter = base(peer.address).body("application/serverinfo", b"<filter/>");
    let answer = peer.ask(&filter.add("Content-Encoding", "gzip"));
    assert_eq!((answer.status(), answer.get("Accept-Encoding")), (415, ""));
    let dtd = base(peer.address).body("application/serverinfo", b"<!DOCTYPE filter><filter/>");
    let answer = peer.ask(&dtd);
    assert_eq!(answer.status(), 400);
    assert!(answer.get("Warning").starts_with("399 "), "{answer:?}");
}

#[test]
fn an_expires_of_more_than_32_bits_is_taken_as_the_most() {
    let node = Node::start(&["--shards", "1"]);
    for expires in ["4294967296", "99999999999999999999999999"] {
        let peer = Udp::new(node.address());
        let answer = peer.ask(&subscribe("UDP", peer.address).with("Expires", expires));
        // RFC 4475 3.1.2.4: it is no error of the whole.
        assert_eq!(answer.status(), 200, "{expires}");
        let granted: u32 = answer.get("Expires").parse().expect("a number");
        assert!((1_620..=3_600).contains(&granted), "{expires}: {granted}");
        peer.notified();
    }
}

#[test]
fn answers_nobody_asked_for_and_with_anothers_branch_change_nothing() {
    let node = Node::start(&["--shards", "2"]);
    let (peer, stranger) = (Udp::new(node.address()), Udp::new(node.address()));
    let subscription = subscribe("UDP", peer.address);
    assert_eq!(peer.ask(&subscription).status(), 200);
    let first = peer.receive();
    assert!(first.is_notify());

    // The stranger has a subscription of its own, and answers the first's NOTIFY with its own branch.
    stranger.send(&subscribe("UDP", stranger.address).bytes());
    assert_eq!(stranger.receive().status(), 200);
    let other = stranger.receive();
    let mut crossed = first.clone();
    for field in &mut crossed.fields {
        if field.0 == "Via" {
            other.get("Via").clone_into(&mut field.1);
        }
        if field.0 == "CSeq" {
            field.1 = "999 NOTIFY".to_owned();
        }
    }
    let mut invented = first.clone();
    for field in &mut invented.fields {
        if field.0 == "Via" {
            field.1 = field
                .1
                .replace("branch=z9hG4bK", "branch=z9hG4bK00ffffffff");
        }
    }
    let before = node.counters();
    let acknowledged = before.get("acknowledged").copied().unwrap_or_default();
    for bad in [&crossed, &invented] {
        stranger.send(&bad.response("200 OK"));
    }
    stranger.send(&first.response("200"));
    node.counts("late_answers", 2);
    assert!(node.counter("acknowledged") <= acknowledged + 1);
    // Both are still served: an honest answer counts, and the next change reaches both.
    peer.send(&first.response("200 OK"));
    stranger.send(&other.response("200 OK"));
    let publisher = Udp::new(node.address());
    assert_eq!(
        publisher
            .ask(&publish("UDP", publisher.address, "p1"))
            .status(),
        200
    );
    for subscriber in [&peer, &stranger] {
        let change = until("the change", || {
            let notify = subscriber.receive();
            subscriber.send(&notify.response("200 OK"));
            (notify.servers() == ["p1"]).then_some(notify)
        });
        assert_ne!(change.get("CSeq"), first.get("CSeq"));
    }
}

#[test]
fn ten_thousand_fields_over_tcp_are_refused_or_cut() {
    let node = Node::start(&["--shards", "1"]);
    let mut peer = Tcp::new(node.address());
    let mut draft = options("TCP", peer.address);
    for number in 0..10_000 {
        draft = draft.add("X-Field", &number.to_string());
    }
    // The node may close while we still write.
    let _ = std::io::Write::write_all(&mut peer.stream, &draft.bytes());
    let answer: Option<Message> = peer.next();
    assert!(answer.is_none_or(|answer| answer.status() == 400));
    serves(node.address());
}
