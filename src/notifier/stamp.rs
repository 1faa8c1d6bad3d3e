//! A time near now in four bytes: milliseconds since the shard's start, of which the upper half is left out. Knows no
//! clock.
//!
//! It goes round after 49 days, so it stands for times less than 24 days away. Whoever keeps one sees to that: ends and
//! refreshes of a subscription are at most a day ahead, and each SUBSCRIBE, which comes at least once a day, brings
//! times long past back to `LONG_MS` (`Subscription::renew`).

/// Longer than any interval or life of a subscription, and far under half a round.
pub const LONG_MS: u64 = 3 * 24 * 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    pub fn of(time_ms: u64) -> Stamp {
        Stamp(time_ms as u32)
    }

    /// So long ago that every interval since has passed.
    pub fn long_ago(now_ms: u64) -> Stamp {
        Stamp::of(now_ms.saturating_sub(LONG_MS))
    }

    /// Later than any subscription ends.
    pub fn never(now_ms: u64) -> Stamp {
        Stamp::of(now_ms + LONG_MS)
    }

    /// The whole time.
    pub fn ms(self, now_ms: u64) -> u64 {
        let ahead = self.0.wrapping_sub(now_ms as u32).cast_signed();
        now_ms.wrapping_add_signed(ahead.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_near_now_comes_back_whole(now_ms in 0u64..1 << 42, away in -1_900_000_000i64..1_900_000_000) {
            let time_ms = now_ms.saturating_add_signed(away);
            prop_assert_eq!(Stamp::of(time_ms).ms(now_ms), time_ms);
        }
    }

    #[test]
    fn long_ago_and_never_lie_on_either_side_of_now() {
        for now_ms in [0, 5, LONG_MS, (1 << 32) - 1, 1 << 32, (1 << 32) + LONG_MS] {
            assert_eq!(
                Stamp::long_ago(now_ms).ms(now_ms),
                now_ms.saturating_sub(LONG_MS)
            );
            assert_eq!(Stamp::never(now_ms).ms(now_ms), now_ms + LONG_MS);
        }
    }
}
