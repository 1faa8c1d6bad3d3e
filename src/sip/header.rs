//! The grammars of header values (RFC 3261 25.1 and the extensions a notifier meets), over the bytes of one value.
//! Knows neither messages nor what a value is used for. Folds may stand wherever white space may.

use std::fmt;
use std::num::NonZeroU64;

use memchr::memchr;

use super::scan::{Elements, is_lws, is_token, is_token_byte, trim_lws, trim_lws_start};
use super::uri::{self, Host};

/// `*( SEMI name [ EQUAL value ] )` of a header field, checked when made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Params<'a> {
    raw: &'a [u8],
}

/// One parameter. The value of a quoted string is what stands between the quotes, its escapes untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a [u8],
    pub value: Option<&'a [u8]>,
    /// The parameter as it was written, quotes included.
    pub raw: &'a [u8],
}

impl<'a> Params<'a> {
    /// `raw` is empty or begins, after white space, with the first semicolon.
    pub fn parse(raw: &'a [u8]) -> Option<Params<'a>> {
        let mut rest = raw;
        while let Some(step) = next_param(rest) {
            rest = step?.1;
        }
        Some(Params { raw })
    }

    pub fn iter(&self) -> ParamIter<'a> {
        ParamIter { rest: self.raw }
    }

    /// The value of the first parameter of this name, in any case; empty where it has none.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|param| param.value.unwrap_or_default())
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = Param<'a>;
    type IntoIter = ParamIter<'a>;

    fn into_iter(self) -> ParamIter<'a> {
        self.iter()
    }
}

/// Walks over checked parameters, in order.
#[derive(Debug, Clone)]
pub struct ParamIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ParamIter<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        let (param, rest) = next_param(self.rest)??;
        self.rest = rest;
        Some(param)
    }
}

/// `None`: there are no more; `Some(None)`: what follows is no parameter.
fn next_param(text: &[u8]) -> Option<Option<(Param<'_>, &[u8])>> {
    let text = trim_lws_start(text);
    let (first, rest) = text.split_first()?;
    Some(
        (*first == b';')
            .then(|| param(trim_lws_start(rest)))
            .flatten(),
    )
}

fn param(text: &[u8]) -> Option<(Param<'_>, &[u8])> {
    let (name, rest) = token(text)?;
    let Some((b'=', rest)) = trim_lws_start(rest).split_first() else {
        let param = Param {
            name,
            value: None,
            raw: name,
        };
        return Some((param, rest));
    };
    let start = trim_lws_start(rest);
    let (value, rest) = match start.first()? {
        b'"' => quoted(start)?,
        _ => split_where(start, |byte| !is_value_byte(byte)),
    };
    let well_formed = start[0] == b'"' || !value.is_empty();
    let param = Param {
        name,
        value: Some(value),
        raw: &text[..text.len() - rest.len()],
    };
    well_formed.then_some((param, rest))
}

/// A token or a host; some stacks put more than tokens here, so all is taken that cannot end the value.
fn is_value_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>')
}

fn split_where(text: &[u8], ends: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| ends(*byte));
    text.split_at(end.unwrap_or(text.len()))
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (token, rest) = split_where(text, |byte| !is_token_byte(byte));
    (!token.is_empty()).then_some((token, rest))
}

/// What stands between the quotes at the front, and what follows them.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = inner.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some((&inner[..end], &inner[end + 1..]))
}

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
}

