//! How a starting node asks others for all they know, page by page. Pure: knows no clock, no socket and no table.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Message, Place};

/// A page that did not come is asked for again.
const PULL_AGAIN: Duration = Duration::from_millis(250);
/// Pages asked of one node in vain before all are asked again.
const TRIES: u32 = 4;

/// How far it has come.
#[derive(Debug)]
pub enum Sync {
    Asking(Asking),
    Done,
}

#[derive(Debug)]
pub struct Asking {
    /// Of the page that is asked for.
    number: u32,
    after: Option<Place>,
    /// Whom; none: everybody.
    whom: Option<SocketAddr>,
    /// How often it was asked for the page.
    tries: u32,
    again: Instant,
    until: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Ask one node, or everybody who may be there.
    Ask(Option<SocketAddr>, Message),
    /// Nobody told everything in time: on with what is known.
    GivenUp,
}

/// A page as it came, its records apart.
#[derive(Debug)]
pub struct Page {
    pub from: SocketAddr,
    pub number: u32,
    pub is_last: bool,
    /// Who sent it does not itself wait to be told.
    pub is_whole: bool,
    /// The place of its last record.
    pub end: Option<Place>,
}

impl Sync {
    /// Asks from now on, no longer than `within`; the first page is `number`.
    pub fn begin(now: Instant, number: u32, within: Duration) -> Self {
        Sync::Asking(Asking {
            number,
            after: None,
            whom: None,
            tries: 0,
            again: now,
            until: now + within,
        })
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Sync::Done)
    }

    /// When `step` has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self {
            Sync::Asking(asking) => Some(asking.again.min(asking.until)),
            Sync::Done => None,
        }
    }

    pub fn step(&mut self, now: Instant) -> Step {
        let Sync::Asking(asking) = self else {
            return Step::Nothing;
        };
        if now >= asking.until {
            *self = Sync::Done;
            return Step::GivenUp;
        }
        if now < asking.again {
            return Step::Nothing;
        }
        asking.again = now + PULL_AGAIN;
        asking.tries += 1;
        if asking.tries > TRIES {
            (asking.after, asking.whom, asking.tries) = (None, None, 1);
        }
        let message = Message::Pull {
            number: asking.number,
            after: asking.after.clone(),
        };
        Step::Ask(asking.whom, message)
    }

    /// Whether it is the page that was asked for: then its records are news, and `is_done` says whether it was the last.
    pub fn page(&mut self, now: Instant, page: Page) -> bool {
        let Sync::Asking(asking) = self else {
            return false;
        };
        if page.number != asking.number || asking.whom.is_some_and(|whom| whom != page.from) {
            return false;
        }
        if page.is_last && page.is_whole {
            *self = Sync::Done;
            return true;
        }
        asking.tries = 0;
        if page.is_last {
            // It is itself only starting, and knows no more than this: everybody is asked again.
            (asking.after, asking.whom) = (None, None);
            return true;
        }
        asking.number = asking.number.wrapping_add(1);
        (asking.whom, asking.again) = (Some(page.from), now);
        asking.after = page.end.or(asking.after.take());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn place(id: &str) -> Option<Place> {
        Some(("example.com".into(), id.into()))
    }

    fn pull(number: u32, after: Option<Place>) -> Message {
        Message::Pull { number, after }
    }

    fn page(port: u16, number: u32, is_last: bool, end: Option<Place>) -> Page {
        Page {
            from: address(port),
            number,
            is_last,
            is_whole: true,
            end,
        }
    }

    #[test]
    fn who_answers_first_is_asked_for_the_rest() {
        let now = Instant::now();
        let mut sync = Sync::begin(now, 7, WITHIN);
        assert_eq!(sync.step(now), Step::Ask(None, pull(7, None)));
        assert_eq!(sync.step(now), Step::Nothing);
        assert!(sync.page(now, page(1, 7, false, place("m"))));
        // Another answer to the same question comes too late.
        assert!(!sync.page(now, page(2, 7, true, place("z"))));
        let asked = Step::Ask(Some(address(1)), pull(8, place("m")));
        assert_eq!(sync.step(now), asked);
        assert!(!sync.page(now, page(2, 8, true, None)));
        assert!(sync.page(now, page(1, 8, true, place("z"))));
        assert!(sync.is_done());
        assert_eq!(sync.next_deadline(), None);
        assert!(!sync.page(now, page(1, 8, true, place("z"))));
    }

    #[test]
    fn a_page_that_does_not_come_is_asked_for_again_and_then_of_everybody_from_the_start() {
        let now = Instant::now();
        let mut sync = Sync::begin(now, 1, WITHIN);
        sync.step(now);
        sync.page(now, page(1, 1, false, place("m")));
        let mut at = now;
        for _ in 0..TRIES {
            let asked = Step::Ask(Some(address(1)), pull(2, place("m")));
            assert_eq!(sync.step(at), asked);
            at = sync.next_deadline().expect("it goes on");
        }
        assert_eq!(sync.step(at), Step::Ask(None, pull(2, None)));
    }

    #[test]
    fn one_that_is_itself_starting_is_not_the_end_of_it() {
        let now = Instant::now();
        let mut sync = Sync::begin(now, 1, WITHIN);
        sync.step(now);
        let mut last = page(1, 1, true, place("m"));
        last.is_whole = false;
        assert!(sync.page(now, last));
        assert!(!sync.is_done());
        let again = sync.next_deadline().expect("it goes on");
        assert_eq!(sync.step(again), Step::Ask(None, pull(1, None)));
        assert_eq!(sync.step(now + WITHIN), Step::GivenUp);
        assert!(sync.is_done());
    }
}
