//! The fan-out: timers, queues, the circular cursor, and the NOTIFYs they put into the batch. A change does not restart a
//! fan-out, it moves its target: the cursor walks the subscriptions once more, so changes faster than a lap cost laps,
//! not queues. Knows no document.

use super::compose::Draft;
use super::stamp::Stamp;
use super::subscription::{Flag, GRACE_MS, Owed, Phase};
use super::transaction::{NO_RATES, T1_MS, TIMER_F_MS, Transaction};
use super::{Notifier, Outbox};
use crate::sip::write::Reason;

/// Subscriptions that the cursor passes in one `fill` at the most, so that receiving is never put off for long.
const STRIDE: u32 = 65_536;
/// Subscriptions that stand together get their periodic NOTIFYs together: what each needs is near what the last needed.
const TOGETHER: u32 = 16;
/// A subscription whose next hop has no room is looked at again after this.
const CROWDED_MS: u64 = 20;

/// The first Timer E of a NOTIFY sent by UDP; in the order of sending, so no wheel is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstTimer {
    pub due_ms: u64,
    /// The transaction's place and serial number: what was answered since is not looked at again.
    place: u32,
    serial: u32,
}

/// The circular cursor over the slots.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    position: u32,
    /// Slots still to be visited in this lap.
    left: u32,
    /// Somebody was behind whose next hop had no room.
    missed: bool,
    /// Such a next hop has room again.
    relieved: bool,
}

impl Cursor {
    pub fn restart(&mut self, slots: u32) {
        self.left = slots;
        (self.missed, self.relieved) = (false, false);
    }

    pub fn is_moving(&self) -> bool {
        self.left > 0 || (self.missed && self.relieved)
    }

    /// One slot more: a lap under way is one step longer, or its last would be passed over.
    pub fn grown(&mut self) {
        if self.left > 0 {
            self.left += 1;
        }
    }

    /// Takes the last step back: this slot is visited again.
    fn stay(&mut self, slot: u32) {
        self.position = slot;
        self.left += 1;
    }

    fn step(&mut self, slots: u32) -> Option<u32> {
        if self.left == 0 && self.missed && self.relieved {
            self.restart(slots);
        }
        self.left = self.left.checked_sub(1)?;
        let slot = if self.position < slots {
            self.position
        } else {
            0
        };
        self.position = slot + 1;
        Some(slot)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Yes,
    Nothing,
    /// The next hop's window is closed.
    Crowded,
    /// The shard's window, the batch, or what waits for connections is full.
    Full,
}

impl Notifier {
    /// Fills the batch with what is due: first NOTIFYs, retransmissions and what became due may each take a quarter of it, and
    /// of the window, before the fan-out has the rest; unused shares flow on.
    pub fn fill(&mut self, now_ms: u64, out: &mut Outbox) {
        self.run_timers(now_ms);
        self.let_go(now_ms);
        let mut share = self.settings.batch / 4;
        if self.cursor.is_moving() {
            share = share.min(self.window.room(now_ms).div_ceil(4) as usize);
        }
        let mut left = self.settings.batch;
        left -= self.serve_first(now_ms, share, out);
        // They pass the window.
        left -= self.serve_again(now_ms, self.settings.batch / 4, out);
        left -= self.serve_due(now_ms, share, out);
        left -= self.fan_out(now_ms, left, out);
        left -= self.serve_first(now_ms, left, out);
        left -= self.serve_due(now_ms, left, out);
        self.serve_again(now_ms, left, out);
    }

    fn run_timers(&mut self, now_ms: u64) {
        while let Some(timer) = self
            .first_timers
            .front()
            .copied()
            .filter(|timer| timer.due_ms <= now_ms)
        {
            self.first_timers.pop_front();
            if let Some(transaction) = self.slots.outstanding(timer.place, timer.serial) {
                let slot = transaction.slot;
                self.timer_e(now_ms, slot);
                self.arm(slot, now_ms);
            }
        }
        while let Some(slot) = self.wheel.pop(now_ms) {
            self.deadline(now_ms, slot);
        }
    }

