//! Answers to our NOTIFYs, and what becomes of the subscription (RFC 3261 17.1.2, RFC 6665 4.2.2). Knows no document.

use super::handle::Handle;
use super::settings::Nat;
use super::subscription::{Flag, Owed, Phase, SetProgress};
use super::target::{NextHop, contact_uri};
use super::transaction::{Offer, Rates, Transaction};
use super::{Effect, Notifier, Outbox};
use crate::sip::answer::{Answer, answer};
use crate::sip::header::{Event, NameAddr, Via};
use crate::sip::request::Request;
use crate::sip::scan::{Name, scan};
use crate::sip::uri::SipUri;
use crate::wire::{Flow, Transport};

use super::requests::Refusal;

/// The fifth failure in a row ends a subscription that is otherwise kept.
const FAILURES_MOST: u8 = 5;
const RETRY_MOST_S: u64 = 32;

impl Notifier {
    pub(super) fn answer(&mut self, now_ms: u64, flow: Flow, bytes: &[u8], out: &mut Outbox) {
        let Ok(answer) = answer(bytes) else {
            self.counters.garbage += 1;
            return;
        };
        // RFC 3261 17.1.3: a response matches by the top Via's branch and the CSeq method.
        let Some((handle, cseq)) =
            Handle::from_branch(answer.branch, &self.key).filter(|_| answer.method == b"NOTIFY")
        else {
            self.counters.late_answers += 1;
            return;
        };
        if handle.shard != self.shard {
            if handle.shard < self.settings.shards {
                self.hand_over(handle.shard, flow, bytes, out);
            }
            return;
        }
        let outstanding = self
            .slots
            .find(handle)
            .is_some_and(|subscription| subscription.is_outstanding() && subscription.cseq == cseq);
        if !outstanding || answer.cseq != cseq {
            self.counters.late_answers += 1;
            return;
        }
        if answer.status < 200 {
            if let Some(transaction) = self.slots.transaction_mut(handle.slot) {
                transaction.proceeding = true;
            }
            return;
        }
        if let Some(transaction) = self.close_transaction(handle.slot, now_ms, true) {
            self.answered(now_ms, handle.slot, transaction, &answer);
        }
    }

    fn answered(&mut self, now_ms: u64, slot: u32, transaction: Transaction, answer: &Answer<'_>) {
        if answer.status < 300 {
            self.counters.acknowledged += 1;
        } else {
            self.counters.rejected += 1;
        }
        match answer.status {
            _ if transaction.last => self.end(slot, now_ms),
            200..=299 => self.acknowledged(now_ms, slot, transaction, answer),
            // RFC 6665 4.2.2: these end the subscription; 401 and 407 too, for we hold no credentials, and 408 as
            // Timer F would.
            401 | 404 | 405 | 407 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604 => {
                self.counters.removed += 1;
                self.end(slot, now_ms);
            }
            _ if self.slots.get(slot).ends() => {
                // Not the last NOTIFY: that one is still owed (RFC 6665 4.2.1.4).
                self.leave_set(slot);
                self.queue_due(slot);
            }
            _ => self.failed(now_ms, slot, answer.retry_after),
        }
    }

    fn acknowledged(
        &mut self,
        now_ms: u64,
        slot: u32,
        transaction: Transaction,
        answer: &Answer<'_>,
    ) {
        let subscription = self.slots.get_mut(slot);
        subscription.failures = 0;
        let hop = subscription.hop;
        if !subscription.flags.set(Flag::Proven, true) {
            self.prove(hop);
        }
        let subscription = self.slots.get_mut(slot);
        match transaction.offer {
            Offer::View(view) => subscription.acked = view,
            Offer::Nothing => subscription.acked = 0,
            Offer::Part => {
                // The next part goes out after the former's 2xx.
                if let Some(progress) = self.slots.set(slot) {
                    let next = progress.next + 1;
                    self.slots.begin_set(slot, SetProgress { next, ..progress });
                }
                return self.queue_due(slot);
            }
        }
        self.leave_set(slot);
        // Nobody has armed the wheel for a Timer E, and no rate changes.
        let undisturbed = transaction.fired == 0 && answer.event.is_none();
        if let Some(event) = answer.event {
            self.adopt_rates(now_ms, slot, event);
        }
        if let Some(contact) = answer.contact {
            self.adopt_target(now_ms, slot, contact);
        }
        if matches!(self.slots.get(slot).phase, Phase::Ending { .. }) {
            return self.queue_due(slot);
        }
        if !undisturbed || !self.is_settled(slot, now_ms) {
            self.arm(slot, now_ms);
        }
    }

