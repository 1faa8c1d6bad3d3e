//! The subscriber's table: takes documents by the rules of event-package.md. Knows one notifier at a time, no
//! subscription and no time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::MAX_ENTRIES;
use super::document::{Document, DocumentEntry, State};

/// What a document did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Changed,
    Unchanged,
    /// The document does not follow on what is known: it was dropped, and the subscriber asks again.
    Gap,
    /// One of several parts; the table changes with the last.
    PartPending,
}

/// What one notifier told this subscription.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By id; deleted entries stay, those that left do not. What several tables say of a server in the same words they share.
    entries: Entries,
    known: Option<Known>,
    parts: Option<Parts>,
}

/// Where the table stands: `base` of the next partial document.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    domain: String,
    notifier: String,
    version: u32,
    view: u64,
    stale: bool,
}

/// A full document that has come in part.
#[derive(Debug, Clone)]
struct Parts {
    last: Known,
    taken: u32,
    of: u32,
    entries: Entries,
}

type Entries = BTreeMap<Arc<str>, Arc<DocumentEntry>>;

impl Table {
    pub fn new() -> Self {
        Table::default()
    }

    /// Servers and deleted ones, sorted by the bytes of the id.
    pub fn entries(&self) -> impl Iterator<Item = &DocumentEntry> {
        self.entries.values().map(|entry| &**entry)
    }

    pub fn get(&self, id: &str) -> Option<&DocumentEntry> {
        self.entries.get(id).map(|entry| &**entry)
    }

    /// The domain that the notifier named; `None` before the first document.
    pub fn domain(&self) -> Option<&str> {
        self.known.as_ref().map(|known| &*known.domain)
    }

    /// The notifier, node id @ start; `None` before the first document.
    pub fn notifier(&self) -> Option<&str> {
        self.known.as_ref().map(|known| &*known.notifier)
    }

    /// The revision of the notifier's table that this one holds.
    pub fn view(&self) -> Option<u64> {
        self.known.as_ref().map(|known| known.view)
    }

    /// The version of the last document taken.
    pub fn version(&self) -> Option<u32> {
        self.known.as_ref().map(|known| known.version)
    }

