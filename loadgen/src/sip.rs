//! SIP as loadgen needs it: templates filled per entity, and a quick scan of what arrives. Knows no socket, no
//! subscription and no document. Not a parser for the wild: what it cannot read is reported as malformed.

use std::io::Write;
use std::net::SocketAddr;

use memchr::{memchr, memchr_iter, memrchr};
use rsip::{Header, Headers, Method, Request, Uri, Version};

use crate::document::Format;

/// Prefix of every RFC 3261 branch (8.1.1.7).
const COOKIE: &[u8] = b"z9hG4bK";

/// Where identifiers of one run come from: each is the run's number and the entity's.
#[derive(Debug, Clone, Copy)]
pub struct Run(pub u32);

/// Bytes before the index in a Call-ID, and in our branch after the cookie: the run in hexadecimal.
const RUN_WIDTH: usize = 8;

impl Run {
    /// Whether `call_id` is that of the entity `index`.
    pub fn owns(self, call_id: &[u8], index: u32) -> bool {
        hexadecimal(call_id, 0) == Some(self.0)
            && call_id.get(RUN_WIDTH) == Some(&b'-')
            && hexadecimal(call_id, RUN_WIDTH + 1) == Some(index)
    }

    /// The entity and CSeq that a branch of ours names.
    pub fn transaction(self, branch: &[u8]) -> Option<(u32, u32)> {
        let rest = branch.strip_prefix(COOKIE)?;
        if hexadecimal(rest, 0)? != self.0 {
            return None;
        }
        Some((
            hexadecimal(rest, RUN_WIDTH)?,
            decimal(rest.get(2 * RUN_WIDTH..)?)?,
        ))
    }
}

/// The entity that the user part of our Contact names.
pub fn entity_of_user(user: &[u8]) -> Option<u32> {
    if user.len() == 8 {
        hexadecimal(user, 0)
    } else {
        None
    }
}

fn hexadecimal(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 8)?.iter().try_fold(0u32, |sum, &byte| {
        Some(sum << 4 | char::from(byte).to_digit(16)?)
    })
}

fn decimal(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u32, |sum, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// What differs from one SUBSCRIBE to the next.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe<'a> {
    pub index: u32,
    pub cseq: u32,
    pub contact: SocketAddr,
    /// Notifier's tag and remote target, once the dialog stands.
    pub dialog: Option<(&'a [u8], &'a [u8])>,
    pub expires: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Target,
    Index,
    Contact,
    CSeq,
    ToTag,
    Expires,
}

/// The words that mark a slot in the message that rsip writes; legal wherever they stand.
const MARKS: [(&str, Slot); 6] = [
    ("sip:slot-target", Slot::Target),
    ("slot-index", Slot::Index),
    ("slot-contact", Slot::Contact),
    ("slot-cseq", Slot::CSeq),
    (";slot-to-tag", Slot::ToTag),
    ("slot-expires", Slot::Expires),
];

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Slot(Slot),
}

/// A SUBSCRIBE with gaps for what is an entity's own.
#[derive(Debug)]
pub struct SubscribeTemplate {
    pieces: Vec<Piece>,
    out_of_dialog: String,
}

impl SubscribeTemplate {
    pub fn new(run: Run, domain: &str, format: Format) -> Self {
        let run = run.0;
        let request = Request {
            method: Method::Subscribe,
            uri: Uri::try_from("sip:slot-target").expect("the mark is a host name"),
            version: Version::V2,
            headers: vec![
                via(
                    "slot-contact",
                    &format!("z9hG4bK{run:08x}slot-indexslot-cseq"),
                ),
                Header::From(format!("<sip:slot-index@{domain}>;tag=lgslot-index").into()),
                Header::To(format!("<sip:{domain}>;slot-to-tag").into()),
                Header::CallId(format!("{run:08x}-slot-index@entity.loadgen.invalid").into()),
                Header::CSeq("slot-cseq SUBSCRIBE".into()),
                Header::MaxForwards("70".into()),
                Header::Contact("<sip:slot-index@slot-contact>".into()),
                Header::Event("SIPserver".into()),
                Header::Accept(format.media_type().into()),
                Header::Expires("slot-expires".into()),
                Header::ContentLength("0".into()),
            ]
            .into(),
            body: Vec::new(),
        };
        SubscribeTemplate {
            pieces: cut(&request.to_string()),
            out_of_dialog: format!("sip:{domain}"),
        }
    }

