//! The entity's side. A [`Subscription`] (RFC 6665 4.1) is kept up until it is stopped or refused for good, and fills a
//! table; a [`Roster`] says at which notifiers to be subscribed; a [`Picker`] says which server gets a piece of work. Pure:
//! time, chance and bytes are given, messages and events are taken. Knows no socket, clock or screen.

mod asking;
mod dialog;
mod notify;
mod pick;
mod roster;
mod taking;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::client::{
    Agent, Backoff, Chance, Due, Local, Outgoing, Refusal, Response, Transaction, Trouble,
};
use crate::info::{Filter, Table};
use crate::sip::scan::{Start, scan};
use dialog::Dialog;
pub use notify::Ending;
use notify::Refused;
pub use pick::{Offer, Pick, Picker, Taker, Work, offers, shares, takers};
pub use roster::{Order, Roster};

/// A subscription that ends sooner after its beginning is not begun again at once.
const SHORT_LIFE_MS: u64 = 1_000;

/// The least and the most that a Retry-After is heeded.
const RETRY_LEAST_MS: u64 = 500;
const RETRY_MOST_MS: u64 = 3_600_000;
/// A notifier that says so often in a row what cannot be taken does not serve.
const NONSENSE_MOST: u32 = 3;

/// What is subscribed to.
#[derive(Debug, Clone)]
pub struct Wish {
    pub domain: String,
    pub filter: Option<Filter>,
    /// The life to ask for, again and again; 0 fetches the table once (RFC 6665 4.4.3).
    pub expires_s: u32,
}

/// What happened, for the user to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A NOTIFY was taken, and the table is another: see [`Subscription::table`].
    View,
    /// A NOTIFY was taken, and the table is as it was.
    Notified,
    /// The first of a row of failures; attempts go on.
    Failing(Trouble),
    /// It works again.
    Restored,
    /// A SUBSCRIBE was refused in a way that trying again would not help: the end.
    Refused(Refusal),
    /// The notifier ended the subscription and wants no other: the end.
    Terminated(Ending),
    /// The table was fetched, or the subscription ended as was asked: the end.
    Over,
}

/// A SUBSCRIBE on its way.
#[derive(Debug)]
struct Asked {
    transaction: Transaction,
    to: Option<SocketAddr>,
    /// When the user is told that no answer comes; `None`: was told.
    silent_ms: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// There is no subscription; the next is asked for then.
    Waiting {
        until_ms: u64,
    },
    /// No NOTIFY has come; Timer N runs.
    Opening {
        notify_by_ms: u64,
    },
    Running {
        refresh_ms: u64,
        end_ms: u64,
    },
    /// Unsubscribed; the last NOTIFY is still to come.
    Closing,
    Ended,
}

/// One subscription after another to one notifier, as one.
#[derive(Debug)]
pub struct Subscription {
    wish: Wish,
    local: Local,
    chance: Chance,
    dialog: Dialog,
    phase: Phase,
    asked: Option<Asked>,
    /// When the present dialog was begun.
    begun_ms: u64,
    /// A document was dropped, and the refresh that asks for the whole table has not left.
    is_gapped: bool,
    resynced_ms: Option<u64>,
    table: Table,
    shown: Option<(String, u64)>,
    /// Which notifier's documents came in this dialog.
    speaker: Option<String>,
    /// NOTIFYs in a row whose documents could not be taken.
    nonsense: u32,
    is_failing: bool,
    backoff: Backoff,
    outbox: VecDeque<Outgoing>,
    events: VecDeque<Event>,
}

