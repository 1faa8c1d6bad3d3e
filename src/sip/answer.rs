//! The quick scan of a response: what tells which NOTIFY it answers and what becomes of its subscription.
//! Looks at no other header field, judges no body, allocates nothing.

use memchr::memchr;

use super::header::{CSeq, Params, delta_seconds, retry_after};
use super::scan::{Cursor, Elements, Name, ScanError, Start, Step, start_line};

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
