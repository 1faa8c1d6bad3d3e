//! What a notifier is told once, at its start. The same for all shards; immutable.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::sip::write::{notify_contact, notify_via};
use crate::wire::Transport;

/// A listening address as it stands in Via and Contact.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The address that peers reach us at.
    pub address: SocketAddr,
    /// `sent-by` of our Via header fields.
    pub sent_by: Box<[u8]>,
    udp: Spoken,
    tcp: Spoken,
}

/// What a listening address says of itself over one transport.
#[derive(Debug, Clone)]
struct Spoken {
    contact: Box<[u8]>,
    notify_via: Box<[u8]>,
    notify_contact: Box<[u8]>,
}

impl Listener {
    /// `instance` makes our Contact a GRUU (RFC 6665 4.5.1: notifiers must use one): an address that names this very
    /// process and no other.
    pub fn new(address: SocketAddr, instance: &str) -> Self {
        let sent_by = address.to_string();
        let spoken = |transport: Transport, parameter: &str| {
            let contact = format!("<sip:{address}{parameter};gr={instance}>");
            Spoken {
                notify_via: notify_via(transport.via_name(), &sent_by),
                notify_contact: notify_contact(&contact),
                contact: contact.into_bytes().into(),
            }
        };
        Listener {
            address,
            udp: spoken(Transport::Udp, ""),
            tcp: spoken(Transport::Tcp, ";transport=tcp"),
            sent_by: sent_by.into_bytes().into(),
        }
    }

    pub fn contact(&self, transport: Transport) -> &[u8] {
        &self.spoken(transport).contact
    }

    /// What its NOTIFYs have before their branch.
    pub fn notify_via(&self, transport: Transport) -> &[u8] {
        &self.spoken(transport).notify_via
    }

    /// What its NOTIFYs have after their CSeq.
    pub fn notify_contact(&self, transport: Transport) -> &[u8] {
        &self.spoken(transport).notify_contact
    }

    fn spoken(&self, transport: Transport) -> &Spoken {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        }
    }
}

/// Where NOTIFYs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// To the route set or the Contact, as RFC 3261 12.2.1.1 says.
    Off,
    /// To where the SUBSCRIBE came from, for subscribers behind address translation.
    Source,
}

/// Every setting of the notifier; times in the unit of the name.
#[derive(Debug, Clone)]
pub struct Settings {
    pub shards: u8,
    pub listeners: Vec<Listener>,
    /// Domains served, lower case; empty: every host names the one table.
    pub domains: Vec<Box<str>>,
    pub allow_subscribe: Vec<IpNet>,
    pub allow_publish: Vec<IpNet>,
    pub nat: Nat,
    pub expires_default_s: u32,
    pub expires_most_s: u32,
    pub expires_least_s: u32,
    /// Least time between two NOTIFYs of one subscription.
    pub min_interval_ms: u64,
    /// The same where nothing but load changed.
    pub load_interval_ms: u64,
    /// Least time between two changes of status that pass `min_interval_ms`.
    pub urgent_interval_ms: u64,
    pub refresh_interval_ms: u64,
    /// RFC 3261 18.1.1: no request over this size goes over UDP.
    pub datagram_most: usize,
    /// Subscriptions of a shard.
    pub subscriptions_most: usize,
    /// Subscriptions of one source network that never answered a NOTIFY.
    pub unproven_most: u32,
    /// Bytes that superseded documents may hold.
    pub bodies_most: usize,
    /// NOTIFYs begun in one `fill`: eight next hops have a run of 64 each, the longest that a kernel takes.
    pub batch: usize,
    /// Messages for connections that may wait in the outbox.
    pub effects_most: usize,
}

impl Settings {
    /// The defaults of event-package terms, for one shard that listens at `address`.
    pub fn for_address(address: SocketAddr) -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network"));
        Settings {
            shards: 1,
            listeners: vec![Listener::new(address, "fanfare")],
            domains: Vec::new(),
            allow_subscribe: loopback.to_vec(),
            allow_publish: loopback.to_vec(),
            nat: Nat::Off,
            expires_default_s: 1_800,
            expires_most_s: 3_600,
            expires_least_s: 60,
            min_interval_ms: 100,
            load_interval_ms: 1_000,
            urgent_interval_ms: 200,
            refresh_interval_ms: 60_000,
            datagram_most: 1_300,
            subscriptions_most: 4 << 20,
            unproven_most: 65_536,
            bodies_most: 64 << 20,
            batch: 512,
            effects_most: 1_024,
        }
    }

    pub fn may_subscribe(&self, address: IpAddr) -> bool {
        allows(&self.allow_subscribe, address)
    }

    pub fn may_publish(&self, address: IpAddr) -> bool {
        allows(&self.allow_publish, address)
    }

    /// The number of the domain that a Request-URI's host names; event-package: lower case, no trailing dot.
    pub fn domain(&self, host: &[u8]) -> Option<u16> {
        if self.domains.is_empty() {
            return Some(0);
        }
        let host = host.strip_suffix(b".").unwrap_or(host);
        let place = self
            .domains
            .iter()
            .position(|domain| domain.as_bytes().eq_ignore_ascii_case(host))?;
        u16::try_from(place).ok()
    }
}

fn allows(nets: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    nets.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_found_whatever_its_case_and_final_dot() {
        let mut settings = Settings::for_address(([127, 0, 0, 1], 5060).into());
        assert_eq!(settings.domain(b"anything"), Some(0));
        settings.domains = vec!["a.example".into(), "b.example".into()];
        assert_eq!(settings.domain(b"B.Example."), Some(1));
        assert_eq!(settings.domain(b"c.example"), None);
    }

    #[test]
    fn only_loopback_may_subscribe_unless_told_otherwise() {
        let settings = Settings::for_address(([127, 0, 0, 1], 5060).into());
        assert!(settings.may_subscribe([127, 9, 9, 9].into()));
        assert!(settings.may_subscribe("::ffff:127.0.0.1".parse().expect("an address")));
        assert!(!settings.may_subscribe([192, 0, 2, 1].into()));
    }

    #[test]
    fn an_ipv6_listener_is_written_as_a_reference() {
        let listener = Listener::new("[::1]:5060".parse().expect("an address"), "n1");
        assert_eq!(&*listener.sent_by, b"[::1]:5060");
        assert_eq!(
            listener.contact(Transport::Tcp),
            b"<sip:[::1]:5060;transport=tcp;gr=n1>"
        );
    }
}