    /// Appends the message to `out`. The same arguments give the same bytes, so nothing is kept to repeat it.
    pub fn write(&self, message: &Subscribe, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Slot(slot) => self.fill(*slot, message, out),
            }
        }
    }

    fn fill(&self, slot: Slot, message: &Subscribe, out: &mut Vec<u8>) {
        let written = match (slot, message.dialog) {
            (Slot::Target, Some((_, target))) => out.write_all(target),
            (Slot::Target, None) => out.write_all(self.out_of_dialog.as_bytes()),
            (Slot::Index, _) => write!(out, "{:08x}", message.index),
            (Slot::Contact, _) => write!(out, "{}", message.contact),
            (Slot::CSeq, _) => write!(out, "{}", message.cseq),
            (Slot::ToTag, Some((tag, _))) => {
                out.extend_from_slice(b";tag=");
                out.write_all(tag)
            }
            (Slot::ToTag, None) => Ok(()),
            (Slot::Expires, _) => write!(out, "{}", message.expires),
        };
        written.expect("a Vec takes every write");
    }
}

/// Length of an entity's own tag: `lg` and its index.
fn is_own_tag(tag: &[u8], index: u32) -> bool {
    tag.len() == 10 && tag.starts_with(b"lg") && hexadecimal(tag, 2) == Some(index)
}

fn via(sent_by: &str, branch: &str) -> Header {
    Header::Via(format!("SIP/2.0/UDP {sent_by};rport;branch={branch}").into())
}

fn cut(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((at, mark, slot)) = MARKS
        .iter()
        .filter_map(|&(mark, slot)| rest.find(mark).map(|at| (at, mark, slot)))
        .min_by_key(|&(at, ..)| at)
    {
        pieces.push(Piece::Text(rest.as_bytes()[..at].to_vec()));
        pieces.push(Piece::Slot(slot));
        rest = &rest[at + mark.len()..];
    }
    pieces.push(Piece::Text(rest.as_bytes().to_vec()));
    pieces
}

/// One PUBLISH of a simulated server.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    pub run: Run,
    pub domain: &'a str,
    pub server: u32,
    pub cseq: u32,
    pub local: SocketAddr,
    pub entity_tag: Option<&'a str>,
    pub expires: u32,
    /// Empty for a refresh and for a removal (RFC 3903 4.3, 4.5).
    pub body: &'a str,
}

impl Publish<'_> {
    pub fn into_bytes(self) -> Vec<u8> {
        let Publish {
            run: Run(run),
            domain,
            server,
            cseq,
            ..
        } = self;
        let mut headers = Headers::from(vec![
            via(
                &self.local.to_string(),
                &format!("z9hG4bK{run:08x}{server:08x}{cseq}"),
            ),
            Header::From(format!("<sip:{server:08x}@{domain}>;tag=lgp{server:08x}").into()),
            Header::To(format!("<sip:{domain}>").into()),
            Header::CallId(format!("{run:08x}-{server:08x}@server.loadgen.invalid").into()),
            Header::CSeq(format!("{cseq} PUBLISH").into()),
            Header::MaxForwards("70".into()),
            Header::Event("SIPserver".into()),
            Header::Expires(self.expires.to_string().into()),
        ]);
        if let Some(tag) = self.entity_tag {
            headers.push(Header::Other("SIP-If-Match".into(), tag.to_owned()));
        }
        if !self.body.is_empty() {
            headers.push(Header::ContentType(Format::Xml.media_type().into()));
        }
        headers.push(Header::ContentLength(self.body.len().to_string().into()));
        let uri = Uri::try_from("sip:slot-target").expect("the mark is a host name");
        let request = Request {
            method: Method::Publish,
            uri,
            version: Version::V2,
            headers,
            body: self.body.as_bytes().to_vec(),
        };
        request
            .to_string()
            .replacen("sip:slot-target", &format!("sip:{domain}"), 1)
            .into_bytes()
    }
}

