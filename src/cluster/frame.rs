//! What stands around every datagram between nodes: the cluster it is of, its part of a longer message, and a check where the
//! nodes share a secret. Knows neither sockets nor what the messages say.

use std::collections::HashMap;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Leads every datagram; another version is another protocol.
const MAGIC: [u8; 3] = *b"FF1";
const HEAD: usize = MAGIC.len() + 1 + CLUSTER + 4 + 2;
const CLUSTER: usize = 8;
/// As much of HMAC-SHA-256 as is sent (RFC 2104 5: no less than half).
const CHECK: usize = 16;
/// A longer message goes in parts: the largest that gossip makes and this head are more than a datagram holds.
const PART: usize = 60_000;
const PARTS_MOST: usize = 4;
/// Senders of which an unfinished message is kept.
const UNFINISHED_MOST: usize = 256;

/// What a message is, as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gossip,
    Tell,
    Told,
    Ask,
    Pull,
    Page,
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("it is none of ours")]
    Malformed,
    #[error("it is of another cluster")]
    OtherCluster,
    #[error("its check is wrong: the nodes do not share one secret")]
    Forged,
}

/// Frames and opens the datagrams of one cluster.
pub struct Frames {
    cluster: [u8; CLUSTER],
    secret: Option<Hmac<Sha256>>,
    next: u32,
    unfinished: HashMap<SocketAddr, Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    number: u32,
    kind: Kind,
    parts: Vec<Option<Vec<u8>>>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("cluster", &self.cluster)
            .field("unfinished", &self.unfinished)
            .finish_non_exhaustive()
    }
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Gossip,
        Kind::Tell,
        Kind::Told,
        Kind::Ask,
        Kind::Pull,
        Kind::Page,
    ];

    fn of(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

impl Frames {
    /// With a secret, datagrams without its check are refused.
    pub fn new(cluster_id: &str, secret: Option<&[u8]>) -> Self {
        let digest = Sha256::digest(cluster_id.as_bytes());
        let mut cluster = [0; CLUSTER];
        cluster.copy_from_slice(&digest[..CLUSTER]);
        Frames {
            cluster,
            secret: secret
                .map(|secret| Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")),
            next: rand::random(),
            unfinished: HashMap::new(),
        }
    }

    /// The datagrams that carry a message.
    pub fn seal(&mut self, kind: Kind, message: &[u8]) -> Vec<Vec<u8>> {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let parts = message.len().div_ceil(PART).max(1);
        debug_assert!(parts <= PARTS_MOST);
        (0..parts)
            .map(|part| {
                let carried = &message[part * PART..message.len().min((part + 1) * PART)];
                let mut bytes = Vec::with_capacity(HEAD + carried.len() + CHECK);
                bytes.extend_from_slice(&MAGIC);
                bytes.push(kind as u8);
                bytes.extend_from_slice(&self.cluster);
                bytes.extend_from_slice(&number.to_le_bytes());
                bytes.extend_from_slice(&[part as u8, parts as u8]);
                bytes.extend_from_slice(carried);
                if let Some(secret) = &self.secret {
                    let check = secret.clone().chain_update(&bytes).finalize().into_bytes();
                    bytes.extend_from_slice(&check[..CHECK]);
                }
                bytes
            })
            .collect()
    }

    /// The message that a datagram carries or finishes; `None` while parts are missing.
    pub fn open(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
        let bytes = bytes
            .strip_prefix(&MAGIC)
            .map(|_| bytes)
            .ok_or(FrameError::Malformed)?;
        if bytes.len() < HEAD {
            return Err(FrameError::Malformed);
        }
        let at = MAGIC.len();
        if bytes[at + 1..at + 1 + CLUSTER] != self.cluster {
            return Err(FrameError::OtherCluster);
        }
        let bytes = self.checked(bytes)?;
        let kind = Kind::of(bytes[at]).ok_or(FrameError::Malformed)?;
        let (head, carried) = bytes.split_at(HEAD);
        let tail = &head[at + 1 + CLUSTER..];
        let number = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        let (part, parts) = (usize::from(tail[4]), usize::from(tail[5]));
        if part >= parts || parts > PARTS_MOST || carried.len() > PART {
            return Err(FrameError::Malformed);
        }
        if parts == 1 {
            return Ok(Some((kind, carried.to_vec())));
        }
        Ok(self.collect(from, number, kind, (part, parts), carried))
    }

    fn checked<'b>(&self, bytes: &'b [u8]) -> Result<&'b [u8], FrameError> {
        let Some(secret) = &self.secret else {
            return Ok(bytes);
        };
        let length = bytes
            .len()
            .checked_sub(CHECK)
            .filter(|length| *length >= HEAD);
        let (framed, check) = bytes.split_at(length.ok_or(FrameError::Forged)?);
        secret
            .clone()
            .chain_update(framed)
            .verify_truncated_left(check)
            .map_err(|_| FrameError::Forged)?;
        Ok(framed)
    }

    /// One unfinished message of each sender is kept: the newest.
    fn collect(
        &mut self,
        from: SocketAddr,
        number: u32,
        kind: Kind,
        (part, parts): (usize, usize),
        carried: &[u8],
    ) -> Option<(Kind, Vec<u8>)> {
        let is_same =
            |one: &Unfinished| (one.number, one.kind, one.parts.len()) == (number, kind, parts);
        if self.unfinished.get(&from).is_none_or(|one| !is_same(one)) {
            if self.unfinished.len() == UNFINISHED_MOST {
                self.unfinished.clear();
            }
            let parts = vec![None; parts];
            let begun = Unfinished {
                number,
                kind,
                parts,
            };
            self.unfinished.insert(from, begun);
        }
        let one = self.unfinished.get_mut(&from)?;
        one.parts[part] = Some(carried.to_vec());
        if one.parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.unfinished.remove(&from)?.parts;
        Some((kind, whole.into_iter().flatten().flatten().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(cluster: &str, secret: Option<&str>) -> Frames {
        Frames::new(cluster, secret.map(str::as_bytes))
    }

    fn from() -> SocketAddr {
        ([127, 0, 0, 1], 7946).into()
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_in_one_part_or_several() {
        for secret in [None, Some("s")] {
            let mut frames = frames("c", secret);
            for length in [0, 1, PART, PART + 1, 65_507, PARTS_MOST * PART] {
                let message: Vec<u8> = (0..length).map(|place| place as u8).collect();
                let datagrams = frames.seal(Kind::Gossip, &message);
                assert!(datagrams.iter().all(|datagram| datagram.len() <= 65_507));
                let mut whole = None;
                for datagram in datagrams.iter().rev() {
                    assert_eq!(whole, None);
                    whole = frames.open(from(), datagram).unwrap();
                }
                assert_eq!(whole, Some((Kind::Gossip, message)));
            }
            assert!(frames.unfinished.is_empty());
        }
    }

    #[test]
    fn another_cluster_a_wrong_secret_and_damage_are_told_apart() {
        let sealed = |mut frames: Frames| frames.seal(Kind::Tell, b"abc").remove(0);
        let mut ours = frames("c", Some("s"));
        let mut open = |bytes: &[u8]| ours.open(from(), bytes);
        assert_eq!(
            open(&sealed(frames("d", Some("s")))),
            Err(FrameError::OtherCluster)
        );
        assert_eq!(
            open(&sealed(frames("c", Some("t")))),
            Err(FrameError::Forged)
        );
        assert_eq!(open(&sealed(frames("c", None))), Err(FrameError::Forged));
        assert_eq!(open(b"OPTIONS sip:a"), Err(FrameError::Malformed));
        let good = sealed(frames("c", Some("s")));
        assert_eq!(open(&good), Ok(Some((Kind::Tell, b"abc".to_vec()))));
        for place in 0..good.len() {
            let mut damaged = good.clone();
            damaged[place] ^= 1;
            assert!(open(&damaged).is_err(), "byte {place}");
            assert!(open(&good[..place]).is_err());
        }
    }

    #[test]
    fn parts_of_two_messages_are_not_mixed_and_what_is_kept_is_bounded() {
        let mut frames = frames("c", None);
        let [one, other] = [1u8, 2].map(|byte| frames.seal(Kind::Page, &vec![byte; PART + 1]));
        assert_eq!(frames.open(from(), &one[0]), Ok(None));
        assert_eq!(frames.open(from(), &other[1]), Ok(None));
        let whole = frames.open(from(), &other[0]).unwrap().unwrap();
        assert_eq!(whole.1, vec![2; PART + 1]);
        for port in 1..=2_000 {
            let sender = ([127, 0, 0, 1], port).into();
            assert_eq!(frames.open(sender, &one[0]), Ok(None));
            assert!(frames.unfinished.len() <= UNFINISHED_MOST);
        }
    }
}
