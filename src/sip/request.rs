//! A request's full parse (RFC 3261 7, 8.1.1): every field that any method's handling needs, judged once.
//! Knows no method's rules beyond which fields may stand once.

use thiserror::Error;

use super::class::{self, VISIBLE};
use super::header::{CSeq, Event, MediaRange, NameAddr, Via, delta_seconds};
use super::name::Names;
use super::params::is_token;
use super::scan::{Elements, Message, Name, Start};
use super::uri::{SipUri, UriError};

/// Methods are case-sensitive (RFC 3261 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Subscribe,
    Publish,
    Notify,
    Options,
    Invite,
    Ack,
    Cancel,
    Bye,
    Register,
    Message,
    Info,
    Prack,
    Update,
    Refer,
    /// Known to no RFC this room knows: 501.
    Other,
}

impl Method {
    pub fn of(name: &[u8]) -> Method {
        match name {
            b"SUBSCRIBE" => Method::Subscribe,
            b"PUBLISH" => Method::Publish,
            b"NOTIFY" => Method::Notify,
            b"OPTIONS" => Method::Options,
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"CANCEL" => Method::Cancel,
            b"BYE" => Method::Bye,
            b"REGISTER" => Method::Register,
            b"MESSAGE" => Method::Message,
            b"INFO" => Method::Info,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            b"REFER" => Method::Refer,
            _ => Method::Other,
        }
    }
}

/// A request whose fields are well formed. `'a` is the bytes' life, `'m` that of the scanned message.
#[derive(Debug, Clone, Copy)]
pub struct Request<'m, 'a> {
    pub method: Method,
    pub method_name: &'a [u8],
    /// The Request-URI as written.
    pub uri: &'a [u8],
    pub target: SipUri<'a>,
    pub message: &'m Message<'a>,
    /// The topmost Via.
    pub via: Via<'a>,
    pub from: NameAddr<'a>,
    pub to: NameAddr<'a>,
    pub call_id: &'a [u8],
    pub cseq: CSeq<'a>,
    /// Absent in requests of RFC 2543.
    pub max_forwards: Option<u32>,
    /// The first Contact; a SUBSCRIBE or NOTIFY has no second.
    pub contact: Option<NameAddr<'a>>,
    /// In seconds; what a `u32` cannot hold counts as its greatest value.
    pub expires: Option<u32>,
    pub event: Option<Event<'a>>,
    pub content_type: Option<MediaRange<'a>>,
    /// SIP-If-Match of a PUBLISH (RFC 3903 11.3.2).
    pub if_match: Option<&'a [u8]>,
    /// Suppress-If-Match of a SUBSCRIBE (RFC 5839 7.2), `*` included.
    pub suppress_if_match: Option<&'a [u8]>,
    pub body: &'a [u8],
}

/// Why a message is no request that could be served. The text suits the Warning of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("not a request")]
    Response,
    #[error("no {0}")]
    Missing(Name),
    #[error("more than one {0}")]
    Repeated(Name),
    #[error("malformed {0}")]
    Syntax(Name),
    #[error("malformed Request-URI")]
    RequestUri,
    #[error("Request-URI scheme is neither sip nor sips")]
    UriScheme,
    #[error("header fields in the Request-URI")]
    UriHeaders,
    #[error("CSeq method is not the request's")]
    CSeqMethod,
    #[error("Via branch without an identifier")]
    EmptyBranch,
}

impl Malformed {
    /// The status that a request with this fault is answered; `None` for a response.
    pub fn status(self) -> Option<u16> {
        match self {
            Malformed::Response => None,
            Malformed::UriScheme => Some(416),
            _ => Some(400),
        }
    }
}

/// Fields that have one value and stand once; Content-Length is the scanner's.
const SINGLE: Names = Names::of(&[
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::MaxForwards,
    Name::Event,
    Name::Expires,
    Name::MinExpires,
    Name::SubscriptionState,
    Name::ContentType,
    Name::SipEtag,
    Name::SipIfMatch,
    Name::SuppressIfMatch,
    Name::RetryAfter,
]);

