//! The byte classes of RFC 3261 25.1, as one table. Knows no grammar above single bytes.

/// `token`.
pub(super) const TOKEN: u8 = 1;
/// What may stand in an unquoted parameter value: a token or a host, and what else cannot end the value.
pub(super) const VALUE: u8 = 2;
/// `user` of a SIP URI.
pub(super) const USER: u8 = 4;
/// `password` of a SIP URI.
pub(super) const PASSWORD: u8 = 8;
/// `paramchar` of a SIP URI.
pub(super) const PARAM: u8 = 16;
/// What may follow `?` in a SIP URI.
pub(super) const HEADER: u8 = 32;
/// Linear white space: SP, HTAB and the CRLF of a fold.
pub(super) const LWS: u8 = 64;
/// No white space and no control byte.
pub(super) const VISIBLE: u8 = 128;

#[inline]
pub(super) fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether all bytes are of the class (or of one of several).
#[inline]
pub(super) fn all(class: u8, text: &[u8]) -> bool {
    text.iter().all(|byte| is(class, *byte))
}

/// Every byte is of the class or part of `"%" HEXDIG HEXDIG`.
pub(super) fn all_escaped(class: u8, mut text: &[u8]) -> bool {
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
pub(super) fn split(class: u8, text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !is(class, *byte));
    text.split_at(end.unwrap_or(text.len()))
}

#[inline]
pub(super) fn trim_lws_start(text: &[u8]) -> &[u8] {
    split(LWS, text).1
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

const CLASSES: [u8; 256] = {
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

const fn classes(byte: u8) -> u8 {
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
    found
}