impl Subscription {
    /// Subscribes from the first `advance` on.
    pub fn new(wish: Wish, local: Local, mut chance: Chance) -> Self {
        Subscription {
            wish,
            local,
            dialog: Dialog::new(&mut chance),
            chance,
            phase: Phase::Waiting { until_ms: 0 },
            asked: None,
            begun_ms: 0,
            is_gapped: false,
            resynced_ms: None,
            table: Table::new(),
            shown: None,
            speaker: None,
            nonsense: 0,
            is_failing: false,
            backoff: Backoff::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether the notifier has not served since the last [`Event::Failing`].
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// What the notifier told, kept also while there is no subscription.
    pub fn table(&self) -> &Table {
        &self.table
    }
}

impl Agent for Subscription {
    type Event = Event;

    fn next_message(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn deadline_ms(&self) -> Option<u64> {
        let phase_ms = match self.phase {
            Phase::Waiting { until_ms } => until_ms,
            Phase::Opening { notify_by_ms } => notify_by_ms,
            Phase::Running { end_ms, .. } if self.asked.is_some() => end_ms,
            Phase::Running { refresh_ms, end_ms } => refresh_ms.min(end_ms),
            Phase::Closing => u64::MAX,
            Phase::Ended => return None,
        };
        let asked_ms = self.asked.as_ref().map(|asked| {
            let deadline = asked.transaction.deadline_ms();
            asked
                .silent_ms
                .map_or(deadline, |silent| silent.min(deadline))
        });
        Some(asked_ms.map_or(phase_ms, |asked_ms| asked_ms.min(phase_ms)))
    }

    fn advance(&mut self, now_ms: u64) {
        self.advance_request(now_ms);
        match self.phase {
            Phase::Waiting { until_ms } if now_ms >= until_ms => self.open(now_ms),
            // RFC 6665 4.1.2.4: without a NOTIFY before Timer N the subscription has failed.
            Phase::Opening { notify_by_ms } if now_ms >= notify_by_ms => {
                self.reopen_later(now_ms, Trouble::NoNotify, None);
            }
            Phase::Running { end_ms, .. } if now_ms >= end_ms => {
                self.reopen_later(now_ms, Trouble::Silent, None);
            }
            Phase::Running { refresh_ms, .. } if now_ms >= refresh_ms && self.asked.is_none() => {
                if std::mem::take(&mut self.is_gapped) {
                    self.resynced_ms = Some(now_ms);
                }
                self.subscribe(now_ms, self.wish.expires_s);
            }
            _ => {}
        }
    }

    fn stop(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Running { .. } => {
                self.phase = Phase::Closing;
                // RFC 6665 4.1.2.3.
                self.subscribe(now_ms, 0);
            }
            // Where no NOTIFY came there is nothing to end: one that comes still is answered 481.
            Phase::Waiting { .. } | Phase::Opening { .. } => self.end(Event::Over),
            Phase::Closing | Phase::Ended => {}
        }
    }

    fn disconnected(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Closing => self.end(Event::Over),
            Phase::Waiting { .. } | Phase::Opening { .. } | Phase::Running { .. } => {
                self.reopen_later(now_ms, Trouble::Disconnected, None);
            }
            Phase::Ended => {}
        }
    }

    fn moved(&mut self, local: Local) {
        self.local = local;
    }

    fn receive(&mut self, now_ms: u64, source: SocketAddr, bytes: &[u8]) {
        let message = match scan(bytes) {
            Ok(message) => message,
            Err(failure) => {
                if let (Some(message), Some(status)) = (failure.message, failure.error.status()) {
                    self.answer(&message, source, Refused::with(status));
                }
                return;
            }
        };
        match message.start {
            Start::Request { .. } => self.requested(now_ms, source, &message),
            Start::Response { .. } => {
                if let Some(response) = Response::parse(bytes) {
                    self.answered(now_ms, &response);
                }
            }
        }
    }
}

impl Subscription {
    fn advance_request(&mut self, now_ms: u64) {
        let Some(asked) = &mut self.asked else { return };
        let is_silent = asked
            .silent_ms
            .take_if(|silent_ms| now_ms >= *silent_ms)
            .is_some();
        match asked.transaction.due(now_ms) {
            Some(Due::Resend(bytes)) => {
                let to = asked.to;
                self.outbox.push_back(Outgoing { to, bytes });
            }
            Some(Due::TimedOut) if matches!(self.phase, Phase::Closing) => {
                return self.end(Event::Over);
            }
            // RFC 3261 12.2.1.2: a request that times out ends the dialog.
            Some(Due::TimedOut) => return self.reopen_later(now_ms, Trouble::Silent, None),
            None => {}
        }
        if is_silent {
            self.fail(Trouble::Silent);
        }
    }

    /// The subscription lasts until `end_ms`; it is refreshed at a random time before, so that those of many subscribers
    /// do not fall together.
    fn run(&mut self, now_ms: u64, end_ms: u64) {
        let left_ms = end_ms.saturating_sub(now_ms);
        let refresh_ms = now_ms + self.chance.within(left_ms / 2..left_ms * 9 / 10);
        self.phase = Phase::Running { refresh_ms, end_ms };
    }

    /// A new dialog at once, unless the former was too short.
    fn reopen_soon(&mut self, now_ms: u64) {
        if now_ms < self.begun_ms + SHORT_LIFE_MS {
            return self.reopen(now_ms, None);
        }
        self.asked = None;
        self.open(now_ms);
    }

    fn reopen_later(&mut self, now_ms: u64, trouble: Trouble, retry_after_s: Option<u32>) {
        self.fail(trouble);
        self.reopen(now_ms, retry_after_s);
    }

    fn reopen(&mut self, now_ms: u64, retry_after_s: Option<u32>) {
        self.asked = None;
        let until_ms = now_ms + self.wait_ms(retry_after_s);
        self.phase = Phase::Waiting { until_ms };
    }

    fn wait_ms(&mut self, retry_after_s: Option<u32>) -> u64 {
        match retry_after_s {
            // None that asks for a flood, or for silence until who knows when.
            Some(seconds) => (u64::from(seconds) * 1_000).clamp(RETRY_LEAST_MS, RETRY_MOST_MS),
            None => self.backoff.next_ms(&mut self.chance),
        }
    }

    fn fail(&mut self, trouble: Trouble) {
        if !std::mem::replace(&mut self.is_failing, true) {
            self.events.push_back(Event::Failing(trouble));
        }
    }

    fn recover(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            self.events.push_back(Event::Restored);
        }
    }

    fn end(&mut self, event: Event) {
        self.asked = None;
        self.phase = Phase::Ended;
        self.events.push_back(event);
    }
}
