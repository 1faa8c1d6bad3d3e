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
        .and_then(|at| Params::parse(&first[at..]))
        .and_then(|params| params.get("branch"))
        .filter(|branch| !branch.is_empty())
        .ok_or(ScanError::NoTransaction)
}
