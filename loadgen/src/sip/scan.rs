//! What arrives, read as a NOTIFY or a response. Knows no dialog but by the identifiers in it.

use memchr::memchr;

use super::fields::{Fields, Repeated, Unreadable, fields, first_word, user_part};
use super::{Run, decimal, digit_value, entity_of_user, is_own_tag};

/// What arrived.
#[derive(Debug)]
pub enum Message<'a> {
    Notify(Notify<'a>),
    Response(Response<'a>),
    /// Another method; loadgen leaves it unanswered.
    Other,
}

/// A NOTIFY, as far as an entity needs it.
#[derive(Debug)]
pub struct Notify<'a> {
    /// User part of the Request-URI.
    pub user: &'a [u8],
    pub branch: &'a [u8],
    pub call_id: &'a [u8],
    pub from_tag: &'a [u8],
    /// The end of the user part of the URI in To.
    pub to_user: &'a [u8],
    pub to_tag: &'a [u8],
    pub cseq: u32,
    pub contact: Option<&'a [u8]>,
    /// Empty where there are several.
    pub route: Option<&'a [u8]>,
    pub event: &'a [u8],
    pub content_type: &'a [u8],
    pub subscription_state: &'a [u8],
    pub body: &'a [u8],
    pub repeated: Repeated<'a>,
}

impl<'a> Notify<'a> {
    #[inline(always)]
    pub(super) fn new(
        target: &'a [u8],
        fields: Fields<'a>,
        body: &'a [u8],
    ) -> Result<Self, Unreadable> {
        // RFC 3261 18.3: over UDP a missing Content-Length means to the end of the datagram.
        let length = fields.content_length.map(number).transpose()?;
        if length.is_some_and(|length| length as usize != body.len()) {
            return Err(Unreadable::Length);
        }
        if fields.method != b"NOTIFY" {
            return Err(Unreadable::Method);
        }
        Ok(Notify {
            user: user_part(target),
            branch: required(fields.branch)?,
            call_id: required(fields.call_id)?,
            from_tag: required(fields.from_tag)?,
            to_user: fields.to_user,
            to_tag: required(fields.to_tag)?,
            cseq: number(fields.cseq)?,
            contact: fields.contact,
            route: fields.route,
            event: fields.event,
            content_type: fields.content_type,
            subscription_state: required(fields.subscription_state)?,
            body,
            repeated: fields.repeated,
        })
    }

    pub fn is_terminated(&self) -> bool {
        let state = self.subscription_state;
        matches!(state.first(), Some(b't' | b'T'))
            && first_word(state).eq_ignore_ascii_case(b"terminated")
    }

    /// The entity that the Request-URI names, if the dialog is its own: its Call-ID and its tag (RFC 6665 4.4.1).
    pub fn entity(&self, run: Run) -> Option<u32> {
        let user = self.user;
        let is_own = run.owns(self.call_id, user) && is_own_tag(self.to_tag, user);
        entity_of_user(user).filter(|_| is_own)
    }

    /// Number of the entity's dialog, by its Call-ID.
    pub fn generation(&self) -> Option<u16> {
        let (dash, digits) = self.call_id.get(2 * 8 + 1..2 * 8 + 6)?.split_first()?;
        let mut sum = 0;
        for &digit in digits {
            sum = sum << 4 | u16::from(digit_value(digit)?);
        }
        (*dash == b'-').then_some(sum)
    }

    /// It comes by the one route that the entity's SUBSCRIBE recorded.
    pub fn has_route_of(&self, run: Run) -> bool {
        self.route
            .is_some_and(|route| run.recorded(route, self.user))
    }

    /// To names the same entity, as its From did (RFC 3261 12.2.1.1: the remote URI of the dialog).
    pub fn is_to_its_own(&self) -> bool {
        self.to_user == self.user
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
    /// Seconds.
    pub retry_after: Option<u32>,
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
            retry_after: fields.retry_after.map(number).transpose()?,
        }));
    }
    let Some(target) = notify_target(first) else {
        let is_request = first.ends_with(b" SIP/2.0");
        return if is_request {
            Ok(Message::Other)
        } else {
            Err(Unreadable::FirstLine)
        };
    };
    let (fields, body) = fields(bytes, first_end + 1)?;
    Notify::new(target, fields, body).map(Message::Notify)
}

/// The Request-URI where the first line is that of a NOTIFY.
pub(super) fn notify_target(first: &[u8]) -> Option<&[u8]> {
    first.strip_prefix(b"NOTIFY ")?.strip_suffix(b" SIP/2.0")
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

/// The branch of a NOTIFY as one number; equal branches are equal transactions.
pub fn branch_hash(branch: &[u8]) -> u32 {
    // The peer is the system under test, not an attacker: a multiplication a word is enough.
    let words = branch.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let hash = words.fold(branch.len() as u64, |sum, word| {
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    (hash ^ hash >> 32) as u32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const RUN: Run = Run(0x00c0_ffee);

    pub const NOTIFY: &[u8] = b"NOTIFY sip:0000002a@127.1.2.3:5062 SIP/2.0\r\n\
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
        assert_eq!(notify.entity(RUN), Some(0x2a));
        assert_eq!(notify.entity(Run(1)), None);
        assert!(notify.is_to_its_own());
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
    fn an_entity_is_known_by_all_of_its_identifiers() {
        let text = std::str::from_utf8(NOTIFY).unwrap();
        for (find, replace) in [
            ("NOTIFY sip:0000002a", "NOTIFY sip:0000002b"),
            ("tag=lg0000002a", "tag=lg0000002b"),
            ("00c0ffee-0000002a", "00c0ffee-0000002b"),
            ("00c0ffee-0000002a", "00c0ffef-0000002a"),
        ] {
            let other = text.replace(find, replace);
            let Ok(Message::Notify(notify)) = scan(other.as_bytes()) else {
                panic!("{other}");
            };
            assert_eq!(notify.entity(RUN), None, "{other}");
        }
        let other = text.replace("<sip:0000002a@", "<sip:0000002b@");
        let Ok(Message::Notify(notify)) = scan(other.as_bytes()) else {
            panic!("{other}");
        };
        assert_eq!(notify.entity(RUN), Some(0x2a));
        assert!(!notify.is_to_its_own());
    }

    #[test]
    fn the_answer_repeats_all_vias_raw_and_in_order() {
        let mut out = Vec::new();
        notify()
            .repeated
            .write_answer(b"SIP/2.0 200 OK\r\n", &mut out);
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
