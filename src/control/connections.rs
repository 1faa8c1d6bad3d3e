//! TCP connections: framing by Content-Length (RFC 3261 18.3), bounded in number, idle time, head and write queue. What
//! arrives goes to a shard, what shards send goes out here. Knows no dialog.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, warn};

use super::stream::{Listener, Stream};
use crate::config::TcpBounds;
use crate::counters::counters;
use crate::shard::{ShardHandle, ToShard};
use crate::sip::scan::{Frame, frame};
use crate::wire::{Datagram, Flow, Transport};

/// Bytes asked for in one read.
const READ_SIZE: usize = 16_384;
/// How long opening a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a reader of one connection waits before it offers a full shard its message again.
const OFFER_AGAIN: Duration = Duration::from_millis(1);
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often connections are looked at for idleness.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(1);

counters! {
    /// Connections accepted.
    accepted,
    /// Connections opened to a Contact.
    opened,
    /// Connections that could not be opened.
    connect_failures,
    /// Connections refused because there were too many, or no descriptor was left.
    connections_refused,
    /// Connections cut because their peer read too slowly.
    slow_readers,
    /// Connections cut for a message that is none, too long, or unfinished.
    bad_streams,
    /// Connections closed because nobody used them.
    idle_closed,
    /// Messages for a connection that was gone.
    undeliverable,
}

/// All connections of the node.
#[derive(Debug)]
pub struct Connections {
    uring: bool,
    bounds: TcpBounds,
    shards: Vec<ShardHandle>,
    open: RefCell<HashMap<u64, Rc<Connection>>>,
    /// Connections that were opened to a flow's peer, `connection` 0 in it.
    outgoing: RefCell<HashMap<(u16, SocketAddr), u64>>,
    last_number: Cell<u64>,
    counters: RefCell<Counters>,
    logged: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    /// The flow by which shards know it: with `connection` 0 if it was opened for them.
    flow: Flow,
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
}

