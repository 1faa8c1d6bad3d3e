//! Handles: the To-tags and Via branches that name a subscription by its place, so that a 200 or a refresh is an array
//! index and a few compares. Knows nothing of what stands at the place.
//!
//! A tag is `shard (2 hex) slot (7) generation (4) check (7)`, digits of base 32; a branch puts the magic cookie before
//! and the CSeq after it, so that a late 200 cannot acknowledge the next NOTIFY. The check is keyed: who has not seen
//! our message cannot make one up.

use std::hash::Hasher;
use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use crate::wire::Flow;

/// RFC 3261 8.1.1.7: branches of this specification start with this cookie.
pub const COOKIE: &[u8] = b"z9hG4bK";

const TAG_LEN: usize = 20;
/// Where the check begins.
const CHECK: usize = 13;
const BRANCH_LEN: usize = COOKIE.len() + TAG_LEN + 7;
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
/// Generations fill four digits.
const GENERATION_MASK: u32 = (1 << 20) - 1;
const CHECK_MASK: u64 = (1 << 35) - 1;

/// A subscription's place: which shard, which slot, and which of the slot's successive tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    pub shard: u8,
    pub slot: u32,
    pub generation: u32,
}

/// The secret of one node's handles, the same in all its shards.
#[derive(Debug, Clone, Copy)]
pub struct HandleKey(pub [u8; 16]);

/// The text of a To-tag.
pub type Tag = [u8; TAG_LEN];
/// The text of a Via branch, cookie included.
pub type Branch = [u8; BRANCH_LEN];

impl Handle {
    pub fn next_generation(generation: u32) -> u32 {
        (generation + 1) & GENERATION_MASK
    }

    pub fn tag(self, key: &HandleKey) -> Tag {
        let mut text = [0; TAG_LEN];
        self.put(&mut text);
        put_digits(&mut text[CHECK..], key.check(self, None));
        text
    }

    /// The tag of the dialog, and the branch of one of its NOTIFYs.
    pub fn tag_and_branch(self, cseq: u32, key: &HandleKey) -> (Tag, Branch) {
        let mut tag = [0; TAG_LEN];
        self.put(&mut tag);
        let mut branch = [0; BRANCH_LEN];
        branch[..COOKIE.len()].copy_from_slice(COOKIE);
        let text = &mut branch[COOKIE.len()..];
        text[..CHECK].copy_from_slice(&tag[..CHECK]);
        put_digits(&mut text[CHECK..TAG_LEN], key.check(self, Some(cseq)));
        put_digits(&mut text[TAG_LEN..], cseq.into());
        put_digits(&mut tag[CHECK..], key.check(self, None));
        (tag, branch)
    }

    /// The handle in a tag of ours, `None` for any other text.
    pub fn from_tag(text: &[u8], key: &HandleKey) -> Option<Handle> {
        let (handle, check) = Self::take(text)?;
        (text.len() == TAG_LEN && check == key.check(handle, None)).then_some(handle)
    }

    /// The handle and CSeq in a branch of ours, `None` for any other text.
    pub fn from_branch(text: &[u8], key: &HandleKey) -> Option<(Handle, u32)> {
        let rest = text.strip_prefix(COOKIE)?;
        let (handle, check) = Self::take(rest)?;
        let cseq = u32::try_from(take_digits(rest.get(TAG_LEN..)?)?).ok()?;
        (text.len() == BRANCH_LEN && check == key.check(handle, Some(cseq)))
            .then_some((handle, cseq))
    }

    /// All but the check.
    fn put(self, text: &mut Tag) {
        text[0] = DIGITS[usize::from(self.shard >> 4)];
        text[1] = DIGITS[usize::from(self.shard & 15)];
        put_digits(&mut text[2..9], self.slot.into());
        put_digits(&mut text[9..CHECK], self.generation.into());
    }

    fn take(text: &[u8]) -> Option<(Handle, u64)> {
        let text = text.get(..TAG_LEN)?;
        let (high, low) = (take_digits(&text[..1])?, take_digits(&text[1..2])?);
        let shard = u8::try_from(high * 16 + low).ok().filter(|_| low < 16)?;
        let slot = u32::try_from(take_digits(&text[2..9])?).ok()?;
        let generation = u32::try_from(take_digits(&text[9..CHECK])?).ok()?;
        Some((
            Handle {
                shard,
                slot,
                generation,
            },
            take_digits(&text[CHECK..])?,
        ))
    }
}

