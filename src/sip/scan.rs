//! One pass over a message's bytes: start line, header fields, body; and where a message ends on a stream.
//! Knows header names, not what their values mean.

use memchr::memmem;
use smallvec::SmallVec;
use thiserror::Error;

use super::class::{self, TOKEN, VISIBLE, find, find_control, trim_lws};
pub use super::name::Name;
use super::name::Names;

/// A message with more header fields than this is refused.
pub const MAX_FIELDS: usize = 256;

/// One header field. The value has no white space around it; folds (CRLF and white space) may stand in it.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub name: Name,
    pub raw_name: &'a [u8],
    pub value: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    Request { method: &'a [u8], uri: &'a [u8] },
    Response { status: u16, reason: &'a [u8] },
}

/// A message taken apart, its values not yet judged.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    pub start: Start<'a>,
    pub fields: SmallVec<[Field<'a>; 32]>,
    pub body: &'a [u8],
    /// Bytes from the first one given to the body's last: what lies behind was not looked at.
    pub length: usize,
    index: Index,
}

/// Where the first field of each name stands.
#[derive(Debug, Clone, Copy)]
struct Index {
    /// Meaningful for names present.
    firsts: [u8; Name::Other as usize + 1],
    present: Names,
    repeated: Names,
    /// A value is folded over several lines.
    folded: bool,
}

impl Index {
    const EMPTY: Index = Index {
        firsts: [0; Name::Other as usize + 1],
        present: Names::NONE,
        repeated: Names::NONE,
        folded: false,
    };

    #[inline]
    fn enter(&mut self, name: Name, place: usize) {
        if self.present.has(name) {
            self.repeated.add(name);
        } else {
            self.present.add(name);
            self.firsts[name as usize] = place as u8;
        }
    }
}

impl<'a> Message<'a> {
    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The value of the first header field of this name.
    #[inline]
    pub fn first(&self, name: Name) -> Option<&'a [u8]> {
        let place = usize::from(self.index.firsts[name as usize]);
        (self.index.present.has(name)).then(|| self.fields[place].value)
    }

    /// The values of all header fields of this name, in order, lists not split.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &'a [u8]> {
        let fields = match self.first(name) {
            None => &[],
            Some(_) => &self.fields[usize::from(self.index.firsts[name as usize])..],
        };
        fields
            .iter()
            .filter(move |field| field.name == name)
            .map(|field| field.value)
    }

    /// The one value of the fields of this name; `None` where there are several or none.
    #[inline]
    pub(super) fn only(&self, name: Name) -> Option<&'a [u8]> {
        self.first(name).filter(|_| !self.index.repeated.has(name))
    }

    /// Whether several fields have one of these names.
    pub(super) fn repeats(&self, names: Names) -> bool {
        self.index.repeated.meets(names)
    }

    /// Whether a value is folded over several lines.
    pub(super) fn is_folded(&self) -> bool {
        self.index.folded
    }

    /// The elements of a comma-separated list that may be spread over several fields (RFC 3261 7.3.1).
    pub fn elements(&self, name: Name) -> impl Iterator<Item = &'a [u8]> {
        self.all(name).flat_map(Elements::of)
    }
}

/// Why bytes are not a message that can be served. The text suits a Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScanError {
    #[error("a keep-alive")]
    KeepAlive,
    #[error("not SIP")]
    NotSip,
    #[error("SIP version other than 2.0")]
    Version,
    #[error("malformed start line")]
    StartLine,
    #[error("malformed header field")]
    Field,
    #[error("more than {MAX_FIELDS} header fields")]
    TooManyFields,
    #[error("no empty line ends the header fields")]
    Unterminated,
    #[error("malformed or repeated Content-Length")]
    ContentLength,
    #[error("body shorter than Content-Length")]
    ShortBody,
    #[error("no Content-Length on a stream")]
    NoContentLength,
    #[error("header fields too long")]
    HeadTooLong,
    #[error("body too long")]
    BodyTooLong,
    #[error("no Via branch or CSeq that would name a transaction")]
    NoTransaction,
    #[error("a response with more than one Via")]
    Misrouted,
}

