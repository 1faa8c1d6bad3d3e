//! SIP and SIPS URIs (RFC 3261 19.1, 25.1): their parts and whether they are well formed.
//! Knows no name resolution; percent-escapes stay as they stand, but parameter names compare unescaped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::{memchr, memchr2};
use thiserror::Error;

use super::class::{HEADER, PARAM, PASSWORD, USER, all_escaped};

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

/// `host [ ":" port ]`, the port not 0.
pub(super) fn host_port(text: &[u8]) -> Option<(Host<'_>, Option<u16>)> {
    let name_end = match text.first()? {
        b'[' => memchr(b']', text)? + 1,
        _ => memchr(b':', text).unwrap_or(text.len()),
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
        let (secure, rest) = split_scheme(raw)?;
        let (user_info, rest) = match memchr(b'@', rest) {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let user = user_info.map(user).transpose()?;
        let (rest, headers) = match memchr(b'?', rest) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if headers.is_some_and(|text| !all_escaped(HEADER, text)) {
            return Err(UriError::Syntax);
        }
        let host_end = memchr(b';', rest).unwrap_or(rest.len());
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
    let colon = memchr(b':', raw).ok_or(UriError::Syntax)?;
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
    let (user, password) = match memchr(b':', info) {
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
}

impl<'a> UriParams<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, UriError> {
        let params = UriParams { raw };
        let fine = |(name, value): (&[u8], Option<&[u8]>)| {
            !name.is_empty()
                && all_escaped(PARAM, name)
                && value.is_none_or(|value| !value.is_empty() && all_escaped(PARAM, value))
        };
        params
            .iter()
            .all(fine)
            .then_some(params)
            .ok_or(UriError::Syntax)
    }

    /// Name and value of each parameter, in order, escapes as they stand.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        self.raw
            .split(|byte| *byte == b';')
            .skip(1)
            .map(|piece| match memchr(b'=', piece) {
                Some(at) => (&piece[..at], Some(&piece[at + 1..])),
                None => (piece, None),
            })
    }

    /// The value of the parameter of this name (case and escapes aside, RFC 3261 19.1.4); empty where it has none.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| same_unescaped(found, name.as_bytes()))
            .map(|(_, value)| value.unwrap_or_default())
    }
}

/// Compares text that may hold percent-escapes with plain text, without regard to case.
fn same_unescaped(mut text: &[u8], plain: &[u8]) -> bool {
    for expected in plain {
        let (byte, rest) = match text {
            [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, rest),
                _ => return false,
            },
            [byte, rest @ ..] => (*byte, rest),
            [] => return false,
        };
        if !byte.eq_ignore_ascii_case(expected) {
            return false;
        }
        text = rest;
    }
    text.is_empty()
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
                && memchr2(b'<', b'>', raw).is_none()
                && memchr(b'"', raw).is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
