//! Requests in: the checks every request passes (RFC 3261 8.2), and what each method comes to. Knows no view.

use std::net::SocketAddr;

use super::{Effect, Notifier, Outbox};
use crate::sip::EVENT_PACKAGE;
use crate::sip::header::{Event, Via, tokens};
use crate::sip::request::{Malformed, Method, Request};
use crate::sip::scan::{Message, Name, ScanError, scan};
use crate::sip::uri::Host;
use crate::sip::write::{Responder, Response};
use crate::wire::{Flow, Transport};

/// RFC 3261 20.5: the methods that this notifier serves.
const ALLOW: &[u8] = b"SUBSCRIBE, PUBLISH, OPTIONS";
/// Documents that subscribers may ask for and publishers may send, and what a SUBSCRIBE may carry.
const ACCEPT: &[u8] =
    b"application/serverinfo+xml, application/serverinfo+json, application/serverinfo";
/// Seconds after which to come back where there was no room.
const RETRY_AFTER_S: u64 = 5;

/// Why a request is refused: the status, and what its response says beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    pub detail: Detail,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detail {
    None,
    /// A Warning with code 399.
    Warning(String),
    RetryAfter,
    /// Where the request may be served.
    Contacts(String),
    MinExpires(u32),
    /// What the refused field should have held.
    Header(&'static str, &'static str),
    /// RFC 3261 8.2.2.3: the option tags not understood.
    Unsupported(Vec<u8>),
}

impl Refusal {
    pub fn of(status: u16) -> Self {
        Refusal {
            status,
            detail: Detail::None,
        }
    }

    pub fn because(status: u16, why: impl ToString) -> Self {
        Refusal {
            status,
            detail: Detail::Warning(why.to_string()),
        }
    }

    /// 302, to go to one of these.
    pub fn moved(contacts: String) -> Self {
        Refusal {
            status: 302,
            detail: Detail::Contacts(contacts),
        }
    }

    /// 503, to come back soon.
    pub fn no_room() -> Self {
        Refusal {
            status: 503,
            detail: Detail::RetryAfter,
        }
    }
}

impl Notifier {
    /// Whether so much waits for the control thread that what can wait, messages of connections and NOTIFYs to them, shall: the
    /// other half of the room is for requests by UDP, which would have to be refused.
    pub fn holds_back(&self, out: &Outbox) -> bool {
        out.effects.len() >= self.settings.effects_most.div_ceil(2)
    }

    /// Takes one message that arrived on `flow`. A full batch drops a request by UDP, counted: the peer sends it again.
    pub fn receive(&mut self, now_ms: u64, flow: Flow, bytes: &[u8], out: &mut Outbox) {
        self.counters.received += 1;
        if bytes.len() > 8 && bytes[..4].eq_ignore_ascii_case(b"SIP/") {
            return self.answer(now_ms, flow, bytes, out);
        }
        if !flow.transport.is_reliable() && out.batch.room() == 0 {
            self.counters.response_overflows += 1;
            return;
        }
        match scan(bytes) {
            Ok(message) => match Request::parse(&message) {
                Ok(request) => self.request(now_ms, flow, bytes, &request, out),
                Err(Malformed::Response) => self.counters.garbage += 1,
                Err(malformed) => {
                    let refusal = Refusal::because(malformed.status().unwrap_or(400), malformed);
                    self.refuse_message(top_via_flow(flow, &message), &message, refusal, out);
                }
            },
            Err(failure) => self.unscannable(flow, failure.error, failure.message.as_deref(), out),
        }
    }

    fn unscannable(
        &mut self,
        flow: Flow,
        error: ScanError,
        message: Option<&Message<'_>>,
        out: &mut Outbox,
    ) {
        // RFC 5626 4.4.1: line ends alone keep a flow alive and are no message.
        if error == ScanError::KeepAlive {
            return;
        }
        match (message, error.status()) {
            (Some(message), Some(status)) if message.is_request() => {
                let refusal = Refusal::because(status, error);
                self.refuse_message(top_via_flow(flow, message), message, refusal, out);
            }
            _ => self.counters.garbage += 1,
        }
    }

