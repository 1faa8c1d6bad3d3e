//! Parameters of header fields, and the small pieces that all header grammars share.
//! Knows no header field.

use super::class::{self, TOKEN, VALUE, trim_lws_start};

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

    /// Parameters of which the first well-formed ones are enough: what follows a malformed one is not there.
    pub(super) fn unchecked(raw: &'a [u8]) -> Params<'a> {
        Params { raw }
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
pub(super) fn next_param(text: &[u8]) -> Option<Option<(Param<'_>, &[u8])>> {
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
        _ => class::split(VALUE, start),
    };
    let well_formed = start[0] == b'"' || !value.is_empty();
    let param = Param {
        name,
        value: Some(value),
        raw: &text[..text.len() - rest.len()],
    };
    well_formed.then_some((param, rest))
}

pub(super) fn split_where(text: &[u8], ends: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| ends(*byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// RFC 3261 25.1 `token`.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && class::all(TOKEN, text)
}

pub(super) fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (token, rest) = class::split(TOKEN, text);
    (!token.is_empty()).then_some((token, rest))
}

/// What stands between the quotes at the front, and what follows them.
pub(super) fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = inner.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some((&inner[..end], &inner[end + 1..]))
}