impl Connections {
    pub fn new(uring: bool, bounds: TcpBounds, shards: Vec<ShardHandle>) -> Rc<Self> {
        Rc::new(Connections {
            uring,
            bounds,
            shards,
            open: RefCell::default(),
            outgoing: RefCell::default(),
            last_number: Cell::new(0),
            counters: RefCell::default(),
            logged: Cell::new(None),
        })
    }

    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Accepts connections for ever.
    pub async fn accept(self: Rc<Self>, local: u16, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accepted(local, stream, peer),
                Err(error) => {
                    self.counters.borrow_mut().connections_refused += 1;
                    if self
                        .logged
                        .get()
                        .is_none_or(|logged| logged.elapsed() >= LOG_EVERY)
                    {
                        self.logged.set(Some(Instant::now()));
                        warn!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn accepted(self: &Rc<Self>, local: u16, stream: Stream, peer: SocketAddr) {
        let same_source = self
            .open
            .borrow()
            .values()
            .filter(|other| other.flow.peer.ip() == peer.ip())
            .count();
        if self.open.borrow().len() >= self.bounds.connections_most
            || same_source >= self.bounds.network_most
        {
            self.counters.borrow_mut().connections_refused += 1;
            stream.shutdown();
            return;
        }
        self.counters.borrow_mut().accepted += 1;
        let number = self.next_number();
        let flow = Flow {
            transport: Transport::Tcp,
            local,
            peer,
            connection: number,
        };
        let connection = self.add(number, flow);
        tokio::task::spawn_local(self.clone().serve(connection, Rc::new(stream)));
    }

    fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    fn add(&self, number: u64, flow: Flow) -> Rc<Connection> {
        let connection = Rc::new(Connection {
            number,
            flow,
            stream: RefCell::default(),
            queue: RefCell::default(),
            queued: Cell::new(0),
            wake: Notify::new(),
            closed: Cell::new(false),
            used: Cell::new(Instant::now()),
            began: Cell::new(Some(Instant::now())),
            stalled: Cell::new(None),
        });
        self.open.borrow_mut().insert(number, connection.clone());
        connection
    }

    /// Sends a message on its flow: on the connection it belongs to while that lives, with connection 0 on one opened to
    /// the peer (RFC 3261 18.1.1: an open one is reused).
    pub fn send(self: &Rc<Self>, message: &Datagram) {
        let flow = message.flow;
        let number = match flow.connection {
            0 => self
                .outgoing
                .borrow()
                .get(&(flow.local, flow.peer))
                .copied(),
            number => Some(number),
        };
        let connection = number.and_then(|number| self.open.borrow().get(&number).cloned());
        let connection = match connection {
            Some(connection) => connection,
            None if flow.connection == 0 => self.connect(flow),
            None => {
                self.counters.borrow_mut().undeliverable += 1;
                return;
            }
        };
        let len = message.len();
        if connection.queued.get() + len > self.bounds.queue_most {
            self.counters.borrow_mut().slow_readers += 1;
            return self.cut(&connection);
        }
        connection.queued.set(connection.queued.get() + len);
        connection.queue.borrow_mut().push_back(message.to_vec());
        connection.used.set(Instant::now());
        connection.wake.notify_one();
    }

    fn connect(self: &Rc<Self>, flow: Flow) -> Rc<Connection> {
        let number = self.next_number();
        let connection = self.add(number, flow);
        connection.began.set(None);
        self.outgoing
            .borrow_mut()
            .insert((flow.local, flow.peer), number);
        tokio::task::spawn_local(self.clone().open(connection.clone()));
        connection
    }

    async fn open(self: Rc<Self>, connection: Rc<Connection>) {
        let connecting = Stream::connect(self.uring, connection.flow.peer);
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(stream)) => {
                self.counters.borrow_mut().opened += 1;
                self.serve(connection, Rc::new(stream)).await;
            }
            Ok(Err(_)) | Err(_) => {
                self.counters.borrow_mut().connect_failures += 1;
                self.forget(&connection);
                for shard in &self.shards {
                    self.tell(shard, ToShard::Unreachable(connection.flow))
                        .await;
                }
            }
        }
    }

    /// Reads and writes until either end closes.
    async fn serve(self: Rc<Self>, connection: Rc<Connection>, stream: Rc<Stream>) {
        *connection.stream.borrow_mut() = Some(stream.clone());
        if connection.closed.get() {
            stream.shutdown();
        }
        let writer = tokio::task::spawn_local(Self::write(connection.clone(), stream.clone()));
        if !self.read(&connection, &stream).await {
            self.counters.borrow_mut().bad_streams += 1;
        }
        self.cut(&connection);
        // The writer ends because the stream is shut down; it fails only if it panicked, which ends the process.
        let _ = writer.await;
        self.forget(&connection);
        // By the way that its messages took, so that the end comes after the last of them.
        self.tell(
            self.reader_of(&connection),
            ToShard::Closed(connection.flow),
        )
        .await;
    }

    async fn write(connection: Rc<Connection>, stream: Rc<Stream>) {
        while !connection.closed.get() {
            let next = connection.queue.borrow_mut().pop_front();
            let Some(bytes) = next else {
                connection.wake.notified().await;
                continue;
            };
            let len = bytes.len();
            connection.stalled.set(Some(Instant::now()));
            let (written, _) = stream.write_all(bytes).await;
            connection.stalled.set(None);
            connection.queued.set(connection.queued.get() - len);
            if let Err(error) = written {
                debug!(peer = %connection.flow.peer, %error, "connection broke");
                connection.closed.set(true);
                stream.shutdown();
            }
        }
    }

    /// Takes messages off the stream; false when what came is no SIP.
    async fn read(&self, connection: &Connection, stream: &Stream) -> bool {
        let mut pending: Vec<u8> = Vec::new();
        let mut buffer = Vec::with_capacity(READ_SIZE);
        loop {
            buffer.clear();
            let (read, filled) = stream.read(buffer).await;
            buffer = filled;
            match read {
                Ok(0) | Err(_) => return true,
                Ok(len) => pending.extend_from_slice(&buffer[..len]),
            }
            connection.used.set(Instant::now());
            let mut at = 0;
            loop {
                match frame(&pending[at..], self.bounds.head_most, self.bounds.body_most) {
                    Frame::KeepAlive(len) => at += len,
                    Frame::Complete(len) => {
                        self.deliver(connection, &pending[at..at + len]).await;
                        at += len;
                    }
                    Frame::Partial => break,
                    Frame::Bad(_) => return false,
                }
            }
            pending.drain(..at);
            let began = (!pending.is_empty()).then(|| {
                connection
                    .began
                    .get()
                    .filter(|_| at == 0)
                    .unwrap_or_else(Instant::now)
            });
            connection.began.set(began);
        }
    }

    /// Gives a message to a shard; while that is full, this connection is not read further.
    async fn deliver(&self, connection: &Connection, bytes: &[u8]) {
        let flow = Flow {
            connection: connection.number,
            ..connection.flow
        };
        let message = ToShard::Message {
            flow,
            bytes: bytes.to_vec(),
        };
        self.tell(self.reader_of(connection), message).await;
    }

    /// The shard that is given what arrives on a connection.
    fn reader_of(&self, connection: &Connection) -> &ShardHandle {
        &self.shards[(connection.number % self.shards.len() as u64) as usize]
    }

    async fn tell(&self, shard: &ShardHandle, message: ToShard) {
        let mut message = message;
        while let Err(back) = shard.tell(message) {
            message = back;
            tokio::time::sleep(OFFER_AGAIN).await;
        }
    }

    fn cut(&self, connection: &Connection) {
        connection.closed.set(true);
        connection.wake.notify_one();
        if let Some(stream) = connection.stream.borrow().as_ref() {
            stream.shutdown();
        }
    }

    fn forget(&self, connection: &Connection) {
        self.open.borrow_mut().remove(&connection.number);
        let key = (connection.flow.local, connection.flow.peer);
        if self.outgoing.borrow().get(&key) == Some(&connection.number) {
            self.outgoing.borrow_mut().remove(&key);
        }
    }

    /// Closes connections that nobody used for the idle time, and cuts those whose message does not come to its end or whose
    /// peer does not read.
    pub fn sweep(&self, now: Instant) {
        let mut counters = self.counters.borrow_mut();
        let stall = Duration::from_millis(self.bounds.stall_ms);
        let idle = Duration::from_millis(self.bounds.idle_ms);
        for connection in self
            .open
            .borrow()
            .values()
            .filter(|connection| !connection.closed.get())
        {
            let late = |since: Option<Instant>, most: Duration| {
                since.is_some_and(|since| now.saturating_duration_since(since) > most)
            };
            let count = if late(connection.began.get(), stall) {
                &mut counters.bad_streams
            } else if late(connection.stalled.get(), stall) {
                &mut counters.slow_readers
            } else if late(Some(connection.used.get()), idle) {
                &mut counters.idle_closed
            } else {
                continue;
            };
            *count += 1;
            self.cut(connection);
        }
    }

    /// Whether anything still waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.open
            .borrow()
            .values()
            .all(|connection| connection.queued.get() == 0 || connection.closed.get())
    }
}
