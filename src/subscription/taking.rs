//! Requests that come in: NOTIFYs and what they mean (RFC 6665 4.1.3), and how all are answered. Sends no SUBSCRIBE itself.

use std::net::SocketAddr;

use super::notify::{Ending, Notify, Refused, State, acceptable};
use super::{Event, NONSENSE_MOST, Phase, Subscription};
use crate::client::{LIFE_MS, Outgoing, Trouble};
use crate::info::{Applied, Document};
use crate::sip::request::Request;
use crate::sip::scan::Message;
use crate::sip::write::{Responder, answer_to};

impl Subscription {
    pub(super) fn requested(&mut self, now_ms: u64, source: SocketAddr, message: &Message<'_>) {
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
        match notify {
            Ok(notify) => self.take(now_ms, notify),
            Err(refused) => {
                self.doubt("malformed");
                self.resync(now_ms);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// A document was dropped. One may get lost, or be of another version; a row of them is no service.
    fn doubt(&mut self, why: &'static str) {
        self.nonsense += 1;
        if self.nonsense >= NONSENSE_MOST {
            self.fail(Trouble::Nonsense(why));
        }
    }

    /// Another cluster's table is none that was asked for; `*` is any domain's. And one dialog is with one life of a
    /// notifier: the next one knows nothing of it.
    fn is_ours(&mut self, document: &Document) -> bool {
        let domain = document.domain.as_deref();
        let is_domain = domain
            .is_none_or(|domain| domain == "*" || domain.eq_ignore_ascii_case(&self.wish.domain));
        let is_speaker = self.speaker.is_none() || self.speaker == document.notifier;
        if is_domain && is_speaker {
            self.speaker.clone_from(&document.notifier);
        }
        is_domain && is_speaker
    }

    fn take(&mut self, now_ms: u64, notify: Notify) {
        // RFC 6665 4.1.2.4: a NOTIFY may come before the answer to its SUBSCRIBE. Who notifies is not silent; were it called
        // so, the late answer would restore it, and what it is waited for then has come already.
        if let Some(asked) = &mut self.asked {
            asked.silent_ms = None;
        }
        let applied = notify.document.map(|document| {
            if self.is_ours(&document) {
                self.table.apply(document)
            } else {
                Applied::Gap
            }
        });
        let mut is_shown = false;
        if matches!(applied, Some(Applied::Changed | Applied::Unchanged)) {
            self.backoff.reset();
            self.nonsense = 0;
            is_shown = self.show();
        }
        self.events.push_back(match is_shown {
            true => Event::View,
            false => Event::Notified,
        });
        match applied {
            Some(Applied::Gap) => {
                self.doubt("of another domain, or does not follow on what it said")
            }
            _ if self.nonsense < NONSENSE_MOST => self.recover(),
            _ => {}
        }
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

    /// Whether there is a view that was not told of.
    fn show(&mut self) -> bool {
        let view = self
            .table
            .notifier()
            .map(str::to_owned)
            .zip(self.table.view());
        let is_new = self.shown != view;
        self.shown = view;
        is_new
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

    fn terminated(&mut self, now_ms: u64, ending: Ending, retry_after: Option<u32>) {
        let is_fetched = self.wish.expires_s == 0 && self.shown.is_some();
        if is_fetched || matches!(self.phase, Phase::Closing) {
            return self.end(Event::Over);
        }
        match ending {
            Ending::Rejected | Ending::NoResource | Ending::Invariant => {
                self.end(Event::Terminated(ending));
            }
            Ending::Timeout => self.reopen_soon(now_ms),
            // Others may serve meanwhile.
            Ending::Deactivated => {
                self.fail(Trouble::Ended(ending.as_str()));
                self.reopen_soon(now_ms);
            }
            Ending::Probation | Ending::Giveup | Ending::Unknown => {
                self.reopen_later(now_ms, Trouble::Ended(ending.as_str()), retry_after);
            }
        }
    }

    /// RFC 6665 5.3.2: a gap is closed by a refresh, whose NOTIFY is full. Not more often than once a second.
    pub(super) fn resync(&mut self, now_ms: u64) {
        let earliest_ms = self
            .resynced_ms
            .map_or(now_ms, |last| (last + 1_000).max(now_ms));
        if let Phase::Running { refresh_ms, .. } = &mut self.phase {
            *refresh_ms = earliest_ms.min(*refresh_ms);
            self.is_gapped = true;
        }
    }

    pub(super) fn answer(&mut self, message: &Message<'_>, source: SocketAddr, verdict: Refused) {
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
