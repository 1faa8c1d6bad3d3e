//! What is to be written to the store, a key at a time: what is known of it there, what this node has to add, and who waits
//! for that. Pure: knows no clock and no store.

use std::collections::{BTreeMap, VecDeque};

use crate::cluster::message::Place;
use crate::compositor::Record;

/// Keys written at once.
const UNDER_WAY_MOST: usize = 32;

/// What the store has under a key.
#[derive(Debug)]
struct Known {
    revision: i64,
    /// `None`: nothing that can be read.
    record: Option<Record>,
}

/// What this node has to add to a key.
#[derive(Debug, Default)]
struct Wanted {
    /// What it tells in any case.
    told: Option<Record>,
    /// Publications that are taken back if they cannot be written.
    kept: Vec<(u64, Record)>,
}

/// One write: the key must not have changed since `revision`; 0: must not be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    pub place: Place,
    pub record: Record,
    pub revision: i64,
}

/// All keys.
#[derive(Debug, Default)]
pub struct Writes {
    known: BTreeMap<Place, Known>,
    waiting: BTreeMap<Place, Wanted>,
    /// Places that wait, the longest first.
    order: VecDeque<Place>,
    under_way: BTreeMap<Place, Wanted>,
    /// Publications that the store has.
    done: Vec<u64>,
}

fn join(one: &mut Option<Record>, other: &Record) {
    match one {
        Some(one) => drop(one.join(other)),
        None => *one = Some(other.clone()),
    }
}

impl Wanted {
    fn add(&mut self, other: Wanted) {
        if let Some(told) = &other.told {
            join(&mut self.told, told);
        }
        self.kept.extend(other.kept);
    }
}

impl Writes {
    /// Has a record written, sooner or later.
    pub fn tell(&mut self, record: Record) {
        let place = record.place();
        let told = Some(record);
        let kept = Vec::new();
        self.want(place, Wanted { told, kept });
    }

    /// Has a publication written, or not at all.
    pub fn keep(&mut self, ticket: u64, record: Record) {
        let place = record.place();
        let kept = vec![(ticket, record)];
        self.want(place, Wanted { told: None, kept });
    }

    fn want(&mut self, place: Place, wanted: Wanted) {
        if !self.waiting.contains_key(&place) {
            self.order.push_back(place.clone());
        }
        self.waiting.entry(place).or_default().add(wanted);
    }

    /// What the store has under a key; whether that is new. What is older than what is known is not looked at.
    pub fn saw(&mut self, place: &Place, revision: i64, record: Option<&Record>) -> bool {
        if self
            .known
            .get(place)
            .is_some_and(|known| known.revision >= revision)
        {
            return false;
        }
        let record = record.cloned();
        self.known.insert(place.clone(), Known { revision, record });
        true
    }

    /// A key is no longer in the store.
    pub fn deleted(&mut self, place: &Place) {
        self.known.remove(place);
    }

