//! Writing: the head of a NOTIFY, and responses to what was scanned, well formed or not.
//! Knows no transport and keeps nothing; what peers wrote is copied onto single lines, so no copy can add a header field.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use memchr::memchr2;
use thiserror::Error;

use super::EVENT_PACKAGE;
use super::header::{NameAddr, Rate, Via};
use super::request::Request;
use super::scan::{Message, Name, Start};
use super::uri::Host;

/// Why a subscription ended (RFC 6665 4.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Deactivated,
    Probation,
    Rejected,
    Timeout,
    Giveup,
    NoResource,
    Invariant,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Deactivated => "deactivated",
            Reason::Probation => "probation",
            Reason::Rejected => "rejected",
            Reason::Timeout => "timeout",
            Reason::Giveup => "giveup",
            Reason::NoResource => "noresource",
            Reason::Invariant => "invariant",
        }
    }
}

/// What Subscription-State says; times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    Active {
        expires: u32,
    },
    Pending {
        expires: u32,
    },
    Terminated {
        reason: Reason,
        retry_after: Option<u32>,
    },
}

/// All that the head of a NOTIFY says. Texts of the peer's must stand on one line: as `Request::parse` gave them,
/// or through `push_line`.
#[derive(Debug, Clone, Copy)]
pub struct Notify<'a> {
    /// The Request-URI: the peer's Contact, or what strict routing makes of it (RFC 3261 12.2.1.1).
    pub target: &'a [u8],
    /// Of `notify_via`.
    pub via: &'a [u8],
    /// With the magic cookie.
    pub branch: &'a [u8],
    /// The route set, comma-separated; empty: none.
    pub routes: &'a [u8],
    pub from_uri: &'a [u8],
    pub from_tag: &'a [u8],
    pub to_uri: &'a [u8],
    /// Empty where the peer gave none (RFC 2543).
    pub to_tag: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
    pub event_id: Option<&'a [u8]>,
    pub state: SubscriptionState,
    pub max_rate: Option<Rate>,
    pub min_rate: Option<Rate>,
    pub etag: &'a [u8],
    /// Of `notify_contact`.
    pub contact: &'a [u8],
    /// Of `notify_content`.
    pub content: &'a [u8],
}

/// What every NOTIFY of one listening address has between its Request-URI and its branch.
pub fn notify_via(transport_name: &str, sent_by: &str) -> Box<[u8]> {
    format!(" SIP/2.0\r\nVia: SIP/2.0/{transport_name} {sent_by};branch=")
        .into_bytes()
        .into()
}

/// What every NOTIFY of one listening address has between its CSeq's number and the parameters of its Event; `contact` is
/// the whole value of our Contact.
pub fn notify_contact(contact: &str) -> Box<[u8]> {
    format!(" NOTIFY\r\nContact: {contact}\r\nEvent: {EVENT_PACKAGE}")
        .into_bytes()
        .into()
}