    /// Something about this subscription is due, or was when it was armed.
    fn deadline(&mut self, now_ms: u64, slot: u32) {
        let subscription = self.slots.get(slot);
        match subscription.phase {
            Phase::Free => return,
            Phase::Gone => {
                let until_ms = self.slots.forgotten_ms(slot);
                if until_ms <= now_ms {
                    self.forget(slot);
                } else {
                    self.wheel.arm(slot, until_ms);
                }
                return;
            }
            Phase::Ending { .. } | Phase::Active => {}
        }
        let reliable = self.hops.transport(subscription.hop).is_reliable();
        if let Some(transaction) = self.slots.transaction(slot) {
            if reliable && transaction.began_ms + TIMER_F_MS <= now_ms {
                return self.timed_out(now_ms, slot);
            }
            if !reliable && transaction.next_e.ms(now_ms) <= now_ms && transaction.fired > 0 {
                self.timer_e(now_ms, slot);
            }
        }
        let subscription = self.slots.get(slot);
        if matches!(subscription.phase, Phase::Free | Phase::Gone) {
            // Timer F has just ended it.
            return;
        }
        if subscription.phase == Phase::Active
            && subscription.expires.ms(now_ms) + GRACE_MS <= now_ms
        {
            self.counters.expired += 1;
            self.begin_ending(slot, Reason::Timeout, None);
        } else if !subscription.is_outstanding() {
            // Who serves the queue arms it.
            return self.queue_due(slot);
        }
        self.arm(slot, now_ms);
    }

    /// Timer E (RFC 3261 17.1.2.2): the NOTIFY goes out again, unless Timer F ran out.
    fn timer_e(&mut self, now_ms: u64, slot: u32) {
        self.release_window(slot);
        let hop = self.slots.get(slot).hop;
        let Some(transaction) = self.slots.transaction_mut(slot) else {
            return;
        };
        if transaction.began_ms + TIMER_F_MS <= now_ms {
            return self.timed_out(now_ms, slot);
        }
        transaction.fired = transaction.fired.saturating_add(1);
        let next_ms = now_ms + transaction.next_interval_ms();
        transaction.next_e = Stamp::of(next_ms.min(transaction.began_ms + TIMER_F_MS));
        self.hops.lost(hop, now_ms);
        let flags = &mut self.slots.get_mut(slot).flags;
        if !flags.set(Flag::InAgain, true) {
            self.again.push_back(slot);
        }
    }

    /// Whether the wheel comes by in time for the nearest thing that an idle subscription waits for, without being armed
    /// anew: what it waited for when it was armed is still the next.
    pub(super) fn is_settled(&self, slot: u32, now_ms: u64) -> bool {
        let subscription = self.slots.get(slot);
        let view = self.interests.get(subscription.interest).current().view();
        // Of a NOTIFY on a connection the wheel came by for Timer F alone.
        !self.hops.transport(subscription.hop).is_reliable()
            && subscription.owed == Owed::Nothing
            && subscription.refresh.ms(now_ms) > now_ms
            && view.revision <= subscription.told
            && self.wheel.is_armed(slot)
    }

    /// Arms the wheel for the nearest thing that this subscription waits for.
    pub(super) fn arm(&mut self, slot: u32, now_ms: u64) {
        let subscription = self.slots.get(slot);
        if matches!(subscription.phase, Phase::Free | Phase::Gone) {
            return;
        }
        let reliable = self.hops.transport(subscription.hop).is_reliable();
        let mut deadline_ms = self.slots.deadline_ms(slot, now_ms, reliable);
        if subscription.waits_for_change()
            && let Some(change_ms) = self.change_due_ms(slot, now_ms)
        {
            deadline_ms =
                Some(deadline_ms.map_or(change_ms, |deadline_ms| deadline_ms.min(change_ms)));
        }
        if let Some(deadline_ms) = deadline_ms {
            self.wheel.arm(slot, deadline_ms.max(now_ms + 1));
        }
    }

    fn serve_first(&mut self, now_ms: u64, most: usize, out: &mut Outbox) -> usize {
        let mut sent = 0;
        while sent < most {
            let Some(slot) = self.first.pop_front() else {
                break;
            };
            self.slots.get_mut(slot).flags.set(Flag::InFirst, false);
            match self.notify(slot, now_ms, out) {
                Sent::Yes => sent += 1,
                Sent::Nothing => self.arm(slot, now_ms),
                Sent::Crowded => self.wheel.arm(slot, now_ms + CROWDED_MS),
                Sent::Full => {
                    self.slots.get_mut(slot).flags.set(Flag::InFirst, true);
                    self.first.push_front(slot);
                    break;
                }
            }
        }
        sent
    }

    fn serve_due(&mut self, now_ms: u64, most: usize, out: &mut Outbox) -> usize {
        let mut sent = 0;
        while sent < most {
            let Some(slot) = self.due.pop_front() else {
                break;
            };
            self.slots.get_mut(slot).flags.set(Flag::InDue, false);
            match self.notify(slot, now_ms, out) {
                Sent::Yes => sent += 1,
                Sent::Nothing => self.arm(slot, now_ms),
                Sent::Crowded => self.wheel.arm(slot, now_ms + CROWDED_MS),
                Sent::Full => {
                    self.slots.get_mut(slot).flags.set(Flag::InDue, true);
                    self.due.push_front(slot);
                    break;
                }
            }
        }
        sent
    }

