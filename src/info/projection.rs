//! A view seen through a filter, and what changed between two of them. Knows no subscriber and no document format.

use std::cmp::Ordering;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::document::Format;
use super::filter::Filter;
use super::stamp::Stamp;
use super::view::{Entry, View};

/// By how many points of load a newcomer must beat an entry that `most` already kept.
const HYSTERESIS: i16 = 10;
/// The load that ranks a server of unknown load: behind all that are known.
const UNKNOWN_LOAD: u8 = 101;

/// A view seen through a filter.
#[derive(Debug, Clone)]
pub struct Projection {
    view: Arc<View>,
    filter: Option<Arc<Filter>>,
    /// The places of the entries that `most` keeps, ascending; `None` where no `most` was asked.
    chosen: Option<Box<[u32]>>,
}

impl Projection {
    /// Sees `view` through `filter`. `previous`, what the same filter showed last, matters only to `most`: a kept
    /// entry stays unless a newcomer is better by priority, or by more than 10 points of load.
    pub fn new(
        view: Arc<View>,
        filter: Option<Arc<Filter>>,
        previous: Option<&Projection>,
    ) -> Self {
        let filter = filter.filter(|filter| !filter.is_empty());
        let chosen = filter.as_ref().and_then(|filter| {
            let most = usize::from(filter.most()?);
            let previous = previous.filter(|previous| previous.filter.as_ref() == Some(filter));
            Some(choose(&view, filter, most, previous))
        });
        Projection {
            view,
            filter,
            chosen,
        }
    }

    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The filter, `None` where all is shown.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }

    /// The entries shown, sorted by the bytes of their ids.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let mut chosen = self
            .chosen
            .as_deref()
            .map(|chosen| chosen.iter().peekable());
        self.view
            .entries
            .iter()
            .enumerate()
            .filter(move |(place, entry)| match (&mut chosen, &self.filter) {
                (Some(chosen), _) => chosen.next_if(|next| **next as usize == *place).is_some(),
                (None, Some(filter)) => filter.admits(entry),
                (None, None) => true,
            })
            .map(|(_, entry)| entry)
    }

    /// The digest of RFC 5839's entity-tag: over the domain, the (id, updated, deleted) of what is shown, the filter
    /// and the format. The keys are fixed, so nodes that agree give the same tag.
    pub fn tag(&self, format: Format) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(0x6661_6e66_6172_6531, 0x7365_7276_6572_696e);
        // Integers are fed as little-endian bytes, not by Hash: its order of bytes is the machine's.
        hasher.write(&[format as u8]);
        feed(&mut hasher, self.view.domain.as_bytes());
        if let Some(filter) = &self.filter {
            feed(&mut hasher, &filter.canonical());
        }
        for entry in self.entries() {
            let Stamp { ms, counter, node } = &entry.server.updated;
            feed(&mut hasher, entry.server.id.as_bytes());
            hasher.write(&[u8::from(entry.deleted)]);
            hasher.write(&ms.to_le_bytes());
            hasher.write(&counter.to_le_bytes());
            feed(&mut hasher, node.as_bytes());
        }
        hasher.finish()
    }
}

fn feed(hasher: &mut SipHasher13, bytes: &[u8]) {
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}

/// The places of notifiers, and of the `most` best of the other entries admitted.
fn choose(view: &View, filter: &Filter, most: usize, previous: Option<&Projection>) -> Box<[u32]> {
    let kept: Vec<&str> = previous
        .map(|previous| previous.entries().map(|entry| &*entry.server.id).collect())
        .unwrap_or_default();
    let (mut chosen, mut candidates) = (Vec::new(), Vec::new());
    for (place, entry) in view.entries.iter().enumerate() {
        if !filter.admits(entry) {
            continue;
        }
        if entry.server.is_notifier() {
            chosen.push(place as u32);
            continue;
        }
        let id = &*entry.server.id;
        let is_kept = kept
            .binary_search_by(|kept| kept.as_bytes().cmp(id.as_bytes()))
            .is_ok();
        candidates.push((rank(entry, is_kept), place as u32));
    }
    candidates.sort_unstable();
    chosen.extend(candidates.iter().take(most).map(|(_, place)| *place));
    chosen.sort_unstable();
    chosen.into()
}

/// The order of preference: priority, load, kept before new, id (the place in the view). A kept entry's load counts
/// 10 less, so that a newcomer needs more than 10 points to pass it.
fn rank(entry: &Entry, is_kept: bool) -> (u16, i16, bool) {
    let load = i16::from(entry.server.load.unwrap_or(UNKNOWN_LOAD));
    let advantage = if is_kept { HYSTERESIS } else { 0 };
    (entry.server.priority, load - advantage, !is_kept)
}

/// What a subscriber that knows one projection must be told to know another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    Put(&'a Entry),
    /// Gone; `server.updated` is the stamp of the deletion, or the last stamp known.
    Deleted(&'a Entry),
    /// No longer shown.
    Left {
        id: &'a str,
        updated: &'a Stamp,
    },
}

impl<'a> Change<'a> {
    /// An entry as it stands in a full document.
    pub fn of(entry: &'a Entry) -> Self {
        if entry.deleted {
            Change::Deleted(entry)
        } else {
            Change::Put(entry)
        }
    }

    pub fn id(&self) -> &'a str {
        match self {
            Change::Put(entry) | Change::Deleted(entry) => &entry.server.id,
            Change::Left { id, .. } => id,
        }
    }
}

/// What leads from `base` to `now`, sorted by id. A server that is gone from the view itself counts as deleted, with
/// the last stamp known; a deleted entry that the view has forgotten is `Left`: the claim is withdrawn.
pub fn delta<'a>(base: &'a Projection, now: &'a Projection) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let mut old = base.entries().peekable();
    let mut new = now.entries().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => {
                let (old, new) = (&old.server.id, &new.server.id);
                old.as_bytes().cmp(new.as_bytes())
            }
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some(before), Some(after)) if says_the_same(before, after) => {}
            (_, Some(after)) => changes.push(Change::of(after)),
            (Some(before), None) => changes.push(absence(before, now.view())),
            (None, None) => {}
        }
    }
}

/// Of a deleted entry the documents say only that, and when.
fn says_the_same(one: &Arc<Entry>, other: &Arc<Entry>) -> bool {
    let both_deleted = one.deleted && other.deleted;
    Arc::ptr_eq(one, other)
        || one == other
        || both_deleted && one.server.updated == other.server.updated
}

/// Why an entry is no longer shown.
fn absence<'a>(before: &'a Entry, view: &'a View) -> Change<'a> {
    match view.find(&before.server.id) {
        Some(entry) if entry.deleted => Change::Deleted(entry),
        Some(entry) => Change::Left {
            id: &entry.server.id,
            updated: &entry.server.updated,
        },
        None if before.deleted => Change::Left {
            id: &before.server.id,
            updated: &before.server.updated,
        },
        None => Change::Deleted(before),
    }
}
