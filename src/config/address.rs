//! Addresses, networks and domains as the configuration takes them, and the address behind a wildcard. Knows no key but
//! its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use super::ConfigError;
use super::layers::Layers;
use super::setting::{ADVERTISE, LISTEN};
use super::value::{Given, Value};

/// The addresses to listen at, none of which takes what another would get.
pub fn listen(layers: &Layers<'_>) -> Result<Vec<SocketAddr>, ConfigError> {
    layers.distinct(&LISTEN, 16, socket_address, overlaps)
}

fn socket_address(value: &Value) -> Option<SocketAddr> {
    let address: SocketAddr = value.text()?.parse().ok()?;
    (!address.ip().is_multicast()).then_some(address)
}

/// A wildcard takes every address of its family. Port 0 takes none that is taken.
fn overlaps(one: &SocketAddr, other: &SocketAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    let wildcard = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || (same_family && wildcard))
}

/// What Via and Contact say: what was given, and for a wildcard of the other family what the default route tells.
pub fn advertise(layers: &Layers<'_>, listen: &[SocketAddr]) -> Result<Vec<IpAddr>, ConfigError> {
    let same_family = |one: &IpAddr, other: &IpAddr| one.is_ipv4() == other.is_ipv4();
    let mut advertised = layers.distinct(&ADVERTISE, 2, reachable, same_family)?;
    for (place, address) in listen.iter().enumerate() {
        let ip = address.ip();
        if ip.is_unspecified() && !advertised.iter().any(|known| same_family(known, &ip)) {
            advertised.push(behind(ip).map_err(|source| ConfigError::NoRoute {
                given: listen_given(layers, place).into(),
                source,
            })?);
        }
    }
    Ok(advertised)
}

fn listen_given(layers: &Layers<'_>, place: usize) -> Given {
    layers.given(&LISTEN).swap_remove(place)
}

fn reachable(value: &Value) -> Option<IpAddr> {
    let ip: IpAddr = value.text()?.parse().ok()?;
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

/// The source address of the default route of a wildcard's family.
fn behind(wildcard: IpAddr) -> io::Result<IpAddr> {
    // Of the networks for documentation (RFC 5737, RFC 3849). Connecting a datagram socket sends nothing.
    let far: IpAddr = match wildcard {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    source_towards(SocketAddr::new(far, 9))
}

/// The address that this machine sends from towards `peer`.
pub fn source_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// A network, or one address as the network of itself; host bits are cut.
pub fn network(value: &Value) -> Option<IpNet> {
    let text = value.text()?;
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .or_else(address)
        .map(|net| net.trunc())
}

pub fn nameserver(value: &Value) -> Option<SocketAddr> {
    socket_address(value).filter(|address| address.port() != 0 && !address.ip().is_unspecified())
}

/// Where other nodes reach this one.
pub fn gossip(value: &Value) -> Option<SocketAddr> {
    socket_address(value).filter(|address| !address.ip().is_unspecified())
}

/// A host or address with port, as it is looked up later.
pub fn seed(value: &Value) -> Option<String> {
    let text = value.text()?;
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    Some(format!("{}:{port}", domain_name(host)?))
}

/// Where etcd is reached: a URL without a path.
pub fn endpoint(value: &Value) -> Option<String> {
    let text = value.text()?;
    let text = text.strip_suffix('/').unwrap_or(text);
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| text.starts_with(scheme))?;
    let host = seed(&Value::Text(text[scheme.len()..].to_owned()))?;
    Some(format!("{scheme}{host}"))
}

pub fn domain(value: &Value) -> Option<Box<str>> {
    domain_name(value.text()?)
}

/// A host name (RFC 3261 25.1 `hostname`) or IP address as a Request-URI names it: lower case, no final dot.
pub fn domain_name(text: &str) -> Option<Box<str>> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    (is_literal(&name) || is_host_name(&name)).then(|| name.into())
}

fn is_literal(name: &str) -> bool {
    let v6 = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    match v6 {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// RFC 1123 2.1: labels of 1 to 63 letters, digits and inner hyphens; the last label starts with a letter, which is how
/// RFC 3261 tells a name from an address.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(label)
        && last.starts_with(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain_of(text: &str) -> Option<Box<str>> {
        domain(&Value::Text(text.to_owned()))
    }

    #[test]
    fn a_domain_is_lower_case_without_final_dot() {
        assert_eq!(domain_of("Example.COM.").as_deref(), Some("example.com"));
        assert_eq!(domain_of("localhost").as_deref(), Some("localhost"));
        assert_eq!(domain_of("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(domain_of("[2001:DB8::1]").as_deref(), Some("[2001:db8::1]"));
    }

    #[test]
    fn what_is_no_host_name_is_no_domain() {
        for text in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "sip:a.b",
            "a.b:5060",
            "*",
            "1.2.3",
            "a.1",
            "2001:db8::1",
            "[2001:db8::1",
            "exämple.com",
            "a_b.c",
        ] {
            assert_eq!(domain_of(text), None, "{text}");
        }
        assert_eq!(domain_of(&format!("{}.com", "a".repeat(64))), None);
    }

    #[test]
    fn a_wildcard_overlaps_the_addresses_of_its_family() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(overlaps(&at("0.0.0.0:5060"), &at("127.0.0.1:5060")));
        assert!(overlaps(&at("[::1]:5060"), &at("[::]:5060")));
        assert!(!overlaps(&at("0.0.0.0:5060"), &at("[::]:5060")));
        assert!(!overlaps(&at("127.0.0.1:5060"), &at("127.0.0.1:5061")));
        assert!(!overlaps(&at("127.0.0.1:0"), &at("127.0.0.1:0")));
    }

    #[test]
    fn one_address_is_a_network_and_host_bits_are_cut() {
        let net = |text: &str| network(&Value::Text(text.to_owned())).map(|net| net.to_string());
        assert_eq!(net("192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(net("192.0.2.7/24").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(net("192.0.2.0/33"), None);
    }
}
