//! What nodes say to each other beside gossip, and how it is written. Knows no socket and no table.

use std::sync::Arc;

use super::frame::Kind;
use crate::compositor::{MAX_RECORD_BYTES, Record};

/// Bytes of the records in one message: with its head it stays below what one datagram carries.
pub const RECORDS_BYTES: usize = 48_000;
const _: () = assert!(MAX_RECORD_BYTES + 4 <= RECORDS_BYTES);

/// A place in the order of all records: a domain and an id.
pub type Place = (Arc<str>, Arc<str>);

/// Of a `Tell` that nobody waits to hear of again.
pub const UNCONFIRMED: u32 = 0;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Take these, and confirm it, unless the number is `UNCONFIRMED`.
    Tell { number: u32, records: Vec<Record> },
    /// They are known to the one who says it.
    Told { number: u32 },
    /// What do you know of this one?
    Ask { place: Place },
    /// What do you know of all after this place?
    Pull { number: u32, after: Option<Place> },
    /// The next of them; `is_last`: there are no more. `is_whole`: its sender does not itself wait to be told.
    Page {
        number: u32,
        is_last: bool,
        is_whole: bool,
        records: Vec<Record>,
    },
}

impl Message {
    pub fn kind(&self) -> Kind {
        match self {
            Message::Tell { .. } => Kind::Tell,
            Message::Told { .. } => Kind::Told,
            Message::Ask { .. } => Kind::Ask,
            Message::Pull { .. } => Kind::Pull,
            Message::Page { .. } => Kind::Page,
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Message::Tell { number, records } => {
                out.extend_from_slice(&number.to_le_bytes());
                put_records(&mut out, records);
            }
            Message::Told { number } => out.extend_from_slice(&number.to_le_bytes()),
            Message::Ask { place } => put_place(&mut out, place),
            Message::Pull { number, after } => {
                out.extend_from_slice(&number.to_le_bytes());
                if let Some(place) = after {
                    put_place(&mut out, place);
                }
            }
            Message::Page {
                number,
                is_last,
                is_whole,
                records,
            } => {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend([is_last, is_whole].map(|flag| u8::from(*flag)));
                put_records(&mut out, records);
            }
        }
        out
    }

    /// The message, and how many records in it could not be read; `None` where the bytes are no message of this kind.
    pub fn read(kind: Kind, bytes: &[u8]) -> Option<(Message, u64)> {
        let mut rest = bytes;
        let mut bad = 0;
        let message = match kind {
            Kind::Gossip => return None,
            Kind::Tell => Message::Tell {
                number: take_number(&mut rest)?,
                records: take_records(&mut rest, &mut bad)?,
            },
            Kind::Told => Message::Told {
                number: take_number(&mut rest)?,
            },
            Kind::Ask => Message::Ask {
                place: take_place(&mut rest)?,
            },
            Kind::Pull => Message::Pull {
                number: take_number(&mut rest)?,
                after: match rest {
                    [] => None,
                    _ => Some(take_place(&mut rest)?),
                },
            },
            Kind::Page => Message::Page {
                number: take_number(&mut rest)?,
                is_last: take(&mut rest, 1)?[0] != 0,
                is_whole: take(&mut rest, 1)?[0] != 0,
                records: take_records(&mut rest, &mut bad)?,
            },
        };
        rest.is_empty().then_some((message, bad))
    }
}

/// The records that fit one message, from the first on; the others stay.
pub fn batch(records: &mut std::collections::VecDeque<Record>) -> Vec<Record> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(record) = records.front() {
        bytes += record.to_string().len() + 4;
        if bytes > RECORDS_BYTES && !batch.is_empty() {
            break;
        }
        batch.extend(records.pop_front());
    }
    batch
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_place(out: &mut Vec<u8>, (domain, id): &Place) {
    put_text(out, domain);
    put_text(out, id);
}

fn put_records(out: &mut Vec<u8>, records: &[Record]) {
    for record in records {
        put_text(out, &record.to_string());
    }
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let bytes = take(rest, 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn take_text<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let length = take_number(rest)? as usize;
    std::str::from_utf8(take(rest, length)?).ok()
}

fn take_place(rest: &mut &[u8]) -> Option<Place> {
    Some((take_text(rest)?.into(), take_text(rest)?.into()))
}

fn take_records(rest: &mut &[u8], bad: &mut u64) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        match take_text(rest)?.parse() {
            Ok(record) => records.push(record),
            Err(_) => *bad += 1,
        }
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, value: usize) -> Record {
        let text = format!(
            "1 said 5.0.n1 5.1.n1 5.1.n1 30 - -\n{{\"domain\":\"*\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\
             \"priority\":0,\"weight\":1,\"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}],\
             \"attributes\":{{\"a\":\"{}\"}}}}]}}",
            "x".repeat(value)
        );
        text.parse().unwrap()
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_not_otherwise() {
        let place = (Arc::from("example.com"), Arc::from("p1"));
        let records = vec![record("a", 1), record("b", 200)];
        for message in [
            Message::Tell {
                number: 7,
                records: records.clone(),
            },
            Message::Told { number: u32::MAX },
            Message::Ask {
                place: place.clone(),
            },
            Message::Pull {
                number: 1,
                after: None,
            },
            Message::Pull {
                number: 1,
                after: Some(place),
            },
            Message::Page {
                number: 3,
                is_last: true,
                is_whole: false,
                records,
            },
        ] {
            let bytes = message.write();
            assert_eq!(
                Message::read(message.kind(), &bytes),
                Some((message.clone(), 0))
            );
            for end in 0..bytes.len() {
                let cut = Message::read(message.kind(), &bytes[..end]);
                assert_ne!(cut, Some((message.clone(), 0)));
            }
            assert_eq!(
                Message::read(message.kind(), &[&bytes[..], b"x"].concat()),
                None
            );
        }
        assert_eq!(Message::read(Kind::Told, b"abc"), None);
        assert_eq!(Message::read(Kind::Ask, &[0xff; 40]), None);
    }

    #[test]
    fn one_bad_record_spoils_no_other() {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        put_records(&mut bytes, &[record("a", 1)]);
        put_text(&mut bytes, "2 said of a later version");
        put_records(&mut bytes, &[record("b", 1)]);
        let records = vec![record("a", 1), record("b", 1)];
        let message = Message::Tell { number: 7, records };
        assert_eq!(Message::read(Kind::Tell, &bytes), Some((message, 1)));
    }

    #[test]
    fn a_batch_fits_a_message_and_nothing_is_left_out() {
        let all: Vec<Record> = (0..700).map(|id| record(&format!("p{id}"), 200)).collect();
        let mut left = all.iter().cloned().collect();
        let mut sent = Vec::new();
        while let batch @ [_, ..] = &batch(&mut left)[..] {
            let message = Message::Tell {
                number: 0,
                records: batch.to_vec(),
            };
            assert!(message.write().len() < 60_000);
            sent.extend_from_slice(batch);
        }
        assert_eq!(sent, all);
    }
}
