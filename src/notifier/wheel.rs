//! The wheel: one nearest deadline a subscription, in hashed slots of ten milliseconds, re-armed lazily. Knows slots by
//! number and times in milliseconds, nothing else.
//!
//! A deadline beyond one lap waits in its slot and is put off when the wheel comes by. Moving a deadline back costs
//! nothing until then; moving it forward relinks.

use super::chunks::Chunks;

/// Milliseconds a slot of the wheel spans. Periodic NOTIFYs leave together in such slots: a wake-up for each of them
/// would cost four times the CPU.
pub const SLOT_MS: u64 = 10;
const SLOTS: usize = 8192;
const NONE: u32 = u32::MAX;
/// Stands in `previous` while an entry is not armed.
const UNARMED: u32 = u32::MAX - 1;

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// Deadline for which the entry is armed, in slots of the wheel since time 0; it goes round after 497 days.
    due: u32,
}

impl Link {
    const OFF: Link = Link {
        previous: UNARMED,
        next: NONE,
        due: 0,
    };

    fn is_armed(&self) -> bool {
        self.previous != UNARMED
    }
}

/// Whether a deadline is not after another; both at most half a round apart.
fn at_or_before(due: u32, other: u64) -> bool {
    due.wrapping_sub(other as u32).cast_signed() <= 0
}

#[derive(Debug)]
pub struct Wheel {
    links: Chunks<Link>,
    heads: Box<[u32]>,
    occupied: Box<[u64]>,
    /// The first slot of time that has not been swept.
    swept: u64,
}

impl Wheel {
    pub fn new(now_ms: u64) -> Self {
        Wheel {
            links: Chunks::new(),
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            occupied: vec![0; SLOTS / 64].into_boxed_slice(),
            swept: now_ms / SLOT_MS,
        }
    }

    /// Sees to it that `entry` comes up at `due_ms` or up to one slot later. An earlier deadline already armed stays: the
    /// entry then comes up early, and its owner arms it anew.
    pub fn arm(&mut self, entry: u32, due_ms: u64) {
        let due = due_ms.div_ceil(SLOT_MS).max(self.swept);
        while self.links.len() <= entry {
            self.links.push(Link::OFF);
        }
        let link = &self.links[entry];
        if link.is_armed() {
            if at_or_before(link.due, due) {
                return;
            }
            self.disarm(entry);
        }
        self.link(entry, due as u32);
    }

    /// Whether the entry will come up by itself.
    pub fn is_armed(&self, entry: u32) -> bool {
        self.links.get(entry).is_some_and(Link::is_armed)
    }

    pub fn disarm(&mut self, entry: u32) {
        let Some(&link) = self.links.get(entry).filter(|link| link.is_armed()) else {
            return;
        };
        let place = link.due as usize % SLOTS;
        match link.previous {
            NONE => self.heads[place] = link.next,
            previous => self.links[previous].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next].previous = link.previous;
        }
        if self.heads[place] == NONE {
            self.occupied[place / 64] &= !(1 << (place % 64));
        }
        self.links[entry] = Link::OFF;
    }

    /// Takes out one entry that is due at `now_ms`.
    pub fn pop(&mut self, now_ms: u64) -> Option<u32> {
        let now = now_ms / SLOT_MS;
        while self.swept <= now {
            let place = self.swept as usize % SLOTS;
            let mut entry = self.heads[place];
            while entry != NONE {
                let link = self.links[entry];
                if at_or_before(link.due, now) {
                    self.disarm(entry);
                    return Some(entry);
                }
                entry = link.next;
            }
            self.swept = self
                .next_occupied(self.swept + 1)
                .unwrap_or(now + 1)
                .min(now + 1);
        }
        None
    }

    /// The earliest time in milliseconds at which `pop` may give something; not late, perhaps early by whole laps.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_occupied(self.swept).map(|slot| slot * SLOT_MS)
    }

    fn link(&mut self, entry: u32, due: u32) {
        let place = due as usize % SLOTS;
        let next = self.heads[place];
        if next != NONE {
            self.links[next].previous = entry;
        }
        self.links[entry] = Link {
            previous: NONE,
            next,
            due,
        };
        self.heads[place] = entry;
        self.occupied[place / 64] |= 1 << (place % 64);
    }

    fn next_occupied(&self, from: u64) -> Option<u64> {
        let start = from as usize % SLOTS;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let place = word * 64 + bits.trailing_zeros() as usize;
                return Some(from + ((place + SLOTS - start) % SLOTS) as u64);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a map of deadlines: nothing comes early, and what is due comes within a slot.
        #[test]
        fn everything_due_comes_up_in_time(steps in proptest::collection::vec((0u32..40, 0u64..400_000, 0u64..3_000), 1..200)) {
            let mut wheel = Wheel::new(1_000);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 1_000;
            for (entry, ahead, advance) in steps {
                let due = now + ahead;
                let earlier = model.get(&entry).is_some_and(|&armed| armed.div_ceil(SLOT_MS) <= due.div_ceil(SLOT_MS));
                wheel.arm(entry, due);
                if !earlier {
                    model.insert(entry, due);
                }
                now += advance;
                while let Some(entry) = wheel.pop(now) {
                    let due = model.remove(&entry).expect("armed");
                    prop_assert!(due <= now);
                }
                for &due in model.values() {
                    prop_assert!(due.div_ceil(SLOT_MS) * SLOT_MS > now, "due {} still there at {}", due, now);
                    prop_assert!(wheel.next_ms().expect("armed") <= due.div_ceil(SLOT_MS) * SLOT_MS);
                }
            }
        }
    }

    #[test]
    fn a_disarmed_entry_does_not_come_up() {
        let mut wheel = Wheel::new(0);
        wheel.arm(1, 50);
        wheel.arm(2, 50);
        wheel.disarm(1);
        assert_eq!(wheel.pop(100), Some(2));
        assert_eq!(wheel.pop(100), None);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn deadlines_go_on_after_497_days() {
        let start = (u64::from(u32::MAX) - 2) * SLOT_MS;
        let mut wheel = Wheel::new(start);
        wheel.arm(1, start + 10 * SLOT_MS);
        wheel.arm(2, start + 5 * SLOT_MS);
        assert_eq!(wheel.pop(start + 4 * SLOT_MS), None);
        assert_eq!(wheel.pop(start + 5 * SLOT_MS), Some(2));
        wheel.arm(1, start + 7 * SLOT_MS);
        assert_eq!(wheel.pop(start + 6 * SLOT_MS), None);
        assert_eq!(wheel.pop(start + 7 * SLOT_MS), Some(1));
    }

    #[test]
    fn a_deadline_of_an_hour_waits_through_the_laps() {
        let mut wheel = Wheel::new(0);
        wheel.arm(1, 3_600_000);
        for now in (0..3_600_000).step_by(1_000) {
            assert_eq!(wheel.pop(now), None);
        }
        assert_eq!(wheel.pop(3_600_000), Some(1));
    }
}
