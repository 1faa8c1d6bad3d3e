//! The subscriber's half of a dialog (RFC 3261 12, RFC 6665 4.4.1): made by the first NOTIFY, it tells where requests go.
//! Knows no timer and no document.

use std::net::SocketAddr;

use rsip::Header;
use rsip::headers::{Route, UntypedHeader};

use crate::client::Chance;
use crate::sip::header::NameAddr;
use crate::sip::request::Request;
use crate::sip::scan::Name;
use crate::sip::uri::{Host, SipUri};
use crate::sip::write::push_line;

/// RFC 3261 19.1.2: the port of a SIP URI without one.
const DEFAULT_PORT: u16 = 5060;

/// Our side, and the notifier's once a NOTIFY came.
#[derive(Debug)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    pub(super) local_tag: String,
    /// CSeq of the last SUBSCRIBE.
    pub(super) cseq: u32,
    pub(super) remote: Option<Remote>,
}

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) tag: Vec<u8>,
    /// The URI of the notifier's Contact.
    target: String,
    /// Whole elements of the route set, in order.
    routes: Vec<String>,
    /// CSeq of the last NOTIFY, and how it was answered.
    pub(super) last: (u32, u16),
}

impl Dialog {
    pub(super) fn new(chance: &mut Chance) -> Self {
        Dialog {
            call_id: chance.token(),
            local_tag: chance.token(),
            cseq: 0,
            remote: None,
        }
    }

    /// Whether a request is of this dialog, or may make it. RFC 6665 4.4.1: by Call-ID and our tag; 4.1.4, and this
    /// package: no second dialog by forking.
    pub(super) fn is_of(&self, request: &Request<'_, '_>) -> bool {
        let is_ours = request.call_id == self.call_id.as_bytes()
            && request.to_tag() == Some(self.local_tag.as_bytes());
        let from_tag = request.from_tag().unwrap_or_default();
        is_ours
            && self
                .remote
                .as_ref()
                .is_none_or(|remote| remote.tag == from_tag)
    }

    /// RFC 6665 4.4.1: the NOTIFY makes the dialog, RFC 3261 12.1.1: with its Record-Route in order; 12.2.2: a later
    /// one moves the target.
    pub(super) fn take(&mut self, request: &Request<'_, '_>, status: u16) {
        let last = (request.cseq.number, status);
        let target = request.contact.map(|contact| text(contact.uri));
        match &mut self.remote {
            Some(remote) => {
                remote.last = last;
                remote.target = target.unwrap_or_else(|| std::mem::take(&mut remote.target));
            }
            None => {
                self.remote = Some(Remote {
                    tag: request.from_tag().unwrap_or_default().to_vec(),
                    target: target.unwrap_or_else(|| text(request.from.uri)),
                    routes: request
                        .message
                        .elements(Name::RecordRoute)
                        .map(text)
                        .collect(),
                    last,
                });
            }
        }
    }
}

impl Remote {
    /// The Request-URI and the Route header fields of a request in the dialog, and where it goes: `None` where its next
    /// hop is a name. RFC 3261 12.2.1.1: where the first route is no loose router, its URI becomes the Request-URI, and
    /// the target the last route.
    pub(super) fn route(&self) -> (String, Vec<Header>, Option<SocketAddr>) {
        let uri_of =
            |route: &String| NameAddr::parse(route.as_bytes()).map(|route| text(route.uri));
        let Some(first) = self.routes.first().and_then(uri_of) else {
            return (self.target.clone(), Vec::new(), literal(&self.target));
        };
        let next_hop = literal(&first);
        if SipUri::parse(first.as_bytes()).is_ok_and(|uri| uri.lr()) {
            let routes = self.routes.iter().cloned().map(header).collect();
            return (self.target.clone(), routes, next_hop);
        }
        let last = format!("<{}>", self.target);
        let routes = self.routes.iter().skip(1).cloned().chain([last]);
        (first, routes.map(header).collect(), next_hop)
    }
}

fn header(route: String) -> Header {
    Route::new(route).into()
}

/// The address of a URI that needs no lookup.
fn literal(uri: &str) -> Option<SocketAddr> {
    let uri = SipUri::parse(uri.as_bytes()).ok()?;
    match uri.maddr().unwrap_or(uri.host) {
        Host::Ip(ip) => Some(SocketAddr::new(ip, uri.port.unwrap_or(DEFAULT_PORT))),
        Host::Name(_) => None,
    }
}

fn text(bytes: &[u8]) -> String {
    let mut line = Vec::with_capacity(bytes.len());
    push_line(&mut line, bytes);
    String::from_utf8_lossy(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(routes: &[&str]) -> Remote {
        Remote {
            tag: b"t".to_vec(),
            target: "sip:192.0.2.9:5070;gr=x".to_owned(),
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
            last: (1, 200),
        }
    }

    fn routes_of(headers: &[Header]) -> Vec<String> {
        headers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_routes_requests_go_to_the_contact() {
        let (uri, headers, next_hop) = remote(&[]).route();
        assert_eq!(uri, "sip:192.0.2.9:5070;gr=x");
        assert_eq!(headers, []);
        assert_eq!(next_hop, Some(([192, 0, 2, 9], 5070).into()));
    }

    #[test]
    fn a_loose_router_leaves_the_request_uri_alone() {
        let (uri, headers, next_hop) =
            remote(&["<sip:192.0.2.1;lr>", "<sip:p2.example.com;lr>"]).route();
        assert_eq!(uri, "sip:192.0.2.9:5070;gr=x");
        let routes = routes_of(&headers);
        assert_eq!(
            routes,
            [
                "Route: <sip:192.0.2.1;lr>",
                "Route: <sip:p2.example.com;lr>"
            ]
        );
        assert_eq!(next_hop, Some(([192, 0, 2, 1], 5060).into()));
    }

    #[test]
    fn a_strict_router_becomes_the_request_uri() {
        let (uri, headers, next_hop) =
            remote(&["<sip:p1.example.com>", "<sip:192.0.2.2;lr>"]).route();
        assert_eq!(uri, "sip:p1.example.com");
        let routes = routes_of(&headers);
        assert_eq!(
            routes,
            [
                "Route: <sip:192.0.2.2;lr>",
                "Route: <sip:192.0.2.9:5070;gr=x>"
            ]
        );
        assert_eq!(next_hop, None);
    }
}