impl<'m, 'a> Request<'m, 'a> {
    pub fn parse(message: &'m Message<'a>) -> Result<Request<'m, 'a>, Malformed> {
        let Start::Request {
            method: method_name,
            uri,
        } = message.start
        else {
            return Err(Malformed::Response);
        };
        let method = Method::of(method_name);
        if message.repeats(SINGLE) {
            return Err(repeated(message));
        }
        let found = Found(message);
        let via = top_via(message)?;
        let cseq = found.required(Name::CSeq, CSeq::parse)?;
        // RFC 4475 3.1.2.18: an unknown method is better answered as unknown than as malformed.
        if cseq.method != method_name && method != Method::Other {
            return Err(Malformed::CSeqMethod);
        }
        Ok(Request {
            method,
            method_name,
            uri,
            message,
            via,
            cseq,
            from: found.required(Name::From, NameAddr::parse)?,
            to: found.required(Name::To, NameAddr::parse)?,
            call_id: found.required(Name::CallId, call_id)?,
            max_forwards: found.optional(Name::MaxForwards, delta_seconds)?,
            contact: contact(message, method)?,
            expires: found.optional(Name::Expires, delta_seconds)?,
            event: found.optional(Name::Event, Event::parse)?,
            content_type: found.optional(Name::ContentType, MediaRange::parse)?,
            if_match: found.optional(Name::SipIfMatch, token)?,
            suppress_if_match: found.optional(Name::SuppressIfMatch, token)?,
            target: target(uri)?,
            body: message.body,
        })
    }

    pub fn from_tag(&self) -> Option<&'a [u8]> {
        self.from.tag()
    }

    /// Present in requests within a dialog.
    pub fn to_tag(&self) -> Option<&'a [u8]> {
        self.to.tag()
    }
}

/// The first repetition of a field that stands once.
#[cold]
fn repeated(message: &Message<'_>) -> Malformed {
    let mut seen = Names::NONE;
    for field in &message.fields {
        if SINGLE.has(field.name) && seen.has(field.name) {
            return Malformed::Repeated(field.name);
        }
        seen.add(field.name);
    }
    unreachable!("asked only where a field is repeated")
}

/// The values of the fields that stand once.
struct Found<'m, 'a>(&'m Message<'a>);

impl<'a> Found<'_, 'a> {
    #[inline]
    fn optional<T>(
        &self,
        name: Name,
        parse: impl Fn(&'a [u8]) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        match self.0.first(name) {
            None => Ok(None),
            Some(value) => parse(value).map(Some).ok_or(Malformed::Syntax(name)),
        }
    }

    #[inline]
    fn required<T>(
        &self,
        name: Name,
        parse: impl Fn(&'a [u8]) -> Option<T>,
    ) -> Result<T, Malformed> {
        self.optional(name, parse)?.ok_or(Malformed::Missing(name))
    }
}

fn top_via<'a>(message: &Message<'a>) -> Result<Via<'a>, Malformed> {
    // A plain Via has no comma, so its value is one element.
    let plain = message.only(Name::Via).and_then(Via::parse_plain);
    let via = match plain {
        Some(via) => via,
        None => {
            let mut elements = message.elements(Name::Via);
            let first = elements.next().ok_or(Malformed::Missing(Name::Via))?;
            Via::parse(first).ok_or(Malformed::Syntax(Name::Via))?
        }
    };
    // RFC 4475 3.2.1: the magic cookie promises an identifier that is not there.
    if via.branch == Some(b"z9hG4bK") {
        return Err(Malformed::EmptyBranch);
    }
    Ok(via)
}

/// RFC 3261 8.1.1.8: a request that may establish a dialog has exactly one Contact; `*` is REGISTER's alone.
fn contact<'a>(message: &Message<'a>, method: Method) -> Result<Option<NameAddr<'a>>, Malformed> {
    // A plain address has no comma outside its brackets, so its value is one element.
    if let Some(contact) = message.only(Name::Contact).and_then(NameAddr::parse_plain) {
        return Ok(Some(contact));
    }
    let mut contacts = message.all(Name::Contact).flat_map(Elements::of);
    let Some(first) = contacts.next() else {
        return Ok(None);
    };
    if first == b"*" && method == Method::Register {
        return Ok(None);
    }
    let parse = |element| NameAddr::parse(element).ok_or(Malformed::Syntax(Name::Contact));
    let contact = parse(first)?;
    for other in contacts {
        parse(other)?;
        if matches!(method, Method::Subscribe | Method::Notify) {
            return Err(Malformed::Repeated(Name::Contact));
        }
    }
    Ok(Some(contact))
}

/// `callid = word [ "@" word ]`, taken as any run without white space: it is only ever compared and echoed.
fn call_id(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty() && class::all(VISIBLE, value)).then_some(value)
}

fn token(value: &[u8]) -> Option<&[u8]> {
    is_token(value).then_some(value)
}

