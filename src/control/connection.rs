//! One TCP connection: what waits to be written, and when it was last of use. Knows no shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::debug;

use super::stream::Stream;
use crate::wire::Flow;

/// Answers to what a peer asked are waited for so long after it closed its side.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A connection and its write queue.
#[derive(Debug)]
pub struct Connection {
    pub number: u64,
    /// The flow by which shards know it: with `connection` 0 if it was opened for them.
    pub flow: Flow,
    stream: RefCell<Option<Rc<Stream>>>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued: Cell<usize>,
    wake: Notify,
    closed: Cell<bool>,
    used: Cell<Instant>,
    /// When the message now arriving began.
    began: Cell<Option<Instant>>,
    /// Since when the peer reads nothing of what waits.
    stalled: Cell<Option<Instant>>,
    /// When the last message arrived that may be answered.
    asked: Cell<Option<Instant>>,
}

/// Why a connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// A message does not come to its end, or the first does not come.
    Unfinished,
    /// The peer does not read.
    Stalled,
    /// Nobody used it.
    Idle,
}

impl Connection {
    /// `began`: a first message is expected soon.
    pub fn new(number: u64, flow: Flow, began: Option<Instant>) -> Rc<Self> {
        Rc::new(Connection {
            number,
            flow,
            stream: RefCell::default(),
            queue: RefCell::default(),
            queued: Cell::new(0),
            wake: Notify::new(),
            closed: Cell::new(false),
            used: Cell::new(Instant::now()),
            began: Cell::new(began),
            stalled: Cell::new(None),
            asked: Cell::new(None),
        })
    }

    /// Gives it its stream, unless it was cut before it had one.
    pub fn open(&self, stream: &Rc<Stream>) {
        *self.stream.borrow_mut() = Some(stream.clone());
        if self.closed.get() {
            stream.shutdown();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Queues a message; false if more than `most` bytes would wait.
    pub fn push(&self, bytes: Vec<u8>, most: usize) -> bool {
        if self.queued.get() + bytes.len() > most {
            return false;
        }
        self.queued.set(self.queued.get() + bytes.len());
        self.queue.borrow_mut().push_back(bytes);
        self.used.set(Instant::now());
        self.wake.notify_one();
        true
    }

    /// Whether nothing waits to be written, or it never will be.
    pub fn is_flushed(&self) -> bool {
        self.queued.get() == 0 || self.closed.get()
    }

    /// Bytes arrived; `began` tells since when a message is incomplete.
    pub fn arrived(&self, began: Option<Instant>) {
        self.used.set(Instant::now());
        self.began.set(began);
    }

    pub fn began(&self) -> Option<Instant> {
        self.began.get()
    }

    /// A message arrived that may be answered.
    pub fn asked(&self) {
        self.asked.set(Some(Instant::now()));
    }

    /// Until when answers to what was asked may still be on their way.
    pub fn answers_until(&self) -> Option<Instant> {
        let until = self.asked.get()? + ANSWERS_WITHIN;
        (!self.closed.get() && until > Instant::now()).then_some(until)
    }

    /// Ends it: its reader and its writer find out at once.
    pub fn cut(&self) {
        self.closed.set(true);
        self.wake.notify_one();
        if let Some(stream) = self.stream.borrow().as_ref() {
            stream.shutdown();
        }
    }

    pub fn overdue(&self, now: Instant, stall: Duration, idle: Duration) -> Option<Overdue> {
        let late = |since: Option<Instant>, most: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) > most)
        };
        if self.closed.get() {
            None
        } else if late(self.began.get(), stall) {
            Some(Overdue::Unfinished)
        } else if late(self.stalled.get(), stall) {
            Some(Overdue::Stalled)
        } else if late(Some(self.used.get()), idle) {
            Some(Overdue::Idle)
        } else {
            None
        }
    }

    /// Writes what is queued until the connection is closed; tells how many messages it did not.
    pub async fn write(self: Rc<Self>, stream: Rc<Stream>) -> u64 {
        while !self.closed.get() {
            let next = self.queue.borrow_mut().pop_front();
            let Some(bytes) = next else {
                self.wake.notified().await;
                continue;
            };
            let len = bytes.len();
            self.stalled.set(Some(Instant::now()));
            let (written, _) = stream.write_all(bytes).await;
            self.stalled.set(None);
            self.queued.set(self.queued.get() - len);
            if let Err(error) = written {
                debug!(peer = %self.flow.peer, %error, "connection broke");
                self.cut();
            }
        }
        self.queue.borrow().len() as u64
    }
}