impl ScanError {
    /// What a request with this fault is answered; `None`: nothing, it is dropped.
    pub fn status(self) -> Option<u16> {
        match self {
            ScanError::KeepAlive
            | ScanError::NotSip
            | ScanError::NoTransaction
            | ScanError::Misrouted => None,
            ScanError::Version => Some(505),
            ScanError::HeadTooLong | ScanError::BodyTooLong => Some(513),
            ScanError::StartLine
            | ScanError::Field
            | ScanError::TooManyFields
            | ScanError::Unterminated
            | ScanError::ContentLength
            | ScanError::ShortBody
            | ScanError::NoContentLength => Some(400),
        }
    }
}

/// The first fault found, and as much of the message as could be read: enough, mostly, to answer a request.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct ScanFailure<'a> {
    pub error: ScanError,
    pub message: Option<Box<Message<'a>>>,
}

impl From<ScanError> for ScanFailure<'_> {
    fn from(error: ScanError) -> Self {
        ScanFailure {
            error,
            message: None,
        }
    }
}

/// Takes one datagram (or one framed message) apart. Bytes beyond Content-Length are discarded, a body shorter
/// than it is an error (RFC 3261 18.3); without Content-Length the body is the rest.
pub fn scan(bytes: &[u8]) -> Result<Message<'_>, ScanFailure<'_>> {
    let mut cursor = Cursor::new(bytes)?;
    let (start, mut fault) = start_line(cursor.start_line()?)?;
    let mut message = Message {
        start,
        fields: SmallVec::new(),
        body: b"",
        length: 0,
        index: Index::EMPTY,
    };
    let mut content_length = None;
    loop {
        match cursor.field() {
            Step::End => break,
            Step::Unterminated => {
                fault.get_or_insert(ScanError::Unterminated);
                break;
            }
            Step::Malformed => {
                fault.get_or_insert(ScanError::Field);
            }
            Step::Field(_) if message.fields.len() == MAX_FIELDS => {
                fault.get_or_insert(ScanError::TooManyFields);
                break;
            }
            Step::Field(field) => {
                if field.name == Name::ContentLength
                    && take_length(&mut content_length, field.value).is_err()
                {
                    fault.get_or_insert(ScanError::ContentLength);
                }
                message.index.enter(field.name, message.fields.len());
                message.fields.push(field);
            }
        }
    }
    message.index.folded = cursor.folded;
    let rest = &bytes[cursor.at..];
    let wanted = content_length.unwrap_or(rest.len());
    if wanted > rest.len() {
        fault.get_or_insert(ScanError::ShortBody);
    }
    message.body = &rest[..wanted.min(rest.len())];
    message.length = cursor.at + message.body.len();
    match fault {
        None => Ok(message),
        Some(error) => Err(ScanFailure {
            error,
            message: Some(Box::new(message)),
        }),
    }
}

/// RFC 4475 3.3.9: with two Content-Length values there is no telling where the message ends.
fn take_length(known: &mut Option<usize>, value: &[u8]) -> Result<(), ScanError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if !digits || known.is_some() {
        return Err(ScanError::ContentLength);
    }
    let length = value.iter().fold(0usize, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(usize::from(digit - b'0'))
    });
    *known = Some(length);
    Ok(())
}

/// How far the first message on a stream reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// So many leading bytes of CRLF to drop (RFC 3261 7.5, RFC 5626 4.4.1).
    KeepAlive(usize),
    /// More bytes are needed.
    Partial,
    /// The message is the first so many bytes.
    Complete(usize),
    /// No boundary can be found any more: the connection has to be closed.
    Bad(ScanError),
}

