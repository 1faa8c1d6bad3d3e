//! The hybrid logical clock that orders what this node says. Knows no clock of its own: time is passed in.

use std::sync::Arc;

use crate::info::Stamp;

/// Gives stamps that grow for ever, near the time of day.
#[derive(Debug)]
pub(super) struct Clock {
    ms: u64,
    counter: u32,
    node: Arc<str>,
}

impl Clock {
    pub(super) fn new(node: Arc<str>) -> Self {
        Clock {
            ms: 0,
            counter: 0,
            node,
        }
    }

    /// Sees a stamp of another node: those given from now on are greater.
    pub(super) fn observe(&mut self, stamp: &Stamp) {
        if (stamp.ms, stamp.counter) > (self.ms, self.counter) {
            (self.ms, self.counter) = (stamp.ms, stamp.counter);
        }
    }

    /// A stamp greater than all before it, given or seen, even if the time of day went back.
    pub(super) fn stamp(&mut self, unix_ms: u64) -> Stamp {
        if unix_ms > self.ms {
            (self.ms, self.counter) = (unix_ms, 0);
        } else {
            match self.counter.checked_add(1) {
                Some(counter) => self.counter = counter,
                None => (self.ms, self.counter) = (self.ms + 1, 0),
            }
        }
        Stamp {
            ms: self.ms,
            counter: self.counter,
            node: Arc::clone(&self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_though_the_time_of_day_goes_back() {
        let mut clock = Clock::new("n1".into());
        let stamps: Vec<Stamp> = [5, 5, 9, 3, 0, 9, 10]
            .into_iter()
            .map(|unix_ms| clock.stamp(unix_ms))
            .collect();
        assert!(stamps.is_sorted_by(|one, other| one < other), "{stamps:?}");
        assert_eq!(stamps[6].to_string(), "10.0.n1");
    }

    #[test]
    fn what_was_seen_comes_before_what_is_said() {
        let mut clock = Clock::new("a".into());
        for seen in ["7.3.z", "7.1.z", "5.9.z"] {
            clock.observe(&seen.parse().unwrap());
        }
        assert_eq!(clock.stamp(6).to_string(), "7.4.a");
        assert_eq!(clock.stamp(8).to_string(), "8.0.a");
    }

    #[test]
    fn a_full_counter_moves_on_to_the_next_millisecond() {
        let mut clock = Clock::new("n1".into());
        clock.stamp(7);
        clock.counter = u32::MAX;
        assert_eq!(clock.stamp(7).to_string(), "8.0.n1");
    }
}
