//! The header of a message, line by line: which values loadgen looks at, and which lines an answer repeats. Knows no
//! method and no start line.

use memchr::{memchr, memchr_iter, memrchr};

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
    #[error("the CSeq is not that of a NOTIFY")]
    Method,
    #[error("more Via header fields than loadgen copies")]
    TooManyVias,
}

/// The header fields that the answer repeats (RFC 3261 8.2.6.2), as whole lines; neighbours are one piece.
#[derive(Debug, Default, Clone, Copy)]
pub struct Repeated<'a> {
    message: &'a [u8],
    /// Where each piece begins and ends in the message; a datagram is never longer than 65,535 bytes.
    lines: [(u16, u16); 16],
    count: usize,
}

impl Repeated<'_> {
    fn push(&mut self, start: usize, end: usize) -> Result<(), Unreadable> {
        let narrow = |at| u16::try_from(at).map_err(|_| Unreadable::Length);
        let (start, end) = (narrow(start)?, narrow(end)?);
        if let Some((_, former)) = self.lines[..self.count].last_mut()
            && *former == start
        {
            *former = end;
            return Ok(());
        }
        let line = self
            .lines
            .get_mut(self.count)
            .ok_or(Unreadable::TooManyVias)?;
        *line = (start, end);
        self.count += 1;
        Ok(())
    }

    /// The same places in `message`, moved by `distance`.
    pub(super) fn moved<'b>(&self, message: &'b [u8], distance: u16) -> Repeated<'b> {
        let mut lines = self.lines;
        for (start, end) in &mut lines[..self.count] {
            (*start, *end) = (*start + distance, *end + distance);
        }
        Repeated {
            message,
            lines,
            count: self.count,
        }
    }

    /// The places alone, counted from `start` on; `None` where a line stands before it.
    pub(super) fn without_message(&self, start: usize) -> Option<Repeated<'static>> {
        let start = u16::try_from(start).ok()?;
        let mut lines = self.lines;
        for (from, to) in &mut lines[..self.count] {
            (*from, *to) = (from.checked_sub(start)?, to.checked_sub(start)?);
        }
        Some(Repeated {
            message: &[],
            lines,
            count: self.count,
        })
    }

    /// Appends an answer with this status line, its end included.
    pub fn write_answer(&self, first_line: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(first_line);
        for &(start, end) in &self.lines[..self.count] {
            out.extend_from_slice(&self.message[usize::from(start)..usize::from(end)]);
        }
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
}

/// The values of the header fields that loadgen looks at, without the white space around them.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub branch: &'a [u8],
    pub call_id: &'a [u8],
    pub from_tag: &'a [u8],
    /// The last eight bytes of the user part of the URI in To.
    pub to_user: &'a [u8],
    pub to_tag: &'a [u8],
    /// The number in CSeq.
    pub cseq: &'a [u8],
    /// The method in CSeq.
    pub method: &'a [u8],
    pub contact: Option<&'a [u8]>,
    pub event: &'a [u8],
    pub content_type: &'a [u8],
    pub content_length: Option<&'a [u8]>,
    pub subscription_state: &'a [u8],
    pub expires: Option<&'a [u8]>,
    pub min_expires: Option<&'a [u8]>,
    pub entity_tag: Option<&'a [u8]>,
    pub retry_after: Option<&'a [u8]>,
    /// Empty where there are several.
    pub route: Option<&'a [u8]>,
    pub repeated: Repeated<'a>,
}

/// Up to the first space, tab or semicolon.
pub(super) fn first_word(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|byte| b" \t;".contains(byte));
    &value[..end.unwrap_or(value.len())]
}

/// The header fields from `start` on, and the body.
pub(super) fn fields(bytes: &[u8], start: usize) -> Result<(Fields<'_>, &[u8]), Unreadable> {
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
                self.to_user = last_digits(user_part(uri(value)));
                self.to_tag = parameter(value, b"tag");
                self.repeated.push(start, end)?;
            }
            b'i' | b'c' if is("Call-ID", b'i') => {
                self.call_id = value;
                self.repeated.push(start, end)?;
            }
            b'c' if is("CSeq", 0) => {
                self.cseq = first_word(value);
                self.method = value[self.cseq.len()..].trim_ascii();
                self.repeated.push(start, end)?;
            }
            b'm' | b'c' if is("Contact", b'm') => self.contact = Some(uri(value)),
            b'o' | b'e' if is("Event", b'o') => self.event = first_word(value),
            b'c' if is("Content-Type", b'c') => self.content_type = first_word(value),
            b'l' | b'c' if is("Content-Length", b'l') => self.content_length = Some(value),
            b's' if is("Subscription-State", 0) => self.subscription_state = value,
            b's' if is("SIP-ETag", 0) => self.entity_tag = Some(value),
            b'e' if is("Expires", 0) => self.expires = Some(value),
            b'r' if is("Retry-After", 0) => {
                self.retry_after = Some(first_word(
                    value.split(|&byte| byte == b'(').next().unwrap_or_default(),
                ));
            }
            b'r' if is("Route", 0) => {
                self.route = Some(if self.route.is_some() { b"" } else { value });
            }
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

/// The URI of a name-addr or addr-spec.
pub(super) fn uri(value: &[u8]) -> &[u8] {
    match (memchr(b'<', value), memchr(b'>', value)) {
        (Some(open), Some(close)) if open < close => &value[open + 1..close],
        _ => first_word(value),
    }
}

pub(super) fn user_part(uri: &[u8]) -> &[u8] {
    let start = memchr(b':', uri).map_or(0, |at| at + 1);
    match memchr(b'@', uri) {
        Some(end) if end >= start => &uri[start..end],
        _ => &[],
    }
}

/// The eight bytes that name an entity, where a user part has that many.
fn last_digits(user: &[u8]) -> &[u8] {
    &user[user.len().saturating_sub(8)..]
}