/// Finds the first message's end by Content-Length, which a stream's messages must have (RFC 3261 18.3, 20.14).
/// Lengths in bytes; `max_head` counts the empty line.
pub fn frame(bytes: &[u8], max_head: usize, max_body: usize) -> Frame {
    let blank = bytes
        .chunks_exact(2)
        .take_while(|two| two == b"\r\n")
        .count()
        * 2;
    if blank > 0 {
        return Frame::KeepAlive(blank);
    }
    let Some(end) = memmem::find(&bytes[..bytes.len().min(max_head)], b"\r\n\r\n") else {
        return headless(bytes, max_head);
    };
    let head = &bytes[..end + 4];
    match content_length(head) {
        Err(error) => Frame::Bad(error),
        Ok(body) if body > max_body => Frame::Bad(ScanError::BodyTooLong),
        Ok(body) if bytes.len() - head.len() < body => Frame::Partial,
        Ok(body) => Frame::Complete(head.len() + body),
    }
}

fn headless(bytes: &[u8], max_head: usize) -> Frame {
    if bytes.len() >= max_head {
        return Frame::Bad(ScanError::HeadTooLong);
    }
    let Some(end) = memmem::find(bytes, b"\r\n") else {
        return Frame::Partial;
    };
    match start_line(&bytes[..end]) {
        Err(error) => Frame::Bad(error),
        Ok(_) => Frame::Partial,
    }
}

/// The Content-Length of a whole head; a stream has no message without.
pub(crate) fn content_length(head: &[u8]) -> Result<usize, ScanError> {
    let mut cursor = Cursor::new(head)?;
    start_line(cursor.start_line()?)?;
    let mut length = None;
    loop {
        match cursor.field() {
            Step::Field(field) if field.name == Name::ContentLength => {
                take_length(&mut length, field.value)?;
            }
            Step::Field(_) | Step::Malformed => {}
            Step::End | Step::Unterminated => return length.ok_or(ScanError::NoContentLength),
        }
    }
}

/// The start line, and the fault that forbids to serve it although it could be read.
pub(super) fn start_line(line: &[u8]) -> Result<(Start<'_>, Option<ScanError>), ScanError> {
    match line.split_at_checked(4) {
        Some((name, _)) if name.eq_ignore_ascii_case(b"SIP/") => status_line(line),
        _ => request_line(line),
    }
}

/// `SIP-Version SP Status-Code SP Reason-Phrase`; a missing last SP is forgiven.
fn status_line(line: &[u8]) -> Result<(Start<'_>, Option<ScanError>), ScanError> {
    let (version, rest) = split_at_space(line).ok_or(ScanError::StartLine)?;
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        return Err(ScanError::Version);
    }
    let (code, reason) = split_at_space(rest).unwrap_or((rest, b""));
    let &[
        hundreds @ b'1'..=b'6',
        tens @ b'0'..=b'9',
        ones @ b'0'..=b'9',
    ] = code
    else {
        return Err(ScanError::StartLine);
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    Ok((Start::Response { status, reason }, None))
}

/// `Method SP Request-URI SP SIP-Version`, nothing more (RFC 3261 7.1).
fn request_line(line: &[u8]) -> Result<(Start<'_>, Option<ScanError>), ScanError> {
    if let Some((rest, b" SIP/2.0")) = line.split_last_chunk::<8>()
        && let (method @ [_, ..], [b' ', uri @ ..]) = class::split(TOKEN, rest)
        && !uri.is_empty()
        && class::all(VISIBLE, uri)
    {
        return Ok((Start::Request { method, uri }, None));
    }
    faulty_request_line(line)
}

fn faulty_request_line(line: &[u8]) -> Result<(Start<'_>, Option<ScanError>), ScanError> {
    let trimmed = line.trim_ascii_end();
    let version_at = memchr::memrchr(b' ', trimmed).ok_or(ScanError::NotSip)?;
    let version = &trimmed[version_at + 1..];
    if !is_version(version) {
        return Err(ScanError::NotSip);
    }
    let (method, uri) = split_at_space(&trimmed[..version_at]).ok_or(ScanError::NotSip)?;
    let well_formed = trimmed.len() == line.len()
        && !method.is_empty()
        && class::all(TOKEN, method)
        && !uri.is_empty()
        && class::all(VISIBLE, uri);
    let fault = if !well_formed {
        Some(ScanError::StartLine)
    } else if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        Some(ScanError::Version)
    } else {
        None
    };
    Ok((Start::Request { method, uri }, fault))
}