    /// Whether what is not named may merely be unknown.
    pub fn is_stale(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.stale)
    }

    /// What several notifiers say, as one table whose revision is `view`: of each entry what was updated last, deleted
    /// ones among them (event-package.md, "Merging several notifiers"). It is stale where all of them are.
    pub fn merged<'t>(tables: impl IntoIterator<Item = &'t Table>, view: u64) -> Table {
        let mut merged = Table::default();
        for table in tables {
            let Some(known) = &table.known else { continue };
            let all = merged.known.get_or_insert_with(|| Known {
                notifier: String::new(),
                version: u32::try_from(view).unwrap_or(u32::MAX),
                view,
                ..known.clone()
            });
            all.stale &= known.stale;
            for notifier in known.notifier.split(' ') {
                if all.notifier.split(' ').all(|known| known != notifier) {
                    all.notifier = format!("{} {notifier}", all.notifier).trim().to_owned();
                }
            }
            for (id, entry) in &table.entries {
                let is_wanted = match merged.entries.get(id) {
                    Some(old) => entry.updated() > old.updated(),
                    None => merged.entries.len() < 2 * MAX_ENTRIES,
                };
                if is_wanted {
                    merged.entries.insert(Arc::clone(id), Arc::clone(entry));
                }
            }
        }
        merged
    }

    /// What is not named in it may merely be unknown from now on.
    pub fn mark_stale(&mut self) {
        if let Some(known) = &mut self.known {
            known.stale = true;
        }
    }

    /// Whether both say the same of every server.
    pub fn is_alike(&self, other: &Table) -> bool {
        self.entries == other.entries && self.is_stale() == other.is_stale()
    }

    /// Takes a document: a full one whatever its version; a partial one only if its version is one more than the last
    /// and its base the table's view; the parts of a full one until all are there. What lacks a required field is a gap.
    pub fn apply(&mut self, document: Document) -> Applied {
        let (Some(domain), Some(notifier), Some(version), Some(view), Some(state)) = (
            document.domain,
            document.notifier,
            document.version,
            document.view,
            document.state,
        ) else {
            return Applied::Gap;
        };
        let next = Known {
            domain,
            notifier,
            version,
            view,
            stale: document.stale,
        };
        // A revision never goes back in one life of a notifier.
        let goes_back = |known: &Known| known.notifier == next.notifier && known.view > next.view;
        if self.known.as_ref().is_some_and(goes_back) {
            return Applied::Gap;
        }
        match (state, document.part.zip(document.parts)) {
            (State::Full, None) => self.replace(next, by_id(document.entries)),
            (State::Full, Some((part, of))) => self.collect(next, part, of, document.entries),
            (State::Partial, _) => self.change(next, document.base, document.entries),
        }
    }

    fn replace(&mut self, next: Known, entries: Entries) -> Applied {
        self.parts = None;
        let was_stale = self.known.as_ref().map(|known| known.stale);
        let mut is_changed = was_stale != Some(next.stale);
        if next.stale {
            let new = entries.keys().filter(|id| !self.entries.contains_key(*id));
            if self.entries.len() + new.count() > 2 * MAX_ENTRIES {
                return Applied::Gap;
            }
            for (id, entry) in entries {
                let is_older = |known: &Arc<DocumentEntry>| known.updated() > entry.updated();
                if !self.entries.get(&id).is_some_and(is_older) {
                    is_changed |= self.put(id, entry);
                }
            }
        } else {
            is_changed |= self.entries != entries;
            self.entries = entries;
        }
        self.known = Some(next);
        applied(is_changed)
    }

    fn collect(&mut self, next: Known, part: u32, of: u32, entries: Vec<DocumentEntry>) -> Applied {
        let mut set = match self.parts.take() {
            _ if part == 1 => Parts {
                last: next.clone(),
                taken: 0,
                of,
                entries: BTreeMap::new(),
            },
            Some(set) if set.continues(&next, part, of) => set,
            _ => return Applied::Gap,
        };
        set.last = next;
        set.taken = part;
        set.entries.extend(by_id(entries));
        if set.entries.len() > MAX_ENTRIES {
            return Applied::Gap;
        }
        if set.taken == set.of {
            return self.replace(set.last, set.entries);
        }
        self.parts = Some(set);
        Applied::PartPending
    }

    fn change(&mut self, next: Known, base: Option<u64>, entries: Vec<DocumentEntry>) -> Applied {
        // A set of parts is finished before a partial document follows, so one that stands open has lost a part.
        let is_whole = self.parts.take().is_none();
        let Some(known) = self.known.as_ref().filter(|known| {
            is_whole
                && next.version.checked_sub(1) == Some(known.version)
                && base == Some(known.view)
                && next.notifier == known.notifier
        }) else {
            return Applied::Gap;
        };
        if self.entries.len() + entries.len() > 2 * MAX_ENTRIES {
            return Applied::Gap;
        }
        let mut is_changed = known.stale != next.stale;
        for entry in entries {
            is_changed |= match entry {
                DocumentEntry::Left { id, .. } => self.entries.remove(&id).is_some(),
                entry => self.put(Arc::clone(entry.id()), Arc::new(entry)),
            };
        }
        self.known = Some(next);
        applied(is_changed)
    }

    fn put(&mut self, id: Arc<str>, entry: Arc<DocumentEntry>) -> bool {
        if self.entries.get(&id) == Some(&entry) {
            return false;
        }
        self.entries.insert(id, entry);
        true
    }
}

impl Parts {
    fn continues(&self, next: &Known, part: u32, of: u32) -> bool {
        (part, of) == (self.taken + 1, self.of)
            && next.version.checked_sub(1) == Some(self.last.version)
            && next.view == self.last.view
            && next.notifier == self.last.notifier
    }
}

fn by_id(entries: Vec<DocumentEntry>) -> Entries {
    let kept = |entry: &DocumentEntry| !matches!(entry, DocumentEntry::Left { .. });
    let entries = entries.into_iter().filter(kept);
    entries
        .map(|entry| (Arc::clone(entry.id()), Arc::new(entry)))
        .collect()
}

fn applied(is_changed: bool) -> Applied {
    if is_changed {
        Applied::Changed
    } else {
        Applied::Unchanged
    }
}
