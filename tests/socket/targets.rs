//! Where NOTIFYs go when the subscriber moves, hides behind address translation, or names what cannot be reached.

use std::net::TcpListener;

use crate::node::{Node, until};
use crate::sip::{Draft, Message, Tcp, Udp, publish, serves, subscribe};

/// The request of the same dialog that follows `first`, which `accepted` answered; as sent from `from`.
fn refresh(first: &Draft, accepted: &Message, from: &Udp) -> Draft {
    let branch = format!("SIP/2.0/UDP {};rport;branch=z9hG4bKrefresh", from.address);
    let mut draft = subscribe("UDP", from.address);
    for name in ["From", "Call-ID", "Contact"] {
        draft = draft.with(name, first.get(name));
    }
    draft
        .with("Via", &branch)
        .with("To", accepted.get("To"))
        .with("CSeq", "2 SUBSCRIBE")
}

#[test]
fn behind_address_translation_notifies_follow_the_source() {
    let node = Node::start(&["--nat", "source"]);
    let (before, after) = (Udp::new(node.address()), Udp::new(node.address()));
    let first = subscribe("UDP", before.address).with("Contact", "<sip:u@192.0.2.77:9>");
    let accepted = before.ask(&first);
    assert_eq!(accepted.status(), 200);
    before.notified();
    // The translation gave it another port.
    assert_eq!(after.ask(&refresh(&first, &accepted, &after)).status(), 200);
    after.notified();
}

#[test]
fn a_target_that_no_socket_of_ours_reaches_is_refused() {
    let node = Node::start(&[]);
    let udp = Udp::new(node.address());
    for contact in [
        "<sip:u@192.0.2.1>",
        "<sip:u@[::1]:5060>",
        "<sip:u@127.0.0.1:0>",
    ] {
        let refused = udp.ask(&subscribe("UDP", udp.address).with("Contact", contact));
        assert_eq!(refused.status(), 400, "{contact}");
        assert!(refused.get("Warning").starts_with("399 "), "{contact}");
    }
    assert_eq!(node.counter("subscribed"), 0);
}

#[test]
fn a_refresh_whose_contact_leaves_no_room_for_a_document_is_refused() {
    let node = Node::start(&[]);
    let udp = Udp::new(node.address());
    let first = subscribe("UDP", udp.address);
    let accepted = udp.ask(&first);
    udp.notified();
    let long = format!("<sip:{}@{}>", "u".repeat(800), udp.address);
    let refused = udp.ask(&refresh(&first, &accepted, &udp).with("Contact", &long));
    assert_eq!(refused.status(), 513);
    serves(node.address());
}

#[test]
fn a_named_contact_is_called_back_when_its_connection_is_gone() {
    let node = Node::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("bound").port();
    let mut tcp = Tcp::new(node.address());
    let contact = format!("<sip:u@localhost:{port};transport=tcp>");
    let asked = subscribe("TCP", tcp.address).with("Contact", &contact);
    assert_eq!(tcp.ask(&asked).status(), 200);
    tcp.notified();
    tcp.close();
    let publisher = Udp::new(node.address());
    let published = publish("UDP", publisher.address, "p1");
    assert_eq!(publisher.ask(&published).status(), 200);
    let (stream, _) = until("the node calls back", || listener.accept().ok());
    stream.set_nonblocking(false).expect("a socket");
    assert_eq!(Tcp::of(stream).notified().servers(), ["p1"]);
}