fn target(uri: &[u8]) -> Result<SipUri<'_>, Malformed> {
    let target = SipUri::parse(uri).map_err(|error| match error {
        UriError::Scheme => Malformed::UriScheme,
        UriError::Syntax => Malformed::RequestUri,
    })?;
    match target.headers {
        None => Ok(target),
        // RFC 3261 19.1.1: header fields are not allowed in a Request-URI.
        Some(_) => Err(Malformed::UriHeaders),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::scan;

    const SUBSCRIBE: &str = "SUBSCRIBE sip:e.example SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@h>;tag=1\r\n\
        To: <sip:e.example>\r\nCall-ID: c\r\nCSeq: 1 SUBSCRIBE\r\nMax-Forwards: 70\r\nContact: <sip:a@192.0.2.1>\r\n\
        Event: SIPserver\r\nExpires: 60\r\nSuppress-If-Match: *\r\nContent-Type: application/serverinfo\r\n\r\n<filter/>";

    fn fault(text: &str) -> Malformed {
        Request::parse(&scan(text.as_bytes()).unwrap()).unwrap_err()
    }

    #[test]
    fn a_subscribe_gives_all_that_its_handling_needs() {
        let message = scan(SUBSCRIBE.as_bytes()).unwrap();
        let request = Request::parse(&message).unwrap();
        assert_eq!(request.method, Method::Subscribe);
        assert_eq!(request.expires, Some(60));
        assert_eq!(request.event.unwrap().package, b"SIPserver");
        assert_eq!(request.suppress_if_match, Some(&b"*"[..]));
        assert!(
            request
                .content_type
                .unwrap()
                .covers("application", "serverinfo")
        );
        assert_eq!(
            (request.from_tag(), request.to_tag()),
            (Some(&b"1"[..]), None)
        );
        assert_eq!(request.body, b"<filter/>");
    }

    #[test]
    fn what_stands_once_stands_once() {
        for line in [
            "From: <sip:a>",
            "t: <sip:a>",
            "i: d",
            "CSeq: 1 SUBSCRIBE",
            "Max-Forwards: 1",
            "o: x",
            "Expires: 60",
            "c: a/b",
            "Suppress-If-Match: a",
            "m: <sip:b@192.0.2.2>",
        ] {
            let text = SUBSCRIBE.replace("Via:", &format!("{line}\r\nVia:"));
            assert!(matches!(fault(&text), Malformed::Repeated(_)), "{line}");
        }
    }

    #[test]
    fn what_must_stand_is_missed() {
        for (line, name) in [
            ("Via", Name::Via),
            ("From", Name::From),
            ("To", Name::To),
            ("Call-ID", Name::CallId),
            ("CSeq", Name::CSeq),
        ] {
            let text = SUBSCRIBE.replace(&format!("{line}:"), "X:");
            assert_eq!(fault(&text), Malformed::Missing(name));
        }
        let text = SUBSCRIBE.replace("Max-Forwards: 70", "X: 70");
        assert_eq!(
            Request::parse(&scan(text.as_bytes()).unwrap())
                .unwrap()
                .max_forwards,
            None
        );
    }

    #[test]
    fn each_fault_has_its_status() {
        let with = |from, to| fault(&SUBSCRIBE.replace(from, to));
        let scheme = with("BE sip:e.example", "BE tel:1");
        assert_eq!((scheme, scheme.status()), (Malformed::UriScheme, Some(416)));
        assert_eq!(with("BE sip:e", "BE sip:@e"), Malformed::RequestUri);
        assert_eq!(
            with("e.example SIP", "e.example?a=b SIP"),
            Malformed::UriHeaders
        );
        assert_eq!(with("1 SUBSCRIBE", "1 subscribe"), Malformed::CSeqMethod);
        assert_eq!(with("z9hG4bKa", "z9hG4bK"), Malformed::EmptyBranch);
        assert_eq!(
            with("Expires: 60", "Expires: soon"),
            Malformed::Syntax(Name::Expires)
        );
        assert_eq!(
            with("Event: S", "Event: ;S"),
            Malformed::Syntax(Name::Event)
        );
        assert_eq!(
            with("<sip:a@192.0.2.1>", "*"),
            Malformed::Syntax(Name::Contact)
        );
        assert_eq!(with("Call-ID: c", "Call-ID: c d").status(), Some(400));
        assert_eq!(
            with("Call-ID: c", "Call-ID:").to_string(),
            "malformed Call-ID"
        );
        assert_eq!(fault("SIP/2.0 200 OK\r\n\r\n").status(), None);
    }
}
