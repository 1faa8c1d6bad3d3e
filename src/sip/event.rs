//! What RFC 6665 and RFC 6446 add to SIP's header fields: Event, Subscription-State and rates.
//! Knows no subscription.

use std::fmt;
use std::num::NonZeroU64;

use super::class::find;
use super::header::delta_seconds;
use super::params::{Params, is_token, token};

/// The Event header field (RFC 6665 8.2.1) with the rates of RFC 6446.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub package: &'a [u8],
    pub id: Option<&'a [u8]>,
    pub max_rate: Option<Rate>,
    pub min_rate: Option<Rate>,
    pub adaptive_min_rate: Option<Rate>,
}

impl<'a> Event<'a> {
    pub fn parse(value: &'a [u8]) -> Option<Event<'a>> {
        let (package, rest) = token(value)?;
        if rest.is_empty() {
            return Some(Event {
                package,
                id: None,
                max_rate: None,
                min_rate: None,
                adaptive_min_rate: None,
            });
        }
        let params = Params::parse(rest)?;
        let id = match params.get("id") {
            Some(id) if !is_token(id) => return None,
            id => id,
        };
        let rate = |name| match params.get(name) {
            None => Some(None),
            Some(text) => Rate::parse(text).map(Some),
        };
        Some(Event {
            package,
            id,
            max_rate: rate("max-rate")?,
            min_rate: rate("min-rate")?,
            adaptive_min_rate: rate("adaptive-min-rate")?,
        })
    }
}

/// The Subscription-State header field (RFC 6665 8.2.3), as a subscriber reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<'a> {
    /// `active`, `pending`, `terminated` or an extension, as written.
    pub state: &'a [u8],
    /// In seconds.
    pub expires: Option<u32>,
    pub reason: Option<&'a [u8]>,
    /// In seconds.
    pub retry_after: Option<u32>,
}

impl<'a> State<'a> {
    pub fn parse(value: &'a [u8]) -> Option<State<'a>> {
        let (state, rest) = token(value)?;
        let params = Params::parse(rest)?;
        let seconds = |name| match params.get(name) {
            None => Some(None),
            Some(text) => delta_seconds(text).map(Some),
        };
        Some(State {
            state,
            expires: seconds("expires")?,
            reason: params.get("reason"),
            retry_after: seconds("retry-after")?,
        })
    }
}

/// A rate of RFC 6446, in ten-billionths of a notification per second: 1 to 999,999,999,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    const ONE_PER_SECOND: u64 = 10_000_000_000;
    const MOST: u64 = 999_999_999_999;

    /// `1*2DIGIT [ "." 1*10DIGIT ]`, zero not allowed.
    pub fn parse(text: &[u8]) -> Option<Rate> {
        let (whole, fraction) = match find(b'.', text) {
            Some(dot) => (&text[..dot], &text[dot + 1..]),
            None => (text, &b"0"[..]),
        };
        if !(1..=2).contains(&whole.len()) || !(1..=10).contains(&fraction.len()) {
            return None;
        }
        let fraction_digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(10);
        let value = whole
            .iter()
            .chain(fraction_digits)
            .try_fold(0u64, |sum, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| sum * 10 + u64::from(digit - b'0'))
            })?;
        NonZeroU64::new(value).map(Rate)
    }

    /// The time between two notifications in milliseconds, rounded up.
    pub fn interval_ms(self) -> u64 {
        (Self::ONE_PER_SECOND * 1000).div_ceil(self.0.get())
    }

    /// The nearest rate to one notification in so many milliseconds, within the bounds.
    pub fn from_interval_ms(interval: u64) -> Rate {
        let interval = interval.clamp(1, Self::ONE_PER_SECOND * 1000);
        let nearest = (Self::ONE_PER_SECOND * 1000 + interval / 2) / interval;
        Rate(NonZeroU64::MIN.saturating_add(nearest.clamp(1, Self::MOST) - 1))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0.get();
        let (whole, mut fraction) = (value / Self::ONE_PER_SECOND, value % Self::ONE_PER_SECOND);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let mut width = 10;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        write!(f, "{whole}.{fraction:0width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_rates_follow_rfc_6446() {
        let event = Event::parse(
            b"SIPserver ;id=7;max-rate=0.05 ; min-rate=5;adaptive-min-rate=99.9999999999",
        )
        .unwrap();
        assert_eq!(
            (event.package, event.id),
            (&b"SIPserver"[..], Some(&b"7"[..]))
        );
        assert_eq!(event.max_rate.map(Rate::interval_ms), Some(20_000));
        assert_eq!(event.min_rate.map(Rate::interval_ms), Some(200));
        assert_eq!(event.adaptive_min_rate.map(Rate::interval_ms), Some(11));
        for bad in [
            "0",
            "0.0",
            "0.0000000000",
            "100",
            "1.",
            ".5",
            "-1",
            "1.00000000001",
            "1e1",
            "",
        ] {
            assert!(
                Event::parse(format!("a;max-rate={bad}").as_bytes()).is_none(),
                "{bad}"
            );
        }
        assert!(Event::parse(b"a;id=\"x y\"").is_none());
        assert!(Event::parse(b"").is_none());
    }

    #[test]
    fn a_subscription_state_is_read_back() {
        let running = State::parse(b"active;expires=60;max-rate=0.5").unwrap();
        assert_eq!((running.state, running.expires), (&b"active"[..], Some(60)));
        let ended = State::parse(b"terminated ;reason=probation;retry-after=5").unwrap();
        assert_eq!(
            (ended.reason, ended.retry_after),
            (Some(&b"probation"[..]), Some(5))
        );
        assert!(State::parse(b"active;expires=soon").is_none());
        assert!(State::parse(b";expires=1").is_none());
    }

    #[test]
    fn rates_print_without_noise() {
        let shown = |ms| Rate::from_interval_ms(ms).to_string();
        assert_eq!(shown(60_000), "0.0166666667");
        assert_eq!(shown(200), "5");
        assert_eq!(shown(2_000), "0.5");
        assert_eq!(shown(0), "99.9999999999");
        assert_eq!(shown(u64::MAX), "0.0000000001");
        assert_eq!(Rate::from_interval_ms(60_000).interval_ms(), 60_000);
    }
}