    /// RFC 3261 8.2: method, then Request-URI and required extensions, then what the method asks.
    fn request(
        &mut self,
        now_ms: u64,
        flow: Flow,
        bytes: &[u8],
        request: &Request<'_, '_>,
        out: &mut Outbox,
    ) {
        let verdict = match request.method {
            // RFC 3261 17: an ACK is never answered; there is no INVITE it could belong to.
            Method::Ack => return self.counters.garbage += 1,
            // RFC 3261 9.2: a CANCEL that matches no transaction; SUBSCRIBE is never cancelled (RFC 6665 4.6).
            Method::Cancel => Err(Refusal::of(481)),
            Method::Other => Err(Refusal {
                status: 501,
                detail: Detail::Header("Allow", ""),
            }),
            Method::Subscribe => match self.check(request) {
                Ok(()) => return self.subscribe(now_ms, flow, bytes, request, out),
                Err(refusal) => Err(refusal),
            },
            Method::Publish => self
                .check(request)
                .and_then(|()| self.check_publish(flow, request)),
            Method::Options => self
                .check(request)
                .and_then(|()| self.check_domain(request)),
            _ => Err(Refusal {
                status: 405,
                detail: Detail::Header("Allow", ""),
            }),
        };
        // What waits for the control thread is bounded: beyond it, publishers come back later.
        let crowded = out.effects.len() >= self.settings.effects_most;
        match (verdict, request.method) {
            (Ok(()), Method::Publish) if crowded => {
                self.counters.full += 1;
                self.refuse(flow, request, Refusal::no_room(), out);
            }
            (Err(refusal), _) => self.refuse(flow, request, refusal, out),
            (Ok(()), Method::Publish) => {
                self.counters.publishes += 1;
                let reply_to = reply_flow(flow, request);
                out.effects.push_back(Effect::Publish {
                    flow: reply_to,
                    bytes: bytes.to_vec(),
                });
            }
            (Ok(()), _) => self.respond(flow, request, 200, None, out, |response| {
                response.header("Allow", ALLOW).header("Accept", ACCEPT);
                response.header("Allow-Events", EVENT_PACKAGE.as_bytes());
            }),
        }
    }

    /// Required extensions: RFC 3261 8.2.2.3. We know none that a peer could require.
    fn check(&self, request: &Request<'_, '_>) -> Result<(), Refusal> {
        let mut unsupported = Vec::new();
        for tag in request.message.all(Name::Require).flat_map(tokens) {
            if !unsupported.is_empty() {
                unsupported.extend_from_slice(b", ");
            }
            unsupported.extend_from_slice(tag);
        }
        if unsupported.is_empty() {
            return Ok(());
        }
        Err(Refusal {
            status: 420,
            detail: Detail::Unsupported(unsupported),
        })
    }

    fn check_publish(&self, flow: Flow, request: &Request<'_, '_>) -> Result<(), Refusal> {
        if !self.settings.may_publish(flow.peer.ip()) {
            return Err(Refusal::because(403, "this network may not publish"));
        }
        // RFC 3903 6: 404 comes before every other answer; the compositor makes the further checks.
        self.check_domain(request)
    }

    /// The Request-URI's host must be a domain served (RFC 3261 8.2.2.1). A request for another would have to be
    /// forwarded, which Max-Forwards 0 forbids (RFC 3261 16.3); for one served it means nothing (RFC 4475 3.3.11).
    pub(super) fn check_domain(&self, request: &Request<'_, '_>) -> Result<(), Refusal> {
        match self.request_domain(request) {
            Some(_) => Ok(()),
            None if request.max_forwards == Some(0) => Err(Refusal::of(483)),
            None => Err(Refusal::because(404, "domain not served here")),
        }
    }

    pub(super) fn request_domain(&self, request: &Request<'_, '_>) -> Option<u16> {
        match request.target.host {
            _ if self.settings.domains.is_empty() => Some(0),
            Host::Name(name) => self.settings.domain(name),
            Host::Ip(ip) => self.settings.domain(ip.to_string().as_bytes()),
        }
    }

    /// RFC 6665 4.2.1.1: an unknown or missing event package is answered 489.
    pub(super) fn check_event<'a>(request: &Request<'_, 'a>) -> Result<Event<'a>, Refusal> {
        let refusal = Refusal {
            status: 489,
            detail: Detail::Header("Allow-Events", EVENT_PACKAGE),
        };
        request
            .event
            .filter(|event| event.package == EVENT_PACKAGE.as_bytes())
            .ok_or(refusal)
    }

    pub(super) fn refuse(
        &mut self,
        flow: Flow,
        request: &Request<'_, '_>,
        refusal: Refusal,
        out: &mut Outbox,
    ) {
        self.refuse_message(reply_flow(flow, request), request.message, refusal, out);
    }

