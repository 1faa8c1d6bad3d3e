//! SIP and SIPS URIs (RFC 3261 19.1, 25.1): their parts and whether they are well formed.
//! Knows no name resolution; percent-escapes stay as they stand, but parameter names compare unescaped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::class::{self, HEADER, LABEL, PARAM, PASSWORD, USER, all_escaped, find};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UriError {
    /// A URI of another scheme: 416 where it stands in the start line (RFC 3261 8.2.2.1).
    #[error("URI scheme is neither sip nor sips")]
    Scheme,
    #[error("malformed URI")]
    Syntax,
}

/// An address literal or a name still to be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    Ip(IpAddr),
    Name(&'a [u8]),
}

impl<'a> Host<'a> {
    /// `hostname / IPv4address / IPv6reference`; a trailing dot is part of a name.
    pub fn parse(text: &'a [u8]) -> Option<Host<'a>> {
        match plain_host(text) {
            Some((host, [])) => Some(host),
            _ => Host::parse_any(text),
        }
    }

    fn parse_any(text: &'a [u8]) -> Option<Host<'a>> {
        if let [b'[', inner @ .., b']'] = text {
            let address: Ipv6Addr = str::from_utf8(inner).ok()?.parse().ok()?;
            return Some(Host::Ip(address.into()));
        }
        let labels = text.strip_suffix(b".").unwrap_or(text);
        if labels.iter().all(|b| b.is_ascii_digit() || *b == b'.') {
            let address: Ipv4Addr = str::from_utf8(labels).ok()?.parse().ok()?;
            return Some(Host::Ip(address.into()));
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        labels
            .split(|b| *b == b'.')
            .all(|label| !label.is_empty() && label.iter().all(allowed))
            .then_some(Host::Name(text))
    }
}

/// An IPv4 address, or a name that begins with a letter and does not end with a dot, at the front, and what follows;
/// `None`: there may be another host.
#[inline]
pub(super) fn plain_host(text: &[u8]) -> Option<(Host<'_>, &[u8])> {
    if let Some((address, rest)) = plain_ipv4(text) {
        return Some((Host::Ip(address.into()), rest));
    }
    if !text.first()?.is_ascii_alphabetic() {
        return None;
    }
    let mut rest = text;
    loop {
        let before = rest.len();
        while let [byte, after @ ..] = rest
            && class::is(LABEL, *byte)
        {
            rest = after;
        }
        if rest.len() == before {
            return None;
        }
        match rest {
            [b'.', after @ ..] => rest = after,
            _ => break,
        }
    }
    let name = &text[..text.len() - rest.len()];
    Some((Host::Name(name), rest))
}

/// An address of four numbers at the front, and what follows, which is no part of a host.
#[inline]
fn plain_ipv4(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut octets = [0; 4];
    let mut rest = text;
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (mut value, mut digits) = (0u32, 0);
        while let [digit @ b'0'..=b'9', after @ ..] = rest
            && digits < 3
        {
            (value, digits) = (value * 10 + u32::from(digit - b'0'), digits + 1);
            rest = after;
        }
        let leading_zero = digits > 1 && value < [0, 0, 10, 100][digits];
        *octet = u8::try_from(value)
            .ok()
            .filter(|_| digits > 0 && !leading_zero)?;
    }
    let ends = rest
        .first()
        .is_none_or(|byte| !class::is(LABEL, *byte) && *byte != b'.');
    ends.then_some((octets.into(), rest))
}

/// `[ ":" port ]` at the front, the port not 0, and what follows; `None`: there may be another port.
#[inline]
pub(super) fn plain_port(text: &[u8]) -> Option<(Option<u16>, &[u8])> {
    let [b':', digits @ ..] = text else {
        return Some((None, text));
    };
    let (mut value, mut rest) = (0u32, digits);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value = value * 10 + u32::from(digit - b'0');
        rest = after;
        if digits.len() - rest.len() == 5 {
            break;
        }
    }
    let port = u16::try_from(value).ok().filter(|port| *port != 0)?;
    let ends = rest.first().is_none_or(|byte| !byte.is_ascii_digit());
    ends.then_some((Some(port), rest))
}

/// `host [ ":" port ]`, the port not 0.
pub(super) fn host_port(text: &[u8]) -> Option<(Host<'_>, Option<u16>)> {
    let name_end = match text.first()? {
        b'[' => find(b']', text)? + 1,
        _ => find(b':', text).unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(name_end);
    let port = match rest {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        _ => return None,
    };
    Some((Host::parse(host)?, port))
}

pub(super) fn port(digits: &[u8]) -> Option<u16> {
    let numeric = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number: u16 = str::from_utf8(digits).ok()?.parse().ok()?;
    (numeric && number != 0).then_some(number)
}

#[derive(Debug, Clone, Copy)]
pub struct SipUri<'a> {
    /// A `sips` URI.
    pub secure: bool,
    /// The user without the password.
    pub user: Option<&'a [u8]>,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub params: UriParams<'a>,
    /// What follows `?`, which a Request-URI must not have (RFC 3261 19.1.1).
    pub headers: Option<&'a [u8]>,
    pub raw: &'a [u8],
}

impl<'a> SipUri<'a> {
    pub fn parse(raw: &'a [u8]) -> Result<SipUri<'a>, UriError> {
        match SipUri::parse_plain(raw) {
            Some(uri) => Ok(uri),
            None => SipUri::parse_any(raw),
        }
    }

    /// What most URIs are: `sip:`, perhaps a user, a host, a port, parameters; no password, no escape, no header fields.
    /// `None`: it may be another URI.
    #[inline]
    fn parse_plain(raw: &'a [u8]) -> Option<SipUri<'a>> {
        let rest = raw.strip_prefix(b"sip:")?;
        let (user, host) = match class::split(USER, rest) {
            ([], _) => return None,
            (user, [b'@', host @ ..]) => (Some(user), host),
            (_, []) => (None, rest),
            (_, [b':', after @ ..]) if find(b'@', after).is_none() => (None, rest),
            _ => return None,
        };
        let (host, rest) = plain_host(host)?;
        let (port, params) = plain_port(rest)?;
        let (mut rest, mut initials) = (params, 0);
        while let [b';', piece @ ..] = rest {
            let (name, after) = class::split(PARAM, piece);
            initials |= initial(name);
            rest = after;
            if let [b'=', value @ ..] = after {
                let (value, after) = class::split(PARAM, value);
                rest = after;
                if value.is_empty() {
                    return None;
                }
            }
            if name.is_empty() {
                return None;
            }
        }
        rest.is_empty().then_some(SipUri {
            secure: false,
            user,
            host,
            port,
            params: UriParams {
                raw: params,
                initials,
            },
            headers: None,
            raw,
        })
    }

    fn parse_any(raw: &'a [u8]) -> Result<SipUri<'a>, UriError> {
        let (secure, rest) = split_scheme(raw)?;
        let (user_info, rest) = match find(b'@', rest) {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let user = user_info.map(user).transpose()?;
        let (rest, headers) = match find(b'?', rest) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if headers.is_some_and(|text| !all_escaped(HEADER, text)) {
            return Err(UriError::Syntax);
        }
        let host_end = find(b';', rest).unwrap_or(rest.len());
        let (host, port) = host_port(&rest[..host_end]).ok_or(UriError::Syntax)?;
        Ok(SipUri {
            secure,
            user,
            host,
            port,
            params: UriParams::parse(&rest[host_end..])?,
            headers,
            raw,
        })
    }

    pub fn transport(&self) -> Option<&'a [u8]> {
        self.params.get("transport")
    }

    /// A loose router (RFC 3261 16.12).
    pub fn lr(&self) -> bool {
        self.params.get("lr").is_some()
    }

    /// The address to send to in the host's place.
    pub fn maddr(&self) -> Option<Host<'a>> {
        self.params.get("maddr").and_then(Host::parse)
    }
}

fn split_scheme(raw: &[u8]) -> Result<(bool, &[u8]), UriError> {
    let colon = find(b':', raw).ok_or(UriError::Syntax)?;
    let (scheme, rest) = (&raw[..colon], &raw[colon + 1..]);
    if !is_scheme(scheme) || rest.is_empty() {
        return Err(UriError::Syntax);
    }
    if scheme.eq_ignore_ascii_case(b"sip") {
        Ok((false, rest))
    } else if scheme.eq_ignore_ascii_case(b"sips") {
        Ok((true, rest))
    } else {
        Err(UriError::Scheme)
    }
}

pub(super) fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// `user [ ":" password ]`, both checked, the user given back.
fn user(info: &[u8]) -> Result<&[u8], UriError> {
    let (user, password) = match find(b':', info) {
        Some(at) => (&info[..at], &info[at + 1..]),
        None => (info, &b""[..]),
    };
    let fine = !user.is_empty() && all_escaped(USER, user) && all_escaped(PASSWORD, password);
    fine.then_some(user).ok_or(UriError::Syntax)
}

/// The parameters of a URI, checked when made.
#[derive(Debug, Clone, Copy, Default)]
pub struct UriParams<'a> {
    raw: &'a [u8],
    /// A bit for each letter that a name may begin with, so that most questions need no search.
    initials: u32,
}

/// The bit of a name's first byte, whatever its case. An escape may stand for any.
fn initial(name: &[u8]) -> u32 {
    match name.first() {
        Some(b'%') => u32::MAX,
        Some(byte) => 1 << (byte & 31),
        None => 0,
    }
}

impl<'a> UriParams<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, UriError> {
        let mut params = UriParams { raw, initials: 0 };
        let fine = |(name, value): (&[u8], Option<&[u8]>)| {
            !name.is_empty()
                && all_escaped(PARAM, name)
                && value.is_none_or(|value| !value.is_empty() && all_escaped(PARAM, value))
        };
        if !params.iter().all(fine) {
            return Err(UriError::Syntax);
        }
        let initials = params.iter().map(|(name, _)| initial(name));
        params.initials = initials.fold(0, |all, initial| all | initial);
        Ok(params)
    }

