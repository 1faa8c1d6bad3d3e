//! The quick scan of a response: what tells which NOTIFY it answers and what becomes of its subscription.
//! Looks at no other header field, judges no body, allocates nothing.
//!
//! A 2xx as nearly everybody writes it is read by its lines' first letters. Whatever is unusual in it (a fold, a short
//! name, a second Via, a list) leaves it to the reading that takes any form, so the two never differ in what they find.

use memchr::{Memchr, memchr, memchr_iter, memchr3};

use super::class::trim_lws;
use super::header::{CSeq, Params, delta_seconds, retry_after};
use super::scan::{Cursor, Elements, Name, ScanError, Start, Step, start_line};

const NOTIFY: &[u8] = b"NOTIFY";

/// A response as its client transaction sees it. The values of `event` and `contact` are not judged yet.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// 100 to 699.
    pub status: u16,
    /// Of the topmost Via: what names the transaction (RFC 3261 17.1.3).
    pub branch: &'a [u8],
    pub cseq: u32,
    pub method: &'a [u8],
    /// In seconds.
    pub retry_after: Option<u32>,
    /// Carries the new rates in a 2xx to NOTIFY (RFC 6446 5.2).
    pub event: Option<&'a [u8]>,
    pub contact: Option<&'a [u8]>,
    pub expires: Option<u32>,
}

/// Reads a response's head. The header fields may come in any order, case, form and folding. A malformed field
/// that is not asked for does no harm; a Retry-After that cannot be read counts as absent.
pub fn answer(bytes: &[u8]) -> Result<Answer<'_>, ScanError> {
    usual(bytes).map_or_else(|| any_form(bytes), Ok)
}

/// A 2xx in the usual form: Via first, full names, nothing folded.
fn usual(bytes: &[u8]) -> Option<Answer<'_>> {
    let rest = bytes.strip_prefix(b"SIP/2.0 2")?;
    let &[tens, ones, b' ', ..] = rest else {
        return None;
    };
    let status = decimal(tens)? * 10 + decimal(ones)? + 200;
    let mut lines = Lines::of(bytes);
    lines.next()?.whole()?;
    let mut answer = Answer {
        status,
        branch: usual_branch(lines.next()?.0.strip_prefix(b"Via: SIP/2.0/UDP ")?)?,
        cseq: 0,
        method: b"",
        retry_after: None,
        event: None,
        contact: None,
        expires: None,
    };
    loop {
        let line = lines.next()?;
        match *line.0 {
            // From, To, Server, Content-Length, Call-ID, Record-Route and the like.
            [b'F' | b'T' | b'S' | b'D' | b'W', ..]
            | [b'C', b'o', b'n', b't', b'e', ..]
            | [b'C', b'a', ..]
            | [b'R', b'e', b'c', ..] => {}
            [] => break,
            [b'C', b'S', b'e', b'q', b':', ref value @ ..] if answer.method.is_empty() => {
                (answer.cseq, answer.method) = usual_cseq(value)?;
            }
            [
                b'C',
                b'o',
                b'n',
                b't',
                b'a',
                b'c',
                b't',
                b':',
                ref value @ ..,
            ] if answer.contact.is_none() => {
                line.whole()?;
                answer.contact = Some(trim_lws(value));
            }
            _ => return None,
        }
    }
    (!answer.method.is_empty()).then_some(answer)
}

/// The branch where it is the first parameter of the only element, and of letters and digits.
fn usual_branch(via: &[u8]) -> Option<&[u8]> {
    if memchr3(b',', b'"', b'\r', via).is_some() {
        return None;
    }
    let rest = via[memchr(b';', via)?..].strip_prefix(b";branch=")?;
    let branch = &rest[..memchr(b';', rest).unwrap_or(rest.len())];
    // No early end, so that it is a few instructions for all bytes together.
    let usual = branch.iter().fold(!branch.is_empty(), |usual, byte| {
        usual & byte.is_ascii_alphanumeric()
    });
    usual.then_some(branch)
}

/// The CSeq of a NOTIFY, spaces before its number.
fn usual_cseq(value: &[u8]) -> Option<(u32, &[u8])> {
    let (number, method) = value.split_at_checked(value.len().checked_sub(NOTIFY.len())?)?;
    let number = number.strip_suffix(b" ")?;
    let spaces = number.iter().position(|byte| *byte != b' ')?;
    let cseq = delta_seconds(&number[spaces..]).filter(|number| *number < 1 << 31)?;
    (method == NOTIFY).then_some((cseq, method))
}

