//! PUBLISH by SIPp. Knows no subscriber.

use crate::quiet_node;
use crate::sipp::{Message, Transport, run};
use crate::support::Node;

/// Publishes p1 with this lease; its entity-tag.
pub fn publish(node: &Node, transport: Transport, expires: &str) -> String {
    let args = ["-key", "expires", expires, "-key", "load", "10"];
    entity_tag(&run("publish", transport, node, &args))
}

/// Publishes p1 anew as `draining`; its new entity-tag.
pub fn modify(node: &Node, transport: Transport, tag: &str) -> String {
    let args = ["-key", "expires", "300", "-key", "load", "10"];
    let args = [&args[..], &["-key", "tag", tag]].concat();
    entity_tag(&run("modify", transport, node, &args))
}

/// Takes p1 back.
pub fn remove(node: &Node, transport: Transport, tag: &str) {
    run("remove", transport, node, &["-key", "tag", tag]);
}

fn entity_tag(messages: &[Message]) -> String {
    let tags = messages
        .iter()
        .filter(|message| !message.is_sent)
        .flat_map(|message| message.fields("SIP-ETag"));
    tags.last().expect("an entity-tag").to_owned()
}

#[test]
fn a_publication_is_made_refreshed_modified_and_removed() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        let args = ["-key", "expires", "30", "-key", "load", "10"];
        run("publisher", transport, &node, &args);
    }
}

#[test]
fn publications_that_are_none_are_refused_in_the_order_of_rfc_3903() {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run("publisher_refused", transport, &node, &[]);
    }
}
