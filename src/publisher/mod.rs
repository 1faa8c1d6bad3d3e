//! An event publication agent (RFC 3903 4): keeps one server's entry published while it lives, and removes it at the end.
//! Pure: time, chance and bytes are given, requests and events are taken. Knows no socket, clock or source of load.

mod phase;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use rsip::headers::{Event as EventHeader, Expires, UntypedHeader};
use rsip::{Header, Method};

use crate::client::{
    Agent, Backoff, Chance, Draft, Due, Local, Outgoing, Refusal, Response, Transaction, Trouble,
};
use crate::info::{Format, Server, publication_body};
use crate::sip::EVENT_PACKAGE;
use phase::{Operation, Phase};

/// A notifier that says nothing for so long, a retransmission included, is left for the next, as far as there are several; twice
/// as long in each further round. Refreshed at a third, the shortest lease of 2 s has room for it.
const TURN_MS: u64 = 1_000;
const TURN_MOST_MS: u64 = 4_000;

/// By how many points load must move to be published between refreshes: what event-package.md counts as a change.
pub const LOAD_STEP: u8 = 5;

/// What happened, for the user to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The entry stands for the first time; the lease in seconds.
    Published { expires_s: u32 },
    /// The first of a row of failures; attempts go on.
    Failing(Trouble),
    /// The entry stands again.
    Restored { expires_s: u32 },
    /// Trying again would not help: the end.
    Rejected(Refusal),
    /// The entry is gone, as was asked: the end.
    Removed,
}