fn is_version(text: &[u8]) -> bool {
    let Some((name, number)) = text.split_at_checked(4) else {
        return false;
    };
    let numeric = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    name.eq_ignore_ascii_case(b"SIP/")
        && find(b'.', number)
            .is_some_and(|dot| numeric(&number[..dot]) && numeric(&number[dot + 1..]))
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    find(b' ', text).map(|space| (&text[..space], &text[space + 1..]))
}

/// What stands next in a head.
#[derive(Debug)]
pub(super) enum Step<'a> {
    Field(Field<'a>),
    /// A line that is no header field; the next one may be.
    Malformed,
    /// The empty line was read.
    End,
    /// The bytes ended before the empty line.
    Unterminated,
}

/// Walks over a head, line by line. Only CRLF ends a line, so that every reader of a message finds the same end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    /// A field passed was folded.
    folded: bool,
}

impl<'a> Cursor<'a> {
    /// Steps over the CRLFs that may stand before a start line (RFC 3261 7.5).
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, ScanError> {
        let first = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
        let at = first.ok_or(ScanError::KeepAlive)?;
        Ok(Cursor {
            bytes,
            at,
            folded: false,
        })
    }

    pub(super) fn start_line(&mut self) -> Result<&'a [u8], ScanError> {
        let rest = &self.bytes[self.at..];
        let end = line_break(rest).ok_or(ScanError::NotSip)?;
        if !rest[end..].starts_with(b"\r\n") {
            return Err(ScanError::NotSip);
        }
        self.at += end + 2;
        Ok(&rest[..end])
    }

    /// The next field that `answer` may want; steps over the others by their line ends alone.
    #[inline]
    pub(super) fn wanted_field(&mut self) -> Step<'a> {
        while let Some(letter) = self.bytes.get(self.at)
            && !is_wanted(*letter)
            && *letter != b'\r'
        {
            match line_end(&self.bytes[self.at..]) {
                Some(line) => self.at += line.end + 2,
                None => return Step::Unterminated,
            }
        }
        self.field()
    }

    #[inline]
    pub(super) fn field(&mut self) -> Step<'a> {
        let rest = &self.bytes[self.at..];
        if let Some((field, length)) = plain_field(rest) {
            self.at += length;
            return Step::Field(field);
        }
        self.any_field()
    }

    fn any_field(&mut self) -> Step<'a> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"\r\n") {
            self.at += 2;
            return Step::End;
        }
        let Some(line) = line_end(rest) else {
            self.at = self.bytes.len();
            return Step::Unterminated;
        };
        self.at += line.end + 2;
        self.folded |= line.folded;
        match header_field(&rest[..line.end]) {
            Some(field) if line.clean => Step::Field(field),
            _ => Step::Malformed,
        }
    }
}

/// What most fields are: a name that is known, a colon, a space, a value on one line; with the line's length. `None`: it
/// may be another field.
#[inline(always)]
fn plain_field(rest: &[u8]) -> Option<(Field<'_>, usize)> {
    let colon = find(b':', &rest[..rest.len().min(LONGEST_START)])?;
    let (raw_name, after) = rest.split_at(colon);
    let name = Name::of(raw_name);
    let [b':', b' ', after @ ..] = after else {
        return None;
    };
    let end = find_control(after)?;
    let (value, after) = after.split_at(end);
    // A fold, the message's end, or something that stands alone: not here.
    let ends = matches!(after, [b'\r', b'\n', next, ..] if !matches!(next, b' ' | b'\t'));
    let trimmed = !matches!(value, [] | [b' ', ..] | [.., b' ']);
    (ends && trimmed && name != Name::Other).then_some((
        Field {
            name,
            raw_name,
            value,
        },
        colon + 2 + end + 2,
    ))
}

/// A known name and its colon stand in so many bytes.
const LONGEST_START: usize = 24;