/// What every NOTIFY with one document has from its entity-tag to the end of its head.
pub fn notify_content(content_type: &str, length: usize) -> Box<[u8]> {
    format!("\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
        .into()
}

/// The same of a NOTIFY without a document.
pub const NO_CONTENT: &[u8] = b"\r\nContent-Length: 0\r\n\r\n";

impl Notify<'_> {
    /// Appends the head, the empty line included. `branch` stands right after sent-by, where a socket filter finds
    /// it; CSeq and `expires` do not change the length.
    pub fn write(&self, out: &mut Vec<u8>) {
        push(out, &[b"NOTIFY ", self.target, self.via, self.branch]);
        out.extend_from_slice(b";rport\r\nMax-Forwards: 70\r\n");
        if !self.routes.is_empty() {
            push(out, &[b"Route: ", self.routes, b"\r\n"]);
        }
        push(out, &[b"From: <", self.from_uri, b">;tag=", self.from_tag]);
        push(out, &[b"\r\nTo: <", self.to_uri, b">"]);
        push_tag(out, self.to_tag);
        push(out, &[b"\r\nCall-ID: ", self.call_id, b"\r\nCSeq: "]);
        push_padding(out, self.cseq);
        push_number(out, self.cseq.into());
        out.extend_from_slice(self.contact);
        if let Some(id) = self.event_id {
            push(out, &[b";id=", id]);
        }
        out.extend_from_slice(b"\r\nSubscription-State: ");
        self.push_state(out);
        push(out, &[b"\r\nSIP-ETag: ", self.etag, self.content]);
    }

    fn push_state(&self, out: &mut Vec<u8>) {
        match self.state {
            SubscriptionState::Active { expires } => push_running(out, b"active;expires=", expires),
            SubscriptionState::Pending { expires } => {
                push_running(out, b"pending;expires=", expires)
            }
            SubscriptionState::Terminated {
                reason,
                retry_after,
            } => {
                push(out, &[b"terminated;reason=", reason.as_str().as_bytes()]);
                if let Some(seconds) = retry_after {
                    out.extend_from_slice(b";retry-after=");
                    push_number(out, seconds.into());
                }
                return;
            }
        }
        for (name, rate) in [("max-rate", self.max_rate), ("min-rate", self.min_rate)] {
            if let Some(rate) = rate {
                push_formatted(out, format_args!(";{name}={rate}"));
            }
        }
    }
}

fn push_running(out: &mut Vec<u8>, state: &[u8], expires: u32) {
    push_padding(out, expires);
    out.extend_from_slice(state);
    push_number(out, expires.into());
}

fn push_tag(out: &mut Vec<u8>, tag: &[u8]) {
    if !tag.is_empty() {
        push(out, &[b";tag=", tag]);
    }
}

fn push(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

fn push_formatted(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("a Vec takes all that is written");
}

/// The spaces that make a number ten places wide. HCOLON allows them before a value.
fn push_padding(out: &mut Vec<u8>, number: u32) {
    let digits = number.checked_ilog10().unwrap_or(0) as usize;
    out.extend_from_slice(&b"         "[digits..]);
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    if number < 100_000_000 {
        // The last digit first, each before the others.
        let (mut text, mut len) = (0, 0);
        loop {
            text = (text << 8) | (u64::from(b'0') + number % 10);
            (number, len) = (number / 10, len + 1);
            if number == 0 {
                break;
            }
        }
        out.extend_from_slice(&text.to_le_bytes());
        return out.truncate(out.len() - 8 + len);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_ipv4(out: &mut Vec<u8>, octets: [u8; 4]) {
    let mut text = [b'.'; 15];
    let mut len = 0;
    for (place, octet) in octets.into_iter().enumerate() {
        len += usize::from(place > 0);
        for (power, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text[len] = b'0' + octet / power % 10;
                len += 1;
            }
        }
    }
    out.extend_from_slice(&text[..len]);
}

/// Appends a value on one line: each run of white space that holds a CR or LF becomes one space (RFC 3261 7.3.1).
pub fn push_line(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(rest[..at].trim_ascii_end());
        out.push(b' ');
        rest = rest[at..].trim_ascii_start();
    }
    out.extend_from_slice(rest);
}

/// Appends the route set that a request's Record-Route gives its server, comma-separated and in order (RFC 3261
/// 12.1.1): what `Notify::routes` wants.
pub fn push_route_set(out: &mut Vec<u8>, message: &Message<'_>) {
    for (at, route) in message.elements(Name::RecordRoute).enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        push_line(out, route);
    }
}

/// Why a message cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unanswerable {
    #[error("a response is not answered")]
    Response,
    #[error("an ACK is not answered")]
    Ack,
    #[error("no Via or CSeq to answer by")]
    NoTransaction,
}