/// One server's publication.
#[derive(Debug)]
pub struct Publisher {
    domain: String,
    server: Server,
    local: Local,
    /// Where it may be published; empty: there is one way, and whoever drives this knows it.
    notifiers: Vec<SocketAddr>,
    /// How many notifiers were left since one took it.
    turns: usize,
    /// Which of them is asked.
    at: usize,
    /// A request went unanswered: what it asked for may stand or not.
    is_unsure: bool,
    chance: Chance,
    call_id: String,
    from: String,
    cseq: u32,
    /// What is asked for; raised by a 423.
    expires_s: u32,
    phase: Phase,
    entity_tag: Option<String>,
    /// When the lease ends, as far as known.
    lease_end_ms: u64,
    /// The load that the notifier was told last.
    told: Option<u8>,
    was_published: bool,
    is_failing: bool,
    is_stopping: bool,
    backoff: Backoff,
    outbox: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Publisher {
    /// Publishes `server` in `domain` for leases of `expires_s`, from the first `advance` on. `server.updated` is not
    /// looked at.
    pub fn new(
        domain: &str,
        server: Server,
        expires_s: u32,
        local: Local,
        mut chance: Chance,
    ) -> Self {
        let from = format!("<sip:{}@{domain}>;tag={}", server.id, chance.token());
        Publisher {
            domain: domain.to_owned(),
            told: server.load,
            server,
            local,
            notifiers: Vec::new(),
            turns: 0,
            at: 0,
            is_unsure: false,
            call_id: chance.token(),
            chance,
            from,
            cseq: 0,
            expires_s,
            phase: Phase::Waiting { until_ms: 0 },
            entity_tag: None,
            lease_end_ms: 0,
            was_published: false,
            is_failing: false,
            is_stopping: false,
            backoff: Backoff::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The nodes of one cluster, of which any takes any request (event-package.md): the first is asked until it fails.
    #[must_use]
    pub fn among(mut self, notifiers: Vec<SocketAddr>) -> Self {
        self.notifiers = notifiers;
        self
    }

    /// The server's load is now so much: published at once if it moved by [`LOAD_STEP`], else with the next refresh.
    pub fn set_load(&mut self, now_ms: u64, load: Option<u8>) {
        self.server.load = load;
        if matches!(self.phase, Phase::Published { .. }) && self.moved_far() {
            self.ask(now_ms);
        }
    }
}

impl Agent for Publisher {
    type Event = Event;

    fn next_message(&mut self) -> Option<Outgoing> {
        let bytes = self.outbox.pop_front()?;
        Some(Outgoing { to: None, bytes })
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn deadline_ms(&self) -> Option<u64> {
        self.phase.deadline_ms()
    }

    fn advance(&mut self, now_ms: u64) {
        match &mut self.phase {
            Phase::Waiting { until_ms }
            | Phase::Published {
                refresh_ms: until_ms,
            } if now_ms >= *until_ms => {
                self.ask(now_ms);
            }
            Phase::Asking {
                transaction,
                silent_ms,
                turn_ms,
                ..
            } => {
                let is_silent = silent_ms
                    .take_if(|silent_ms| now_ms >= *silent_ms)
                    .is_some();
                let turns = turn_ms.is_some_and(|turn_ms| now_ms >= turn_ms);
                match transaction.due(now_ms) {
                    _ if turns => self.turn(now_ms, Trouble::Silent),
                    Some(Due::Resend(bytes)) => self.outbox.push_back(bytes),
                    Some(Due::TimedOut) => return self.retry(now_ms, Trouble::Silent, None),
                    None => {}
                }
                if is_silent {
                    self.fail(Trouble::Silent);
                }
            }
            Phase::Waiting { .. } | Phase::Published { .. } | Phase::Ended => {}
        }
    }

    fn stop(&mut self, now_ms: u64) {
        self.is_stopping = true;
        match self.phase {
            // RFC 3903 4.1: no new PUBLISH before the former's final response or its timeout.
            Phase::Asking { .. } | Phase::Ended => {}
            Phase::Waiting { .. } | Phase::Published { .. } => self.ask(now_ms),
        }
    }

    fn disconnected(&mut self, now_ms: u64) {
        // RFC 3261 17.1.4: a transport error ends the transaction.
        match self.phase {
            // The next refresh makes another connection.
            Phase::Published { refresh_ms } if now_ms < refresh_ms => {}
            Phase::Ended => {}
            _ if self.is_one_left() => self.turn(now_ms, Trouble::Disconnected),
            _ => self.retry(now_ms, Trouble::Disconnected, None),
        }
    }

    fn moved(&mut self, local: Local) {
        self.local = local;
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.notifiers.get(self.at).copied()
    }

    fn has_others(&self) -> bool {
        self.notifiers.len() > 1
    }

    fn receive(&mut self, now_ms: u64, _source: SocketAddr, bytes: &[u8]) {
        let Some(response) = Response::parse(bytes) else {
            return;
        };
        let Phase::Asking {
            transaction,
            operation,
            turn_ms,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if !transaction.matches(&response) {
            return;
        }
        if response.status < 200 {
            *turn_ms = None;
            return transaction.provisional(now_ms);
        }
        let operation = *operation;
        self.answered(now_ms, operation, &response);
    }
}

impl Publisher {
    fn moved_far(&self) -> bool {
        match (self.server.load, self.told) {
            (Some(load), Some(told)) => load.abs_diff(told) >= LOAD_STEP,
            (load, told) => load != told,
        }
    }

    fn answered(&mut self, now_ms: u64, operation: Operation, response: &Response) {
        match response.status {
            200..=299 if operation == Operation::Remove => self.end(Event::Removed),
            200..=299 => self.published(now_ms, response),
            // Nothing stands under that tag any more, which is what was asked.
            412 if operation == Operation::Remove => self.end_unpublished(),
            // RFC 3903 4.3, 5: the tag is discarded, and the state published afresh.
            412 if self.entity_tag.take().is_some() => self.ask(now_ms),
            423 if response
                .min_expires
                .is_some_and(|least| least > self.expires_s) =>
            {
                self.expires_s = response.min_expires.unwrap_or(self.expires_s);
                self.ask(now_ms);
            }
            // RFC 3261 21.5.4, 3263 4.3: there may be another that takes it.
            _ if response.is_temporary() && self.is_one_left() => {
                self.turn(now_ms, response.trouble());
            }
            // It was allowed before: publishing afresh after an answer that got lost may have been taken for another's.
            403 if self.was_published && self.notifiers.len() > 1 => {
                self.retry(now_ms, response.trouble(), response.retry_after);
            }
            _ if response.is_temporary() => {
                self.retry(now_ms, response.trouble(), response.retry_after);
            }
            _ => self.end(Event::Rejected(response.refusal())),
        }
    }

    fn published(&mut self, now_ms: u64, response: &Response) {
        let expires_s = response.expires.unwrap_or(self.expires_s);
        // RFC 3903 4.3: every 2xx brings a tag that replaces the former.
        self.entity_tag.clone_from(&response.entity_tag);
        let lease_ms = u64::from(expires_s) * 1_000;
        self.lease_end_ms = now_ms + lease_ms;
        let refresh_ms = now_ms + (lease_ms / 3).max(500);
        self.phase = Phase::Published { refresh_ms };
        self.backoff.reset();
        self.turns = 0;
        self.is_unsure = false;
        if !std::mem::replace(&mut self.was_published, true) {
            self.events.push_back(Event::Published { expires_s });
        } else if self.is_failing {
            self.events.push_back(Event::Restored { expires_s });
        }
        self.is_failing = false;
        if self.is_stopping || self.moved_far() {
            self.ask(now_ms);
        }
    }

    /// Sends what the state of things demands.
    fn ask(&mut self, now_ms: u64) {
        let operation = match &self.entity_tag {
            None if self.is_stopping => return self.end_unpublished(),
            Some(_) if self.is_stopping => Operation::Remove,
            None => Operation::Initial,
            Some(_) if self.server.load != self.told => Operation::Modify,
            Some(_) => Operation::Refresh,
        };
        if matches!(operation, Operation::Initial | Operation::Modify) {
            self.told = self.server.load;
        }
        let draft = self.draft(operation);
        let transaction = Transaction::begin(now_ms, &self.local, &mut self.chance, draft);
        self.outbox.push_back(transaction.bytes().to_vec());
        self.phase = Phase::asking(now_ms, transaction, operation);
        if let Phase::Asking { turn_ms, .. } = &mut self.phase
            && self.notifiers.len() > 1
        {
            let round = (self.turns / self.notifiers.len()).min(8);
            *turn_ms = Some(now_ms + (TURN_MS << round).min(TURN_MOST_MS));
        }
    }

    /// Whether there is a notifier that was not asked yet in this round.
    fn is_one_left(&self) -> bool {
        !(self.turns + 1).is_multiple_of(self.notifiers.len().max(1))
    }

    /// The transaction is over as if by Timer F, and the same is asked of the next notifier (RFC 3263 4.3).
    fn turn(&mut self, now_ms: u64, trouble: Trouble) {
        self.leave(now_ms, &trouble);
        if self.turns.is_multiple_of(self.notifiers.len().max(1)) {
            self.fail(trouble);
        }
        // Whoever drives this first makes the way there.
        self.phase = Phase::Waiting { until_ms: now_ms };
    }

    /// What the notifier was told it may not have taken, and there may be another.
    fn leave(&mut self, now_ms: u64, trouble: &Trouble) {
        self.is_unsure |= !matches!(trouble, Trouble::Refused(_));
        // RFC 3903 4.2: a tag is tried first only while it is expected to be valid.
        if now_ms >= self.lease_end_ms {
            self.entity_tag = None;
        }
        self.told = None;
        self.turns += 1;
        self.at = (self.at + 1) % self.notifiers.len().max(1);
    }

    /// RFC 3903 4.1, table 1: body, SIP-If-Match and Expires make the operation.
    fn draft(&mut self, operation: Operation) -> Draft {
        self.cseq += 1;
        let expires_s = if operation == Operation::Remove {
            0
        } else {
            self.expires_s
        };
        let mut headers: Vec<Header> = vec![
            EventHeader::new(EVENT_PACKAGE).into(),
            Expires::new(expires_s.to_string()).into(),
        ];
        if let Some(tag) = &self.entity_tag {
            headers.push(Header::Other("SIP-If-Match".to_owned(), tag.clone()));
        }
        let has_body = matches!(operation, Operation::Initial | Operation::Modify);
        let body = has_body.then(|| {
            let body = publication_body(&self.domain, &self.server, Format::Xml);
            (Format::Xml.content_type(), body)
        });
        Draft {
            method: Method::Publish,
            uri: format!("sip:{}", self.domain),
            from: self.from.clone(),
            to: format!("<sip:{}>", self.domain),
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            headers,
            body,
        }
    }

    fn retry(&mut self, now_ms: u64, trouble: Trouble, retry_after_s: Option<u32>) {
        if self.is_stopping {
            // The lease ends it.
            self.phase = Phase::Ended;
            return;
        }
        self.leave(now_ms, &trouble);
        let wait_ms = match retry_after_s {
            Some(seconds) => u64::from(seconds) * 1_000,
            None => self.backoff.next_ms(&mut self.chance),
        };
        self.phase = Phase::Waiting {
            until_ms: now_ms + wait_ms,
        };
        self.fail(trouble);
    }

    fn fail(&mut self, trouble: Trouble) {
        if !std::mem::replace(&mut self.is_failing, true) {
            self.events.push_back(Event::Failing(trouble));
        }
    }

    /// There is nothing to remove, as far as is known.
    fn end_unpublished(&mut self) {
        if self.is_unsure {
            // The lease ends what may stand all the same.
            self.phase = Phase::Ended;
        } else {
            self.end(Event::Removed);
        }
    }

    fn end(&mut self, event: Event) {
        self.phase = Phase::Ended;
        self.events.push_back(event);
    }
}
