//! SUBSCRIBEs and what their answers mean (RFC 6665 4.1.2). Knows no NOTIFY.

use std::net::SocketAddr;

use rsip::headers::{Accept, Contact, Event as EventHeader, Expires, UntypedHeader};
use rsip::{Header, Method};

use super::dialog::Dialog;
use super::{Asked, Event, NONSENSE_MOST, Phase, Subscription, Wish};
use crate::client::{Draft, LIFE_MS, Local, Outgoing, PATIENCE_MS, Response, Transaction};
use crate::info::Format;
use crate::sip::EVENT_PACKAGE;

/// The media type of a filter (draft-ma-sipping-server-event-package 3.3).
const FILTER_TYPE: &str = "application/serverinfo";

impl Subscription {
    /// Begins a dialog. RFC 6665 4.1.2.4: Timer N starts with the SUBSCRIBE.
    pub(super) fn open(&mut self, now_ms: u64) {
        self.dialog = Dialog::new(&mut self.chance);
        self.begun_ms = now_ms;
        self.speaker = None;
        self.is_gapped = false;
        self.phase = Phase::Opening {
            notify_by_ms: now_ms + LIFE_MS,
        };
        self.subscribe(now_ms, self.wish.expires_s);
    }

    pub(super) fn subscribe(&mut self, now_ms: u64, expires_s: u32) {
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

    pub(super) fn answered(&mut self, now_ms: u64, response: &Response) {
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
            // What was dropped while the answer was under way is still to be asked for.
            if self.is_gapped {
                self.resync(now_ms);
            }
            if self.nonsense < NONSENSE_MOST {
                self.recover();
            }
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
}
