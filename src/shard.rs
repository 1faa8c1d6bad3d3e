//! One core's turn: joins the kernel's side and one shard of the notifier. Knows neither SIP nor views; what the notifier
//! asks of the world besides datagrams goes to the control thread or to another shard.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::mpsc;
use tracing::warn;

use crate::counters::counters;
use crate::info::View;
use crate::io::{Engine, Turn, Waker, may_pass};
use crate::log::Seldom;
use crate::notifier::drain::Other;
use crate::notifier::names::{Location, Target};
use crate::notifier::{self, Effect, Notifier, Outbox};
use crate::wire::{Batch, Flow};

/// Messages that may wait for a shard.
pub const INBOX: usize = 16_384;
/// Datagrams of one submission, answers to requests included.
const BATCH: usize = 4_096 + 256;
/// Taken from the inbox in one turn, so that the sockets are not kept waiting.
const TAKEN_PER_TURN: usize = 1_024;
/// Effects that may wait for the control thread; beyond it they are dropped, counted: peers send again.
const EFFECTS_MOST: usize = 65_536;
/// An idle shard looks at its inbox at least this often.
const IDLE: Duration = Duration::from_secs(1);
/// What the kernel refuses is logged for all shards together.
static REFUSALS: Seldom = Seldom::new();

counters! {
    /// Datagrams the kernel took.
    sent,
    /// Datagrams the kernel refused.
    send_failures,
    /// Datagrams lost because the receive queue was full.
    receive_drops,
    /// Datagrams larger than any legal one.
    truncated,
    /// Times the provided receive buffers ran dry (nothing is lost by it).
    buffers_dry,
    /// Sends that carried a run of datagrams.
    gso_runs,
    /// Times segmentation offload had to be turned off.
    gso_failures,
    /// Messages that another shard or the control thread had no room for.
    overflows,
}

/// What a shard is told.
#[derive(Debug)]
pub enum ToShard {
    /// A newer view of a domain.
    View {
        domain: u16,
        view: Arc<View>,
    },
    /// A message that arrived elsewhere: on a connection, or at another shard.
    Message {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// A message to be sent as it is, by UDP.
    Send {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// The result of a lookup, and the SUBSCRIBEs that waited for it.
    Located {
        target: Target,
        location: Location,
        waiting: Vec<(Flow, Vec<u8>)>,
    },
    /// A connection closed whose messages this shard was given: the others are told after what it handed over to them.
    Closed(Flow),
    /// A connection closed.
    Disconnected(Flow),
    /// No connection could be opened to this flow's peer.
    Unreachable(Flow),
    /// Asks for `FromShard::Report`.
    Report,
    /// End all subscriptions over this time, for these others; `FromShard::Drained` tells when it is done.
    Drain {
        others: Vec<Other>,
        over: Duration,
    },
    /// Others are alive now than when the drain began.
    Others(Vec<Other>),
    Stop,
}

/// What a shard tells the control thread.
#[derive(Debug)]
pub enum FromShard {
    Effect { shard: u8, effect: Effect },
    Report(Report),
    Drained(u8),
}

/// A shard's counts.
#[derive(Debug, Clone)]
pub struct Report {
    pub shard: u8,
    pub live: usize,
    pub notifier: notifier::counters::Counters,
    pub io: Counters,
}

/// The way to a shard.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    pub inbox: Sender<ToShard>,
    pub waker: Waker,
}

impl ShardHandle {
    /// Gives the message back when the inbox is full or the shard has ended.
    pub fn tell(&self, message: ToShard) -> Result<(), ToShard> {
        match self.inbox.try_send(message) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }
}

/// One shard, ready to run on its own thread.
#[derive(Debug)]
pub struct Shard {
    number: u8,
    engine: Engine,
    notifier: Notifier,
    inbox: Receiver<ToShard>,
    others: Vec<ShardHandle>,
    control: mpsc::Sender<FromShard>,
    start: Instant,
    out: Outbox,
    /// Connections that closed, with the shards that have still to be told; as many as there are connections.
    closed: VecDeque<(u8, Flow)>,
    sending: Batch,
    counters: Counters,
    draining: bool,
    drained: bool,
}

impl Shard {
    /// `others` has a handle for every shard, this one included. Times count from `start`.
    pub fn new(
        number: u8,
        engine: Engine,
        notifier: Notifier,
        inbox: Receiver<ToShard>,
        others: Vec<ShardHandle>,
        control: mpsc::Sender<FromShard>,
        start: Instant,
    ) -> Self {
        Shard {
            number,
            engine,
            notifier,
            inbox,
            others,
            control,
            start,
            out: Outbox::new(BATCH),
            closed: VecDeque::new(),
            sending: Batch::new(BATCH),
            counters: Counters::default(),
            draining: false,
            drained: false,
        }
    }

    /// Runs until told to stop; an error of the engine ends it.
    pub fn run(mut self) -> std::io::Result<()> {
        loop {
            let wait = self.wait();
            self.turn(wait)?;
            for _ in 0..TAKEN_PER_TURN {
                // What the control thread has not taken yet holds back what would add to it: connections are read no further.
                if self.notifier.holds_back(&self.out) {
                    break;
                }
                match self.inbox.try_recv() {
                    Ok(ToShard::Stop) => return self.last_turn(),
                    Ok(message) => self.take(message),
                    Err(_) => break,
                }
            }
            self.notifier.fill(millis(self.start), &mut self.out);
            self.pass_on();
            if self.draining && !self.drained && self.notifier.live() == 0 {
                self.drained = self
                    .control
                    .try_send(FromShard::Drained(self.number))
                    .is_ok();
            }
        }
    }