/// The lines of a head, each without its CRLF.
struct Lines<'a> {
    bytes: &'a [u8],
    ends: Memchr<'a>,
    start: usize,
}

/// A line that is not folded.
struct Line<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Lines {
            bytes,
            ends: memchr_iter(b'\n', bytes),
            start: 0,
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    /// `None` where no line ends, where it ends by LF alone, or where it may be folded.
    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        let end = self.ends.next()?;
        let line = self.bytes[self.start..end].strip_suffix(b"\r")?;
        self.start = end + 1;
        let folded = matches!(self.bytes.get(self.start), Some(b' ' | b'\t'));
        // Behind the empty line stands a body, which may begin as it likes.
        (!folded || line.is_empty()).then_some(Line(line))
    }
}

impl Line<'_> {
    /// `None` where a CR stands in it.
    fn whole(&self) -> Option<()> {
        memchr(b'\r', self.0).is_none().then_some(())
    }
}

fn decimal(byte: u8) -> Option<u16> {
    byte.is_ascii_digit().then(|| u16::from(byte - b'0'))
}

fn any_form(bytes: &[u8]) -> Result<Answer<'_>, ScanError> {
    let mut cursor = Cursor::new(bytes)?;
    let Start::Response { status, .. } = start_line(cursor.start_line()?)?.0 else {
        return Err(ScanError::StartLine);
    };
    let mut via = None;
    let mut cseq = None;
    let mut answer = Answer {
        status,
        branch: b"",
        cseq: 0,
        method: b"",
        retry_after: None,
        event: None,
        contact: None,
        expires: None,
    };
    loop {
        let field = match cursor.wanted_field() {
            Step::Field(field) => field,
            Step::Malformed => continue,
            Step::End => break,
            Step::Unterminated => return Err(ScanError::Unterminated),
        };
        match field.name {
            // RFC 3261 8.1.3.3: with more than one Via the response was misrouted and should be discarded.
            Name::Via if via.replace(field.value).is_some() => return Err(ScanError::Misrouted),
            Name::CSeq if cseq.is_none() => cseq = Some(field.value),
            Name::RetryAfter => answer.retry_after = retry_after(field.value),
            Name::Event => answer.event = Some(field.value),
            Name::Contact if answer.contact.is_none() => answer.contact = Some(field.value),
            Name::Expires => answer.expires = delta_seconds(field.value),
            _ => {}
        }
    }
    let cseq = cseq.and_then(CSeq::parse).ok_or(ScanError::NoTransaction)?;
    answer.branch = branch(via.ok_or(ScanError::NoTransaction)?)?;
    (answer.cseq, answer.method) = (cseq.number, cseq.method);
    Ok(answer)
}