    /// Retransmissions pass the windows: they are few, and what they repeat has left them.
    fn serve_again(&mut self, now_ms: u64, most: usize, out: &mut Outbox) -> usize {
        let mut sent = 0;
        while sent < most && out.batch.room() > 0 {
            let Some(slot) = self.again.pop_front() else {
                break;
            };
            self.slots.get_mut(slot).flags.set(Flag::InAgain, false);
            if self
                .slots
                .transaction(slot)
                .is_some_and(|transaction| transaction.fired > 0)
            {
                self.write_notify(slot, out);
                self.counters.retransmissions += 1;
                self.arm(slot, now_ms);
                sent += 1;
            }
        }
        sent
    }

    fn fan_out(&mut self, now_ms: u64, most: usize, out: &mut Outbox) -> usize {
        let mut sent = 0;
        // Others who wait for room leave none that could grow.
        let alone = self.first.is_empty() && self.due.is_empty();
        if !self.cursor.is_moving() || (alone && !self.window.has_room_for_run(now_ms)) {
            return sent;
        }
        for _ in 0..STRIDE {
            if sent == most {
                break;
            }
            let Some(slot) = self.cursor.step(self.slots.end()) else {
                break;
            };
            let subscription = self.slots.get(slot);
            if subscription.phase != Phase::Active || !subscription.waits_for_change() {
                continue;
            }
            match self.change_due_ms(slot, now_ms) {
                Some(due_ms) if due_ms <= now_ms => match self.tell(slot, now_ms, out) {
                    Sent::Yes => sent += 1,
                    Sent::Nothing => self.arm(slot, now_ms),
                    Sent::Crowded => self.cursor.missed = true,
                    Sent::Full => {
                        self.cursor.stay(slot);
                        break;
                    }
                },
                Some(due_ms) => self.wheel.arm(slot, due_ms),
                None => {}
            }
        }
        sent
    }

    /// Sends the next NOTIFY of a subscription, if there is one to send and room for it.
    fn notify(&mut self, slot: u32, now_ms: u64, out: &mut Outbox) -> Sent {
        let subscription = self.slots.get(slot);
        let waiting =
            subscription.owed != Owed::Nothing && self.slots.details(slot).retry_ms > now_ms;
        if subscription.is_outstanding() || (waiting && !subscription.ends()) {
            return Sent::Nothing;
        }
        if matches!(subscription.phase, Phase::Free | Phase::Gone) {
            return Sent::Nothing;
        }
        self.send(slot, now_ms, out, |notifier| notifier.compose(slot, now_ms))
    }

    /// Tells a subscription that waits for changes one that is due.
    fn tell(&mut self, slot: u32, now_ms: u64, out: &mut Outbox) -> Sent {
        self.send(slot, now_ms, out, |notifier| notifier.change(slot))
    }

    /// Sends an idle subscription the NOTIFY that `compose` gives it, if there is room.
    fn send(
        &mut self,
        slot: u32,
        now_ms: u64,
        out: &mut Outbox,
        compose: impl FnOnce(&mut Self) -> Option<Draft>,
    ) -> Sent {
        let hop = self.slots.get(slot).hop;
        let reliable = self.hops.transport(hop).is_reliable();
        if reliable && self.holds_back(out) {
            return Sent::Full;
        }
        if !reliable && (out.batch.room() == 0 || self.window.room(now_ms) == 0) {
            return Sent::Full;
        }
        if !self.hops.admits(hop) {
            return Sent::Crowded;
        }
        let Some(draft) = compose(self) else {
            return Sent::Nothing;
        };
        self.begin_transaction(slot, now_ms, draft, reliable);
        self.write_notify(slot, out);
        // The wheel comes by for the refresh or sooner; a first Timer E has a queue of its own.
        if reliable || !self.wheel.is_armed(slot) {
            self.arm(slot, now_ms);
        }
        Sent::Yes
    }

    fn begin_transaction(&mut self, slot: u32, now_ms: u64, draft: Draft, reliable: bool) {
        let refresh_due = self.slots.get(slot).refresh.ms(now_ms) <= now_ms;
        let min_rate = self.slots.rates(slot).min;
        let subscription = self.slots.get_mut(slot);
        subscription.cseq += 1;
        if let Some(body) = draft.body {
            subscription.version += 1;
            self.bodies.hold(body);
        }
        subscription.owed = Owed::Nothing;
        subscription.told = subscription.told.max(draft.told);
        subscription.sent = Stamp::of(now_ms);
        if draft.urgent {
            subscription.urgent = subscription.sent;
        }
        // RFC 5839: the condition was that the state had not changed.
        let resumes = draft.body.is_some() && subscription.flags.set(Flag::Suppressed, false);
        let (hop, expires_s) = (subscription.hop, subscription.remaining_s(now_ms));
        let (place, serial) = self.slots.begin(Transaction {
            slot,
            serial: 0,
            body: draft.body,
            tag: draft.tag,
            expires_s,
            rates: NO_RATES,
            last: draft.last,
            offer: draft.offer,
            began_ms: now_ms,
            next_e: Stamp::of(now_ms + T1_MS),
            fired: 0,
            proceeding: false,
            windowed: true,
        });
        let timer = FirstTimer {
            due_ms: now_ms + T1_MS,
            place,
            serial,
        };
        self.hops.sent(hop);
        if !reliable {
            self.window.sent(now_ms);
            self.first_timers.push_back(timer);
        }
        self.counters.notifies += 1;
        if refresh_due || resumes || min_rate.is_some() {
            self.schedule_refresh(slot, now_ms);
        }
    }