impl<'a> Via<'a> {
    pub fn parse(raw: &'a [u8]) -> Option<Via<'a>> {
        let (name, rest) = token(trim_lws_start(raw))?;
        let (version, rest) = token(after(b'/', rest)?)?;
        let (transport, rest) = token(after(b'/', rest)?)?;
        let sent_by = trim_lws_start(rest);
        if !name.eq_ignore_ascii_case(b"SIP") || version != b"2.0" || sent_by.len() == rest.len() {
            return None;
        }
        let (host, port, rest) = sent_by_parts(sent_by)?;
        let params = Params::parse(rest)?;
        let rport = params
            .iter()
            .any(|param| param.name.eq_ignore_ascii_case(b"rport") && param.value.is_none());
        Some(Via {
            transport,
            host,
            port,
            branch: params.get("branch").filter(|branch| is_token(branch)),
            rport,
            received: params.get("received"),
            params,
            raw,
        })
    }
}

/// `host [ COLON port ]`, where white space may stand around the colon.
fn sent_by_parts(text: &[u8]) -> Option<(&[u8], Option<u16>, &[u8])> {
    let host_end = match text.first()? {
        b'[' => memchr(b']', text)? + 1,
        _ => text
            .iter()
            .position(|byte| is_lws(*byte) || matches!(byte, b':' | b';'))
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
}

impl<'a> NameAddr<'a> {
    pub fn parse(raw: &'a [u8]) -> Option<NameAddr<'a>> {
        let raw = trim_lws(raw);
        let open = opening_bracket(raw)?;
        let (display, uri, rest) = match open {
            Some(open) => {
                let close = open + memchr(b'>', &raw[open..])?;
                (&raw[..open], &raw[open + 1..close], &raw[close + 1..])
            }
            None => bare_address(raw)?,
        };
        let address = NameAddr {
            display: trim_lws(display),
            uri,
            params: Params::parse(rest)?,
            raw,
        };
        uri::is_any_uri(uri).then_some(address)
    }

    /// The dialog's tag. Absent where the peer speaks RFC 2543.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }
}

/// Where `<` stands behind a well-formed display name; `Some(None)`: there is none, so this is an `addr-spec`.
fn opening_bracket(text: &[u8]) -> Option<Option<usize>> {
    if text.first() == Some(&b'"') {
        let (_, rest) = quoted(text)?;
        let rest = trim_lws_start(rest);
        return (rest.first() == Some(&b'<')).then(|| Some(text.len() - rest.len()));
    }
    let Some(open) = memchr(b'<', text) else {
        return Some(None);
    };
    let display = &text[..open];
    if display
        .iter()
        .all(|byte| is_token_byte(*byte) || is_lws(*byte))
    {
        return Some(Some(open));
    }
    // A `<` behind a semicolon belongs to a parameter of an addr-spec.
    memchr(b';', display).map(|_| None)
}

/// RFC 3261 20: a URI with a comma, question mark or semicolon must stand in `<>`; what follows a semicolon here
/// are the header field's parameters.
fn bare_address(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (uri, rest) = split_where(text, |byte| byte == b';' || is_lws(byte));
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

/// The Event header field (RFC 6665 8.2.1) with the rates of RFC 6446.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub package: &'a [u8],
    pub id: Option<&'a [u8]>,
    pub max_rate: Option<Rate>,
    pub min_rate: Option<Rate>,
    pub adaptive_min_rate: Option<Rate>,
}

impl<'a> Event<'a> {
    pub fn parse(value: &'a [u8]) -> Option<Event<'a>> {
        let (package, rest) = token(value)?;
        let params = Params::parse(rest)?;
        let id = match params.get("id") {
            Some(id) if !is_token(id) => return None,
            id => id,
        };
        let rate = |name| match params.get(name) {
            None => Some(None),
            Some(text) => Rate::parse(text).map(Some),
        };
        Some(Event {
            package,
            id,
            max_rate: rate("max-rate")?,
            min_rate: rate("min-rate")?,
            adaptive_min_rate: rate("adaptive-min-rate")?,
        })
    }
}

/// A rate of RFC 6446, in ten-billionths of a notification per second: 1 to 999,999,999,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    const ONE_PER_SECOND: u64 = 10_000_000_000;
    const MOST: u64 = 999_999_999_999;

    /// `1*2DIGIT [ "." 1*10DIGIT ]`, zero not allowed.
    pub fn parse(text: &[u8]) -> Option<Rate> {
        let (whole, fraction) = match memchr(b'.', text) {
            Some(dot) => (&text[..dot], &text[dot + 1..]),
            None => (text, &b"0"[..]),
        };
        if !(1..=2).contains(&whole.len()) || !(1..=10).contains(&fraction.len()) {
            return None;
        }
        let fraction_digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(10);
        let value = whole
            .iter()
            .chain(fraction_digits)
            .try_fold(0u64, |sum, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| sum * 10 + u64::from(digit - b'0'))
            })?;
        NonZeroU64::new(value).map(Rate)
    }

    /// The time between two notifications in milliseconds, rounded up.
    pub fn interval_ms(self) -> u64 {
        (Self::ONE_PER_SECOND * 1000).div_ceil(self.0.get())
    }

    /// The nearest rate to one notification in so many milliseconds, within the bounds.
    pub fn from_interval_ms(interval: u64) -> Rate {
        let interval = interval.clamp(1, Self::ONE_PER_SECOND * 1000);
        let nearest = (Self::ONE_PER_SECOND * 1000 + interval / 2) / interval;
        Rate(NonZeroU64::MIN.saturating_add(nearest.clamp(1, Self::MOST) - 1))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0.get();
        let (whole, mut fraction) = (value / Self::ONE_PER_SECOND, value % Self::ONE_PER_SECOND);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let mut width = 10;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        write!(f, "{whole}.{fraction:0width$}")
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
        .is_none_or(|byte| is_lws(*byte) || matches!(byte, b';' | b'('));
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
    let (whole, decimals) = match memchr(b'.', text) {
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
