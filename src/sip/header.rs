//! The grammars of header values (RFC 3261 25.1 and the extensions a notifier meets), over the bytes of one value.
//! Knows neither messages nor what a value is used for. Folds may stand wherever white space may.

use super::class::{self, LWS, TOKEN, VALUE, find, trim_lws, trim_lws_start};
pub use super::event::{Event, Rate, State};
pub use super::params::{Param, ParamIter, Params};
use super::params::{is_token, next_param, quoted, split_where, token};
use super::scan::Elements;
use super::uri::{self, Host};

/// One element of a Via header field (RFC 3261 20.42, RFC 3581).
#[derive(Debug, Clone, Copy)]
pub struct Via<'a> {
    pub transport: &'a [u8],
    /// As written: an IPv6 address stands in brackets.
    pub host: &'a [u8],
    pub port: Option<u16>,
    pub branch: Option<&'a [u8]>,
    /// An `rport` without value: the response goes to the source port.
    pub rport: bool,
    pub received: Option<&'a [u8]>,
    pub params: Params<'a>,
    pub raw: &'a [u8],
    /// `host` read.
    pub sent_by: Host<'a>,
    /// The parameters before and behind an empty `rport`: what an answer copies as it stands. `None` where there is white
    /// space or `received` in them.
    pub(super) copied: Option<[&'a [u8]; 2]>,
}

