//! Where log lines go, and which. Knows nothing of what is logged.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Sends log lines to standard error from the level in `FANFARE_LOG` on, by default from info.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("FANFARE_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
}

/// What goes wrong for every datagram is logged at most this often.
const EVERY: Duration = Duration::from_secs(1);

/// Lets one line through in a second, whichever thread comes first; the counters have the rest.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    pub const fn new() -> Self {
        Seldom {
            last: Mutex::new(None),
        }
    }

    /// True if the line may be logged now.
    pub fn permits(&self, now: Instant) -> bool {
        let mut last = self.last.lock();
        let permitted = last.is_none_or(|last| now.saturating_duration_since(last) >= EVERY);
        if permitted {
            *last = Some(now);
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_let_through() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        let permits = |ms| seldom.permits(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 999, 1_000, 1_001].map(permits),
            [true, false, false, true, false]
        );
    }
}