    fn refuse_message(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        refusal: Refusal,
        out: &mut Outbox,
    ) {
        // RFC 3261 8.2.6.2: every response but 100 has a To-tag; the digest of the request makes it the same for repeats.
        let call_id = message.first(Name::CallId).unwrap_or_default();
        let tag = format!(
            "{:016x}",
            self.key
                .digest(call_id, message.first(Name::From).unwrap_or_default())
        );
        let responder = Responder::new(message, refusal.status, flow.peer).to_tag(tag.as_bytes());
        let agent =
            String::from_utf8_lossy(&self.settings.listeners[usize::from(flow.local)].sent_by)
                .into_owned();
        let written = self.write(flow, out, |bytes| {
            let Ok(mut response) = responder.begin(bytes) else {
                return false;
            };
            describe(&mut response, &refusal, &agent);
            response.finish();
            true
        });
        if written {
            self.counters.refused += 1;
        } else {
            self.counters.garbage += 1;
        }
    }

    pub(super) fn respond(
        &mut self,
        flow: Flow,
        request: &Request<'_, '_>,
        status: u16,
        tag: Option<&[u8]>,
        out: &mut Outbox,
        fields: impl FnOnce(&mut Response<'_>),
    ) {
        let digest;
        let tag = match tag {
            Some(tag) => tag,
            None => {
                digest = format!(
                    "{:016x}",
                    self.key.digest(request.call_id, request.from.raw)
                );
                digest.as_bytes()
            }
        };
        let flow = reply_flow(flow, request);
        let mut responder = Responder::to_request(request, status, flow.peer).to_tag(tag);
        // RFC 3261 12.1.1: the response that makes a dialog copies Record-Route.
        if request.method == Method::Subscribe {
            responder = responder.record_route();
        }
        self.write(flow, out, |bytes| {
            let Ok(mut response) = responder.begin(bytes) else {
                return false;
            };
            fields(&mut response);
            response.finish();
            true
        });
    }

    /// Writes a message of our own to a flow: into the batch, or as an effect for a connection. False if `fill` wrote
    /// nothing.
    pub(super) fn write(
        &mut self,
        flow: Flow,
        out: &mut Outbox,
        fill: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        if flow.transport.is_reliable() {
            let mut head = Vec::new();
            let written = fill(&mut head);
            if written {
                let message = crate::wire::Datagram { flow, bytes: head };
                out.effects.push_back(Effect::Stream(message));
            }
            return written;
        }
        let Some(slot) = out.batch.next(flow) else {
            self.counters.response_overflows += 1;
            return false;
        };
        let written = fill(&mut slot.bytes);
        if !written {
            out.batch.undo();
        }
        written
    }
}

fn describe(response: &mut Response<'_>, refusal: &Refusal, agent: &str) {
    match &refusal.detail {
        Detail::None => {}
        Detail::Warning(text) => drop(response.warning(agent, text)),
        Detail::Contacts(contacts) => drop(response.header("Contact", contacts.as_bytes())),
        Detail::RetryAfter => drop(response.number("Retry-After", RETRY_AFTER_S)),
        Detail::MinExpires(least_s) => drop(response.number("Min-Expires", (*least_s).into())),
        Detail::Header("Allow", _) => drop(response.header("Allow", ALLOW)),
        Detail::Header(name, value) => drop(response.header(name, value.as_bytes())),
        Detail::Unsupported(tags) => drop(response.header("Unsupported", tags)),
    }
}

fn reply_flow(flow: Flow, request: &Request<'_, '_>) -> Flow {
    via_flow(flow, &request.via)
}

/// The same for a request that is not to be served; the source address where even its Via cannot be read.
fn top_via_flow(flow: Flow, message: &Message<'_>) -> Flow {
    let via = message.elements(Name::Via).next().and_then(Via::parse);
    via.map_or(flow, |via| via_flow(flow, &via))
}

/// Where the response goes (RFC 3261 18.2.2): on the connection; else to the source address, at its port where rport asks
/// (RFC 3581 4), else at the port of sent-by.
fn via_flow(flow: Flow, via: &Via<'_>) -> Flow {
    if flow.transport == Transport::Udp && !via.rport {
        let port = via.port.unwrap_or(5060);
        return Flow {
            peer: SocketAddr::new(flow.peer.ip(), port),
            ..flow
        };
    }
    flow
}