impl<'a> Via<'a> {
    pub fn parse(raw: &'a [u8]) -> Option<Via<'a>> {
        Via::parse_plain(raw).or_else(|| Via::parse_any(raw))
    }

    /// What most clients write: no white space, no quotes, no `received`, one `rport` at the most. `None`: it may be
    /// another Via.
    #[inline]
    pub(super) fn parse_plain(raw: &'a [u8]) -> Option<Via<'a>> {
        let (transport, rest) = token(raw.strip_prefix(b"SIP/2.0/")?)?;
        let start = rest.strip_prefix(b" ")?;
        let (sent_by, rest) = uri::plain_host(start)?;
        let host = &start[..start.len() - rest.len()];
        let (port, params) = uri::plain_port(rest)?;
        let mut via = Via {
            transport,
            host,
            port,
            branch: None,
            rport: false,
            received: None,
            params: Params::unchecked(params),
            raw,
            sent_by,
            copied: Some([params, b""]),
        };
        let mut rest = params;
        while let [b';', piece @ ..] = rest {
            let (name, after) = token(piece)?;
            let (value, after) = match after {
                [b'=', value @ ..] => class::split(VALUE, value),
                _ => (&b""[..], after),
            };
            let raw = &piece[..piece.len() - after.len()];
            let param = Param {
                name,
                value: (raw.len() > name.len()).then_some(value),
                raw,
            };
            if param.value == Some(b"") || name.eq_ignore_ascii_case(b"received") {
                return None;
            }
            if param.value.is_none() && name.eq_ignore_ascii_case(b"rport") {
                if via.rport {
                    return None;
                }
                via.copied = Some([&params[..params.len() - rest.len()], after]);
            }
            via.take(param);
            rest = after;
        }
        rest.is_empty().then_some(via)
    }

    fn parse_any(raw: &'a [u8]) -> Option<Via<'a>> {
        let (name, rest) = token(trim_lws_start(raw))?;
        let (version, rest) = token(after(b'/', rest)?)?;
        let (transport, rest) = token(after(b'/', rest)?)?;
        let sent_by = trim_lws_start(rest);
        if !name.eq_ignore_ascii_case(b"SIP") || version != b"2.0" || sent_by.len() == rest.len() {
            return None;
        }
        let (host, port, rest) = sent_by_parts(sent_by)?;
        let mut via = Via {
            transport,
            host,
            port,
            branch: None,
            rport: false,
            received: None,
            params: Params::unchecked(rest),
            raw,
            sent_by: Host::parse(host)?,
            copied: None,
        };
        let mut rest = rest;
        while let Some(step) = next_param(rest) {
            let (param, after) = step?;
            via.take(param);
            rest = after;
        }
        Some(via)
    }

    fn take(&mut self, param: Param<'a>) {
        let is = |name: &[u8]| param.name.eq_ignore_ascii_case(name);
        match param.value {
            Some(value) if is(b"branch") && is_token(value) => {
                self.branch.get_or_insert(value);
            }
            Some(value) if is(b"received") => {
                self.received.get_or_insert(value);
            }
            None if is(b"rport") => self.rport = true,
            _ => {}
        }
    }
}

/// `host [ COLON port ]`, where white space may stand around the colon.
fn sent_by_parts(text: &[u8]) -> Option<(&[u8], Option<u16>, &[u8])> {
    let host_end = match text.first()? {
        b'[' => find(b']', text)? + 1,
        _ => text
            .iter()
            .position(|byte| class::is(LWS, *byte) || matches!(byte, b':' | b';'))
            .unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    Host::parse(host)?;
    match after(b':', rest) {
        Some(rest) => {
            let (digits, rest) = split_where(rest, |byte| !byte.is_ascii_digit());
            Some((host, Some(uri::port(digits)?), rest))
        }
        None => Some((host, None, rest)),
    }
}

/// What follows a separator that white space may surround.
fn after(separator: u8, text: &[u8]) -> Option<&[u8]> {
    match trim_lws_start(text).split_first() {
        Some((first, rest)) if *first == separator => Some(trim_lws_start(rest)),
        _ => None,
    }
}

/// `name-addr` or `addr-spec` with parameters: one element of From, To, Contact, Route, Record-Route.
#[derive(Debug, Clone, Copy)]
pub struct NameAddr<'a> {
    /// As written, quotes included; empty where there is none.
    pub display: &'a [u8],
    pub uri: &'a [u8],
    pub params: Params<'a>,
    pub raw: &'a [u8],
    tag: Option<&'a [u8]>,
}

impl<'a> NameAddr<'a> {
    pub fn parse(raw: &'a [u8]) -> Option<NameAddr<'a>> {
        NameAddr::parse_plain(raw).or_else(|| NameAddr::parse_any(raw))
    }

    /// What most peers write: a URI in brackets, perhaps a tag, nothing else. `None`: it may be another address.
    #[inline]
    pub(super) fn parse_plain(raw: &'a [u8]) -> Option<NameAddr<'a>> {
        let inside = raw.strip_prefix(b"<")?;
        let close = find(b'>', inside)?;
        let (uri, rest) = (&inside[..close], &inside[close + 1..]);
        let tag = match rest {
            [] => None,
            _ => match class::split(VALUE, rest.strip_prefix(b";tag=")?) {
                (tag @ [_, ..], []) => Some(tag),
                _ => return None,
            },
        };
        uri::is_any_uri(uri).then_some(NameAddr {
            display: b"",
            uri,
            params: Params::unchecked(rest),
            raw,
            tag,
        })
    }

    fn parse_any(raw: &'a [u8]) -> Option<NameAddr<'a>> {
        let raw = trim_lws(raw);
        let open = opening_bracket(raw)?;
        let (display, uri, rest) = match open {
            Some(open) => {
                let close = open + find(b'>', &raw[open..])?;
                (&raw[..open], &raw[open + 1..close], &raw[close + 1..])
            }
            None => bare_address(raw)?,
        };
        let params = Params::parse(rest)?;
        let tag = params.get("tag");
        if !tag.is_none_or(|tag| class::all(VALUE, tag)) || !uri::is_any_uri(uri) {
            return None;
        }
        Some(NameAddr {
            display: trim_lws(display),
            uri,
            params,
            raw,
            tag: tag.filter(|tag| !tag.is_empty()),
        })
    }

    /// The dialog's tag: no white space, quotes or separators. Absent where the peer speaks RFC 2543.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.tag
    }
}

/// Where `<` stands behind a well-formed display name; `Some(None)`: there is none, so this is an `addr-spec`.
fn opening_bracket(text: &[u8]) -> Option<Option<usize>> {
    if text.first() == Some(&b'"') {
        let (_, rest) = quoted(text)?;
        let rest = trim_lws_start(rest);
        return (rest.first() == Some(&b'<')).then(|| Some(text.len() - rest.len()));
    }
    let Some(open) = find(b'<', text) else {
        return Some(None);
    };
    let display = &text[..open];
    if class::all(TOKEN | LWS, display) {
        return Some(Some(open));
    }
    // A `<` behind a semicolon belongs to a parameter of an addr-spec.
    find(b';', display).map(|_| None)
}

/// RFC 3261 20: a URI with a comma, question mark or semicolon must stand in `<>`; what follows a semicolon here
/// are the header field's parameters.
fn bare_address(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (uri, rest) = split_where(text, |byte| byte == b';' || class::is(LWS, byte));
    let ambiguous = uri.iter().any(|byte| matches!(byte, b',' | b'?'));
    (!ambiguous).then_some((&text[..0], uri, rest))
}

/// RFC 3261 20.16: a number below 2^31 (8.1.1.5) and a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CSeq<'a> {
    pub number: u32,
    pub method: &'a [u8],
}

impl<'a> CSeq<'a> {
    pub fn parse(value: &'a [u8]) -> Option<CSeq<'a>> {
        let (digits, rest) = split_where(value, |byte| !byte.is_ascii_digit());
        let method = trim_lws_start(rest);
        let number = delta_seconds(digits).filter(|number| *number < 1 << 31)?;
        (rest.len() > method.len() && is_token(method)).then_some(CSeq { number, method })
    }
}

/// Digits only; more than a `u32` holds counts as its greatest value (RFC 4475 3.1.2.4).
pub fn delta_seconds(text: &[u8]) -> Option<u32> {
    let numeric = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    numeric.then(|| {
        text.iter().fold(0u32, |sum, digit| {
            sum.saturating_mul(10)
                .saturating_add(u32::from(digit - b'0'))
        })
    })
}

/// The seconds of a Retry-After; its comment and parameters aside (RFC 3261 20.33).
pub fn retry_after(value: &[u8]) -> Option<u32> {
    let (digits, rest) = split_where(value, |byte| !byte.is_ascii_digit());
    let ends = rest
        .first()
        .is_none_or(|byte| class::is(LWS, *byte) || matches!(byte, b';' | b'('));
    ends.then(|| delta_seconds(digits)).flatten()
}

/// The tokens of a comma-separated value (Require, Supported, Allow-Events); what is no token is skipped.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    Elements::of(value).filter(|element| is_token(element))
}

/// One element of Accept, or a Content-Type (RFC 3261 20.1, 20.15).
#[derive(Debug, Clone, Copy)]
pub struct MediaRange<'a> {
    pub kind: &'a [u8],
    pub subtype: &'a [u8],
    /// Preference in thousandths, 0 to 1,000.
    pub q: u16,
    pub params: Params<'a>,
}

impl<'a> MediaRange<'a> {
    pub fn parse(element: &'a [u8]) -> Option<MediaRange<'a>> {
        let (kind, rest) = token(trim_lws_start(element))?;
        let (subtype, rest) = token(after(b'/', rest)?)?;
        let params = Params::parse(rest)?;
        let q = match params.get("q") {
            Some(text) => thousandths(text)?,
            None => 1000,
        };
        Some(MediaRange {
            kind,
            subtype,
            q,
            params,
        })
    }

    /// Whether this range takes in the type named, `*` in either place taking in all.
    pub fn covers(&self, kind: &str, subtype: &str) -> bool {
        let fits =
            |range: &[u8], name: &str| range == b"*" || range.eq_ignore_ascii_case(name.as_bytes());
        fits(self.kind, kind) && fits(self.subtype, subtype)
    }
}

/// `qvalue`: 0 to 1 with at most three decimals.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match find(b'.', text) {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let whole = match whole {
        b"0" => 0,
        b"1" => 1000,
        _ => return None,
    };
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = decimals.iter().chain(std::iter::repeat(&b'0')).take(3);
    let value = whole + padded.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (value <= 1000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_via_may_have_ipv6_white_space_and_an_empty_rport() {
        let via =
            Via::parse(b"SIP / 2.0 / UDP\t[2001:db8::1] : 5061 ;rport ; branch = z9hG4bKx;ttl=3")
                .unwrap();
        assert_eq!(
            (via.transport, via.host),
            (&b"UDP"[..], &b"[2001:db8::1]"[..])
        );
        assert_eq!((via.port, via.rport), (Some(5061), true));
        assert_eq!(via.branch, Some(&b"z9hG4bKx"[..]));
        let answered = Via::parse(b"SIP/2.0/UDP h;rport=7;received=2001:db8::2").unwrap();
        assert!(!answered.rport);
        assert_eq!(answered.received, Some(&b"2001:db8::2"[..]));
    }

    #[test]
    fn malformed_vias_are_refused() {
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDPh",
            "SIP/2.0 h",
            "SIP/3.0/UDP h",
            "SIP/2.0/UDP h:0",
            "SIP/2.0/UDP h:65536",
            "SIP/2.0/UDP h:",
            "SIP/2.0/UDP h;;branch=a",
            "SIP/2.0/UDP h;branch=",
            "SIP/2.0/UDP h branch=a",
            "SIP/2.0/UDP [::1",
            "SIP/2.0/UDP 1.2.3.400",
            "SIP/2.0/UDP ;branch=a",
        ] {
            assert!(Via::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn addresses_come_with_and_without_brackets() {
        let quoted = NameAddr::parse(b"\"a \\\" <b>;\" <sip:c@d;x=1>;tag=t ; e").unwrap();
        assert_eq!(quoted.uri, b"sip:c@d;x=1");
        assert_eq!(quoted.display, b"\"a \\\" <b>;\"");
        assert_eq!(
            (quoted.tag(), quoted.params.get("E")),
            (Some(&b"t"[..]), Some(&b""[..]))
        );
        let bare = NameAddr::parse(b"sip:c@d;tag=t;x=\"<1>\"").unwrap();
        assert_eq!((bare.uri, bare.tag()), (&b"sip:c@d"[..], Some(&b"t"[..])));
        assert_eq!(bare.params.get("x"), Some(&b"<1>"[..]));
        for bad in [
            "",
            "<>",
            "sip:",
            "<sip:a",
            "sip:a?b=c",
            "sip:a,b",
            "\"x <sip:a>",
            "\"x\" sip:a",
            "a, b <sip:c>",
            "<sip:a> b",
            "< sip:a>",
            "<sip:a>;;",
            "<sip:a\r\n b>",
            "<sip:a>;tag=\"a\r\n b\"",
            "a",
        ] {
            assert!(NameAddr::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn cseq_numbers_stay_below_two_to_the_31() {
        let parsed = CSeq::parse(b"2147483647\r\n  NOTIFY").unwrap();
        assert_eq!(
            (parsed.number, parsed.method),
            (2_147_483_647, &b"NOTIFY"[..])
        );
        for bad in [
            "2147483648 A",
            "4294967297 A",
            "1",
            "A",
            "1A",
            "-1 A",
            "1 A B",
            "1 ",
        ] {
            assert!(CSeq::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn numbers_saturate_and_have_digits_only() {
        assert_eq!(delta_seconds(b"4294967295"), Some(u32::MAX));
        assert_eq!(delta_seconds(b"99999999999999999999"), Some(u32::MAX));
        assert_eq!(delta_seconds(b"007"), Some(7));
        for bad in ["", "-1", "+1", "1 ", "0x1"] {
            assert_eq!(delta_seconds(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(retry_after(b"120 (in a meeting);duration=9"), Some(120));
        assert_eq!(retry_after(b"soon"), None);
        assert_eq!(retry_after(b"12x"), None);
    }

    #[test]
    fn media_ranges_carry_their_preference() {
        let range = MediaRange::parse(b"application / * ; q=0.5;v=\"a,b\"").unwrap();
        assert_eq!(
            (range.kind, range.subtype, range.q),
            (&b"application"[..], &b"*"[..], 500)
        );
        assert!(range.covers("application", "serverinfo+xml"));
        assert!(!range.covers("text", "plain"));
        assert!(MediaRange::parse(b"*/*").unwrap().covers("a", "b"));
        assert!(MediaRange::parse(b"A/B").unwrap().covers("a", "b"));
        for bad in [
            "a",
            "a/",
            "/b",
            "a/b;q=2",
            "a/b;q=1.001",
            "a/b;q=0.1234",
            "a/b c",
        ] {
            assert!(MediaRange::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_via_is_what_the_full_parse_finds(raw in "SIP/2.0/(UDP)? ?[ah1.]{0,4}(:5)?(;(branch|Rport|rport|received|ttl)? ?(=[a\"1 ,]{0,3})?){0,3}") {
            let raw = raw.as_bytes();
            if let Some(plain) = Via::parse_plain(raw) {
                let full = Via::parse_any(raw).expect("what is plain is well formed");
                let plain = Via { copied: None, ..plain };
                prop_assert_eq!(format!("{plain:?}"), format!("{full:?}"));
                prop_assert_eq!(Elements::of(raw).next(), Some(raw));
            }
        }

        #[test]
        fn a_plain_address_is_what_the_full_parse_finds(raw in "(\"a\")?<(sip:)?[a,@%;>]{0,3}>(;[tT]ag=[a\", ;]{0,3})?(;x)?") {
            let raw = raw.as_bytes();
            if let Some(plain) = NameAddr::parse_plain(raw) {
                let full = NameAddr::parse_any(raw).expect("what is plain is well formed");
                prop_assert_eq!(format!("{plain:?}"), format!("{full:?}"));
                prop_assert_eq!(Elements::of(raw).next(), Some(raw));
            }
        }
    }
}
