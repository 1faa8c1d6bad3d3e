//! `fanfare watch` against a peer.

use fanfare::sip::request::Request;
use fanfare::sip::scan::scan;
use rustix::process::Signal;

use crate::peer::{Asked, Peer, said};
use crate::process::Fanfare;

fn flags<'a>(via: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["watch", "--via", via, "--domain", "example.com"], more].concat()
}

/// A NOTIFY in the dialog that a SUBSCRIBE asks for.
fn notify(peer: &Peer, subscribe: &Asked, cseq: u32, state: &str, view: u32) {
    let message = scan(&subscribe.bytes).expect("well formed");
    let request = Request::parse(&message).expect("well formed");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("well formed");
    let body = format!(
        "{{\"domain\":\"example.com\",\"notifier\":\"n1@1\",\"version\":{cseq},\"view\":{view},\"state\":\"full\",\
        \"servers\":[{{\"id\":\"p1\",\"status\":\"up\",\"load\":37,\"updated\":\"5.0.n1\",\
        \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}]}}]}}"
    );
    let notify = format!(
        "NOTIFY {} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{cseq}{view};rport\r\nMax-Forwards: 70\r\n\
        From: <sip:example.com>;tag=peer\r\nTo: <sip:x>;tag={}\r\nCall-ID: {}\r\nCSeq: {cseq} NOTIFY\r\n\
        Contact: <sip:{}>\r\nEvent: SIPserver\r\nSubscription-State: {state}\r\n\
        Content-Type: application/serverinfo+json\r\nContent-Length: {}\r\n\r\n{body}",
        text(request.contact.expect("well formed").uri),
        peer.address(),
        text(request.from_tag().expect("well formed")),
        text(request.call_id),
        peer.address(),
        body.len(),
    );
    peer.send(notify.as_bytes(), subscribe.source);
}

#[test]
fn once_fetches_the_table_and_ends() {
    let mut peer = Peer::new();
    let via = peer.address();
    let tool = Fanfare::run(&flags(&via, &["--once", "--json", "--service", "proxy"]));
    let subscribe = peer.request();
    let said = said(&subscribe);
    assert_eq!((&*said.method, said.expires), ("SUBSCRIBE", Some(0)));
    assert!(
        said.body.contains("<service name=\"proxy\"/>"),
        "{}",
        said.body
    );
    peer.answer(&subscribe, 200, &[("Expires", "0")]);
    notify(&peer, &subscribe, 1, "terminated;reason=timeout", 42);
    assert_eq!(peer.status(), 200);
    let line: serde_json::Value = serde_json::from_str(&tool.line()).unwrap();
    assert_eq!(
        (line["view"].as_u64(), line["state"].as_str()),
        (Some(42), Some("full"))
    );
    assert_eq!(line["servers"][0]["addresses"][0]["port"], 5060);
    assert!(line["at"].as_u64() > Some(1_700_000_000_000));
    let (status, stderr) = tool.end();
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
}

#[test]
fn once_with_a_silent_notifier_exits_3() {
    let peer = Peer::new();
    let via = peer.address();
    let (status, stderr) = Fanfare::run(&flags(&via, &["--once"])).end();
    assert_eq!(status.code(), Some(3));
    let lines: Vec<&str> = stderr.lines().collect();
    let no_answer = format!("fanfare: {via}: no answer; trying until it works");
    assert_eq!(
        lines,
        [no_answer, format!("fanfare: {via}: no view within 8 s")]
    );
}

#[test]
fn a_signal_unsubscribes_and_takes_the_last_notify() {
    let mut peer = Peer::new();
    let via = peer.address();
    let tool = Fanfare::run(&flags(&via, &[]));
    let subscribe = peer.request();
    peer.answer(&subscribe, 200, &[("Expires", "120")]);
    notify(&peer, &subscribe, 1, "active;expires=120", 1);
    assert_eq!(peer.status(), 200);
    assert!(
        tool.line()
            .starts_with("example.com  notifier n1@1  view 1")
    );
    tool.line_where(|line| line.starts_with("p1  up"));
    tool.signal(Signal::INT);
    let unsubscribe = peer.request();
    assert_eq!(said(&unsubscribe).expires, Some(0));
    peer.answer(&unsubscribe, 200, &[("Expires", "0")]);
    notify(&peer, &subscribe, 2, "terminated;reason=timeout", 1);
    assert_eq!(peer.status(), 200);
    let (status, stderr) = tool.end();
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
}

#[test]
fn closed_standard_output_ends_it_quietly() {
    let mut peer = Peer::new();
    let via = peer.address();
    let tool = Fanfare::unread(&flags(&via, &["--json"]));
    let subscribe = peer.request();
    peer.answer(&subscribe, 200, &[("Expires", "120")]);
    notify(&peer, &subscribe, 1, "active;expires=120", 1);
    assert_eq!(peer.status(), 200);
    let unsubscribe = peer.request();
    assert_eq!(said(&unsubscribe).expires, Some(0));
    peer.answer(&unsubscribe, 481, &[]);
    let (status, stderr) = tool.end();
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
}

#[test]
fn a_refusal_is_one_line_and_exit_1() {
    let mut peer = Peer::new();
    let via = peer.address();
    let tool = Fanfare::run(&flags(&via, &[]));
    let subscribe = peer.request();
    peer.answer(&subscribe, 404, &[]);
    let (status, stderr) = tool.end();
    let expected = format!("fanfare: {via}: refused with 404 Not Found\n");
    assert_eq!((status.code(), stderr), (Some(1), expected));
}