/// `field-name HCOLON field-value`, where white space may stand before the colon (RFC 3261 25.1).
#[inline]
fn header_field(line: &[u8]) -> Option<Field<'_>> {
    let colon = find(b':', line)?;
    let mut raw_name = &line[..colon];
    while let [rest @ .., b' ' | b'\t'] = raw_name {
        raw_name = rest;
    }
    let name = Name::of(raw_name);
    // A name that is known is a token.
    if name == Name::Other && (raw_name.is_empty() || !class::all(TOKEN, raw_name)) {
        return None;
    }
    Some(Field {
        name,
        raw_name,
        value: trim_lws(&line[colon + 1..]),
    })
}

/// Whether a header field of this first letter can be one that `answer` reads.
fn is_wanted(letter: u8) -> bool {
    matches!(
        letter | 0x20,
        b'v' | b'c' | b'r' | b'e' | b'm' | b'o' | b' ' | b'\t'
    )
}

/// The line or the folded lines of one field.
struct Line {
    /// Where the CRLF stands that ends it.
    end: usize,
    /// No CR or LF stands alone.
    clean: bool,
    folded: bool,
}

/// Where the field at the front ends: at the first CRLF that no white space follows (RFC 3261 7.3.1).
#[inline]
fn line_end(rest: &[u8]) -> Option<Line> {
    let mut line = Line {
        end: 0,
        clean: true,
        folded: false,
    };
    loop {
        line.end += line_break(&rest[line.end..])?;
        match &rest[line.end..] {
            [b'\r', b'\n', b' ' | b'\t', ..] => {
                line.folded = true;
                line.end += 3;
            }
            [b'\r', b'\n', ..] => return Some(line),
            _ => {
                line.clean = false;
                line.end += 1;
            }
        }
    }
}

/// Where the first CR or LF stands.
#[inline]
fn line_break(text: &[u8]) -> Option<usize> {
    let mut at = find_control(text)?;
    while !matches!(text[at], b'\r' | b'\n') {
        at += 1 + find_control(&text[at + 1..])?;
    }
    Some(at)
}

/// The elements of one comma-separated value; commas in quotes and in `<>` do not count, empty elements are skipped.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub fn of(value: &'a [u8]) -> Self {
        Elements { rest: value }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = element_end(self.rest);
            let element = trim_lws(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    }
}

