//! `fanfare publish` against a peer.

use std::io::{Read, Write};
use std::net::TcpListener;

use fanfare::info::{Format, publication};
use fanfare::sip::scan::{Frame, frame};
use rustix::process::Signal;

use crate::peer::{Peer, Said, response, said};
use crate::process::Fanfare;

fn publish(to: &str, more: &[&str]) -> Fanfare {
    let flags = [
        "publish",
        "--to",
        to,
        "--domain",
        "example.com",
        "--id",
        "p1",
        "--address",
        "192.0.2.1:5060/udp,service=proxy",
    ];
    Fanfare::run(&[&flags, more].concat())
}

#[test]
fn an_entry_is_published_refreshed_and_removed_at_the_end() {
    let mut peer = Peer::new();
    let more = [
        "--load",
        "37",
        "--priority",
        "10",
        "--weight",
        "60",
        "--service",
        "proxy",
        "--attribute",
        "region=eu-1",
        "--expires",
        "3",
    ];
    let tool = publish(&peer.address(), &more);
    let first = peer.request();
    let initial = said(&first);
    assert_eq!(
        (&*initial.method, initial.expires, &initial.if_match),
        ("PUBLISH", Some(3), &None)
    );
    let published = publication(initial.body.as_bytes(), Format::Xml).unwrap();
    assert_eq!(published.domain, "example.com");
    let server = published.server;
    assert_eq!(
        (&*server.id, server.load, server.priority, server.weight),
        ("p1", Some(37), 10, 60)
    );
    assert_eq!(server.addresses[0].service.as_deref(), Some("proxy"));
    assert_eq!(server.attribute("region"), Some("eu-1"));
    peer.answer(&first, 200, &[("SIP-ETag", "one"), ("Expires", "3")]);
    let address = peer.address();
    assert_eq!(
        tool.line(),
        format!("published p1 in example.com at {address}, lease 3 s")
    );

    let refresh = peer.request();
    let expected = Said {
        method: "PUBLISH".into(),
        expires: Some(3),
        if_match: Some("one".into()),
        body: String::new(),
    };
    assert_eq!(said(&refresh), expected);
    peer.answer(&refresh, 200, &[("SIP-ETag", "two"), ("Expires", "3")]);

    tool.signal(Signal::TERM);
    let mut removal = peer.request();
    while said(&removal).expires != Some(0) {
        peer.answer(&removal, 200, &[("SIP-ETag", "two"), ("Expires", "3")]);
        removal = peer.request();
    }
    assert_eq!(said(&removal).if_match.as_deref(), Some("two"));
    peer.answer(&removal, 200, &[]);
    assert_eq!(
        tool.line(),
        format!("removed p1 from example.com at {address}")
    );
    let (status, stderr) = tool.end();
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
}

#[test]
fn a_refusal_is_one_line_with_status_and_warning() {
    let mut peer = Peer::new();
    let tool = publish(&peer.address(), &["--load", "1"]);
    let first = peer.request();
    peer.answer(
        &first,
        403,
        &[("Warning", "399 n1 \"not from this network\"")],
    );
    let (status, stderr) = tool.end();
    let expected = format!(
        "fanfare: {}: refused with 403 Forbidden (not from this network)\n",
        peer.address()
    );
    assert_eq!((status.code(), stderr), (Some(1), expected));
}

#[test]
fn a_notifier_that_lost_the_entry_gets_it_again() {
    let mut peer = Peer::new();
    let tool = publish(&peer.address(), &["--load", "1", "--expires", "1"]);
    let first = peer.request();
    peer.answer(&first, 200, &[("SIP-ETag", "one"), ("Expires", "1")]);
    let refresh = peer.request();
    peer.answer(&refresh, 412, &[]);
    let afresh = said(&peer.request());
    assert_eq!(afresh.if_match, None);
    assert!(afresh.body.contains("id=\"p1\""));
    drop(tool);
}

#[test]
fn this_machines_load_is_in_the_first_publication() {
    let mut peer = Peer::new();
    let _tool = publish(&peer.address(), &[]);
    let body = said(&peer.request()).body;
    let load = publication(body.as_bytes(), Format::Xml)
        .unwrap()
        .server
        .load;
    assert!(load.is_some_and(|load| load <= 100), "{load:?}");
}

#[test]
fn an_entry_too_large_for_a_datagram_goes_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let value = format!("note={}", "x".repeat(250));
    let attributes: Vec<String> = (0..6).map(|number| format!("{number}{value}")).collect();
    let flags: Vec<&str> = attributes
        .iter()
        .flat_map(|text| ["--attribute", text.as_str()])
        .collect();
    let tool = publish(&address, &[&["--load", "1"], &flags[..]].concat());
    let (mut connection, source) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    let length = loop {
        let mut chunk = [0; 4096];
        let read = connection.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "closed early");
        bytes.extend_from_slice(&chunk[..read]);
        if let Frame::Complete(length) = frame(&bytes, 65_536, 65_536) {
            break length;
        }
    };
    assert!(length > 1_300);
    let ok = response(
        &bytes,
        source,
        200,
        &[("SIP-ETag", "one"), ("Expires", "10")],
    );
    connection.write_all(&ok).unwrap();
    assert!(tool.line().starts_with("published p1"));
    let refused = publish(&address, &[&["--transport", "udp"], &flags[..]].concat());
    let (status, stderr) = refused.end();
    assert_eq!(status.code(), Some(2));
    assert!(
        stderr.starts_with("fanfare: --transport udp: an entry of"),
        "{stderr}"
    );
}
