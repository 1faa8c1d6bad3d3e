//! The byte classes of RFC 3261 25.1, as one table, and searches over the few dozen bytes that a value has: for so few, a
//! call of memchr costs more than the search. Knows no grammar above single bytes.

/// A class of bytes, or several.
pub(super) type Class = u16;

/// `token`.
pub(super) const TOKEN: Class = 1;
/// What may stand in an unquoted parameter value: a token or a host, and what else cannot end the value.
pub(super) const VALUE: Class = 2;
/// `user` of a SIP URI.
pub(super) const USER: Class = 4;
/// `password` of a SIP URI.
pub(super) const PASSWORD: Class = 8;
/// `paramchar` of a SIP URI.
pub(super) const PARAM: Class = 16;
/// What may follow `?` in a SIP URI.
pub(super) const HEADER: Class = 32;
/// Linear white space: SP, HTAB and the CRLF of a fold.
pub(super) const LWS: Class = 64;
/// No white space and no control byte.
pub(super) const VISIBLE: Class = 128;
/// What stands between the dots of a host name.
pub(super) const LABEL: Class = 256;

#[inline]
pub(super) fn is(class: Class, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether all bytes are of the class (or of one of several).
#[inline]
pub(super) fn all(class: Class, text: &[u8]) -> bool {
    split(class, text).1.is_empty()
}

/// Every byte is of the class or part of `"%" HEXDIG HEXDIG`.
pub(super) fn all_escaped(class: Class, mut text: &[u8]) -> bool {
    while let Some(at) = text.iter().position(|byte| !is(class, *byte)) {
        match &text[at..] {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                text = rest;
            }
            _ => return false,
        }
    }
    true
}

/// The longest run of the class at the front, and the rest.
#[inline]
pub(super) fn split(class: Class, text: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = text;
    while let Some((four, after)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *four;
        let shared = CLASSES[usize::from(a)]
            & CLASSES[usize::from(b)]
            & CLASSES[usize::from(c)]
            & CLASSES[usize::from(d)];
        if shared & class == 0 {
            break;
        }
        rest = after;
    }
    while let [first, after @ ..] = rest
        && is(class, *first)
    {
        rest = after;
    }
    text.split_at(text.len() - rest.len())
}

/// Where the first such byte stands.
#[inline]
pub(super) fn find(wanted: u8, text: &[u8]) -> Option<usize> {
    let pattern = u64::from(wanted) * ONES;
    first_where(text, |word| {
        let different = word ^ pattern;
        different.wrapping_sub(ONES) & !different
    })
}

/// Where the first control byte below SP stands: CR and LF are, HTAB is too.
#[inline]
pub(super) fn find_control(text: &[u8]) -> Option<usize> {
    first_where(text, |word| word.wrapping_sub(0x20 * ONES) & !word)
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// The place of the first byte whose high bit `flags` sets, of eight bytes at a time; what stands behind a flagged byte
/// may be flagged wrongly.
#[inline]
fn first_where(text: &[u8], flags: impl Fn(u64) -> u64) -> Option<usize> {
    let mut rest = text;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let hits = flags(u64::from_le_bytes(*chunk)) & (0x80 * ONES);
        if hits != 0 {
            return Some(text.len() - rest.len() + hits.trailing_zeros() as usize / 8);
        }
        rest = after;
    }
    let before = text.len() - rest.len();
    let at = rest
        .iter()
        .position(|byte| flags(u64::from(*byte)) & 0x80 != 0)?;
    Some(before + at)
}

#[inline]
pub(super) fn trim_lws_start(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is(LWS, *first)
    {
        text = rest;
    }
    text
}

#[inline]
pub(super) fn trim_lws(text: &[u8]) -> &[u8] {
    let mut text = trim_lws_start(text);
    while let [rest @ .., last] = text
        && is(LWS, *last)
    {
        text = rest;
    }
    text
}

static CLASSES: [Class; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = classes(byte);
        if byte == 255 {
            break;
        }
        byte += 1;
    }
    table
};

const fn classes(byte: u8) -> Class {
    let alphanumeric = byte.is_ascii_alphanumeric();
    let unreserved = alphanumeric
        || matches!(
            byte,
            b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')'
        );
    let password = unreserved || matches!(byte, b'&' | b'=' | b'+' | b'$' | b',');
    let visible = byte > b' ' && byte != 0x7f;
    let mut found = 0;
    if alphanumeric
        || matches!(
            byte,
            b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
        )
    {
        found |= TOKEN;
    }
    if visible && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>') {
        found |= VALUE;
    }
    if password || matches!(byte, b';' | b'?' | b'/') {
        found |= USER;
    }
    if password {
        found |= PASSWORD;
    }
    if unreserved || matches!(byte, b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$') {
        found |= PARAM;
    }
    if unreserved
        || matches!(
            byte,
            b'[' | b']' | b'/' | b'?' | b':' | b'+' | b'$' | b'=' | b'&'
        )
    {
        found |= HEADER;
    }
    if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
        found |= LWS;
    }
    if visible {
        found |= VISIBLE;
    }
    if alphanumeric || matches!(byte, b'-' | b'_') {
        found |= LABEL;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn searches_find_what_a_walk_finds(text in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b':'), Just(b'\r'), b'a'..b'f'], 0..40)) {
            prop_assert_eq!(find(b':', &text), text.iter().position(|byte| *byte == b':'));
            prop_assert_eq!(find_control(&text), text.iter().position(|byte| *byte < b' '));
            for class in [TOKEN, VALUE, USER, LWS, VISIBLE, TOKEN | LWS] {
                let end = text.iter().position(|byte| !is(class, *byte)).unwrap_or(text.len());
                prop_assert_eq!(split(class, &text), text.split_at(end));
            }
        }
    }
}
