//! Contacts with names (RFC 3263), asked of a name server of our own: NAPTR chooses the transport, SRV the server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use hickory_resolver::proto::op::{Message as Query, MessageType};
use hickory_resolver::proto::rr::rdata::{A, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};

use crate::node::{Node, until};
use crate::sip::{Tcp, Udp, serves, subscribe};

/// A name server with these records; it ends with the test.
fn nameserver(records: Vec<(&'static str, RData)>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    let address = socket.local_addr().expect("bound");
    let records: Arc<[Record]> = records
        .into_iter()
        .map(|(name, data)| Record::from_rdata(self::name(name), 60, data))
        .collect();
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok((len, peer)) = socket.recv_from(&mut bytes) {
            let mut query = Query::from_vec(&bytes[..len]).expect("the resolver asks well");
            let asked = query.queries[0].clone();
            query.metadata.message_type = MessageType::Response;
            query.edns = None;
            let found = records.iter().filter(|record| {
                record.name == *asked.name() && record.record_type() == asked.query_type()
            });
            query.add_answers(found.cloned());
            let answer = query.to_vec().expect("a small answer");
            socket.send_to(&answer, peer).expect("the kernel takes it");
        }
    });
    address
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn naptr(preference: u16, service: &str, replacement: &str) -> RData {
    let text = |text: &str| text.as_bytes().into();
    let replacement = name(replacement);
    RData::NAPTR(NAPTR::new(
        1,
        preference,
        text("s"),
        text(service),
        text(""),
        replacement,
    ))
}

fn srv(priority: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, 1, port, name(target)))
}

fn asking(server: SocketAddr) -> Node {
    let toml = format!("nameserver = \"{server}\"");
    Node::configured(&toml, &["--shards", "2"])
}

#[test]
fn naptr_and_srv_lead_to_the_preferred_transport_and_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let port = listener.local_addr().expect("bound").port();
    let server = nameserver(vec![
        (
            "phones.test.",
            naptr(20, "SIP+D2U", "_sip._udp.phones.test."),
        ),
        (
            "phones.test.",
            naptr(10, "SIP+D2T", "_sip._tcp.phones.test."),
        ),
        (
            "phones.test.",
            naptr(5, "SIPS+D2T", "_sips._tcp.phones.test."),
        ),
        ("_sip._tcp.phones.test.", srv(2, 9, "second.phones.test.")),
        ("_sip._tcp.phones.test.", srv(1, port, "first.phones.test.")),
        ("_sip._udp.phones.test.", srv(1, 9, "second.phones.test.")),
        ("first.phones.test.", RData::A(A(Ipv4Addr::LOCALHOST))),
        (
            "second.phones.test.",
            RData::A(A(Ipv4Addr::new(127, 0, 0, 2))),
        ),
    ]);
    let node = asking(server);
    let udp = Udp::new(node.address());
    let draft = subscribe("UDP", udp.address).with("Contact", "<sip:a@phones.test>");
    assert_eq!(udp.ask(&draft).status(), 200);
    listener.set_nonblocking(true).expect("it can");
    let stream = until("a connection of the node", || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("it can");
    let notify = Tcp::of(stream).notified();
    assert_eq!(notify.get("Call-ID"), draft.get("Call-ID"));
}

#[test]
fn without_naptr_srv_is_asked_and_without_srv_the_address_itself() {
    let node_address = "127.0.0.1:9".parse().expect("an address");
    let at = Udp::new(node_address);
    let server = nameserver(vec![
        (
            "_sip._udp.srv.test.",
            srv(1, at.address.port(), "host.test."),
        ),
        ("host.test.", RData::A(A(Ipv4Addr::LOCALHOST))),
    ]);
    let node = asking(server);
    let udp = Udp::new(node.address());
    let port = at.address.port();
    for contact in [
        "<sip:a@srv.test>".to_owned(),
        format!("<sip:a@host.test:{port}>"),
    ] {
        let draft = subscribe("UDP", udp.address).with("Contact", &contact);
        assert_eq!(udp.ask(&draft).status(), 200, "{contact}");
        let notify = at.receive();
        assert_eq!(notify.get("Call-ID"), draft.get("Call-ID"), "{contact}");
    }
    let draft = subscribe("UDP", udp.address).with("Contact", "<sip:a@missing.test>");
    assert_eq!(udp.ask(&draft).status(), 400);
    serves(node.address());
}

#[test]
fn a_silent_name_server_holds_up_nobody_but_who_named_it() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    let node = asking(silent.local_addr().expect("bound"));
    let waiting = Udp::new(node.address());
    let draft = subscribe("UDP", waiting.address).with("Contact", "<sip:a@phones.test>");
    waiting.send(&draft.bytes());
    node.counts("lookups", 1);
    Udp::new(node.address()).subscribe();
    assert_eq!(waiting.receive().status(), 400, "given up in the end");
}