    /// RFC 6446 5.2: the subscriber may change its rates in a 2xx to NOTIFY; one without Event changes nothing.
    fn adopt_rates(&mut self, now_ms: u64, slot: u32, event: &[u8]) {
        let Some(event) = Event::parse(event) else {
            return;
        };
        if event.max_rate.is_none() && event.min_rate.is_none() {
            return;
        }
        let former = self.slots.rates(slot);
        let rates = Rates {
            max: event.max_rate.or(former.max),
            min: event.min_rate.or(former.min),
        };
        let remaining_s = self.slots.get(slot).remaining_s(now_ms);
        self.slots.set_rates(slot, rates.limited(remaining_s));
        self.schedule_refresh(slot, now_ms);
    }

    /// RFC 3261 12.2.1.2: a 2xx to a target refresh request replaces the remote target by its Contact. The new one has
    /// still to prove that it wants NOTIFYs, so it gets one at once.
    fn adopt_target(&mut self, now_ms: u64, slot: u32, contact: &[u8]) {
        let Some(contact) = NameAddr::parse(contact) else {
            return;
        };
        let dialog = self.slots.dialog(slot);
        if contact.uri == dialog.target {
            return;
        }
        let Ok(uri) = contact_uri(&contact) else {
            return;
        };
        let flow = self.hops.flow(self.slots.get(slot).hop);
        let Ok(NextHop::At(hop)) = self.next_hop(now_ms, flow, dialog.routes, &uri) else {
            return;
        };
        if !dialog.has_room_for(contact.uri, hop.transport.is_reliable()) {
            return;
        }
        self.move_to(slot, hop, contact.uri);
        if !self.slots.get(slot).flags.has(Flag::Proven) {
            self.introduce(slot, now_ms);
        }
    }

    /// A new target gets the full state as soon as max-rate allows: until it answers, it gets no changes.
    fn introduce(&mut self, slot: u32, now_ms: u64) {
        let subscription = self.slots.get_mut(slot);
        if subscription.phase != Phase::Active || subscription.owed != Owed::Nothing {
            return;
        }
        subscription.owed = Owed::Full;
        let sent_ms = subscription.sent.ms(now_ms);
        let allowed_ms = self.slots.allowed_ms(slot, now_ms);
        self.slots.details_mut(slot).retry_ms = now_ms
            .max(allowed_ms)
            .max(sent_ms + self.settings.min_interval_ms);
        self.leave_set(slot);
        self.arm(slot, now_ms);
    }

    /// Where a refresh's Contact sends NOTIFYs from now on, if it is another.
    pub(super) fn moved_target(
        &self,
        now_ms: u64,
        flow: Flow,
        slot: u32,
        request: &Request<'_, '_>,
    ) -> Result<Option<NextHop>, Refusal> {
        let dialog = self.slots.dialog(slot);
        let Some(contact) = request.contact else {
            return Ok(None);
        };
        let current = self.hops.flow(self.slots.get(slot).hop);
        // A refresh by another connection moves the dialog there even if its Contact stays.
        let stays = match self.settings.nat {
            Nat::Source => current == flow,
            Nat::Off => current.connection == flow.connection,
        };
        if contact.uri == dialog.target && stays {
            return Ok(None);
        }
        let uri = contact_uri(&contact)?;
        let next = self.next_hop(now_ms, flow, dialog.routes, &uri)?;
        if let NextHop::At(hop) = next
            && !dialog.has_room_for(contact.uri, hop.transport.is_reliable())
        {
            return Err(Refusal::because(
                513,
                "Contact leaves no room for a document",
            ));
        }
        Ok(Some(next))
    }

    pub(super) fn retarget(&mut self, slot: u32, hop: Flow, request: &Request<'_, '_>) {
        if let Some(contact) = request.contact {
            self.move_to(slot, hop, contact.uri);
        }
    }

    /// Moves a dialog to another target; another next hop has to prove itself anew.
    fn move_to(&mut self, slot: u32, flow: Flow, target: &[u8]) {
        let former = self.slots.get(slot).hop;
        let moved = self.hops.flow(former) != flow;
        self.slots.retarget(slot, target);
        if !moved {
            return;
        }
        self.release_window(slot);
        if !self.slots.get(slot).flags.has(Flag::Proven) {
            self.prove(former);
        }
        self.leave_hop(former, slot);
        let hop = self.enter_hop(flow, slot);
        self.unproven.enter(flow.peer.ip());
        let subscription = self.slots.get_mut(slot);
        subscription.hop = hop;
        subscription.flags.set(Flag::Proven, false);
    }

    /// A NOTIFY that failed without ending the subscription: it is tried again, in full, after Retry-After or after
    /// 1, 2, 4 ... 32 s.
    pub(super) fn failed(&mut self, now_ms: u64, slot: u32, retry_after_s: Option<u32>) {
        self.leave_set(slot);
        let subscription = self.slots.get_mut(slot);
        subscription.failures += 1;
        if subscription.failures == FAILURES_MOST {
            self.counters.removed += 1;
            return self.end(slot, now_ms);
        }
        let backoff_s = (1 << (subscription.failures - 1)).min(RETRY_MOST_S);
        let retry_ms = now_ms + retry_after_s.map_or(backoff_s, u64::from) * 1_000;
        subscription.owed = Owed::Full;
        (subscription.acked, subscription.told) = (0, 0);
        if subscription.ends() {
            // The last NOTIFY is not worth a wait.
            return self.end(slot, now_ms);
        }
        // RFC 6446 5.2: a new NOTIFY, so max-rate binds it too.
        let allowed_ms = self.slots.allowed_ms(slot, now_ms);
        self.slots.details_mut(slot).retry_ms = retry_ms.max(allowed_ms);
        self.arm(slot, now_ms);
    }

