//! Finds numbers by a keyed hash. Knows nothing of what the numbers name: who asks compares.
//!
//! Linear hashing (Litwin 1980): each insertion splits one bucket at the most. A table that doubles would stall its
//! shard at a million entries for longer than its receive buffer lasts.

use super::chunks::Chunks;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    hash: u32,
    /// The next number of the bucket.
    next: u32,
}

/// Numbers are dense: each takes a link, linked or not.
#[derive(Debug)]
pub struct Index {
    /// The first number of each bucket.
    buckets: Chunks<u32>,
    links: Chunks<Link>,
    len: u32,
}

impl Index {
    pub fn new() -> Self {
        let mut buckets = Chunks::new();
        buckets.push(NONE);
        Index {
            buckets,
            links: Chunks::new(),
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The number under `hash` that `is` the one asked for.
    pub fn find(&self, hash: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut number = self.buckets[self.bucket(hash)];
        while number != NONE {
            let link = self.links[number];
            if link.hash == hash && is(number) {
                return Some(number);
            }
            number = link.next;
        }
        None
    }

    /// Puts a number that is not in the index under `hash`.
    pub fn insert(&mut self, hash: u32, number: u32) {
        while self.links.len() <= number {
            self.links.push(Link {
                hash: 0,
                next: NONE,
            });
        }
        self.len += 1;
        if self.len > self.buckets.len() {
            self.split();
        }
        self.links[number].hash = hash;
        self.link(number);
    }

    /// Takes a number out, if it is in.
    pub fn remove(&mut self, number: u32) {
        let Some(&Link { hash, next }) = self.links.get(number) else {
            return;
        };
        let bucket = self.bucket(hash);
        let mut at = self.buckets[bucket];
        if at == number {
            self.buckets[bucket] = next;
            self.len -= 1;
            return;
        }
        while at != NONE {
            let after = self.links[at].next;
            if after == number {
                self.links[at].next = next;
                self.len -= 1;
                return;
            }
            at = after;
        }
    }

    /// The buckets of the last doubling that were not split yet are named by one bit less.
    fn bucket(&self, hash: u32) -> u32 {
        let buckets = self.buckets.len();
        let mask = buckets.next_power_of_two() - 1;
        let bucket = hash & mask;
        if bucket < buckets {
            bucket
        } else {
            bucket & (mask >> 1)
        }
    }

    fn link(&mut self, number: u32) {
        let bucket = self.bucket(self.links[number].hash);
        self.links[number].next = std::mem::replace(&mut self.buckets[bucket], number);
    }

    /// One bucket more; what belongs there leaves the bucket named by one bit less.
    fn split(&mut self) {
        let added = self.buckets.push(NONE);
        let divided = added ^ (1 << added.ilog2());
        let mut number = std::mem::replace(&mut self.buckets[divided], NONE);
        while number != NONE {
            let next = self.links[number].next;
            self.link(number);
            number = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a map; few distinct hashes, so that buckets hold several.
        #[test]
        fn what_was_put_in_is_found_until_it_is_taken_out(
            steps in proptest::collection::vec((0u32..300, any::<u32>(), any::<bool>()), 1..600),
            coarse: bool,
        ) {
            let mut index = Index::new();
            let mut model = BTreeMap::new();
            for (number, hash, put) in steps {
                let hash = if coarse { hash % 5 } else { hash };
                if put && !model.contains_key(&number) {
                    index.insert(hash, number);
                    model.insert(number, hash);
                } else {
                    index.remove(number);
                    model.remove(&number);
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for number in 0..300 {
                let hash = model.get(&number).copied();
                prop_assert_eq!(index.find(hash.unwrap_or(3), |found| found == number), hash.map(|_| number));
            }
        }
    }
}