/// Why a datagram was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the first line is not one of SIP")]
    FirstLine,
    #[error("the header has no end")]
    NoEnd,
    #[error("a header field that must be there is not")]
    Missing,
    #[error("a header field that must be a number is none")]
    Number,
    #[error("the body is shorter or longer than Content-Length")]
    Length,
    #[error("more Via header fields than loadgen copies")]
    TooManyVias,
}

/// What arrived.
#[derive(Debug)]
pub enum Message<'a> {
    Notify(Notify<'a>),
    Response(Response<'a>),
    /// Another method; loadgen leaves it unanswered.
    Other,
}

/// The header fields that the answer repeats (RFC 3261 8.2.6.2), each as its whole line or lines.
#[derive(Debug, Default, Clone, Copy)]
pub struct Repeated<'a> {
    message: &'a [u8],
    /// Where each begins and ends in the message; a datagram is never longer than 65,535 bytes.
    lines: [(u16, u16); 16],
    count: usize,
}

impl Repeated<'_> {
    fn push(&mut self, start: usize, end: usize) -> Result<(), Unreadable> {
        let line = self
            .lines
            .get_mut(self.count)
            .ok_or(Unreadable::TooManyVias)?;
        let narrow = |at| u16::try_from(at).map_err(|_| Unreadable::Length);
        *line = (narrow(start)?, narrow(end)?);
        self.count += 1;
        Ok(())
    }

    /// Appends an answer with this status line's code and reason.
    pub fn write_answer(&self, status: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"SIP/2.0 ");
        out.extend_from_slice(status.as_bytes());
        out.extend_from_slice(b"\r\n");
        for &(start, end) in &self.lines[..self.count] {
            out.extend_from_slice(&self.message[usize::from(start)..usize::from(end)]);
        }
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
}

/// A NOTIFY, as far as an entity needs it.
#[derive(Debug)]
pub struct Notify<'a> {
    /// User part of the Request-URI.
    pub user: &'a [u8],
    pub branch: &'a [u8],
    pub call_id: &'a [u8],
    pub from_tag: &'a [u8],
    pub to_tag: &'a [u8],
    pub cseq: u32,
    pub contact: Option<&'a [u8]>,
    pub event: &'a [u8],
    pub content_type: &'a [u8],
    pub subscription_state: &'a [u8],
    pub body: &'a [u8],
    pub repeated: Repeated<'a>,
}

impl Notify<'_> {
    pub fn is_terminated(&self) -> bool {
        first_word(self.subscription_state).eq_ignore_ascii_case(b"terminated")
    }

    /// The dialog is that of the entity `index`: its Call-ID and its tag (RFC 6665 4.4.1).
    pub fn belongs_to(&self, run: Run, index: u32) -> bool {
        run.owns(self.call_id, index) && is_own_tag(self.to_tag, index)
    }
}

/// A response, as far as loadgen's transactions need it.
#[derive(Debug)]
pub struct Response<'a> {
    pub status: u16,
    pub branch: &'a [u8],
    pub to_tag: &'a [u8],
    pub contact: Option<&'a [u8]>,
    pub expires: Option<u32>,
    pub min_expires: Option<u32>,
    pub entity_tag: Option<&'a [u8]>,
}

/// All header fields that either kind is made of.
#[derive(Debug, Default)]
struct Fields<'a> {
    branch: &'a [u8],
    call_id: &'a [u8],
    from_tag: &'a [u8],
    to_tag: &'a [u8],
    cseq: &'a [u8],
    contact: Option<&'a [u8]>,
    event: &'a [u8],
    content_type: &'a [u8],
    content_length: Option<&'a [u8]>,
    subscription_state: &'a [u8],
    expires: Option<&'a [u8]>,
    min_expires: Option<&'a [u8]>,
    entity_tag: Option<&'a [u8]>,
    repeated: Repeated<'a>,
}