    /// Timer F (RFC 3261 17.1.2.2): the subscriber is gone (RFC 6665 4.2.2).
    pub(super) fn timed_out(&mut self, now_ms: u64, slot: u32) {
        self.counters.timeouts += 1;
        if self.slots.get(slot).phase == Phase::Active {
            self.counters.removed += 1;
        }
        self.end(slot, now_ms);
    }

    /// A connection closed: what used it goes to the Contact from now on, over a connection of its own; where that is a
    /// name, once it is located.
    pub fn disconnected(&mut self, now_ms: u64, flow: Flow, out: &mut Outbox) {
        for (slot, hop) in self.users_of(flow) {
            let dialog = self.slots.dialog(slot);
            let target = dialog.target.to_vec();
            match self.reconnect_to(now_ms, hop, dialog.routes, &target) {
                Some(NextHop::At(elsewhere)) if elsewhere != flow => {
                    let failed = self.close_transaction(slot, now_ms, false).is_some();
                    self.move_to(slot, elsewhere, &target);
                    if failed {
                        self.counters.transport_errors += 1;
                        self.failed(now_ms, slot, Some(0));
                    } else {
                        self.introduce(slot, now_ms);
                    }
                }
                Some(NextHop::Unknown(target)) => {
                    let bytes = Vec::new();
                    out.effects.push_back(Effect::Locate {
                        target,
                        flow,
                        bytes,
                    });
                    // The next try finds the connection gone again, and the name located.
                    self.close_transaction(slot, now_ms, false);
                    self.failed(now_ms, slot, None);
                }
                _ => self.unreachable_slot(now_ms, slot),
            }
        }
    }

    /// The kernel refused one of our NOTIFYs: as if it had been answered 503 (RFC 3261 8.1.3.1). Other messages are the
    /// peer's to repeat.
    pub fn refused(&mut self, now_ms: u64, message: &[u8]) {
        if let Some(slot) = self.sent_for(message) {
            let hop = self.slots.get(slot).hop;
            self.hops.lost(hop, now_ms);
            self.unreachable_slot(now_ms, slot);
        }
    }

    /// The kernel had no room for one of our messages just now: as if the network had lost it. A NOTIFY goes out again
    /// with its Timer E, and its next hop gets fewer at once.
    pub fn unsent(&mut self, now_ms: u64, message: &[u8]) {
        if let Some(slot) = self.sent_for(message) {
            let hop = self.slots.get(slot).hop;
            self.hops.lost(hop, now_ms);
        }
    }

    /// Whose last NOTIFY this message of ours is.
    fn sent_for(&self, message: &[u8]) -> Option<u32> {
        let scanned = scan(message).ok()?;
        let via = scanned.first(Name::Via).and_then(Via::parse)?;
        let (handle, cseq) = Handle::from_branch(via.branch?, &self.key)?;
        let subscription = self.slots.find(handle)?;
        (subscription.is_outstanding() && subscription.cseq == cseq).then_some(handle.slot)
    }

    /// No connection could be opened to this flow's peer, or it broke: RFC 3261 8.1.3.1 treats that as a 503.
    pub fn unreachable(&mut self, now_ms: u64, flow: Flow) {
        for (slot, _) in self.users_of(flow) {
            self.unreachable_slot(now_ms, slot);
        }
    }

    fn unreachable_slot(&mut self, now_ms: u64, slot: u32) {
        if self.close_transaction(slot, now_ms, false).is_some() {
            self.counters.transport_errors += 1;
            self.failed(now_ms, slot, None);
        }
    }

    fn users_of(&self, flow: Flow) -> Vec<(u32, Flow)> {
        let Some(hop) = self.hops.find(&flow) else {
            return Vec::new();
        };
        let slots = self.on_connection.get(&hop).cloned().unwrap_or_default();
        slots.into_iter().map(|slot| (slot, flow)).collect()
    }

    fn reconnect_to(
        &self,
        now_ms: u64,
        flow: Flow,
        routes: &[u8],
        target: &[u8],
    ) -> Option<NextHop> {
        let first = crate::sip::scan::Elements::of(routes)
            .next()
            .and_then(|route| super::target::route_uri(route).ok());
        let uri = first.or_else(|| SipUri::parse(target).ok())?;
        self.locate(now_ms, flow.local, &uri, Some(Transport::Tcp))
            .ok()
    }
}