impl HandleKey {
    fn check(&self, handle: Handle, cseq: Option<u32>) -> u64 {
        let place = u64::from(handle.slot) << 32
            | u64::from(handle.generation) << 8
            | u64::from(handle.shard);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&place.to_le_bytes());
        bytes[8..].copy_from_slice(&cseq.unwrap_or_default().to_le_bytes());
        // By its length the text of a tag is none of a branch.
        let len = if cseq.is_some() { 12 } else { 8 };
        SipHasher13::new_with_key(&self.0).hash(&bytes[..len]) & CHECK_MASK
    }

    /// A keyed digest of two texts, for tables that strangers fill: the order is part of it.
    pub fn digest(&self, first: &[u8], second: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_usize(first.len());
        hasher.write(first);
        hasher.write(second);
        hasher.finish()
    }

    /// The same of a flow, in one piece.
    pub fn digest_flow(&self, flow: &Flow) -> u64 {
        let (address, scope) = match flow.peer {
            SocketAddr::V4(peer) => (u128::from(peer.ip().to_bits()), None),
            SocketAddr::V6(peer) => (peer.ip().to_bits(), Some(peer.scope_id())),
        };
        let mut bytes = [0; 34];
        bytes[..16].copy_from_slice(&address.to_le_bytes());
        bytes[16..24].copy_from_slice(&flow.connection.to_le_bytes());
        bytes[24..28].copy_from_slice(&scope.unwrap_or_default().to_le_bytes());
        bytes[28..30].copy_from_slice(&flow.peer.port().to_le_bytes());
        bytes[30..32].copy_from_slice(&flow.local.to_le_bytes());
        bytes[32] = scope.is_some().into();
        bytes[33] = flow.transport as u8;
        SipHasher13::new_with_key(&self.0).hash(&bytes)
    }
}

fn put_digits(text: &mut [u8], mut value: u64) {
    for place in text.iter_mut().rev() {
        *place = DIGITS[(value & 31) as usize];
        value >>= 5;
    }
}

fn take_digits(text: &[u8]) -> Option<u64> {
    let (mut value, mut seen) = (0u64, 0u8);
    for &byte in text {
        let digit = VALUES[usize::from(byte)];
        seen |= digit;
        value = value << 5 | u64::from(digit & 31);
    }
    (seen < NO_DIGIT).then_some(value)
}

/// What a byte that is no digit counts as: a bit that no digit has.
const NO_DIGIT: u8 = 32;
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: HandleKey = HandleKey([7; 16]);

    proptest! {
        #[test]
        fn a_tag_and_a_branch_name_what_they_were_made_from(shard: u8, slot: u32, generation in 0..=GENERATION_MASK, cseq: u32) {
            let handle = Handle { shard, slot, generation };
            prop_assert_eq!(Handle::from_tag(&handle.tag(&KEY), &KEY), Some(handle));
            prop_assert_eq!(Handle::from_branch(&handle.tag_and_branch(cseq, &KEY).1, &KEY), Some((handle, cseq)));
        }

        #[test]
        fn a_changed_tag_or_branch_names_nothing(slot: u32, cseq: u32, place in 0usize..34, change in 1u8..=255) {
            let handle = Handle { shard: 3, slot, generation: 9 };
            let mut branch = handle.tag_and_branch(cseq, &KEY).1;
            branch[place] ^= change;
            prop_assert_eq!(Handle::from_branch(&branch, &KEY), None);
            let mut tag = handle.tag(&KEY);
            tag[place % TAG_LEN] ^= change;
            prop_assert_eq!(Handle::from_tag(&tag, &KEY), None);
        }
    }

    #[test]
    fn the_shard_stands_in_two_hexadecimal_digits_right_after_the_cookie() {
        let branch = Handle {
            shard: 0xa7,
            slot: 1,
            generation: 1,
        }
        .tag_and_branch(1, &KEY)
        .1;
        assert_eq!(&branch[7..9], b"a7");
    }

    #[test]
    fn another_key_accepts_nothing() {
        let handle = Handle {
            shard: 0,
            slot: 1,
            generation: 2,
        };
        assert_eq!(
            Handle::from_tag(&handle.tag(&KEY), &HandleKey([8; 16])),
            None
        );
    }
}
