//! What nodes tell each other of one server: what was said of it, and its lease. Of each the greater stamp wins, whatever
//! the order, the loss and the repetition of records. Knows no clock, no table and no way between nodes.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use crate::info::{self, Entry, Format, Stamp};

/// The longest text of a record: with its key it must fit a datagram beside others.
pub const MAX_RECORD_BYTES: usize = 32 * 1024;
/// The longest lease of a record, in seconds: what any configuration allows.
const MAX_LEASE_S: u32 = 86_400;
/// Stands first in every text; a later form is not misread.
const VERSION: &str = "1";

/// The right to be shown, given to a publisher by one node and known to all. Of two the later one counts: by its fields, in
/// their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The stamp in the publisher's entity-tag.
    pub granted: Stamp,
    /// When it was last asserted: as it was granted, until the node that gave it hears that another thinks it ended.
    pub held: Stamp,
    /// When it ended, if it did.
    pub ended: Option<Stamp>,
    /// When its server was last shown again after it had been shown as down somewhere: what is shown is no older.
    pub since: Option<Stamp>,
    /// From `granted` on, in seconds.
    pub expires_s: u32,
}

/// All that is known of one server, as two registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub domain: Arc<str>,
    /// What was said last; its stamp is the server's `updated`.
    pub said: Arc<Entry>,
    /// `None`: said by a node of its own, without a publisher.
    pub lease: Option<Lease>,
}

/// A text that is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct RecordError(&'static str);

impl Record {
    pub fn id(&self) -> &Arc<str> {
        &self.said.server.id
    }

    /// Where it stands in the order of all records.
    pub fn place(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.domain), Arc::clone(self.id()))
    }

    /// The newest stamp in it.
    pub fn stamp(&self) -> &Stamp {
        let said = &self.said.server.updated;
        let Some(lease) = &self.lease else {
            return said;
        };
        let more = lease.ended.iter().chain(&lease.since);
        more.chain([&lease.granted, &lease.held])
            .fold(said, |newest, stamp| newest.max(stamp))
    }

    /// Which node said the newest of it; the end of a lease is nobody's word.
    pub fn author(&self) -> &Arc<str> {
        let said = &self.said.server.updated;
        let held = self.lease.as_ref().map(|lease| &lease.held);
        &held.map_or(said, |held| held.max(said)).node
    }

    /// Takes from `other`, which tells of the same server, what is newer; whether that was anything.
    pub fn join(&mut self, other: &Record) -> bool {
        let is_newer = beats(&other.said, &self.said);
        if is_newer {
            self.said = Arc::clone(&other.said);
        }
        let is_later = other.lease > self.lease;
        if is_later {
            self.lease.clone_from(&other.lease);
        }
        is_newer || is_later
    }
}

/// Whether one entry is newer than another. Two of one stamp are one entry unless a node lied: then its words decide, so
/// that all nodes choose alike.
fn beats(one: &Entry, other: &Entry) -> bool {
    let (newer, older) = (&one.server.updated, &other.server.updated);
    newer > older || (newer == older && one != other && words(one) > words(other))
}

fn words(entry: &Entry) -> (bool, Vec<u8>) {
    let body = info::publication_body("*", &entry.server, Format::Json);
    (entry.deleted, body)
}

/// One line with the stamps, then the publication as JSON.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.said.server;
        let said = if self.said.deleted { "deleted" } else { "said" };
        write!(f, "{VERSION} {said} {}", server.updated)?;
        if let Some(lease) = &self.lease {
            write!(f, " {} {} {}", lease.granted, lease.held, lease.expires_s)?;
            for stamp in [&lease.ended, &lease.since] {
                match stamp {
                    Some(stamp) => write!(f, " {stamp}")?,
                    None => f.write_str(" -")?,
                }
            }
        }
        f.write_char('\n')?;
        let body = info::publication_body(&self.domain, server, Format::Json);
        f.write_str(&String::from_utf8_lossy(&body))
    }
}

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, RecordError> {
        if text.len() > MAX_RECORD_BYTES {
            return Err(RecordError("too long"));
        }
        let (stamps, body) = text.split_once('\n').ok_or(RecordError("no body"))?;
        let mut words = stamps.split(' ');
        if words.next() != Some(VERSION) {
            return Err(RecordError("of another version"));
        }
        let deleted = flag(words.next(), "said", "deleted")?;
        let updated = parsed(words.next())?;
        let lease = match words.next() {
            None => None,
            word => Some(Lease {
                granted: parsed(word)?,
                held: parsed(words.next())?,
                expires_s: parsed(words.next())?,
                ended: optional(words.next())?,
                since: optional(words.next())?,
            }),
        };
        // Its end would be a stamp of the far future.
        if lease
            .as_ref()
            .is_some_and(|lease: &Lease| lease.expires_s > MAX_LEASE_S)
        {
            return Err(RecordError("lease too long"));
        }
        if words.next().is_some() {
            return Err(RecordError("more than the stamps"));
        }
        let publication = info::publication(body.as_bytes(), Format::Json)
            .map_err(|_| RecordError("bad publication"))?;
        let mut server = publication.server;
        server.updated = updated;
        Ok(Record {
            domain: publication.domain.into(),
            said: Arc::new(Entry { server, deleted }),
            lease,
        })
    }
}

fn flag(word: Option<&str>, no: &str, yes: &str) -> Result<bool, RecordError> {
    match word {
        Some(word) if word == no => Ok(false),
        Some(word) if word == yes => Ok(true),
        _ => Err(RecordError("bad word")),
    }
}

fn optional(word: Option<&str>) -> Result<Option<Stamp>, RecordError> {
    match word {
        Some("-") => Ok(None),
        word => parsed(word).map(Some),
    }
}

fn parsed<T: FromStr>(word: Option<&str>) -> Result<T, RecordError> {
    let value = word.and_then(|word| word.parse().ok());
    value.ok_or(RecordError("bad stamp or number"))
}