    /// The next periodic NOTIFY: by `min-rate` that long after the last NOTIFY (RFC 6446 6.2), else at the subscription's
    /// group's own place in the node's interval, so that they leave evenly spread. The wheel comes by for it, or for the end
    /// if that is sooner.
    pub(super) fn schedule_refresh(&mut self, slot: u32, now_ms: u64) {
        let interval_ms = self.settings.refresh_interval_ms;
        let min_rate = self.slots.rates(slot).min;
        let subscription = self.slots.get_mut(slot);
        let refresh_ms = match min_rate {
            Some(rate) => subscription.sent.ms(now_ms) + rate.interval_ms().min(interval_ms),
            None => {
                let group = u64::from(slot / TOGETHER);
                let phase_ms = (group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % interval_ms;
                let elapsed_ms = (now_ms + interval_ms - phase_ms) % interval_ms;
                now_ms + interval_ms - elapsed_ms
            }
        };
        subscription.refresh = Stamp::of(refresh_ms);
        let end_ms = subscription.expires.ms(now_ms) + GRACE_MS;
        self.wheel.arm(slot, refresh_ms.min(end_ms).max(now_ms + 1));
    }

    /// Ends the outstanding transaction, if there is one: answered, or given up.
    pub(super) fn close_transaction(
        &mut self,
        slot: u32,
        now_ms: u64,
        answered: bool,
    ) -> Option<Transaction> {
        let transaction = self.slots.close(slot)?;
        let hop = self.slots.get(slot).hop;
        if let Some(body) = transaction.body {
            let interests = &self.interests;
            self.bodies
                .release(body, |key| interests.is_current(key.interest, key.view));
        }
        if transaction.windowed {
            let began_ms = transaction.began_ms;
            if answered {
                self.hops.measure(hop, now_ms, began_ms);
            }
            let path_ms = self.hops.path_ms(hop);
            self.cursor.relieved |= if answered {
                self.hops.answered(hop)
            } else {
                self.hops.given_up(hop)
            };
            match (self.hops.transport(hop).is_reliable(), answered) {
                (true, _) => {}
                (false, true) => self.window.answered(now_ms, began_ms, path_ms),
                (false, false) => self.window.given_up(began_ms),
            }
        }
        Some(transaction)
    }

    /// Takes the outstanding NOTIFY out of the windows: it is not expected to be answered soon.
    pub(super) fn release_window(&mut self, slot: u32) {
        let hop = self.slots.get(slot).hop;
        let Some(transaction) = self.slots.transaction_mut(slot) else {
            return;
        };
        let began_ms = transaction.began_ms;
        if std::mem::take(&mut transaction.windowed) {
            self.cursor.relieved |= self.hops.given_up(hop);
            if !self.hops.transport(hop).is_reliable() {
                self.window.given_up(began_ms);
            }
        }
    }

    /// Ends the oldest transactions, as if by Timer F, while superseded documents hold more memory than they may.
    pub(super) fn shed_bodies(&mut self) {
        while self.bodies.bytes() > self.settings.bodies_most {
            let Some(oldest) = self.bodies.oldest_used() else {
                return;
            };
            let users = self.slots.transactions();
            let users: Vec<_> = users
                .filter(|transaction| transaction.body == Some(oldest))
                .map(|transaction| (transaction.slot, transaction.began_ms))
                .collect();
            for (slot, began_ms) in users {
                self.counters.bodies_evicted += 1;
                self.timed_out(began_ms, slot);
            }
            let interests = &self.interests;
            self.bodies
                .sweep(|key| interests.is_current(key.interest, key.view));
        }
    }

    pub(super) fn queue_first(&mut self, slot: u32) {
        if !self.slots.get_mut(slot).flags.set(Flag::InFirst, true) {
            self.first.push_back(slot);
        }
    }

    pub(super) fn queue_due(&mut self, slot: u32) {
        if !self.slots.get_mut(slot).flags.set(Flag::InDue, true) {
            self.due.push_back(slot);
        }
    }
}