    /// Name and value of each parameter, in order, escapes as they stand.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        self.raw.split(|byte| *byte == b';').skip(1).map(|piece| {
            match piece.iter().position(|byte| *byte == b'=') {
                Some(at) => (&piece[..at], Some(&piece[at + 1..])),
                None => (piece, None),
            }
        })
    }

    /// The value of the parameter of this name (case and escapes aside, RFC 3261 19.1.4); empty where it has none.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        if self.initials & initial(name.as_bytes()) == 0 {
            return None;
        }
        let mut rest = self.raw;
        while let [b';', piece @ ..] = rest {
            let (param, after) = piece.split_at(find(b';', piece).unwrap_or(piece.len()));
            match strip_unescaped(param, name.as_bytes()) {
                Some([b'=', value @ ..]) => return Some(value),
                Some(b"") => return Some(b""),
                _ => rest = after,
            }
        }
        None
    }
}

/// What follows plain text at the front of text that may hold percent-escapes, compared without regard to case.
fn strip_unescaped<'a>(mut text: &'a [u8], plain: &[u8]) -> Option<&'a [u8]> {
    for expected in plain {
        let (byte, rest) = match text {
            [b'%', high, low, rest @ ..] => (hex(*high)? * 16 + hex(*low)?, rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        if !byte.eq_ignore_ascii_case(expected) {
            return None;
        }
        text = rest;
    }
    Some(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A URI of any scheme as it may stand in From, To and Contact: sip and sips in full, others by their shape only.
pub(super) fn is_any_uri(raw: &[u8]) -> bool {
    match SipUri::parse(raw) {
        Ok(_) => true,
        Err(UriError::Syntax) => false,
        Err(UriError::Scheme) => {
            raw.iter().all(u8::is_ascii_graphic)
                && !raw.iter().any(|byte| matches!(byte, b'<' | b'>' | b'"'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_uri_comes_apart() {
        let uri = SipUri::parse(
            b"SIPS:a%20b;x:pw@[2001:db8::1]:5061;transport=tls;lr;maddr=192.0.2.1?h=v",
        )
        .unwrap();
        assert!(uri.secure && uri.lr());
        assert_eq!(uri.user, Some(&b"a%20b;x"[..]));
        assert_eq!(uri.host, Host::Ip("2001:db8::1".parse().unwrap()));
        assert_eq!((uri.port, uri.transport()), (Some(5061), Some(&b"tls"[..])));
        assert_eq!(uri.maddr(), Some(Host::Ip("192.0.2.1".parse().unwrap())));
        assert_eq!(uri.headers, Some(&b"h=v"[..]));
    }

    #[test]
    fn other_schemes_are_told_from_malformed_uris() {
        for other in ["tel:+1", "http://a", "urn:x:y", "sipx:a"] {
            assert_eq!(
                SipUri::parse(other.as_bytes()).unwrap_err(),
                UriError::Scheme,
                "{other}"
            );
        }
        for bad in [
            "",
            "sip",
            "sip:",
            ":a",
            "1a:b",
            "<sip:a>",
            "sip:@a",
            "sip:a@",
            "sip:a@b@c",
            "sip:a b",
            "sip:a:0",
            "sip:a:99999",
            "sip:a:x",
            "sip:a%2",
            "sip:a%zz@b",
            "sip:a\0b",
            "sip:[::g]",
            "sip:[::1",
            "sip:a..b",
            "sip:1.2.3",
            "sip:a;;b",
            "sip:a;b=",
            "sip:a;=b",
            "sip:\u{e9}@b",
            "sip:a?\"",
        ] {
            assert_eq!(
                SipUri::parse(bad.as_bytes()).unwrap_err(),
                UriError::Syntax,
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_plain_uri_is_what_the_full_parse_finds(raw in "(sip:|sips:|SIP:)?([a-z1%;]{0,3}(:p)?@)?([a-z._-]{0,6}|1\\.2\\.3\\.[0-9]{1,3}[.a]?|\\[::1\\])(:[0-9]{0,6})?(;[a-zA=%:]{0,4}){0,2}([?@]a=b)?") {
            let raw = raw.as_bytes();
            if let Some(plain) = SipUri::parse_plain(raw) {
                let full = SipUri::parse_any(raw).expect("what is plain is well formed");
                prop_assert_eq!(format!("{plain:?}"), format!("{full:?}"));
            }
        }

        #[test]
        fn a_plain_host_is_what_the_full_parse_finds(text in "([0-9]{1,4}\\.){3}[0-9]{1,3}[.a-]?|[a-c0-9._-]{1,8}") {
            let text = text.as_bytes();
            prop_assert_eq!(Host::parse(text), Host::parse_any(text));
            if let Some((host, rest)) = plain_host(text) {
                prop_assert_eq!(Some(host), Host::parse_any(&text[..text.len() - rest.len()]));
            }
        }
    }
}
