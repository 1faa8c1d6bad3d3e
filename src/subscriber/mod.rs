//! The entity's side: one subscription (RFC 6665 4.1), kept up until it is stopped or refused for good, and the table that
//! it fills. Pure: time, chance and bytes are given, messages and events are taken. Knows no socket, clock or screen.

mod dialog;
mod notify;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use rsip::headers::{Accept, Contact, Event as EventHeader, Expires, UntypedHeader};
use rsip::{Header, Method};

use crate::client::{
    Agent, Backoff, Chance, Draft, Due, LIFE_MS, Local, Outgoing, PATIENCE_MS, Refusal, Response,
    Transaction, Trouble,
};
use crate::info::{Applied, Filter, Format, Table};
use crate::sip::EVENT_PACKAGE;
use crate::sip::header::Via;
use crate::sip::request::Request;
use crate::sip::scan::{Message as Scanned, Name, Start, scan};
use crate::sip::write::Responder;
use dialog::Dialog;
pub use notify::Ending;
use notify::{Notify, Refused, State, acceptable};

/// A subscription that ends sooner after its beginning is not begun again at once.
const SHORT_LIFE_MS: u64 = 1_000;
/// The media type of a filter (draft-ma-sipping-server-event-package 3.3).
const FILTER_TYPE: &str = "application/serverinfo";

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
    /// The table is another: see [`Subscription::table`].
    View,
    /// A NOTIFY was taken, whatever it said.
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
            is_failing: false,
            backoff: Backoff::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
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

    fn requested(&mut self, now_ms: u64, source: SocketAddr, message: &Scanned<'_>) {
        let verdict = match Request::parse(message) {
            Ok(request) => self.notified(now_ms, &request),
            Err(malformed) => Err(Refused::with(malformed.status().unwrap_or(400))),
        };
        self.answer(message, source, verdict.err().unwrap_or(Refused::with(200)));
    }

    /// Judges a request and does what a NOTIFY says; `Err` is how it is refused.
    fn notified(&mut self, now_ms: u64, request: &Request<'_, '_>) -> Result<(), Refused> {
        acceptable(request)?;
        let is_ours = self.dialog.cseq > 0 && self.dialog.is_of(request);
        // RFC 6665 8.2.1: a NOTIFY has the SUBSCRIBE's `id`; ours have none.
        if !is_ours || request.event.is_some_and(|event| event.id.is_some()) {
            return Err(Refused::with(481));
        }
        let last = self.dialog.remote.as_ref().map(|remote| remote.last);
        match last {
            // A repeat is answered as before, and does nothing.
            Some((cseq, 200)) if request.cseq.number == cseq => return Ok(()),
            Some((cseq, status)) if request.cseq.number == cseq => {
                return Err(Refused::with(status));
            }
            // RFC 3261 12.2.2: a lower CSeq is out of order.
            Some((cseq, _)) if request.cseq.number < cseq => return Err(Refused::with(500)),
            _ => {}
        }
        if matches!(self.phase, Phase::Waiting { .. } | Phase::Ended) {
            return Err(Refused::with(481));
        }
        let notify = Notify::read(request);
        let status = notify
            .as_ref()
            .map_or_else(|refused| refused.status, |_| 200);
        self.dialog.take(request, status);
        self.take(now_ms, notify?);
        Ok(())
    }

    fn take(&mut self, now_ms: u64, notify: Notify) {
        self.events.push_back(Event::Notified);
        let applied = notify.document.map(|document| self.table.apply(document));
        if matches!(applied, Some(Applied::Changed | Applied::Unchanged)) {
            self.backoff.reset();
            self.show();
        }
        self.recover();
        match notify.state {
            State::Running { expires } => self.running(now_ms, expires),
            State::Terminated {
                ending,
                retry_after,
            } => {
                return self.terminated(now_ms, ending, retry_after);
            }
        }
        if applied == Some(Applied::Gap) {
            self.resync(now_ms);
        }
    }

    /// Tells of a view that was not told of.
    fn show(&mut self) {
        let view = self
            .table
            .notifier()
            .map(str::to_owned)
            .zip(self.table.view());
        if self.shown != view {
            self.shown = view;
            self.events.push_back(Event::View);
        }
    }

    /// RFC 6665 4.1.3: the notifier's `expires` counts.
    fn running(&mut self, now_ms: u64, expires: Option<u32>) {
        let left_ms = u64::from(expires.unwrap_or(self.wish.expires_s)) * 1_000;
        let new_end_ms = now_ms + left_ms;
        match self.phase {
            // A fetch in parts: its last NOTIFY says terminated.
            Phase::Opening { .. } if self.wish.expires_s == 0 => {
                self.phase = Phase::Opening {
                    notify_by_ms: now_ms + LIFE_MS,
                };
            }
            Phase::Opening { .. } => self.run(now_ms, new_end_ms),
            Phase::Running { end_ms, .. } if new_end_ms + 2_000 < end_ms => {
                self.run(now_ms, new_end_ms)
            }
            _ => {}
        }
    }

    /// The subscription lasts until `end_ms`; it is refreshed at a random time before, so that those of many subscribers
    /// do not fall together.
    fn run(&mut self, now_ms: u64, end_ms: u64) {
        let left_ms = end_ms.saturating_sub(now_ms);
        let refresh_ms = now_ms + self.chance.within(left_ms / 2..left_ms * 9 / 10);
        self.phase = Phase::Running { refresh_ms, end_ms };
    }

    fn terminated(&mut self, now_ms: u64, ending: Ending, retry_after: Option<u32>) {
        let is_fetched = self.wish.expires_s == 0 && self.shown.is_some();
        if is_fetched || matches!(self.phase, Phase::Closing) {
            return self.end(Event::Over);
        }
        match ending {
            Ending::Rejected | Ending::NoResource | Ending::Invariant => {
                self.end(Event::Terminated(ending));
            }
            Ending::Deactivated | Ending::Timeout => self.reopen_soon(now_ms),
            Ending::Probation | Ending::Giveup | Ending::Unknown => {
                self.reopen(now_ms, retry_after);
            }
        }
    }

    /// RFC 6665 5.3.2: a gap is closed by a refresh, whose NOTIFY is full. Not more often than once a second.
    fn resync(&mut self, now_ms: u64) {
        let earliest_ms = self
            .resynced_ms
            .map_or(now_ms, |last| (last + 1_000).max(now_ms));
        if let Phase::Running { refresh_ms, .. } = &mut self.phase {
            *refresh_ms = earliest_ms.min(*refresh_ms);
            self.is_gapped = true;
        }
    }

    fn answered(&mut self, now_ms: u64, response: &Response) {
        let Some(asked) = self
            .asked
            .as_mut()
            .filter(|asked| asked.transaction.matches(response))
        else {
            return;
        };
        if response.status < 200 {
            return asked.transaction.provisional(now_ms);
        }
        self.asked = None;
        if response.is_success() {
            return self.accepted(now_ms, response);
        }
        match self.phase {
            Phase::Closing => self.end(Event::Over),
            Phase::Running { end_ms, .. } => self.refresh_refused(now_ms, end_ms, response),
            Phase::Opening { .. } => self.refused(now_ms, response),
            Phase::Waiting { .. } | Phase::Ended => {}
        }
    }

    fn accepted(&mut self, now_ms: u64, response: &Response) {
        if matches!(self.phase, Phase::Running { .. }) {
            let granted_s = response.expires.unwrap_or(self.wish.expires_s);
            self.run(now_ms, now_ms + u64::from(granted_s) * 1_000);
            self.recover();
        }
    }

    fn refused(&mut self, now_ms: u64, response: &Response) {
        match response.status {
            423 if self.raise_expires(response) => self.subscribe(now_ms, self.wish.expires_s),
            _ if response.is_temporary() => {
                self.reopen_later(now_ms, response.trouble(), response.retry_after);
            }
            _ => self.end(Event::Refused(response.refusal())),
        }
    }

    fn refresh_refused(&mut self, now_ms: u64, end_ms: u64, response: &Response) {
        match response.status {
            423 if self.raise_expires(response) => self.subscribe(now_ms, self.wish.expires_s),
            481 => self.reopen_soon(now_ms),
            // RFC 6665 4.1.2.2: these end the subscription; any other leaves it until it expires.
            404 | 405 | 410 | 416 | 480 | 482..=485 | 489 | 501 | 604 => {
                self.reopen_later(now_ms, response.trouble(), response.retry_after);
            }
            _ => {
                let refresh_ms = now_ms + self.wait_ms(response.retry_after);
                self.phase = Phase::Running { refresh_ms, end_ms };
                self.fail(response.trouble());
            }
        }
    }

    fn raise_expires(&mut self, response: &Response) -> bool {
        let least = response
            .min_expires
            .filter(|least| *least > self.wish.expires_s);
        self.wish.expires_s = least.unwrap_or(self.wish.expires_s);
        least.is_some()
    }

    /// Begins a dialog. RFC 6665 4.1.2.4: Timer N starts with the SUBSCRIBE.
    fn open(&mut self, now_ms: u64) {
        self.dialog = Dialog::new(&mut self.chance);
        self.begun_ms = now_ms;
        self.is_gapped = false;
        self.phase = Phase::Opening {
            notify_by_ms: now_ms + LIFE_MS,
        };
        self.subscribe(now_ms, self.wish.expires_s);
    }

    fn subscribe(&mut self, now_ms: u64, expires_s: u32) {
        self.dialog.cseq += 1;
        let (draft, to) = self.draft(expires_s);
        let transaction = Transaction::begin(now_ms, &self.local, &mut self.chance, draft);
        let bytes = transaction.bytes().to_vec();
        self.outbox.push_back(Outgoing { to, bytes });
        self.asked = Some(Asked {
            transaction,
            to,
            silent_ms: Some(now_ms + PATIENCE_MS),
        });
    }

    fn draft(&self, expires_s: u32) -> (Draft, Option<SocketAddr>) {
        let Wish { domain, filter, .. } = &self.wish;
        let Dialog {
            call_id,
            local_tag,
            cseq,
            remote,
        } = &self.dialog;
        let resource = format!("sip:{domain}");
        let (uri, routes, to) = match remote {
            Some(remote) => remote.route(),
            None => (resource.clone(), Vec::new(), None),
        };
        let mut headers: Vec<Header> = vec![
            Contact::new(self.contact()).into(),
            EventHeader::new(EVENT_PACKAGE).into(),
            Expires::new(expires_s.to_string()).into(),
            Accept::new(Format::Xml.content_type()).into(),
        ];
        headers.extend(routes);
        let remote_tag = remote
            .as_ref()
            .map(|remote| String::from_utf8_lossy(&remote.tag));
        let to_tag = remote_tag
            .map(|tag| format!(";tag={tag}"))
            .unwrap_or_default();
        // A refresh without a body keeps the filter.
        let filter = filter.as_ref().filter(|_| remote.is_none());
        let draft = Draft {
            method: Method::Subscribe,
            uri,
            from: format!("<sip:fanfare@{}>;tag={local_tag}", self.local.address),
            to: format!("<{resource}>{to_tag}"),
            call_id: call_id.clone(),
            cseq: *cseq,
            headers,
            body: filter.map(|filter| (FILTER_TYPE, filter.canonical())),
        };
        (draft, to)
    }

    fn contact(&self) -> String {
        let Local { transport, address } = self.local;
        let transport = transport.via_name().to_ascii_lowercase();
        format!("<sip:fanfare@{address};transport={transport}>")
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
            Some(seconds) => u64::from(seconds) * 1_000,
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

    fn answer(&mut self, message: &Scanned<'_>, source: SocketAddr, verdict: Refused) {
        let mut bytes = Vec::new();
        let responder = Responder::new(message, verdict.status, source);
        let responder = responder.to_tag(self.dialog.local_tag.as_bytes());
        // What cannot be answered is an ACK or names no transaction: it is dropped.
        if let Ok(mut response) = responder.begin(&mut bytes) {
            if let Some((name, value)) = verdict.header {
                response.header(name, value.as_bytes());
            }
            response.finish();
            let to = Some(answer_to(message, source));
            self.outbox.push_back(Outgoing { to, bytes });
        }
    }
}

/// RFC 3261 18.2.2 and RFC 3581 4: to the source's address, and to its port if the Via asks so by rport.
fn answer_to(message: &Scanned<'_>, source: SocketAddr) -> SocketAddr {
    let via = message.elements(Name::Via).next().and_then(Via::parse);
    match via {
        Some(via) if !via.rport => SocketAddr::new(source.ip(), via.port.unwrap_or(5060)),
        _ => source,
    }
}