/// The branch of a Via value that must be one element. What stands before the parameters is ours, echoed: it is
/// not parsed.
fn branch(value: &[u8]) -> Result<&[u8], ScanError> {
    let mut elements = Elements::of(value);
    let first = elements.next().ok_or(ScanError::NoTransaction)?;
    if elements.next().is_some() {
        return Err(ScanError::Misrouted);
    }
    memchr(b';', first)
        .and_then(|at| Params::unchecked(&first[at..]).get("branch"))
        .filter(|branch| !branch.is_empty())
        .ok_or(ScanError::NoTransaction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECES: &[&str] = &[
        "SIP/2.0 200 OK\r\n",
        "SIP/2.0 299 \r\n",
        "SIP/2.0 20 OK\r\n",
        "SIP/2.0 480 Gone\r\n",
        "Via: SIP/2.0/UDP h:5060;branch=z9hG4bKq1",
        "Via: SIP/2.0/UDP h;rport;branch=z9hG4bKq",
        "Via: SIP/2.0/UDP h;branch=z9hG4bKq;received=192.0.2.1",
        ", SIP/2.0/UDP i;branch=z9hG4bKr",
        "v: SIP/2.0/UDP i;branch=z9hG4bKr",
        "CSeq: 7 NOTIFY",
        "CSeq:      4294967296 NOTIFY",
        "CSEQ: 8 NOTIFY",
        "Contact: <sip:a>",
        "m: <sip:b>",
        "Contact : <sip:c>, <sip:d>",
        "From: <sip:a>;tag=1",
        "Record-Route: <sip:a;lr>",
        "Retry-After: 7",
        "Event: SIPserver;max-rate=1",
        "Content-Length: 0",
        "Call-ID: c",
        "Call-ID c",
        "To: \"a\\\"",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\r\n ",
        "\n",
        "\r",
        " ",
        ";",
        "\"",
    ];

    fn texts(found: &Result<Answer<'_>, ScanError>) -> String {
        format!("{found:?}")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_usual_form_is_read_as_any_form_is(places in proptest::collection::vec(0..PIECES.len(), 0..24)) {
            let head = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKq\r\n";
            let pieces: String = places.iter().map(|&place| PIECES[place]).collect();
            for text in [pieces.clone(), format!("{head}{pieces}\r\n\r\n"), format!("{head}CSeq: 1 NOTIFY\r\n{pieces}\r\n\r\n")] {
                if let Some(usual) = usual(text.as_bytes()) {
                    prop_assert_eq!(texts(&Ok(usual)), texts(&any_form(text.as_bytes())), "{}", text);
                }
            }
        }

        #[test]
        fn a_usual_answer_with_some_bytes_changed_is_read_as_any_form_is(
            changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..4),
        ) {
            let mut text = USUAL.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place % text.len();
                text[place] = byte;
            }
            if let Some(usual) = usual(&text) {
                prop_assert_eq!(texts(&Ok(usual)), texts(&any_form(&text)));
            }
        }
    }

    const USUAL: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK0000000000001630t5a10000001;rport\r\n\
        From: <sip:example.com>;tag=0000000000001flkb9el\r\nTo: <sip:a@example.com>;tag=lg00000000\r\n\
        Call-ID: 8d9da1a4@client.example.com\r\nCSeq:          1 NOTIFY\r\nContact: <sip:a@192.0.2.9>\r\n\
        Content-Length: 0\r\n\r\n";

    #[test]
    fn an_answer_in_the_usual_form_is_read_the_short_way() {
        let found = usual(USUAL.as_bytes()).unwrap();
        assert_eq!(found.branch, b"z9hG4bK0000000000001630t5a10000001");
        assert_eq!((found.status, found.cseq), (200, 1));
        assert_eq!(found.contact, Some(&b"<sip:a@192.0.2.9>"[..]));
    }

    #[test]
    fn any_order_case_form_and_folding_is_read() {
        let text = "SIP/2.0 503 \r\nEXPIRES: 9\r\nx: y\r\nretry-after : 12 (soon)\r\no: SIPserver;max-rate=1\r\n\
            m: <sip:a>\r\nCSEQ :\r\n\t7\r\n NOTIFY\r\nCall-ID: c\r\nv:SIP/2.0/UDP h ;\r\n rport=1 ; Branch =\r\n z9hG4bKq\r\nl:0\r\n\r\n";
        let found = answer(text.as_bytes()).unwrap();
        assert_eq!((found.status, found.branch), (503, &b"z9hG4bKq"[..]));
        assert_eq!((found.cseq, found.method), (7, &b"NOTIFY"[..]));
        assert_eq!((found.retry_after, found.expires), (Some(12), Some(9)));
        assert_eq!(found.event, Some(&b"SIPserver;max-rate=1"[..]));
        assert_eq!(found.contact, Some(&b"<sip:a>"[..]));
    }

    #[test]
    fn what_names_no_transaction_is_refused() {
        let text = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKq\r\nCSeq: 7 NOTIFY\r\n\r\n";
        let with = |from: &str, to: &str| answer(text.replace(from, to).as_bytes()).unwrap_err();
        assert!(answer(text.as_bytes()).is_ok());
        assert_eq!(with("branch", "brunch"), ScanError::NoTransaction);
        assert_eq!(with("=z9hG4bKq", ""), ScanError::NoTransaction);
        assert_eq!(with("CSeq", "Seq"), ScanError::NoTransaction);
        assert_eq!(with("7 NOTIFY", "7"), ScanError::NoTransaction);
        assert_eq!(
            with("z9hG4bKq", "z9hG4bKq, SIP/2.0/UDP i;branch=z"),
            ScanError::Misrouted
        );
        assert_eq!(
            with("CSeq", "v: SIP/2.0/UDP i;branch=z\r\nCSeq"),
            ScanError::Misrouted
        );
        assert_eq!(with("\r\n\r\n", "\r\n"), ScanError::Unterminated);
        assert_eq!(
            with("SIP/2.0 200 OK", "NOTIFY sip:a SIP/2.0"),
            ScanError::StartLine
        );
    }
}