/// Reads one datagram.
pub fn scan(bytes: &[u8]) -> Result<Message<'_>, Unreadable> {
    let first_end = memchr(b'\n', bytes).ok_or(Unreadable::FirstLine)?;
    let first = bytes[..first_end].trim_ascii_end();
    if let Some(rest) = first.strip_prefix(b"SIP/2.0 ") {
        let status =
            decimal(rest.get(..3).ok_or(Unreadable::FirstLine)?).ok_or(Unreadable::FirstLine)?;
        let (fields, _) = fields(bytes, first_end + 1)?;
        return Ok(Message::Response(Response {
            status: status as u16,
            branch: required(fields.branch)?,
            to_tag: fields.to_tag,
            contact: fields.contact,
            expires: fields.expires.map(number).transpose()?,
            min_expires: fields.min_expires.map(number).transpose()?,
            entity_tag: fields.entity_tag,
        }));
    }
    let Some(target) = first
        .strip_prefix(b"NOTIFY ")
        .and_then(|rest| rest.strip_suffix(b" SIP/2.0"))
    else {
        let is_request = first.ends_with(b" SIP/2.0");
        return if is_request {
            Ok(Message::Other)
        } else {
            Err(Unreadable::FirstLine)
        };
    };
    let (fields, body) = fields(bytes, first_end + 1)?;
    // RFC 3261 18.3: over UDP a missing Content-Length means to the end of the datagram.
    let length = fields.content_length.map(number).transpose()?;
    if length.is_some_and(|length| length as usize != body.len()) {
        return Err(Unreadable::Length);
    }
    Ok(Message::Notify(Notify {
        user: user_part(target),
        branch: required(fields.branch)?,
        call_id: required(fields.call_id)?,
        from_tag: required(fields.from_tag)?,
        to_tag: required(fields.to_tag)?,
        cseq: number(first_word(fields.cseq))?,
        contact: fields.contact,
        event: fields.event,
        content_type: first_word(fields.content_type),
        subscription_state: required(fields.subscription_state)?,
        body,
        repeated: fields.repeated,
    }))
}

fn required(value: &[u8]) -> Result<&[u8], Unreadable> {
    if value.is_empty() {
        Err(Unreadable::Missing)
    } else {
        Ok(value)
    }
}

fn number(value: &[u8]) -> Result<u32, Unreadable> {
    decimal(value).ok_or(Unreadable::Number)
}

/// Up to the first space, tab or semicolon.
fn first_word(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|byte| b" \t;".contains(byte));
    &value[..end.unwrap_or(value.len())]
}

fn user_part(uri: &[u8]) -> &[u8] {
    let start = memchr(b':', uri).map_or(0, |at| at + 1);
    match memchr(b'@', uri) {
        Some(end) if end >= start => &uri[start..end],
        _ => &[],
    }
}

/// The header fields from `start` on, and the body.
fn fields(bytes: &[u8], start: usize) -> Result<(Fields<'_>, &[u8]), Unreadable> {
    let mut fields = Fields {
        repeated: Repeated {
            message: bytes,
            ..Repeated::default()
        },
        ..Fields::default()
    };
    let mut line_start = start;
    for end in memchr_iter(b'\n', &bytes[start..]).map(|at| start + at + 1) {
        if matches!(&bytes[line_start..end], b"\r\n" | b"\n") {
            return Ok((fields, &bytes[end..]));
        }
        // RFC 3261 7.3.1: a line that begins with white space continues the one before.
        if matches!(bytes.get(end), Some(b' ' | b'\t')) {
            continue;
        }
        fields.take(bytes, line_start, end)?;
        line_start = end;
    }
    Err(Unreadable::NoEnd)
}

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: &'a [u8], start: usize, end: usize) -> Result<(), Unreadable> {
        let line = &bytes[start..end];
        let Some(colon) = memchr(b':', line) else {
            return Ok(());
        };
        let name = line[..colon].trim_ascii_end();
        let value = line[colon + 1..].trim_ascii();
        let is = |long: &str, short: u8| {
            name.eq_ignore_ascii_case(long.as_bytes())
                || (name.len() == 1 && name[0].eq_ignore_ascii_case(&short))
        };
        match name.first().map_or(0, u8::to_ascii_lowercase) {
            b'v' if is("Via", b'v') => {
                if self.branch.is_empty() {
                    let top = memchr(b',', value).map_or(value, |end| &value[..end]);
                    self.branch = parameter(top, b"branch");
                }
                self.repeated.push(start, end)?;
            }
            b'f' if is("From", b'f') => {
                self.from_tag = parameter(value, b"tag");
                self.repeated.push(start, end)?;
            }
            b't' if is("To", b't') => {
                self.to_tag = parameter(value, b"tag");
                self.repeated.push(start, end)?;
            }
            b'i' | b'c' if is("Call-ID", b'i') => {
                self.call_id = value;
                self.repeated.push(start, end)?;
            }
            b'c' if is("CSeq", 0) => {
                self.cseq = value;
                self.repeated.push(start, end)?;
            }
            b'm' | b'c' if is("Contact", b'm') => self.contact = Some(contact_uri(value)),
            b'o' | b'e' if is("Event", b'o') => self.event = first_word(value),
            b'c' if is("Content-Type", b'c') => self.content_type = value,
            b'l' | b'c' if is("Content-Length", b'l') => self.content_length = Some(value),
            b's' if is("Subscription-State", 0) => self.subscription_state = value,
            b's' if is("SIP-ETag", 0) => self.entity_tag = Some(value),
            b'e' if is("Expires", 0) => self.expires = Some(value),
            b'm' if is("Min-Expires", 0) => self.min_expires = Some(value),
            _ => {}
        }
        Ok(())
    }
}

