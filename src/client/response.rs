//! Reads answers: what their transaction and its user want of them. Knows no transaction.

use crate::sip::answer::answer;
use crate::sip::header::{delta_seconds, retry_after};
use crate::sip::scan::{Name, Start, scan};

use super::{Refusal, Trouble};

/// A response to a request of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub reason: String,
    /// Of the only Via.
    pub branch: String,
    pub method: String,
    pub cseq: u32,
    /// SIP-ETag (RFC 3903 11.3.1).
    pub entity_tag: Option<String>,
    /// In seconds, as the next two.
    pub expires: Option<u32>,
    pub min_expires: Option<u32>,
    pub retry_after: Option<u32>,
    pub warning: Option<String>,
}

impl Response {
    /// `None`: no response, or one that names no transaction.
    pub fn parse(bytes: &[u8]) -> Option<Response> {
        let message = scan(bytes).ok()?;
        let Start::Response { status, reason } = message.start else {
            return None;
        };
        let matching = answer(bytes).ok()?;
        let seconds = |name| message.first(name).and_then(delta_seconds);
        Some(Response {
            status,
            reason: text(reason),
            branch: text(matching.branch),
            method: text(matching.method),
            cseq: matching.cseq,
            entity_tag: message.first(Name::SipEtag).map(text),
            expires: seconds(Name::Expires),
            min_expires: seconds(Name::MinExpires),
            retry_after: message.first(Name::RetryAfter).and_then(retry_after),
            warning: message.first(Name::Warning).map(warning_text),
        })
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the same request may succeed later. RFC 3261 21.4: most 4xx must not be retried without a change; 21.5:
    /// a server failed, and another time may not; 501, 505 and 513 will. A notifier that ends says 302: whoever asks it again
    /// finds it back, or finds it gone.
    pub fn is_temporary(&self) -> bool {
        match self.status {
            302 | 408 | 429 | 480 | 491 => true,
            501 | 505 | 513 => false,
            status => (500..600).contains(&status),
        }
    }

    pub fn refusal(&self) -> Refusal {
        Refusal {
            status: self.status,
            reason: self.reason.clone(),
            warning: self.warning.clone(),
        }
    }

    pub fn trouble(&self) -> Trouble {
        match self.status {
            // RFC 3261 8.1.3.1: what a proxy says when its own transaction timed out.
            408 => Trouble::Silent,
            _ => Trouble::Refused(self.refusal()),
        }
    }
}

/// On one line and printable, whatever a peer wrote.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).collect()
}

/// RFC 3261 20.43: `warn-code warn-agent "text"`; what stands in the quotes, their escapes undone.
fn warning_text(value: &[u8]) -> String {
    let value = text(value);
    let quoted = value
        .split_once('"')
        .and_then(|(_, rest)| rest.rsplit_once('"'));
    match quoted {
        Some((inner, _)) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_what_its_user_needs() {
        let bytes =
            b"SIP/2.0 423 Interval Too Brief\r\nv: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1\r\n\
            CSeq: 7 PUBLISH\r\nMin-Expires: 60\r\nRetry-After: 5 (busy)\r\nSIP-ETag: abc\r\n\
            Warning: 399 n1 \"not \\\"this\\\"\r\n  way\"\r\nContent-Length: 0\r\n\r\n";
        let response = Response::parse(bytes).expect("a response");
        assert_eq!((response.status, response.cseq), (423, 7));
        assert_eq!(response.branch, "z9hG4bK1");
        assert_eq!(response.min_expires, Some(60));
        assert_eq!(response.retry_after, Some(5));
        assert_eq!(response.entity_tag.as_deref(), Some("abc"));
        assert_eq!(
            response.refusal().to_string(),
            "423 Interval Too Brief (not \"this\" way)"
        );
    }

    #[test]
    fn requests_and_rubbish_are_no_answers() {
        for bytes in [
            &b""[..],
            b"\r\n\r\n",
            b"OPTIONS sip:a SIP/2.0\r\n\r\n",
            b"SIP/2.0 200 OK\r\n\r\n",
        ] {
            assert_eq!(Response::parse(bytes), None);
        }
    }
}
