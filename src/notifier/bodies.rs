//! Rendered documents, shared by all subscriptions that need the same one, and the sets of parts of documents too large
//! for a datagram. Knows no subscription; who uses a body or a set holds a count of it.

use std::collections::HashMap;
use std::ops::Range;

use crate::info::{Body, Projection};
use crate::sip::write::{NO_CONTENT, notify_content};

/// What a body shows of an interest's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Show {
    /// Everything.
    Full,
    /// What changed since the view `base`.
    Since { base: u64 },
    /// One part of the document cut for `budget` bytes.
    Part { budget: u32, index: u32 },
    /// Nothing new since `base`: as many entries from place `from` on as fit into `budget` bytes.
    Round { base: u64, from: u32, budget: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyKey {
    /// The interest's number, never used twice.
    pub interest: u64,
    /// The view's revision.
    pub view: u64,
    pub show: Show,
}

#[derive(Debug)]
pub struct Rendered {
    key: BodyKey,
    /// `None`: there is nothing to tell.
    pub body: Option<Body>,
    /// The end of the head of every NOTIFY with this body.
    pub content: Box<[u8]>,
    /// For `Show::Round`: where the next round begins.
    pub next: u32,
    users: u32,
    /// Order of rendering, to find the oldest.
    age: u64,
}

/// All bodies of a shard.
#[derive(Debug, Default)]
pub struct Bodies {
    slots: Vec<Option<Rendered>>,
    free: Vec<u32>,
    numbers: HashMap<BodyKey, u32>,
    /// The body asked for last: in a fan-out the next subscription wants the same.
    last: Option<(BodyKey, u32)>,
    bytes: usize,
    rendered: u64,
}

impl Bodies {
    pub fn find(&mut self, key: &BodyKey) -> Option<u32> {
        if let Some((last, number)) = &self.last
            && last == key
        {
            return Some(*number);
        }
        let number = *self.numbers.get(key)?;
        self.last = Some((*key, number));
        Some(number)
    }

    /// Keeps a body; `next` is meaningful for rounds only.
    pub fn keep(&mut self, key: BodyKey, body: Option<Body>, next: u32) -> u32 {
        self.bytes += body.as_ref().map_or(0, Body::len);
        self.rendered += 1;
        let content = body.as_ref().map_or_else(
            || NO_CONTENT.into(),
            |body| notify_content(body.format().content_type(), body.len()),
        );
        let rendered = Some(Rendered {
            key,
            body,
            content,
            next,
            users: 0,
            age: self.rendered,
        });
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = rendered;
                number
            }
            None => {
                self.slots.push(rendered);
                u32::try_from(self.slots.len() - 1).expect("bodies are bounded by their bytes")
            }
        };
        self.numbers.insert(key, number);
        self.last = Some((key, number));
        number
    }

    pub fn get(&self, number: u32) -> &Rendered {
        self.slots[number as usize]
            .as_ref()
            .expect("a body lives while it is used")
    }

    pub fn hold(&mut self, number: u32) {
        self.slots[number as usize]
            .as_mut()
            .expect("held right after it was found")
            .users += 1;
    }

    /// One user less; the last one takes along what `current` does not want kept.
    pub fn release(&mut self, number: u32, current: impl Fn(&BodyKey) -> bool) {
        let rendered = self.slots[number as usize]
            .as_mut()
            .expect("a body lives while it is used");
        rendered.users = rendered
            .users
            .checked_sub(1)
            .expect("released as often as held");
        if rendered.users == 0 && !current(&rendered.key) {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some(gone) = self.slots[number as usize].take() {
            self.bytes -= gone.body.as_ref().map_or(0, Body::len);
            self.numbers.remove(&gone.key);
            self.free.push(number);
            self.last = None;
        }
    }

    /// Lets go of every body that nobody uses and that `current` does not want kept.
    pub fn sweep(&mut self, current: impl Fn(&BodyKey) -> bool) {
        for number in 0..self.slots.len() {
            let unused = self.slots[number]
                .as_ref()
                .is_some_and(|kept| kept.users == 0 && !current(&kept.key));
            if unused {
                self.remove(number as u32);
            }
        }
    }

    /// Bodies kept.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes that all bodies hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest body still in use.
    pub fn oldest_used(&self) -> Option<u32> {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        used.filter(|(_, kept)| kept.users > 0)
            .min_by_key(|(_, kept)| kept.age)
            .map(|(number, _)| number as u32)
    }
}

/// A full document cut into parts, each small enough for a datagram.
#[derive(Debug)]
pub struct PartSet {
    key: SetKey,
    pub projection: Projection,
    /// The entity-tag of the whole document.
    pub tag: u64,
    /// The places of each part's entries in the projection.
    pub parts: Vec<Range<usize>>,
    users: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetKey {
    pub interest: u64,
    pub view: u64,
    /// Bytes that each part's document may take.
    pub budget: u32,
}

impl PartSet {
    /// Bytes that each part was cut for.
    pub fn budget(&self) -> u32 {
        self.key.budget
    }
}

/// The sets in progress.
#[derive(Debug, Default)]
pub struct PartSets {
    sets: Vec<Option<PartSet>>,
    numbers: HashMap<SetKey, u32>,
}

impl PartSets {
    /// The set under `key`, made by `cut` if nobody uses one; with one more user.
    pub fn enter(
        &mut self,
        key: SetKey,
        cut: impl FnOnce() -> (Projection, u64, Vec<Range<usize>>),
    ) -> u32 {
        if let Some(&number) = self.numbers.get(&key) {
            self.sets[number as usize]
                .as_mut()
                .expect("numbered sets live")
                .users += 1;
            return number;
        }
        let (projection, tag, parts) = cut();
        let number = u32::try_from(
            self.sets
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.sets.len()),
        )
        .expect("sets are fewer than subscriptions");
        let set = Some(PartSet {
            key,
            projection,
            tag,
            parts,
            users: 1,
        });
        match self.sets.get_mut(number as usize) {
            Some(slot) => *slot = set,
            None => self.sets.push(set),
        }
        self.numbers.insert(key, number);
        number
    }

    /// Sets in progress.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn get(&self, number: u32) -> &PartSet {
        self.sets[number as usize]
            .as_ref()
            .expect("a set lives while it is used")
    }

    pub fn leave(&mut self, number: u32) {
        let slot = &mut self.sets[number as usize];
        let set = slot.as_mut().expect("a set lives while it is used");
        set.users -= 1;
        if set.users == 0 {
            self.numbers.remove(&set.key);
            *slot = None;
        }
    }
}
