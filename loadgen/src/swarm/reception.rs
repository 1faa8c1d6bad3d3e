//! What the swarm does with the datagrams that reach it: finds the entity, lets it judge, counts, answers. Sends no
//! SUBSCRIBE of its own accord but the one that a gap asks for.

use std::io;
use std::rc::Rc;

use rand::RngExt;

use super::{Swarm, own_address};
use crate::document::Document;
use crate::entity::{self, Arrival, Example, Fault, Phase};
use crate::sip::{self, Message, Notify, Response};
use crate::socket::{BATCH, Incoming};

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

impl Swarm<'_> {
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

    pub(super) fn drain_publisher(&mut self) -> io::Result<()> {
        let count = self.publisher.endpoint().receive(&mut self.inbox)?;
        let now = self.now_us();
        for at in 0..count {
            match self.scanner.scan(self.inbox.get(at).bytes) {
                Ok(Message::Response(response)) => self.publisher.receive(&response, now)?,
                _ => self.counts.unreadable += 1,
            }
        }
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
        let index = message.entity(self.run);
        let Some(index) = index.filter(|&index| index < self.plan.entities) else {
            self.counts.strays += 1;
            return self.answer(socket, incoming, message, None, NO_SUBSCRIPTION);
        };
        let mut notify = entity::Notify {
            branch: sip::branch_hash(message.branch),
            cseq: message.cseq,
            terminated: message.is_terminated(),
            position: None,
            batch: self.batch,
        };
        if self.plan.loss > 0.0 && self.chance.random_bool(self.plan.loss) {
            self.counts.lost_on_purpose += 1;
            self.entities[index as usize].lose(index, &notify, &mut self.faults);
            return Ok(());
        }
        self.check_head(index, message);
        let document = self.read_body(index, message);
        notify.position = document
            .as_ref()
            .map(|(document, version)| document.position(*version));
        let before = self.standing(index);
        let arrival = self.entities[index as usize].receive(index, &notify, &mut self.faults);
        if let (Arrival::New { taken: true, .. }, Some((document, _))) = (arrival, document) {
            self.take(index, &document, now);
        }
        self.note(index, before, now);
        let status = self.status(arrival);
        let entity = &mut self.entities[index as usize];
        if entity.is_silent() {
            return Ok(());
        }
        entity.answer(self.batch);
        let wants_full = entity.wants_full();
        self.answer(socket, incoming, message, Some(index), status)?;
        if wants_full {
            self.counts.gaps += 1;
            self.send_new_subscribe(index, false)?;
        }
        Ok(())
    }

    fn fault(&mut self, index: u32, cseq: u32, fault: Fault) {
        self.faults.add(Example {
            entity: index,
            fault,
            cseq,
            expected: 0,
            got: 0,
        });
    }

    fn check_head(&mut self, index: u32, message: &Notify) {
        let entity = &mut self.entities[index as usize];
        if !self
            .dialogs
            .learn(entity, message.from_tag, message.contact)
            || !message.is_to_its_own()
        {
            self.fault(index, message.cseq, Fault::WrongDialog);
        }
        if message.event != b"SIPserver" {
            self.fault(index, message.cseq, Fault::Malformed);
        }
    }

    /// The document of a NOTIFY and this copy's version; `None` without a body or with one that breaks the rules.
    fn read_body(&mut self, index: u32, message: &Notify) -> Option<(Rc<Document>, u32)> {
        if message.body.is_empty() {
            return None;
        }
        let media_type = self.plan.format.media_type().as_bytes();
        if !message.content_type.eq_ignore_ascii_case(media_type) {
            self.fault(index, message.cseq, Fault::Malformed);
            return None;
        }
        match self.reader.read(message.body) {
            Ok(read) => Some(read),
            Err(reason) => {
                self.fault(index, message.cseq, Fault::Malformed);
                self.counts.malformed.get_or_insert(reason);
                None
            }
        }
    }

    fn take(&mut self, index: u32, document: &Document, now: u64) {
        if self.entities[index as usize].is_silent() {
            return;
        }
        for &shown in &document.reached {
            self.rounds.saw(index, shown, now);
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

    pub(super) fn standing(&self, index: u32) -> Standing {
        let entity = &self.entities[index as usize];
        Standing {
            live: entity.is_live(),
            has_view: entity.has_view(),
            phase: entity.phase(),
        }
    }

    /// Counts what a message changed in an entity's standing.
    pub(super) fn note(&mut self, index: u32, before: Standing, now: u64) {
        let after = self.standing(index);
        if !before.has_view && after.has_view {
            self.counts.ready += 1;
            self.counts.last_ready_us = now;
        }
        match (before.phase, after.phase) {
            (Phase::Subscribing, Phase::Subscribed) => {
                self.counts.subscribed += 1;
                self.counts.last_subscribed_us = now;
            }
            (Phase::Leaving, Phase::Left) => self.counts.left += 1,
            (Phase::Subscribed, Phase::Ended | Phase::Refused) if before.live => {
                self.live = self.live.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// Answers a NOTIFY. RFC 3581 4: from the address and port that it was received on, to where it came from.
    fn answer(
        &mut self,
        socket: usize,
        incoming: &Incoming,
        message: &Notify,
        index: Option<u32>,
        status: &[u8],
    ) -> io::Result<()> {
        let source = index.and_then(|index| own_address(self.plan, self.contact(index)));
        self.endpoints[socket].reply(incoming, source, |out| {
            message.repeated.write_answer(status, out);
        })
    }

    fn on_response(&mut self, response: &Response, now: u64) {
        let Some((index, cseq)) = self.run.transaction(response.branch) else {
            self.counts.unreadable += 1;
            return;
        };
        let entity = self.entities.get(index as usize);
        if !entity.is_some_and(|entity| entity.awaits(cseq)) {
            self.counts.late_answers += 1;
            return;
        }
        if response.status < 200 {
            return;
        }
        self.unanswered -= 1;
        let before = self.standing(index);
        self.entities[index as usize].answered(response.status);
        self.note(index, before, now);
        if response.status >= 300 {
            *self.counts.refused.entry(response.status).or_default() += 1;
            return;
        }
        let entity = &mut self.entities[index as usize];
        if !self
            .dialogs
            .learn(entity, response.to_tag, response.contact)
        {
            self.fault(index, cseq, Fault::WrongDialog);
        }
        let granted = response.expires.unwrap_or(self.plan.expires);
        self.arm_refresh(index, granted, now);
    }

    fn arm_refresh(&mut self, index: u32, granted: u32, now: u64) {
        let entity = &mut self.entities[index as usize];
        if entity.phase() != Phase::Subscribed {
            return;
        }
        let granted_ms = u64::from(granted) * 1_000;
        // Spread from half of the lifetime to nine tenths, so that a swarm does not refresh as one.
        let spread = u64::from(index.wrapping_mul(0x9e37_79b1) >> 16);
        let delay_ms = granted_ms / 2 + granted_ms * 2 / 5 * spread / 65_536;
        entity.deadline = self.wheel.arm(index, now / 1_000, delay_ms);
    }
}
