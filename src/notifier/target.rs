//! Where a dialog's NOTIFYs go: the route set or the Contact, by RFC 3261 12.2.1.1 and RFC 3263. Knows no transaction.

use std::net::{IpAddr, SocketAddr};

use super::Notifier;
use super::names::Target;
use super::requests::Refusal;
use super::settings::Nat;
use crate::sip::header::NameAddr;
use crate::sip::scan::{Elements, Message, Name};
use crate::sip::uri::{Host, SipUri, UriError};
use crate::wire::{Flow, Transport};

/// RFC 3261 19.1.2: the port of a SIP URI without one.
const DEFAULT_PORT: u16 = 5060;

/// Where a NOTIFY is to go, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NextHop {
    At(Flow),
    /// A name that must be looked up first.
    Unknown(Target),
}

impl Notifier {
    /// The next hop of a dialog made by a SUBSCRIBE that came on `flow`.
    pub(super) fn next_hop(
        &self,
        now_ms: u64,
        flow: Flow,
        routes: &[u8],
        target: &SipUri<'_>,
    ) -> Result<NextHop, Refusal> {
        if self.settings.nat == Nat::Source {
            return Ok(NextHop::At(flow));
        }
        let first = Elements::of(routes).next();
        let next = match first {
            Some(route) => &route_uri(route)?,
            None => target,
        };
        let wanted = wanted_transport(next)?;
        // While the SUBSCRIBE's connection lives, NOTIFYs use it (RFC 3261 18.1.1: an open connection is reused).
        if flow.transport.is_reliable() && wanted != Some(Transport::Udp) {
            return Ok(NextHop::At(flow));
        }
        self.locate(now_ms, flow.local, next, wanted)
    }

    /// The next hop by the URI alone: for UDP, and when a connection is gone.
    pub(super) fn locate(
        &self,
        now_ms: u64,
        local: u16,
        uri: &SipUri<'_>,
        wanted: Option<Transport>,
    ) -> Result<NextHop, Refusal> {
        let (transport, address) = match uri.maddr().unwrap_or(uri.host) {
            Host::Ip(ip) => (
                wanted.unwrap_or(Transport::Udp),
                SocketAddr::new(ip.to_canonical(), uri.port.unwrap_or(DEFAULT_PORT)),
            ),
            Host::Name(host) => {
                let host = String::from_utf8_lossy(host)
                    .to_ascii_lowercase()
                    .into_boxed_str();
                let target = Target {
                    host,
                    port: uri.port,
                    transport: wanted,
                };
                let Some(location) = self.names.find(now_ms, &target) else {
                    return Ok(NextHop::Unknown(target));
                };
                let usable = location
                    .addresses
                    .iter()
                    .find(|(_, address)| self.local_for(local, address.ip()).is_some());
                *usable.ok_or_else(|| {
                    Refusal::because(400, format!("cannot locate {}", target.host))
                })?
            }
        };
        let unreachable = || Refusal::because(400, format!("cannot send to {address}"));
        let local = self
            .local_for(local, address.ip())
            .filter(|_| sendable(address))
            .ok_or_else(unreachable)?;
        Ok(NextHop::At(Flow {
            transport,
            local,
            peer: address,
            connection: 0,
        }))
    }

    /// A listening address that can send to the peer, `preferred` if it is one.
    fn local_for(&self, preferred: u16, peer: IpAddr) -> Option<u16> {
        let listeners = &self.settings.listeners;
        // A socket bound to loopback reaches nothing else.
        let fits = |address: SocketAddr| {
            address.is_ipv4() == peer.is_ipv4()
                && (!address.ip().is_loopback() || peer.is_loopback())
        };
        if fits(listeners[usize::from(preferred)].address) {
            return Some(preferred);
        }
        listeners
            .iter()
            .position(|listener| fits(listener.address))
            .map(|place| place as u16)
    }
}

/// The route set that a SUBSCRIBE gives its notifier (RFC 3261 12.1.1), comma-separated.
pub(super) fn route_set(message: &Message<'_>, routes: &mut Vec<u8>) -> Result<(), Refusal> {
    for route in message.elements(Name::RecordRoute) {
        route_uri(route)?;
    }
    crate::sip::write::push_route_set(routes, message);
    Ok(())
}

/// RFC 3261 12.2.1.1: where the first route is no loose router, its URI becomes the Request-URI and the target goes to
/// the end of the route set.
pub(super) fn strict_routing(target: &[u8], routes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut elements = Elements::of(routes);
    let first = NameAddr::parse(elements.next()?)?;
    if SipUri::parse(first.uri).is_ok_and(|uri| uri.lr()) {
        return None;
    }
    let mut rest = Vec::new();
    for route in elements {
        rest.extend_from_slice(route);
        rest.extend_from_slice(b", ");
    }
    rest.extend_from_slice(&[b"<", target, b">"].concat());
    Some((first.uri.to_vec(), rest))
}

/// The URI of a Contact, which must be one that we can send to.
pub(super) fn contact_uri<'a>(contact: &NameAddr<'a>) -> Result<SipUri<'a>, Refusal> {
    match SipUri::parse(contact.uri) {
        // RFC 3261 19.1.1: a Request-URI has neither header fields nor a method.
        Ok(uri) if uri.headers.is_some() || uri.params.get("method").is_some() => {
            Err(Refusal::because(400, "Contact is no Request-URI"))
        }
        Ok(uri) => Ok(uri),
        Err(UriError::Scheme) => Err(Refusal::because(400, "Contact is no SIP URI")),
        Err(UriError::Syntax) => Err(Refusal::because(400, "malformed Contact")),
    }
}

pub(super) fn route_uri(route: &[u8]) -> Result<SipUri<'_>, Refusal> {
    let malformed = || Refusal::because(400, "malformed Record-Route");
    SipUri::parse(NameAddr::parse(route).ok_or_else(malformed)?.uri).map_err(|_| malformed())
}

/// The transport a URI asks for; one that we lack is refused at SUBSCRIBE rather than answered 200 and silence.
pub(super) fn wanted_transport(uri: &SipUri<'_>) -> Result<Option<Transport>, Refusal> {
    let unreachable = || Refusal::because(400, "only UDP and TCP reach subscribers from here");
    if uri.secure {
        return Err(unreachable());
    }
    match uri.transport() {
        None => Ok(None),
        Some(name) if name.eq_ignore_ascii_case(b"udp") => Ok(Some(Transport::Udp)),
        Some(name) if name.eq_ignore_ascii_case(b"tcp") => Ok(Some(Transport::Tcp)),
        Some(_) => Err(unreachable()),
    }
}

fn sendable(address: SocketAddr) -> bool {
    let broadcast = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0
        && !address.ip().is_unspecified()
        && !address.ip().is_multicast()
        && !broadcast
}