    fn wait(&mut self) -> Duration {
        if !self.out.effects.is_empty() || !self.closed.is_empty() {
            return Duration::from_millis(1);
        }
        let is_over = self.draining && !self.drained && self.notifier.live() == 0;
        if !self.inbox.is_empty() || is_over {
            return Duration::ZERO;
        }
        let now_ms = millis(self.start);
        match self.notifier.next_deadline_ms(now_ms) {
            Some(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms)).min(IDLE),
            None => IDLE,
        }
    }

    /// Sends what is ready, waits, and gives what arrives to the notifier.
    fn turn(&mut self, wait: Duration) -> std::io::Result<()> {
        std::mem::swap(&mut self.out.batch, &mut self.sending);
        let (notifier, out, start) = (&mut self.notifier, &mut self.out, self.start);
        // The clock is read once for all that came together.
        let woke_ms = Cell::new(None);
        let turn = self.engine.turn(&mut self.sending, wait, &mut |received| {
            let now_ms = woke_ms.get().unwrap_or_else(|| millis(start));
            woke_ms.set(Some(now_ms));
            let flow = Flow::udp(received.socket, received.peer);
            notifier.receive(now_ms, flow, received.bytes, out);
        })?;
        self.count(&turn);
        for &(place, errno) in &turn.failed {
            let message = &self.sending.datagrams()[place as usize].bytes;
            let now_ms = millis(self.start);
            if may_pass(errno) {
                self.notifier.unsent(now_ms, message);
            } else {
                self.notifier.refused(now_ms, message);
            }
        }
        self.sending.clear();
        if self.out.batch.is_empty() {
            // The buffers just sent are in the cache still.
            std::mem::swap(&mut self.out.batch, &mut self.sending);
        }
        Ok(())
    }

    fn count(&mut self, turn: &Turn) {
        self.counters.sent += u64::from(turn.sent);
        self.counters.send_failures += turn.failed.len() as u64;
        self.counters.receive_drops += turn.overflowed;
        self.counters.truncated += u64::from(turn.truncated);
        self.counters.buffers_dry += u64::from(turn.enobufs);
        self.counters.gso_runs += u64::from(turn.gso_runs);
        self.counters.gso_failures += u64::from(turn.gso_off);
        let failed = turn
            .failed
            .first()
            .map(|&(_, errno)| std::io::Error::from_raw_os_error(errno));
        if (failed.is_some() || turn.overflowed > 0 || turn.gso_off)
            && REFUSALS.permits(Instant::now())
        {
            let shard = self.number;
            warn!(
                shard,
                drops = turn.overflowed,
                gso_off = turn.gso_off,
                ?failed,
                "the kernel refused or dropped"
            );
        }
    }

    fn take(&mut self, message: ToShard) {
        let now_ms = millis(self.start);
        match message {
            ToShard::View { domain, view } => self.notifier.learn(domain, view),
            ToShard::Message { flow, bytes } => {
                self.notifier.receive(now_ms, flow, &bytes, &mut self.out)
            }
            ToShard::Send { flow, bytes } => match self.out.batch.next(flow) {
                Some(datagram) => datagram.bytes.extend_from_slice(&bytes),
                None => self.counters.overflows += 1,
            },
            ToShard::Located {
                target,
                location,
                waiting,
            } => {
                self.notifier.located(now_ms, target, location);
                for (flow, bytes) in waiting.iter().filter(|(_, bytes)| !bytes.is_empty()) {
                    self.notifier.receive(now_ms, *flow, bytes, &mut self.out);
                }
            }
            ToShard::Closed(flow) => {
                self.notifier.disconnected(now_ms, flow, &mut self.out);
                let others = (0..self.others.len() as u8).filter(|&other| other != self.number);
                self.closed.extend(others.map(|other| (other, flow)));
            }
            ToShard::Disconnected(flow) => self.notifier.disconnected(now_ms, flow, &mut self.out),
            ToShard::Unreachable(flow) => self.notifier.unreachable(now_ms, flow),
            ToShard::Report => {
                let report = Report {
                    shard: self.number,
                    live: self.notifier.live(),
                    notifier: self.notifier.counters(),
                    io: self.counters,
                };
                // A report that finds no room is asked for again by whoever wants it.
                let _ = self.control.try_send(FromShard::Report(report));
            }
            ToShard::Drain { others, over } => {
                self.draining = true;
                self.notifier.drain(now_ms, others, over.as_millis() as u64);
            }
            ToShard::Others(others) => self.notifier.send_elsewhere(others),
            ToShard::Stop => {}
        }
    }

    /// Passes the notifier's effects on, as far as there is room.
    fn pass_on(&mut self) {
        while let Some(effect) = self.out.effects.pop_front() {
            if let Effect::HandOver { shard, flow, bytes } = effect {
                let other = &self.others[usize::from(shard)];
                self.counters.overflows +=
                    u64::from(other.tell(ToShard::Message { flow, bytes }).is_err());
                continue;
            }
            match self.control.try_send(FromShard::Effect {
                shard: self.number,
                effect,
            }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(FromShard::Effect { effect, .. })) => {
                    if self.out.effects.len() < EFFECTS_MOST {
                        self.out.effects.push_front(effect);
                        return;
                    }
                    self.counters.overflows += 1;
                }
                Err(_) => self.counters.overflows += 1,
            }
        }
        while let Some(&(other, flow)) = self.closed.front() {
            if self.others[usize::from(other)]
                .tell(ToShard::Disconnected(flow))
                .is_err()
            {
                return;
            }
            self.closed.pop_front();
        }
    }

    /// Sends what is still in the batch.
    fn last_turn(mut self) -> std::io::Result<()> {
        self.turn(Duration::ZERO)
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
