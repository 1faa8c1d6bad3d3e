//! One shard of the notifier (RFC 6665): SUBSCRIBEs in, NOTIFYs out. Pure: time, chance, datagrams and views come in by
//! argument, datagrams and effects go out by an `Outbox`. Knows no socket, thread, clock or cluster.
//!
//! The order of a turn: `receive` everything that came, `learn` what changed, then `fill` the batch.

mod answers;
mod arena;
mod bodies;
mod chunks;
mod compose;
pub mod counters;
mod dialog;
pub mod drain;
mod fanout;
pub mod handle;
mod hops;
mod index;
mod interests;
mod message;
pub mod names;
mod requests;
pub mod settings;
mod slots;
mod stamp;
mod subscribe;
mod subscription;
mod target;
mod transaction;
mod unproven;
mod wheel;
pub mod window;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU8;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::info::View;
use crate::sip::write::Reason;
use crate::wire::{Batch, Datagram, Flow};

use bodies::{Bodies, PartSets};
use counters::Counters;
use drain::Drain;
use fanout::{Cursor, FirstTimer};
use handle::{Handle, HandleKey};
use hops::Hops;
use index::Index;
use interests::Interests;
use names::{Location, Names, Target};
use settings::Settings;
use slots::Slots;
use subscription::{Flag, Owed, Phase};
use unproven::Unproven;
use wheel::Wheel;
use window::Window;

/// What a shard asks of the world besides datagrams.
#[derive(Debug, Clone)]
pub enum Effect {
    /// A message for a connection; with connection 0 one is to be opened to the peer.
    Stream(Datagram),
    /// A PUBLISH whose general checks are made: for the compositor, which answers on the flow.
    Publish { flow: Flow, bytes: Vec<u8> },
    /// A message that belongs to another shard.
    HandOver {
        shard: u8,
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// A SUBSCRIBE that waits for its target to be located: it is to be received again after `located`. Without bytes,
    /// nothing waits but a dialog whose connection is gone.
    Locate {
        target: Target,
        flow: Flow,
        bytes: Vec<u8>,
    },
}

/// Where a turn's output goes.
#[derive(Debug)]
pub struct Outbox {
    /// Datagrams, for the next submission.
    pub batch: Batch,
    /// Everything else, in order. Its owner empties it each turn; while more than `Settings::effects_most` wait, the
    /// notifier begins no NOTIFY on a connection.
    pub effects: VecDeque<Effect>,
}

impl Outbox {
    pub fn new(capacity: usize) -> Self {
        Outbox {
            batch: Batch::new(capacity),
            effects: VecDeque::new(),
        }
    }
}

/// What a shard holds for its subscriptions, counted: nothing once all have ended and their last timers passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Subscriptions, those included that ended and wait for repeats.
    pub slots: usize,
    pub origins: usize,
    pub dialogs: usize,
    /// Texts that dialogs share.
    pub shared: usize,
    /// Outstanding NOTIFYs.
    pub transactions: usize,
    pub rates: usize,
    pub hops: usize,
    pub connections: usize,
    pub unproven: usize,
    pub interests: usize,
    pub bodies: usize,
    /// Bytes of all bodies.
    pub body_bytes: usize,
    pub sets: usize,
    /// Entries of the queues and of the first timers.
    pub queued: usize,
    /// NOTIFYs in the shard's window.
    pub unanswered: u32,
}

/// One shard's subscriptions and all that is needed to serve them.
#[derive(Debug)]
pub struct Notifier {
    settings: Arc<Settings>,
    shard: u8,
    key: HandleKey,
    random: SmallRng,
    slots: Slots,
    wheel: Wheel,
    hops: Hops,
    window: Window,
    interests: Interests,
    bodies: Bodies,
    sets: PartSets,
    names: Names,
    /// Subscriptions by a keyed digest of the Call-ID and From-tag that made them: the one table, bounded by the
    /// subscriptions.
    origins: Index,
    unproven: Unproven,
    /// Subscriptions on each reliable next hop, so that a broken connection finds its own.
    on_connection: HashMap<u32, Vec<u32>>,
    first_timers: VecDeque<FirstTimer>,
    first: VecDeque<u32>,
    again: VecDeque<u32>,
    due: VecDeque<u32>,
    cursor: Cursor,
    live: usize,
    draining: Option<Drain>,
    counters: Counters,
}

impl Notifier {
    /// Shard number `shard` of `settings.shards`. `receive_buffer` is in bytes as the kernel accounts it; `views` has one
    /// view for each domain.
    pub fn new(
        settings: Arc<Settings>,
        shard: u8,
        key: HandleKey,
        seed: u64,
        receive_buffer: usize,
        views: Vec<Arc<View>>,
        now_ms: u64,
    ) -> Self {
        Notifier {
            shard,
            key,
            random: SmallRng::seed_from_u64(seed),
            slots: Slots::new(key),
            wheel: Wheel::new(now_ms),
            hops: Hops::new(key),
            window: Window::new(receive_buffer),
            interests: Interests::new(views),
            bodies: Bodies::default(),
            sets: PartSets::default(),
            names: Names::default(),
            origins: Index::new(),
            unproven: Unproven::new(key),
            on_connection: HashMap::new(),
            first_timers: VecDeque::new(),
            first: VecDeque::new(),
            again: VecDeque::new(),
            due: VecDeque::new(),
            cursor: Cursor::default(),
            live: 0,
            draining: None,
            counters: Counters::default(),
            settings,
        }
    }

