//! SIP as loadgen needs it: the identifiers of a run, templates filled per entity, and a quick scan of what arrives.
//! Knows no socket, no subscription and no document. Not a parser for the wild: what it cannot read is reported as
//! malformed.

mod fields;
mod layout;
mod request;
mod scan;

pub use layout::Scanner;
pub use request::{Publish, Subscribe, SubscribeTemplate};
pub use scan::{Message, Notify, Response, branch_hash};

/// Prefix of every RFC 3261 branch (8.1.1.7).
const COOKIE: &[u8] = b"z9hG4bK";

/// Where identifiers of one run come from: each is the run's number and the entity's.
#[derive(Debug, Clone, Copy)]
pub struct Run(pub u32);

/// Bytes before the index in a Call-ID, and in our branch after the cookie: the run in hexadecimal.
const RUN_WIDTH: usize = 8;

impl Run {
    /// Whether `call_id` is that of the entity whose eight digits are `user`.
    fn owns(self, call_id: &[u8], user: &[u8]) -> bool {
        hexadecimal(call_id, 0) == Some(self.0)
            && call_id.get(RUN_WIDTH) == Some(&b'-')
            && same_digits(call_id.get(RUN_WIDTH + 1..2 * RUN_WIDTH + 1), user)
    }

    /// Whether a Route is the one that the entity recorded whose eight digits are `user`.
    fn recorded(self, route: &[u8], user: &[u8]) -> bool {
        let Some(at) = route.len().checked_sub(42) else {
            return false;
        };
        let (uri, own) = route.split_at(at);
        uri.starts_with(b"<sip:")
            && !uri.contains(&b',')
            && own.starts_with(b";lr;ftag=lg")
            && same_digits(own.get(11..19), user)
            && own[19..].starts_with(b";did=")
            && hexadecimal(own, 24) == Some(self.0)
            && own[32] == b'.'
            && same_digits(own.get(33..41), user)
            && own[41] == b'>'
    }

    /// The entity and CSeq that a branch of ours names.
    pub fn transaction(self, branch: &[u8]) -> Option<(u32, u32)> {
        let rest = branch.strip_prefix(COOKIE)?;
        if hexadecimal(rest, 0)? != self.0 {
            return None;
        }
        Some((
            hexadecimal(rest, RUN_WIDTH)?,
            decimal(rest.get(2 * RUN_WIDTH..)?)?,
        ))
    }
}

/// The entity that the user part of our Contact, or the end of that of our From, names.
pub fn entity_of_user(user: &[u8]) -> Option<u32> {
    if user.len() == 8 {
        hexadecimal(user, 0)
    } else {
        None
    }
}

/// Eight digits, lower case.
fn hexadecimal(bytes: &[u8], at: usize) -> Option<u32> {
    let digits: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    let mut sum = 0;
    for byte in digits {
        let digit = DIGITS[usize::from(byte)];
        if digit > 15 {
            return None;
        }
        sum = sum << 4 | u32::from(digit);
    }
    Some(sum)
}

fn digit_value(byte: u8) -> Option<u8> {
    Some(DIGITS[usize::from(byte)]).filter(|&digit| digit < 16)
}

/// What each byte is worth as a hexadecimal digit, 255 where it is none.
const DIGITS: [u8; 256] = {
    let mut table = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

fn decimal(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    let mut sum = 0u32;
    for &byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    Some(sum)
}

/// An entity's own tag is `lg` and its eight digits.
fn is_own_tag(tag: &[u8], user: &[u8]) -> bool {
    tag.len() == 10 && tag.starts_with(b"lg") && same_digits(tag.get(2..), user)
}

/// Whether both are the same eight bytes.
fn same_digits(one: Option<&[u8]>, other: &[u8]) -> bool {
    let one: Option<&[u8; 8]> = one.and_then(|one| one.try_into().ok());
    one.is_some() && one == other.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_as_they_are_written() {
        for index in [0, 0x2a, 0x00c0_ffee, u32::MAX] {
            assert_eq!(
                entity_of_user(format!("{index:08x}").as_bytes()),
                Some(index)
            );
        }
        for user in ["0000002A", "0000002", "0000002g", "00000002a"] {
            assert_eq!(entity_of_user(user.as_bytes()), None, "{user}");
        }
        assert_eq!(decimal(b"4294967295"), Some(u32::MAX));
        for digits in ["", "4294967296", "1x", "-1"] {
            assert_eq!(decimal(digits.as_bytes()), None, "{digits}");
        }
    }
}
