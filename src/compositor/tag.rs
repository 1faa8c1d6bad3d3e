//! Entity-tags of publications: the id, the stamp of the lease, and a keyed check, so that a tag is verified without
//! being stored. Knows no publication.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::info::{Stamp, is_id};

/// Stands between the parts of a tag: a character of SIP's token (RFC 3261 25.1) that ids and stamps do not have.
const SEPARATOR: char = '~';

/// Writes and verifies the tags of one cluster: nodes of one key take each other's.
#[derive(Debug)]
pub(super) struct Tags {
    key: [u8; 16],
}

impl Tags {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Tags { key }
    }

    pub(super) fn write(&self, domain: &str, id: &str, lease: &Stamp) -> String {
        let check = self.check(domain, id, lease);
        format!("{id}{SEPARATOR}{lease}{SEPARATOR}{check:016x}")
    }

    /// The id and the lease's stamp, if this cluster gave the tag for this domain.
    pub(super) fn read<'t>(&self, domain: &str, tag: &'t [u8]) -> Option<(&'t str, Stamp)> {
        let text = std::str::from_utf8(tag).ok()?;
        let (id, rest) = text.split_once(SEPARATOR)?;
        let (stamp, check) = rest.split_once(SEPARATOR)?;
        let lease: Stamp = stamp.parse().ok()?;
        let expected = format!("{:016x}", self.check(domain, id, &lease));
        (is_id(id) && check == expected).then_some((id, lease))
    }

    fn check(&self, domain: &str, id: &str, lease: &Stamp) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for text in [domain, id, &lease.node] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        hasher.write(&lease.ms.to_le_bytes());
        hasher.write(&lease.counter.to_le_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_where_it_was_given_and_nowhere_else() {
        let tags = Tags::new([7; 16]);
        let lease: Stamp = "1795379461123.4.n-1.a".parse().unwrap();
        let tag = tags.write("example.com", "p_1.x", &lease);
        let is_token = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c);
        assert!(tag.chars().all(is_token), "{tag}");
        let read = |tags: &Tags, domain| tags.read(domain, tag.as_bytes());
        assert_eq!(read(&tags, "example.com"), Some(("p_1.x", lease.clone())));
        assert_eq!(read(&tags, "example.org"), None);
        assert_eq!(read(&Tags::new([8; 16]), "example.com"), None);
    }

    #[test]
    fn a_changed_tag_is_no_tag() {
        let tags = Tags::new([7; 16]);
        let tag = tags
            .write("d", "p1", &"5.0.n1".parse().unwrap())
            .into_bytes();
        for place in 0..tag.len() {
            for bit in 0..8 {
                let mut changed = tag.clone();
                changed[place] ^= 1 << bit;
                assert_eq!(tags.read("d", &changed), None, "{changed:?}");
            }
            assert_eq!(tags.read("d", &tag[..place]), None);
        }
        assert_eq!(tags.read("d", b"*"), None);
        assert_eq!(tags.read("d", b"~~"), None);
    }
}
