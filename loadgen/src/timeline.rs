//! How many NOTIFYs arrived when. Knows no clock.

use serde::{Deserialize, Serialize};

const BIN_MS: u64 = 10;
/// A picture shows no more.
const SHOWN: usize = 300;

/// Arrivals by time since the start of the run.
#[derive(Debug, Default)]
pub struct Timeline {
    bins: Vec<u32>,
}

/// A part of a timeline, coarse enough to be drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OverTime {
    pub bin_ms: u64,
    pub counts: Vec<u64>,
}

impl Timeline {
    pub fn record(&mut self, now_us: u64) {
        let at = (now_us / 1_000 / BIN_MS) as usize;
        if at >= self.bins.len() {
            self.bins.resize(at + 1, 0);
        }
        self.bins[at] += 1;
    }

    /// Adds what came elsewhere.
    pub fn add(&mut self, other: &Timeline) {
        let length = self.bins.len().max(other.bins.len());
        self.bins.resize(length, 0);
        for (bin, count) in self.bins.iter_mut().zip(&other.bins) {
            *bin += count;
        }
    }

    /// What came from `from_us` on until `until_us`.
    pub fn between(&self, from_us: u64, until_us: u64) -> OverTime {
        let bin = |us: u64| (us / 1_000 / BIN_MS) as usize;
        let from = bin(from_us).min(self.bins.len());
        let until = (bin(until_us) + 1).clamp(from, self.bins.len());
        let width = (until - from).div_ceil(SHOWN).max(1);
        OverTime {
            bin_ms: BIN_MS * width as u64,
            counts: self.bins[from..until]
                .chunks(width)
                .map(|bins| bins.iter().map(|&count| u64::from(count)).sum())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_counted_by_their_time() {
        let mut timeline = Timeline::default();
        for us in [5_000, 25_000, 26_000, 90_000] {
            timeline.record(us);
        }
        let shown = timeline.between(20_000, 49_000);
        assert_eq!((shown.bin_ms, shown.counts), (10, vec![2, 0, 0]));
        assert!(timeline.between(1_000_000, 2_000_000).counts.is_empty());
    }

    #[test]
    fn what_came_elsewhere_is_added() {
        let (mut one, mut other) = (Timeline::default(), Timeline::default());
        one.record(5_000);
        other.record(6_000);
        other.record(25_000);
        one.add(&other);
        assert_eq!(one.between(0, 29_000).counts, [2, 0, 1]);
    }

    #[test]
    fn a_long_time_is_shown_coarsely_and_whole() {
        let mut timeline = Timeline::default();
        for ms in 0..10_000 {
            timeline.record(ms * 1_000);
        }
        let shown = timeline.between(0, 10_000_000);
        assert!(shown.counts.len() <= SHOWN);
        assert_eq!(shown.counts.iter().sum::<u64>(), 10_000);
    }
}
