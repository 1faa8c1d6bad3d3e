//! What a crew does with the datagrams that reach it: finds the entity, lets it judge, counts, answers. Sends no
//! SUBSCRIBE of its own accord but the one that a gap asks for.

use std::io;
use std::rc::Rc;

use rand::RngExt;

use super::crew::{Crew, LateAnswer};
use super::micros;
use crate::document::Document;
use crate::entity::{self, Arrival, Example, Fault, Phase};
use crate::plan::Event;
use crate::sip::{self, Message, Notify, Response};
use crate::socket::{BATCH, Incoming, Origin};

/// Batches taken from one socket before the others have their turn.
const BATCHES: usize = 8;

const OK: &[u8] = b"SIP/2.0 200 OK\r\n";
const OUT_OF_ORDER: &[u8] = b"SIP/2.0 500 CSeq Out of Order\r\n";
const NO_SUBSCRIPTION: &[u8] = b"SIP/2.0 481 Subscription Does Not Exist\r\n";

/// Where an entity stood before a message, to see what the message changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    live: bool,
    has_view: bool,
    phase: Phase,
}

impl Crew<'_> {
    pub(super) fn drain(&mut self, socket: usize) -> io::Result<()> {
        let mut inbox = std::mem::take(&mut self.inbox);
        for _ in 0..BATCHES {
            let count = self.endpoints[socket].receive(&mut inbox)?;
            let now = self.now_us();
            // Never 0, which an entity takes for no batch at all.
            self.batch = self.batch.wrapping_add(1).max(1);
            for at in 0..count {
                let incoming = inbox.get(at);
                match self.scanner.scan(incoming.bytes) {
                    Ok(Message::Notify(notify)) if !incoming.truncated => {
                        self.on_notify(socket, &incoming, &notify, now)?;
                    }
                    Ok(Message::Response(response)) => self.on_response(&response, now),
                    _ => self.counts.unreadable += 1,
                }
            }
            self.endpoints[socket].flush()?;
            if count < BATCH {
                break;
            }
        }
        self.inbox = inbox;
        Ok(())
    }

    fn on_notify(
        &mut self,
        socket: usize,
        incoming: &Incoming,
        message: &Notify,
        now: u64,
    ) -> io::Result<()> {
        self.counts.received += 1;
        self.counts.arrivals.record(now);
        if self.is_measuring() {
            self.counts.bodies += 1;
            self.counts.body_bytes += message.body.len() as u64;
        }
        let index = message.entity(self.run);
        let Some(at) = index.and_then(|index| self.share.at(index)) else {
            self.counts.strays += 1;
            return self.answer(socket, incoming.from, message, None, NO_SUBSCRIPTION);
        };
        if message.generation() != Some(self.entities[at as usize].generation()) {
            return self.on_former_dialog(socket, incoming, message, at);
        }
        let mut notify = entity::Notify {
            branch: sip::branch_hash(message.branch),
            cseq: message.cseq,
            terminated: message.is_terminated(),
            position: None,
            // RFC 6665 forbids no overlap: it is the SIPserver package that does.
            may_overlap: self.plan.subject.event == Event::Presence,
            batch: self.batch,
        };
        if self.is_lost() {
            self.counts.lost_on_purpose += 1;
            let index = self.share.index(at);
            self.entities[at as usize].lose(index, &notify, &mut self.faults);
            return Ok(());
        }
        self.check_head(at, message);
        let document = self.read_body(at, message);
        notify.position = document
            .as_ref()
            .map(|(document, version)| document.position(*version));
        let before = self.stand(at);
        let index = self.share.index(at);
        let arrival = self.entities[at as usize].receive(index, &notify, &mut self.faults);
        if let (Arrival::New { taken: true, .. }, Some((document, _))) = (arrival, document) {
            self.take(at, &document, now);
        }
        self.note(at, before, now);
        let status = (self.status(arrival), arrival == Arrival::Retransmission);
        if self.entities[at as usize].is_silent() {
            return Ok(());
        }
        let wants_full = self.entities[at as usize].wants_full();
        self.answer_in_time(socket, incoming.from, message, at, status, now)?;
        if wants_full {
            self.counts.gaps += 1;
            self.send_new_subscribe(at, false)?;
        }
        self.return_if_left(at);
        Ok(())
    }

    fn is_lost(&mut self) -> bool {
        self.plan.loss > 0.0 && self.chance.random_bool(self.plan.loss)
    }

    /// A NOTIFY of the dialog that the entity gave up before it came back: the repeat of the last one is answered as
    /// that was, there must be no other.
    fn on_former_dialog(
        &mut self,
        socket: usize,
        incoming: &Incoming,
        message: &Notify,
        at: u32,
    ) -> io::Result<()> {
        if message.is_terminated() {
            self.counts.retransmissions += 1;
            return self.answer(socket, incoming.from, message, Some(at), OK);
        }
        self.counts.strays += 1;
        self.fault(at, message.cseq, Fault::AfterTheEnd);
        self.answer(socket, incoming.from, message, Some(at), NO_SUBSCRIPTION)
    }

    /// An entity that left in order to come back does so.
    fn return_if_left(&mut self, at: u32) {
        let entity = &mut self.entities[at as usize];
        if entity.may_return() {
            entity.renew();
            self.backlog.push_back(at);
        }
    }

    fn fault(&mut self, at: u32, cseq: u32, fault: Fault) {
        self.faults.add(Example {
            entity: self.share.index(at),
            fault,
            cseq,
            expected: 0,
            got: 0,
        });
    }

    fn check_head(&mut self, at: u32, message: &Notify) {
        let entity = &mut self.entities[at as usize];
        if !self
            .dialogs
            .learn(entity, message.from_tag, message.contact)
            || !message.is_to_its_own()
        {
            self.fault(at, message.cseq, Fault::WrongDialog);
        }
        if self.plan.record_route && !message.has_route_of(self.run) {
            self.fault(at, message.cseq, Fault::WrongRoute);
        }
        if message.event != self.plan.subject.event.name().as_bytes() {
            self.fault(at, message.cseq, Fault::Malformed);
        }
    }

    /// The document of a NOTIFY and this copy's version; `None` without a body or with one that breaks the rules.
    fn read_body(&mut self, at: u32, message: &Notify) -> Option<(Rc<Document>, Option<u32>)> {
        if message.body.is_empty() {
            return None;
        }
        let media_type = self.plan.format.media_type().as_bytes();
        if !message.content_type.eq_ignore_ascii_case(media_type) {
            self.fault(at, message.cseq, Fault::Malformed);
            return None;
        }
        match self.reader.read(message.body) {
            Ok(read) => Some(read),
            Err(reason) => {
                self.fault(at, message.cseq, Fault::Malformed);
                self.counts.malformed.get_or_insert(reason);
                None
            }
        }
    }

    fn take(&mut self, at: u32, document: &Document, now: u64) {
        let entity = &mut self.entities[at as usize];
        if entity.is_silent() {
            return;
        }
        if entity.is_away() {
            for &shown in &document.reached {
                self.rounds.caught_up(at, shown, now);
            }
            return;
        }
        for &shown in &document.reached {
            self.rounds.saw(at, shown, now);
        }
    }

    /// Counts an arrival, and says how it is answered.
    fn status(&mut self, arrival: Arrival) -> &'static [u8] {
        match arrival {
            Arrival::Retransmission => {
                self.counts.retransmissions += 1;
                OK
            }
            Arrival::OutOfOrder => OUT_OF_ORDER,
            Arrival::NoSubscription => {
                self.counts.strays += 1;
                NO_SUBSCRIPTION
            }
            Arrival::New { repeated, .. } => {
                self.counts.notified += 1;
                self.counts.repeated_views += u64::from(repeated);
                OK
            }
        }
    }

    pub(super) fn stand(&self, at: u32) -> Standing {
        let entity = &self.entities[at as usize];
        Standing {
            live: entity.is_live(),
            has_view: entity.has_view(),
            phase: entity.phase(),
        }
    }

    /// Counts what a message changed in an entity's standing.
    pub(super) fn note(&mut self, at: u32, before: Standing, now: u64) {
        let after = self.stand(at);
        if !before.has_view && after.has_view {
            if self.entities[at as usize].is_back() {
                self.away -= 1;
                self.counts.returned += 1;
            } else {
                self.counts.ready += 1;
                self.counts.last_ready_us = now;
            }
        }
        let is_away = self.entities[at as usize].is_away();
        match (before.phase, after.phase) {
            (Phase::Subscribing, Phase::Subscribed) if !is_away => {
                self.counts.subscribed += 1;
                self.counts.last_subscribed_us = now;
            }
            (Phase::Leaving, Phase::Left) if is_away => {}
            (Phase::Leaving, Phase::Left) => self.counts.left += 1,
            (Phase::Subscribed, Phase::Ended | Phase::Refused) if before.live => {
                self.live = self.live.saturating_sub(1);
            }
            (_, Phase::Ended | Phase::Refused) if is_away => {
                self.live = self.live.saturating_sub(1);
                self.away -= 1;
                self.entities[at as usize].is_back();
            }
            _ => {}
        }
    }

    /// Answers now, or later where the entity is slow.
    fn answer_in_time(
        &mut self,
        socket: usize,
        from: Origin,
        message: &Notify,
        at: u32,
        (status, is_repeat): (&[u8], bool),
        now: u64,
    ) -> io::Result<()> {
        let entity = &mut self.entities[at as usize];
        if entity.is_slow() && entity.is_unanswered() {
            // RFC 3261 17.2.2: a retransmission before the final response is discarded.
            if is_repeat && self.late.iter().any(|answer| answer.at == at) {
                return Ok(());
            }
            let mut bytes = Vec::new();
            message.repeated.write_answer(status, &mut bytes);
            self.late.push_back(LateAnswer {
                due_us: now + micros(self.plan.slow_by),
                at,
                to: from,
                bytes,
            });
            return Ok(());
        }
        if self.is_lost() {
            self.counts.withheld_on_purpose += 1;
            return Ok(());
        }
        self.entities[at as usize].answer(self.batch);
        self.answer(socket, from, message, Some(at), status)
    }

    /// Sends the answers of the slow that are due.
    pub(super) fn send_late(&mut self, now: u64) -> io::Result<()> {
        while self.late.front().is_some_and(|answer| answer.due_us <= now)
            && let Some(answer) = self.late.pop_front()
        {
            if self.is_lost() {
                self.counts.withheld_on_purpose += 1;
                continue;
            }
            self.entities[answer.at as usize].answer(self.batch);
            let source = self.share.address(answer.at);
            self.endpoints[self.share.socket(answer.at)].reply(answer.to, source, |out| {
                out.extend_from_slice(&answer.bytes);
            })?;
        }
        Ok(())
    }

    /// Answers a NOTIFY. RFC 3581 4: from the address and port that it was received on, to where it came from.
    fn answer(
        &mut self,
        socket: usize,
        from: Origin,
        message: &Notify,
        at: Option<u32>,
        status: &[u8],
    ) -> io::Result<()> {
        let source = at.and_then(|at| self.share.address(at));
        self.endpoints[socket].reply(from, source, |out| {
            message.repeated.write_answer(status, out);
        })
    }

    fn on_response(&mut self, response: &Response, now: u64) {
        let Some((index, cseq)) = self.run.transaction(response.branch) else {
            self.counts.unreadable += 1;
            return;
        };
        if self.is_lost() {
            self.counts.lost_on_purpose += 1;
            return;
        }
        let at = self.share.at(index);
        let Some(at) = at.filter(|&at| self.entities[at as usize].awaits(cseq)) else {
            self.counts.late_answers += 1;
            return;
        };
        if response.status < 200 {
            return;
        }
        self.unanswered -= 1;
        // Timer E no longer runs.
        self.entities[at as usize].deadline = u32::MAX;
        // RFC 3261 21.5.4: try again after the time that Retry-After names.
        if let (503, Some(seconds)) = (response.status, response.retry_after) {
            self.counts.put_off += 1;
            let entity = &mut self.entities[at as usize];
            entity.put_off();
            entity.deadline = self.wheel.arm(at, now / 1_000, u64::from(seconds) * 1_000);
            return;
        }
        let before = self.stand(at);
        self.entities[at as usize].answered(response.status);
        self.note(at, before, now);
        self.return_if_left(at);
        if response.status >= 300 {
            // Its 200, or the NOTIFY that ended it, was lost on purpose.
            let gone = matches!(before.phase, Phase::Leaving | Phase::Left);
            if !gone || response.status != 481 || self.plan.loss == 0.0 {
                *self.counts.refused.entry(response.status).or_default() += 1;
            }
            return;
        }
        if self.entities[at as usize].phase() == Phase::Idle {
            // Renewed just now: this answer was its former dialog's.
            return;
        }
        let entity = &mut self.entities[at as usize];
        if !self
            .dialogs
            .learn(entity, response.to_tag, response.contact)
        {
            self.fault(at, cseq, Fault::WrongDialog);
        }
        let granted = response.expires.unwrap_or(self.plan.expires);
        self.arm_refresh(at, granted, now);
    }

    fn arm_refresh(&mut self, at: u32, granted: u32, now: u64) {
        let entity = &mut self.entities[at as usize];
        if entity.phase() != Phase::Subscribed {
            return;
        }
        let granted_ms = u64::from(granted) * 1_000;
        // Spread from half of the lifetime to nine tenths, so that a swarm does not refresh as one.
        let spread = u64::from(at.wrapping_mul(0x9e37_79b1) >> 16);
        let delay_ms = granted_ms / 2 + granted_ms * 2 / 5 * spread / 65_536;
        entity.deadline = self.wheel.arm(at, now / 1_000, delay_ms);
    }
}