fn element_end(text: &[u8]) -> usize {
    if find(b',', text).is_none() {
        return text.len();
    }
    let (mut quoted, mut bracketed, mut escaped) = (false, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b',' if !quoted && !bracketed => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_plain_field_is_what_the_full_reading_finds(
            text in "(Via|CSeq|f|X|Suppress-If-Match|Content-Length|contact)?[ ]?:?[ \\t]?[ab:\\r\\t\\n ]{0,10}(\\r\\n[ \\r\\tx])?",
        ) {
            if let Some((field, length)) = plain_field(text.as_bytes()) {
                let mut cursor = Cursor { bytes: text.as_bytes(), at: 0, folded: false };
                let Step::Field(full) = cursor.any_field() else {
                    panic!("what is plain is well formed");
                };
                prop_assert_eq!(format!("{field:?}"), format!("{full:?}"));
                prop_assert_eq!((length, false), (cursor.at, cursor.folded));
            }
        }
    }

    const OPTIONS: &str =
        "OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nl: 3\r\n\r\nabcd";

    fn fault(bytes: &str) -> ScanError {
        scan(bytes.as_bytes()).unwrap_err().error
    }

    #[test]
    fn a_datagram_ends_at_content_length_or_else_at_its_end() {
        let message = scan(OPTIONS.as_bytes()).unwrap();
        assert_eq!(message.body, b"abc");
        assert_eq!(message.length, OPTIONS.len() - 1);
        let without = OPTIONS.replace("l: 3", "x: 3");
        assert_eq!(scan(without.as_bytes()).unwrap().body, b"abcd");
        assert_eq!(
            fault(&OPTIONS.replace("l: 3", "l: 5")),
            ScanError::ShortBody
        );
        assert_eq!(
            fault(&OPTIONS.replace("l: 3", "l: 3\r\nl: 3")),
            ScanError::ContentLength
        );
        assert_eq!(
            fault(&OPTIONS.replace("l: 3", "l: 3 3")),
            ScanError::ContentLength
        );
    }

    #[test]
    fn a_malformed_line_does_not_hide_the_others() {
        for bad in [
            "no colon", ": empty", "na me: x", "x: a\rb", "x: a\nb", " fold",
        ] {
            let text = OPTIONS.replace(
                "OPTIONS sip:a SIP/2.0\r\n",
                &format!("OPTIONS sip:a SIP/2.0\r\n{bad}\r\n"),
            );
            let failure = scan(text.as_bytes()).unwrap_err();
            assert_eq!(failure.error, ScanError::Field, "{bad}");
            let message = failure.message.unwrap();
            assert!(message.first(Name::Via).is_some(), "{bad}");
            assert_eq!(message.body, b"abc", "{bad}");
        }
    }

    #[test]
    fn start_lines_are_told_apart() {
        let with = |line: &str| OPTIONS.replace("OPTIONS sip:a SIP/2.0", line);
        assert_eq!(fault(&with("OPTIONS sip:a SIP/3.0")), ScanError::Version);
        assert_eq!(fault(&with("OPTIONS sip:a  SIP/2.0")), ScanError::StartLine);
        assert_eq!(fault(&with("OPT@ONS sip:a SIP/2.0")), ScanError::StartLine);
        assert_eq!(fault(&with("GET / HTTP/1.1")), ScanError::NotSip);
        assert_eq!(fault(&with("SIP/2.0 20 OK")), ScanError::StartLine);
        assert_eq!(fault(&with("SIP/2.0 700 OK")), ScanError::StartLine);
        assert_eq!(fault(&with("SIP/2.1 200 OK")), ScanError::Version);
        assert_eq!(fault("\r\n\r\n"), ScanError::KeepAlive);
        assert_eq!(fault(""), ScanError::KeepAlive);
        assert!(
            scan(with("\r\noptions sip:a sip/2.0").as_bytes())
                .unwrap()
                .is_request()
        );
    }

    #[test]
    fn a_message_that_breaks_off_is_answerable_by_what_was_read() {
        let cut = &OPTIONS[..OPTIONS.find("l: 3").unwrap()];
        let failure = scan(cut.as_bytes()).unwrap_err();
        assert_eq!(failure.error, ScanError::Unterminated);
        assert!(failure.message.unwrap().first(Name::Via).is_some());
    }

    #[test]
    fn frames_end_by_content_length_and_keep_to_their_limits() {
        let whole = OPTIONS.as_bytes();
        let head = OPTIONS.find("abcd").unwrap();
        assert_eq!(frame(whole, 1000, 1000), Frame::Complete(head + 3));
        assert_eq!(frame(&whole[..head + 2], 1000, 1000), Frame::Partial);
        assert_eq!(frame(whole, 1000, 2), Frame::Bad(ScanError::BodyTooLong));
        assert_eq!(frame(whole, head, 1000), Frame::Complete(head + 3));
        assert_eq!(
            frame(whole, head - 1, 1000),
            Frame::Bad(ScanError::HeadTooLong)
        );
        assert_eq!(frame(b"\r\n\r\n\r", 1000, 0), Frame::KeepAlive(4));
        assert_eq!(frame(b"\r", 1000, 0), Frame::Partial);
        assert_eq!(frame(b"", 1000, 0), Frame::Partial);
        assert_eq!(
            frame(b"GET / HTTP/1.1\r\n", 1000, 0),
            Frame::Bad(ScanError::NotSip)
        );
        let without = OPTIONS.replace("l: 3", "x: 3");
        assert_eq!(
            frame(without.as_bytes(), 1000, 1000),
            Frame::Bad(ScanError::NoContentLength)
        );
        let huge = OPTIONS.replace("l: 3", "l: 99999999999999999999");
        assert_eq!(
            frame(huge.as_bytes(), 1000, 1000),
            Frame::Bad(ScanError::BodyTooLong)
        );
    }
}