/// The value of a header field's parameter, empty if it is not there.
fn parameter<'a>(value: &'a [u8], name: &[u8]) -> &'a [u8] {
    let rest = memrchr(b'>', value).map_or(value, |at| &value[at..]);
    rest.split(|&byte| byte == b';')
        .skip(1)
        .filter_map(|item| {
            let equals = memchr(b'=', item)?;
            let matches = item[..equals].trim_ascii().eq_ignore_ascii_case(name);
            matches.then(|| item[equals + 1..].trim_ascii())
        })
        .next()
        .unwrap_or_default()
}

fn contact_uri(value: &[u8]) -> &[u8] {
    match (memchr(b'<', value), memchr(b'>', value)) {
        (Some(open), Some(close)) if open < close => &value[open + 1..close],
        _ => first_word(value),
    }
}

/// The parts of a User-Agent's identity in one hash; equal branches are equal transactions.
pub fn branch_hash(branch: &[u8]) -> u32 {
    // FNV-1a: the peer is the system under test, not an attacker.
    branch.iter().fold(0x811c_9dc5, |sum: u32, &byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run(0x00c0_ffee);

    fn message(dialog: Option<(&[u8], &[u8])>) -> String {
        let template = SubscribeTemplate::new(RUN, "example.com", Format::Json);
        let mut out = Vec::new();
        let contact = "127.1.2.3:5062".parse().unwrap();
        template.write(
            &Subscribe {
                index: 0x2a,
                cseq: 3,
                contact,
                dialog,
                expires: 1800,
            },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_template_writes_a_request_that_rsip_reads() {
        for dialog in [
            None,
            Some((&b"abc"[..], &b"sip:n1@127.0.0.1:5060;gr=7"[..])),
        ] {
            let text = message(dialog);
            let request = Request::try_from(text.as_bytes()).expect(&text);
            assert_eq!(request.method, Method::Subscribe);
            assert!(!text.contains("slot-"), "{text}");
            assert!(
                text.contains("Call-ID: 00c0ffee-0000002a@entity.loadgen.invalid\r\n"),
                "{text}"
            );
            assert!(
                text.contains("Contact: <sip:0000002a@127.1.2.3:5062>\r\n"),
                "{text}"
            );
            assert!(text.contains("CSeq: 3 SUBSCRIBE\r\n"), "{text}");
        }
    }

    #[test]
    fn in_a_dialog_the_target_and_the_tag_are_the_notifiers() {
        let text = message(Some((b"abc", b"sip:n1@127.0.0.1:5060;gr=7")));
        assert!(
            text.starts_with("SUBSCRIBE sip:n1@127.0.0.1:5060;gr=7 SIP/2.0\r\n"),
            "{text}"
        );
        assert!(text.contains("To: <sip:example.com>;tag=abc\r\n"), "{text}");
        assert!(message(None).contains("To: <sip:example.com>\r\n"));
    }

    #[test]
    fn a_publish_is_one_that_rsip_reads() {
        let publish = Publish {
            run: RUN,
            domain: "example.com",
            server: 1,
            cseq: 9,
            local: "[::1]:5062".parse().unwrap(),
            entity_tag: Some("tag7"),
            expires: 30,
            body: "<a/>",
        };
        let text = String::from_utf8(publish.into_bytes()).unwrap();
        assert!(
            text.starts_with(
                "PUBLISH sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP [::1]:5062;rport;"
            ),
            "{text}"
        );
        assert!(text.contains("SIP-If-Match: tag7\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 4\r\n\r\n<a/>"), "{text}");
    }

    const NOTIFY: &[u8] = b"NOTIFY sip:0000002a@127.1.2.3:5062 SIP/2.0\r\n\
Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKx;rport\r\n\
v: SIP/2.0/UDP 127.0.0.9:5060\r\n ;branch=z9hG4bKy\r\n\
f: <sip:example.com;tag=no>;tag=abc\r\n\
To: <sip:0000002a@example.com>;tag=lg0000002a\r\n\
CALL-ID: 00c0ffee-0000002a@entity.loadgen.invalid\r\n\
CSeq: 12 NOTIFY\r\n\
Contact: <sip:n1@127.0.0.1:5060;gr=7>\r\n\
Event: SIPserver;id=4\r\n\
Subscription-State: Terminated;reason=timeout\r\n\
c: application/serverinfo+xml;charset=utf-8\r\n\
Content-Length: 4\r\n\r\n<a/>";

    fn notify() -> Notify<'static> {
        match scan(NOTIFY) {
            Ok(Message::Notify(notify)) => notify,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_notify_is_scanned() {
        let notify = notify();
        assert_eq!(entity_of_user(notify.user), Some(0x2a));
        assert!(notify.belongs_to(RUN, 0x2a));
        assert!(!notify.belongs_to(RUN, 0x2b));
        assert!(!notify.belongs_to(Run(1), 0x2a));
        assert_eq!(notify.branch, b"z9hG4bKx");
        assert_eq!(notify.from_tag, b"abc");
        assert_eq!(notify.cseq, 12);
        assert_eq!(notify.contact, Some(&b"sip:n1@127.0.0.1:5060;gr=7"[..]));
        assert_eq!(notify.event, b"SIPserver");
        assert_eq!(notify.content_type, b"application/serverinfo+xml");
        assert!(notify.is_terminated());
        assert_eq!(notify.body, b"<a/>");
    }

    #[test]
    fn the_answer_repeats_all_vias_raw_and_in_order() {
        let mut out = Vec::new();
        notify().repeated.write_answer("200 OK", &mut out);
        let text = String::from_utf8(out).unwrap();
        let expected = "SIP/2.0 200 OK\r\n\
Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKx;rport\r\n\
v: SIP/2.0/UDP 127.0.0.9:5060\r\n ;branch=z9hG4bKy\r\n\
f: <sip:example.com;tag=no>;tag=abc\r\n\
To: <sip:0000002a@example.com>;tag=lg0000002a\r\n\
CALL-ID: 00c0ffee-0000002a@entity.loadgen.invalid\r\n\
CSeq: 12 NOTIFY\r\n\
Content-Length: 0\r\n\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_response_is_scanned() {
        let bytes = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK00c0ffee0000002a3;rport=9\r\n\
To: <sip:example.com>;tag=n7\r\nExpires: 1700\r\nSIP-ETag: e1\r\nContent-Length: 0\r\n\r\n";
        let Ok(Message::Response(response)) = scan(bytes) else {
            panic!()
        };
        assert_eq!(response.status, 200);
        assert_eq!(RUN.transaction(response.branch), Some((0x2a, 3)));
        assert_eq!(Run(1).transaction(response.branch), None);
        assert_eq!(
            (response.to_tag, response.expires),
            (&b"n7"[..], Some(1700))
        );
        assert_eq!(response.entity_tag, Some(&b"e1"[..]));
    }

    #[test]
    fn what_is_cut_short_is_unreadable() {
        assert_eq!(
            scan(&NOTIFY[..NOTIFY.len() - 1]).unwrap_err(),
            Unreadable::Length
        );
        assert_eq!(scan(&NOTIFY[..200]).unwrap_err(), Unreadable::NoEnd);
        assert_eq!(scan(b"hello").unwrap_err(), Unreadable::FirstLine);
        for end in 0..NOTIFY.len() {
            assert!(scan(&NOTIFY[..end]).is_err());
        }
    }
}
