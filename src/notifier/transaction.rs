//! An outstanding NOTIFY (RFC 3261 17.1.2) and its timers. Knows no message.

use super::stamp::Stamp;
use crate::sip::header::Rate;

/// RFC 3261 17.1.2.2: the estimate of the round trip.
pub const T1_MS: u64 = 500;
/// RFC 3261 17.1.2.2: retransmissions are at most this far apart.
pub const T2_MS: u64 = 4_000;
/// RFC 3261 17.1.2.2: the longest that a message stays in the network.
pub const T4_MS: u64 = 5_000;
/// Timer F: 64 * T1.
pub const TIMER_F_MS: u64 = 64 * T1_MS;

/// A subscriber's `max-rate` and `min-rate` (RFC 6446).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub max: Option<Rate>,
    pub min: Option<Rate>,
}

/// What a NOTIFY, once answered 2xx, has told the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The subscriber has this view.
    View(u64),
    /// One more part of a set, not the last.
    Part,
    /// No document: the next one is full.
    Nothing,
}

/// What stands in a transaction's rates, where there are none.
pub(super) const NO_RATES: u32 = u32::MAX;

/// What is needed to send a NOTIFY's bytes again, and what becomes of its answer.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Transaction {
    /// The subscription's.
    pub slot: u32,
    /// Tells it from those that had its place before.
    pub serial: u32,
    /// The body's number, held; `None` without a body.
    pub body: Option<u32>,
    pub tag: u64,
    pub expires_s: u32,
    /// The number of the rates as they were: a refresh answered 204 may change them while the NOTIFY is outstanding.
    pub(super) rates: u32,
    /// Subscription-State says `terminated`.
    pub last: bool,
    pub offer: Offer,
    pub began_ms: u64,
    /// When Timer E fires next; Timer F is decided then.
    pub next_e: Stamp,
    /// How often Timer E fired.
    pub fired: u8,
    /// A provisional answer came: Timer E is T2 (17.1.2.2).
    pub proceeding: bool,
    /// Counts in the windows: sent less than T1 ago.
    pub windowed: bool,
}

const _: () = assert!(size_of::<Option<Transaction>>() == 64);

impl Transaction {
    /// Timer E after it fired (RFC 3261 17.1.2.2: 500 ms, 1 s, 2 s, 4 s, 4 s, ...; T2 in Proceeding).
    pub fn next_interval_ms(&self) -> u64 {
        if self.proceeding {
            T2_MS
        } else {
            (T1_MS << self.fired.min(3)).min(T2_MS)
        }
    }
}

impl Rates {
    pub fn is_none(&self) -> bool {
        self.max.is_none() && self.min.is_none()
    }

    /// RFC 6446 5.3: a max-rate that would let nothing through before the end is raised to one in that time; 6.3 wants
    /// min-rate not above it.
    pub fn limited(self, expires_s: u32) -> Rates {
        let most_ms = u64::from(expires_s.max(1)) * 1_000;
        let max = self.max.map(|rate| {
            if rate.interval_ms() > most_ms {
                Rate::from_interval_ms(most_ms)
            } else {
                rate
            }
        });
        let min = match (max, self.min) {
            (Some(most), Some(least)) if least.interval_ms() < most.interval_ms() => Some(most),
            (_, min) => min,
        };
        Rates { max, min }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_e_doubles_to_four_seconds_and_stays() {
        let mut transaction = Transaction {
            slot: 0,
            serial: 0,
            body: None,
            tag: 0,
            expires_s: 1,
            rates: NO_RATES,
            last: false,
            offer: Offer::Nothing,
            began_ms: 0,
            next_e: Stamp::of(T1_MS),
            fired: 0,
            proceeding: false,
            windowed: true,
        };
        let mut sends = vec![0];
        let mut next_ms = T1_MS;
        while next_ms < TIMER_F_MS {
            sends.push(next_ms);
            transaction.fired += 1;
            next_ms += transaction.next_interval_ms();
        }
        assert_eq!(
            sends,
            [
                0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500
            ]
        );
    }
}