    /// Nothing of what is known is to be relied on: all is told anew.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// The record under a key, and its revision.
    pub fn known(&self, place: &Place) -> Option<(&Record, i64)> {
        let known = self.known.get(place)?;
        Some((known.record.as_ref()?, known.revision))
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// The next write. A key is written once at a time; what comes meanwhile goes together.
    pub fn next(&mut self) -> Option<Write> {
        let mut passed = 0;
        while self.under_way.len() < UNDER_WAY_MOST && passed < self.order.len() {
            let place = self.order.pop_front()?;
            if self.under_way.contains_key(&place) {
                self.order.push_back(place);
                passed += 1;
                continue;
            }
            let wanted = self.waiting.remove(&place).expect("what is in order waits");
            let known = self.known.get(&place);
            let before = known.and_then(|known| known.record.as_ref());
            let mut record = before.cloned();
            let kept = wanted.kept.iter().map(|(_, record)| record);
            for more in wanted.told.iter().chain(kept) {
                join(&mut record, more);
            }
            if record.as_ref() == before {
                self.done
                    .extend(wanted.kept.into_iter().map(|(ticket, _)| ticket));
                continue;
            }
            let revision = known.map_or(0, |known| known.revision);
            self.under_way.insert(place.clone(), wanted);
            return Some(Write {
                place,
                record: record.expect("there is something to add"),
                revision,
            });
        }
        None
    }

    /// A write has been done, and the key has this revision.
    pub fn written(&mut self, write: &Write, revision: i64) {
        if let Some(wanted) = self.under_way.remove(&write.place) {
            self.done
                .extend(wanted.kept.into_iter().map(|(ticket, _)| ticket));
        }
        self.saw(&write.place, revision, Some(&write.record));
    }

    /// The key was not as it was thought to be: what the store has is known now, and the write is done again.
    pub fn superseded(&mut self, write: &Write) {
        if let Some(wanted) = self.under_way.remove(&write.place) {
            self.want(write.place.clone(), wanted);
        }
    }

    /// The write could not be done. What was to be told waits; the publications are taken back.
    pub fn failed(&mut self, write: &Write) -> Vec<u64> {
        let Some(Wanted { told, kept }) = self.under_way.remove(&write.place) else {
            return Vec::new();
        };
        if let Some(told) = told {
            self.tell(told);
        }
        kept.into_iter().map(|(ticket, _)| ticket).collect()
    }

    /// Publications that are not under way, taken back.
    pub fn take_back(&mut self) -> Vec<u64> {
        let mut tickets = Vec::new();
        for wanted in self.waiting.values_mut() {
            tickets.extend(wanted.kept.drain(..).map(|(ticket, _)| ticket));
        }
        self.waiting.retain(|_, wanted| wanted.told.is_some());
        let waiting = &self.waiting;
        self.order.retain(|place| waiting.contains_key(place));
        tickets
    }

    /// Publications that the store has, since the last call.
    pub fn take_done(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, ms: u64, load: u8) -> Record {
        let text = format!(
            "1 said {ms}.0.n1 {ms}.0.n1 {ms}.0.n1 60 - -\n{{\"domain\":\"*\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\
             \"load\":{load},\"priority\":0,\"weight\":1,\
             \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}]}}]}}"
        );
        text.parse()
            .unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn what_comes_while_a_key_is_written_goes_together_after_it() {
        let mut writes = Writes::default();
        writes.keep(1, record("p1", 10, 1));
        let first = writes.next().expect("a write");
        assert_eq!((first.revision, &first.record), (0, &record("p1", 10, 1)));
        writes.keep(2, record("p1", 20, 2));
        writes.tell(record("p1", 30, 3));
        assert_eq!(writes.next(), None, "one at a time");
        writes.written(&first, 5);
        assert_eq!(writes.take_done(), [1]);
        let second = writes.next().expect("a write");
        assert_eq!((second.revision, &second.record), (5, &record("p1", 30, 3)));
        writes.written(&second, 6);
        assert_eq!(writes.take_done(), [2]);
        assert!(writes.is_empty());
    }

    #[test]
    fn what_another_node_wrote_is_joined_and_written_over() {
        let mut writes = Writes::default();
        writes.keep(1, record("p1", 10, 1));
        let write = writes.next().expect("a write");
        let theirs = record("p1", 20, 9);
        assert!(writes.saw(&write.place, 7, Some(&theirs)));
        writes.superseded(&write);
        // Theirs is newer: there is nothing to add, and the publication is part of history.
        assert_eq!(writes.next(), None);
        assert_eq!(writes.take_done(), [1]);
        // What cannot be read is written over.
        assert!(writes.saw(&write.place, 8, None));
        writes.tell(record("p1", 30, 3));
        let write = writes.next().expect("a write");
        assert_eq!((write.revision, write.record), (8, record("p1", 30, 3)));
    }

    #[test]
    fn a_publication_that_cannot_be_written_is_never_written() {
        let mut writes = Writes::default();
        writes.tell(record("p1", 10, 1));
        writes.keep(1, record("p1", 20, 2));
        let write = writes.next().expect("a write");
        writes.keep(2, record("p1", 30, 3));
        writes.keep(3, record("p2", 30, 3));
        assert_eq!(writes.failed(&write), [1]);
        assert_eq!(writes.take_back(), [2, 3]);
        let again = writes.next().expect("what is told is told");
        assert_eq!(again.record, record("p1", 10, 1));
        writes.written(&again, 3);
        assert!(writes.is_empty() && writes.take_done().is_empty());
    }
}