/// A response in the making, for a request that was scanned at least in part.
#[derive(Debug, Clone, Copy)]
pub struct Responder<'r, 'a> {
    message: &'r Message<'a>,
    /// The message parsed, where it could be.
    request: Option<&'r Request<'r, 'a>>,
    status: u16,
    source: SocketAddr,
    to_tag: Option<&'r [u8]>,
    record_route: bool,
}

impl<'r, 'a> Responder<'r, 'a> {
    /// `source` is where the request came from (RFC 3261 18.2.1, RFC 3581 4).
    pub fn new(message: &'r Message<'a>, status: u16, source: SocketAddr) -> Self {
        Responder {
            message,
            request: None,
            status,
            source,
            to_tag: None,
            record_route: false,
        }
    }

    /// The same for a request that was parsed: nothing is parsed again.
    pub fn to_request(request: &'r Request<'r, 'a>, status: u16, source: SocketAddr) -> Self {
        Responder {
            request: Some(request),
            ..Responder::new(request.message, status, source)
        }
    }

    /// The tag that To gets if it has none (RFC 3261 8.2.6.2).
    pub fn to_tag(mut self, tag: &'r [u8]) -> Self {
        self.to_tag = Some(tag);
        self
    }

    /// Copies Record-Route, as a response that makes a dialog must (RFC 3261 12.1.1).
    pub fn record_route(mut self) -> Self {
        self.record_route = true;
        self
    }

    /// Appends the start line and what is copied from the request. From, To and Call-ID are left out where a
    /// malformed request has none: RFC 4475 3.3.1 wants its 400, and Via and CSeq suffice to match it (17.1.3).
    pub fn begin<'o>(self, out: &'o mut Vec<u8>) -> Result<Response<'o>, Unanswerable> {
        let message = self.message;
        let Start::Request { method, .. } = message.start else {
            return Err(Unanswerable::Response);
        };
        if method == b"ACK" {
            return Err(Unanswerable::Ack);
        }
        let value = message
            .first(Name::Via)
            .ok_or(Unanswerable::NoTransaction)?;
        let cseq = message
            .first(Name::CSeq)
            .ok_or(Unanswerable::NoTransaction)?;
        let parsed;
        let (top, top_raw) = match self.request {
            Some(request) => (Some(&request.via), request.via.raw),
            None => {
                let mut elements = message.elements(Name::Via);
                let first = elements.next().ok_or(Unanswerable::NoTransaction)?;
                parsed = Via::parse(first);
                (parsed.as_ref(), first)
            }
        };
        push_status(out, self.status);
        out.extend_from_slice(b"Via: ");
        match top {
            Some(via) => push_top_via(out, via, self.source),
            None => push_line(out, top_raw),
        }
        let mut response = Response {
            out,
            folded: message.is_folded(),
        };
        if message.only(Name::Via).is_none() || top_raw.len() < value.len() {
            for via in message.elements(Name::Via).skip(1) {
                response.line(b"\r\nVia: ", via);
            }
        }
        if self.record_route {
            for value in message.all(Name::RecordRoute) {
                response.line(b"\r\nRecord-Route: ", value);
            }
        }
        if let Some(from) = message.first(Name::From) {
            response.line(b"\r\nFrom: ", from);
        }
        if let Some(to) = message.first(Name::To) {
            response.line(b"\r\nTo: ", to);
            let has_tag = match self.request {
                Some(request) => request.to_tag().is_some(),
                None => NameAddr::parse(to).is_some_and(|to| to.tag().is_some()),
            };
            push_tag(
                response.out,
                self.to_tag.filter(|_| !has_tag).unwrap_or_default(),
            );
        }
        if let Some(call_id) = message.first(Name::CallId) {
            response.line(b"\r\nCall-ID: ", call_id);
        }
        response.line(b"\r\nCSeq: ", cseq);
        response.out.extend_from_slice(b"\r\n");
        Ok(response)
    }
}