    /// Takes a newer view of a domain; the fan-out of its changes begins with the next `fill`.
    pub fn learn(&mut self, domain: u16, view: Arc<View>) {
        if !self.interests.learn(domain, view) {
            return;
        }
        let interests = &self.interests;
        self.bodies
            .sweep(|key| interests.is_current(key.interest, key.view));
        self.shed_bodies();
        self.cursor.restart(self.slots.end());
    }

    /// Takes the result of `Effect::Locate`; the SUBSCRIBE it parked is to be received again.
    pub fn located(&mut self, now_ms: u64, target: Target, location: Location) {
        self.names.learn(now_ms, target, location);
    }

    /// Subscriptions that have not ended.
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is held now.
    pub fn footprint(&self) -> Footprint {
        let (dialogs, shared, transactions, rates) = self.slots.held();
        Footprint {
            slots: self.slots.taken(),
            origins: self.origins.len(),
            dialogs,
            shared,
            transactions,
            rates,
            hops: self.hops.len(),
            connections: self.on_connection.len(),
            unproven: self.unproven.len(),
            interests: self.interests.len(),
            bodies: self.bodies.len(),
            body_bytes: self.bodies.bytes(),
            sets: self.sets.len(),
            queued: self.first.len() + self.again.len() + self.due.len() + self.first_timers.len(),
            unanswered: self.window.unanswered(),
        }
    }

    /// When `fill` must be called at the latest if nothing arrives; `None`: nothing is due ever.
    pub fn next_deadline_ms(&mut self, now_ms: u64) -> Option<u64> {
        let queued = !self.first.is_empty() || !self.due.is_empty();
        let moving = self.cursor.is_moving();
        // Retransmissions pass the window.
        if !self.again.is_empty()
            || (queued && self.window.room(now_ms) > 0)
            || (moving && self.window.has_room_for_run(now_ms))
        {
            return Some(now_ms);
        }
        let opens = self.window.opens_ms().filter(|_| queued || moving);
        let timer = self.first_timers.front().map(|timer| timer.due_ms);
        let wheel = self.wheel.next_ms();
        let end = self.draining.as_ref().and_then(Drain::next_ms);
        [opens, timer, wheel, end].into_iter().flatten().min()
    }

    /// Ends a subscription after one last NOTIFY with this reason.
    fn begin_ending(&mut self, slot: u32, reason: Reason, retry_after_s: Option<NonZeroU8>) {
        // The end needs no state: a set in progress would only put it off.
        self.leave_set(slot);
        let subscription = self.slots.get_mut(slot);
        subscription.owed = Owed::Nothing;
        subscription.phase = Phase::Ending {
            reason,
            retry_after_s,
        };
        if !subscription.is_outstanding() {
            self.queue_due(slot);
        }
    }

    /// The subscription is over: lets go of all it shared; the slot lingers for Timer J (RFC 3261 17.2.2) where a repeat
    /// of its last SUBSCRIBE may still come.
    fn end(&mut self, slot: u32, now_ms: u64) {
        self.close_transaction(slot, now_ms, false);
        self.leave_set(slot);
        let subscription = self.slots.get_mut(slot);
        let (hop, interest) = (subscription.hop, subscription.interest);
        let proven = subscription.flags.set(Flag::Proven, true);
        subscription.phase = Phase::Gone;
        let until_ms = self.slots.forgotten_ms(slot);
        if !proven {
            self.prove(hop);
        }
        self.leave_hop(hop, slot);
        self.leave_interest(interest);
        self.live -= 1;
        if until_ms <= now_ms {
            self.forget(slot);
        } else {
            self.wheel.arm(slot, until_ms);
        }
    }

    /// Frees the slot of an ended subscription.
    fn forget(&mut self, slot: u32) {
        self.origins.remove(slot);
        self.wheel.disarm(slot);
        self.slots.remove(slot);
    }

    fn handle(&self, slot: u32) -> Handle {
        Handle {
            shard: self.shard,
            slot,
            generation: self.slots.get(slot).generation(),
        }
    }

    /// One unproven subscription less behind this hop's network.
    fn prove(&mut self, hop: u32) {
        self.unproven.leave(self.hops.flow(hop).peer.ip());
    }

    fn enter_hop(&mut self, flow: Flow, slot: u32) -> u32 {
        let hop = self.hops.enter(flow);
        if flow.transport.is_reliable() {
            self.on_connection.entry(hop).or_default().push(slot);
        }
        hop
    }

    fn leave_hop(&mut self, hop: u32, slot: u32) {
        if let Some(slots) = self.on_connection.get_mut(&hop) {
            slots.retain(|&other| other != slot);
            if slots.is_empty() {
                self.on_connection.remove(&hop);
            }
        }
        self.hops.leave(hop);
    }

    /// The last to leave takes the interest's bodies along: filters that come and go would leave theirs behind for ever.
    fn leave_interest(&mut self, interest: u16) {
        if self.interests.leave(interest) {
            let interests = &self.interests;
            self.bodies
                .sweep(|key| interests.is_current(key.interest, key.view));
        }
    }

    fn leave_set(&mut self, slot: u32) {
        if let Some(progress) = self.slots.take_set(slot) {
            self.sets.leave(progress.set);
        }
    }
}
