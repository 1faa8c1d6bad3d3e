//! Chance from a seed: identifiers that nobody guesses, and times that do not fall together. Knows no source of seeds.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The longest wait between two attempts: a notifier that came back has its peers back soon.
const MOST_MS: u64 = 8_000;

#[derive(Debug)]
pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(StdRng::seed_from_u64(seed))
    }

    /// RFC 3261 19.3: tags, branches and Call-IDs are unique, and hard to guess.
    pub fn token(&mut self) -> String {
        format!("{:016x}", self.0.next_u64())
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            range.start
        } else {
            self.0.random_range(range)
        }
    }
}

/// Waits between attempts that fail: about 1, 2, 4, then 8 s, each up to a quarter less.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn next_ms(&mut self, chance: &mut Chance) -> u64 {
        let full = (1_000 << self.failures.min(3)).min(MOST_MS);
        self.failures += 1;
        chance.within(full - full / 4..full + 1)
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_eight_seconds() {
        let (mut backoff, mut chance) = (Backoff::default(), Chance::new(1));
        for full in [1_000, 2_000, 4_000, 8_000, 8_000] {
            let wait = backoff.next_ms(&mut chance);
            assert!((full * 3 / 4..=full).contains(&wait), "{wait} of {full}");
        }
        backoff.reset();
        assert!(backoff.next_ms(&mut chance) <= 1_000);
    }
}