fn push_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    }
    out.extend_from_slice(b"SIP/2.0 ");
    push_number(out, status.into());
    push(out, &[b" ", reason_phrase(status).as_bytes(), b"\r\n"]);
}

/// The topmost Via as the server sends it back. RFC 3581 4: where an rport without value asks, it gets the source
/// port, and `received` is there even if it says what sent-by says; RFC 3261 18.2.1: else `received` is there when
/// sent-by is another address or a name. Whatever the client put into `received` goes.
fn push_top_via(out: &mut Vec<u8>, via: &Via<'_>, source: SocketAddr) {
    out.extend_from_slice(b"SIP/2.0/");
    push(out, &[via.transport, b" ", via.host]);
    if let Some(port) = via.port {
        out.push(b':');
        push_number(out, port.into());
    }
    match via.copied {
        Some(pieces) => push(out, &pieces),
        None => push_via_params(out, via),
    }
    let address = source.ip().to_canonical();
    if via.rport || via.sent_by != Host::Ip(address) {
        out.extend_from_slice(b";received=");
        match address {
            IpAddr::V4(address) => push_ipv4(out, address.octets()),
            // RFC 3261 25.1: `via-received` has an IPv6 address without brackets.
            IpAddr::V6(address) => push_formatted(out, format_args!("{address}")),
        }
    }
    if via.rport {
        out.extend_from_slice(b";rport=");
        push_number(out, source.port().into());
    }
}

/// The parameters but `received` and an empty `rport`, without white space between them.
fn push_via_params(out: &mut Vec<u8>, via: &Via<'_>) {
    for param in via.params {
        let ours = param.name.eq_ignore_ascii_case(b"received")
            || (param.name.eq_ignore_ascii_case(b"rport") && param.value.is_none());
        if !ours {
            out.push(b';');
            push_line(out, param.raw);
        }
    }
}

/// RFC 3261 18.2.2 and RFC 3581 4: to the source's address, and to its port if the Via asks so by rport.
pub fn answer_to(message: &Message<'_>, source: SocketAddr) -> SocketAddr {
    let via = message.elements(Name::Via).next().and_then(Via::parse);
    match via {
        Some(via) if !via.rport => SocketAddr::new(source.ip(), via.port.unwrap_or(5060)),
        _ => source,
    }
}

/// A response begun: takes more header fields, then its end.
#[derive(Debug)]
#[must_use = "a response is whole only when finished"]
pub struct Response<'o> {
    out: &'o mut Vec<u8>,
    /// Values of the request may be folded.
    folded: bool,
}

