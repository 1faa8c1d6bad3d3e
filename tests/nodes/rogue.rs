//! One that speaks the protocol and means no good: what it says is refused, and where its words break the engine of a node,
//! that node goes on and its engine begins anew.

use std::net::{SocketAddr, UdpSocket};

use chitchat::{ChitchatId, ChitchatMessage, Deserializable, Serializable};
use fanfare::cluster::frame::{Frames, Kind};

use crate::farm::{Node, Publisher};

/// A SYN-ACK of chitchat 0.11 in which a node of its own brings one key; that library would not write every key.
fn gossip(from: SocketAddr, key: &str, value: &str) -> Vec<u8> {
    let rogue = ChitchatId::new("rogue", 1, from).serialize_to_vec();
    let number = |number: u64| number.to_le_bytes();
    let text = |text: &str| {
        let length = u16::try_from(text.len()).expect("a short text");
        [&length.to_le_bytes()[..], text.as_bytes()].concat()
    };
    // Of one node: its heartbeat, what it has forgotten, its newest version.
    let digest = [&[1, 0][..], &rogue, &number(1), &number(0), &number(1)].concat();
    let node = [&[0][..], &rogue, &number(0), &number(0)].concat();
    let value = [&[1][..], &text(key), &text(value), &number(1), &[0]].concat();
    let delta = [node, value].concat();
    let length = u16::try_from(delta.len()).expect("a short delta");
    let block = [&[2][..], &length.to_le_bytes(), &delta, &[0]].concat();
    [&45_139_u16.to_le_bytes()[..], &[0, 1], &digest, &block].concat()
}

fn tell(victim: &Node, key: &str, value: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let message = gossip(socket.local_addr().expect("bound"), key, value);
    ChitchatMessage::deserialize(&mut &message[..]).expect("the library can read it");
    for datagram in Frames::new("fanfare", None).seal(Kind::Gossip, &message) {
        socket.send_to(&datagram, victim.gossip).expect("sent");
    }
}

#[test]
fn an_engine_that_breaks_down_begins_anew_and_the_node_goes_on() {
    let node = Node::start("n1", &[], &[]);
    let other = Node::start("n2", &[node.gossip], &[]);
    let watch = other.watch();
    let mut publisher = Publisher::new();
    let before = publisher.publish(node.sip, "before", 1, 600).tag();
    watch.status("before", "up");
    // The library cuts a key after its first byte, and panics when that is no whole letter.
    tell(&node, "\u{e9}", "");
    node.await_log("the cluster's engine ended, and begins anew");
    node.await_count("cluster_restarts");
    assert_eq!(publisher.refresh(node.sip, &before, 600).status, 200);
    publisher.publish(node.sip, "after", 1, 600).tag();
    watch.view_where(|view| {
        ["before", "after", "n1", "n2"]
            .iter()
            .all(|id| view.status(id) == Some("up"))
    });
}

#[test]
fn a_value_that_is_no_record_is_refused() {
    let node = Node::start("n1", &[], &[]);
    let mut publisher = Publisher::new();
    for (number, value) in ["", "no record", "1 said\n{}"].into_iter().enumerate() {
        tell(&node, &format!("example.com/bad{number}"), value);
    }
    node.await_log("value of another node refused");
    node.await_count("cluster_malformed");
    publisher.publish(node.sip, "good", 1, 600).tag();
    let view = node.watch().status("good", "up");
    assert_eq!(view.status("bad0").or(view.status("bad1")), None);
}