impl Response<'_> {
    pub fn header(&mut self, name: &str, value: &[u8]) -> &mut Self {
        push(self.out, &[name.as_bytes(), b": "]);
        push_line(self.out, value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Header fields of our own as they are sent: whole lines, each with its line end.
    pub fn lines(&mut self, pieces: &[&[u8]]) -> &mut Self {
        push(self.out, pieces);
        self
    }

    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        push(self.out, &[name.as_bytes(), b": "]);
        push_number(self.out, value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// RFC 3261 20.43: `399 agent "text"`, a quote or backslash in the text escaped.
    pub fn warning(&mut self, agent: &str, text: impl std::fmt::Display) -> &mut Self {
        let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        self.header("Warning", format!("399 {agent} \"{text}\"").as_bytes())
    }

    /// Ends a response without a body.
    pub fn finish(&mut self) {
        self.out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }

    pub fn finish_with(&mut self, content_type: &str, body: &[u8]) {
        self.header("Content-Type", content_type.as_bytes());
        self.number("Content-Length", body.len() as u64);
        push(self.out, &[b"\r\n", body]);
    }

    /// The end of the line before, a name, and what the request says.
    #[inline]
    fn line(&mut self, name: &'static [u8], value: &[u8]) {
        self.out.extend_from_slice(name);
        if self.folded {
            push_line(self.out, value);
        } else {
            self.out.extend_from_slice(value);
        }
    }
}

/// The reason phrases of the RFCs for what a notifier answers; the class's first for the rest.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        302 => "Moved Temporarily",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        489 => "Bad Event",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        101..=199 => "Session Progress",
        201..=299 => "OK",
        300..=399 => "Multiple Choices",
        400..=499 => "Bad Request",
        500..=599 => "Server Internal Error",
        _ => "Busy Everywhere",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::scan;

    fn notify() -> Notify<'static> {
        Notify {
            target: b"sip:a@192.0.2.1",
            via: b" SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:5060;branch=",
            branch: b"z9hG4bKb",
            routes: b"<sip:p1;lr>, <sip:p2;lr>",
            from_uri: b"sip:e.example",
            from_tag: b"f",
            to_uri: b"sip:a@h",
            to_tag: b"t",
            call_id: b"c",
            cseq: 7,
            event_id: Some(b"9"),
            state: SubscriptionState::Active { expires: 1799 },
            max_rate: Some(Rate::from_interval_ms(2_000)),
            min_rate: None,
            etag: b"e1",
            contact: b" NOTIFY\r\nContact: <sip:192.0.2.9;gr=x>\r\nEvent: SIPserver",
            content: b"\r\nContent-Type: application/serverinfo+xml\r\nContent-Length: 12\r\n\r\n",
        }
    }

    #[test]
    fn what_is_the_same_in_many_notifys_is_written_once() {
        let notify = notify();
        assert_eq!(&*notify_via("UDP", "192.0.2.9:5060"), notify.via);
        assert_eq!(&*notify_contact("<sip:192.0.2.9;gr=x>"), notify.contact);
        let content = notify_content("application/serverinfo+xml", 12);
        assert_eq!(&*content, notify.content);
    }

    fn text(notify: &Notify<'_>) -> String {
        let mut out = Vec::new();
        notify.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_notify_reads_so() {
        let expected = "NOTIFY sip:a@192.0.2.1 SIP/2.0\r\n\
            Via: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKb;rport\r\nMax-Forwards: 70\r\n\
            Route: <sip:p1;lr>, <sip:p2;lr>\r\nFrom: <sip:e.example>;tag=f\r\nTo: <sip:a@h>;tag=t\r\n\
            Call-ID: c\r\nCSeq:          7 NOTIFY\r\nContact: <sip:192.0.2.9;gr=x>\r\nEvent: SIPserver;id=9\r\n\
            Subscription-State:       active;expires=1799;max-rate=0.5\r\nSIP-ETag: e1\r\n\
            Content-Type: application/serverinfo+xml\r\nContent-Length: 12\r\n\r\n";
        assert_eq!(text(&notify()), expected);
    }

    #[test]
    fn numbers_do_not_change_a_notifys_length() {
        let mut other = notify();
        let length = text(&other).len();
        for number in [0, 1, 9, 10, 999_999_999, 1_000_000_000, u32::MAX] {
            other.cseq = number;
            other.state = SubscriptionState::Active { expires: number };
            assert_eq!(text(&other).len(), length, "{number}");
        }
    }

    #[test]
    fn a_terminated_subscription_has_a_reason_and_no_expires() {
        let mut last = notify();
        last.content = NO_CONTENT;
        last.state = SubscriptionState::Terminated {
            reason: Reason::Probation,
            retry_after: Some(5),
        };
        let text = text(&last);
        assert!(
            text.contains("\r\nSubscription-State: terminated;reason=probation;retry-after=5\r\n")
        );
        assert!(!text.contains("Content-Type"));
    }

    const REQUEST: &str = "OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5070;received=6.6.6.6;branch=z9hG4bKa,\r\n\
        \tSIP/2.0/TCP p\r\nv: SIP/2.0/TCP q\r\nf: <sip:a>;\r\n tag=1\r\nt: <sip:b>\r\ni: c\r\nCSeq: 1\r\n  OPTIONS\r\n\
        Record-Route: <sip:p;lr>\r\n\r\n";

    fn respond(request: &str, source: &str) -> String {
        let message = scan(request.as_bytes()).unwrap();
        let mut out = Vec::new();
        Responder::new(&message, 200, source.parse().unwrap())
            .to_tag(b"ours")
            .record_route()
            .begin(&mut out)
            .unwrap()
            .number("Expires", 60)
            .finish();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_copies_what_it_must_on_single_lines() {
        let expected = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKa\r\nVia: SIP/2.0/TCP p\r\n\
            Via: SIP/2.0/TCP q\r\nRecord-Route: <sip:p;lr>\r\nFrom: <sip:a>; tag=1\r\nTo: <sip:b>;tag=ours\r\n\
            Call-ID: c\r\nCSeq: 1 OPTIONS\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(respond(REQUEST, "192.0.2.1:9"), expected);
        assert_eq!(respond(REQUEST, "[::ffff:192.0.2.1]:9"), expected);
        let in_dialog = respond(
            &REQUEST.replace("t: <sip:b>", "t: <sip:b>;tag=old"),
            "192.0.2.1:9",
        );
        assert!(in_dialog.contains("\r\nTo: <sip:b>;tag=old\r\n"));
    }

    #[test]
    fn received_and_rport_say_where_the_request_came_from() {
        let top = |via: &str, source: &str| {
            let request = REQUEST.replace("192.0.2.1:5070;received=6.6.6.6", via);
            let response = respond(&request, source);
            response.lines().nth(1).unwrap().to_owned()
        };
        let via = |rest: &str| format!("Via: SIP/2.0/UDP {rest}");
        assert_eq!(
            top("h", "192.0.2.1:9"),
            via("h;branch=z9hG4bKa;received=192.0.2.1")
        );
        assert_eq!(
            top("192.0.2.2", "192.0.2.1:9"),
            via("192.0.2.2;branch=z9hG4bKa;received=192.0.2.1")
        );
        assert_eq!(
            top("192.0.2.1;rport", "192.0.2.1:9"),
            via("192.0.2.1;branch=z9hG4bKa;received=192.0.2.1;rport=9")
        );
        assert_eq!(
            top("[2001:db8::1]", "[2001:db8::1]:9"),
            via("[2001:db8::1];branch=z9hG4bKa")
        );
        assert_eq!(
            top("h", "[2001:db8::1]:9"),
            via("h;branch=z9hG4bKa;received=2001:db8::1")
        );
    }

    #[test]
    fn what_cannot_be_answered_is_not() {
        let unanswered = |text: &str| {
            let message = scan(text.as_bytes()).unwrap();
            let source = "192.0.2.1:9".parse().unwrap();
            Responder::new(&message, 400, source)
                .begin(&mut Vec::new())
                .unwrap_err()
        };
        assert_eq!(
            unanswered(&REQUEST.replace("CSeq", "X")),
            Unanswerable::NoTransaction
        );
        assert_eq!(
            unanswered("OPTIONS sip:a SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n"),
            Unanswerable::NoTransaction
        );
        assert_eq!(
            unanswered(&REQUEST.replace("OPTIONS", "ACK")),
            Unanswerable::Ack
        );
        assert_eq!(unanswered("SIP/2.0 200 OK\r\n\r\n"), Unanswerable::Response);
    }

    #[test]
    fn a_warning_cannot_leave_its_quotes() {
        let message = scan(REQUEST.as_bytes()).unwrap();
        let mut out = Vec::new();
        let mut response = Responder::new(&message, 400, "192.0.2.1:9".parse().unwrap())
            .begin(&mut out)
            .unwrap();
        response.warning("fanfare", "a \"b\"\r\nX: \\").finish();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("\r\nWarning: 399 fanfare \"a \\\"b\\\" X: \\\\\"\r\n"),
            "{text}"
        );
    }
}
