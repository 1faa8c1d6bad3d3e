//! TCP connections: accepted or opened to a Contact, bounded in number, idle time, head and write queue. What arrives
//! goes to a shard, what shards send goes out here. Knows no dialog.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::connection::{Connection, Overdue};
use super::framing::{Framed, Framer};
use super::stream::{Listener, Stream};
use crate::config::TcpBounds;
use crate::counters::counters;
use crate::log::Seldom;
use crate::shard::{ShardHandle, ToShard};
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
/// RFC 5626 4.4.1: a "ping" is a double CRLF, answered by a single one.
const PING: usize = 4;
const PONG: &[u8] = b"\r\n";
/// No pong waits behind more bytes than these: who does not read needs none.
const PONG_BEHIND: usize = 4_096;

counters! {
    /// Connections accepted.
    accepted,
    /// Connections opened to a Contact.
    opened,
    /// Connections that could not be opened.
    connect_failures,
    /// Connections closed at once because there were too many.
    connections_refused,
    /// Times accepting failed for want of descriptors or memory.
    accept_failures,
    /// Connections cut because their peer read too slowly.
    slow_readers,
    /// Connections cut for a message that is none, too long, or unfinished.
    bad_streams,
    /// Connections closed because nobody used them.
    idle_closed,
    /// Connections that ended, for whatever reason.
    closed,
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
    /// Accepted connections of each source.
    sources: RefCell<HashMap<IpAddr, usize>>,
    last_number: Cell<u64>,
    counters: RefCell<Counters>,
    log_errors: Seldom,
}

impl Connections {
    pub fn new(uring: bool, bounds: TcpBounds, shards: Vec<ShardHandle>) -> Rc<Self> {
        Rc::new(Connections {
            uring,
            bounds,
            shards,
            open: RefCell::default(),
            outgoing: RefCell::default(),
            sources: RefCell::default(),
            last_number: Cell::new(0),
            counters: RefCell::default(),
            log_errors: Seldom::new(),
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
                // The peer was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.counters.borrow_mut().accept_failures += 1;
                    self.log(&error);
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn log(&self, error: &io::Error) {
        if self.log_errors.permits(Instant::now()) {
            warn!(%error, "cannot accept connections");
        }
    }

    fn accepted(self: &Rc<Self>, local: u16, stream: Stream, peer: SocketAddr) {
        let same_source = self.sources.borrow().get(&peer.ip()).copied();
        if self.is_full() || same_source.unwrap_or_default() >= self.bounds.network_most {
            self.counters.borrow_mut().connections_refused += 1;
            stream.shutdown();
            return;
        }
        self.counters.borrow_mut().accepted += 1;
        *self.sources.borrow_mut().entry(peer.ip()).or_default() += 1;
        let number = self.next_number();
        let flow = Flow {
            transport: Transport::Tcp,
            local,
            peer,
            connection: number,
        };
        let connection = self.add(Connection::new(number, flow, Some(Instant::now())));
        tokio::task::spawn_local(self.clone().serve(connection, Rc::new(stream)));
    }

    fn is_full(&self) -> bool {
        self.open.borrow().len() >= self.bounds.connections_most
    }

    fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    fn add(&self, connection: Rc<Connection>) -> Rc<Connection> {
        let mut open = self.open.borrow_mut();
        open.insert(connection.number, connection.clone());
        connection
    }

    /// Sends a message on its flow: on the connection it belongs to while that lives, with connection 0 on one opened to
    /// the peer (RFC 3261 18.1.1: an open one is reused). False if its connection is gone.
    pub fn send(self: &Rc<Self>, message: &Datagram) -> bool {
        let flow = message.flow;
        let number = match flow.connection {
            0 => {
                let outgoing = self.outgoing.borrow();
                outgoing.get(&(flow.local, flow.peer)).copied()
            }
            number => Some(number),
        };
        let connection = number.and_then(|number| self.open.borrow().get(&number).cloned());
        let connection = match connection.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None if flow.connection == 0 => self.connect(flow),
            None => {
                self.counters.borrow_mut().undeliverable += 1;
                return false;
            }
        };
        if !connection.push(message.bytes.clone(), self.bounds.queue_most) {
            self.counters.borrow_mut().slow_readers += 1;
            connection.cut();
        }
        true
    }

    fn connect(self: &Rc<Self>, flow: Flow) -> Rc<Connection> {
        let number = self.next_number();
        let connection = Connection::new(number, flow, None);
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.insert((flow.local, flow.peer), number);
        // What is beyond the bound is never opened, and told as what cannot be reached.
        let opening = self.clone().open(connection.clone(), !self.is_full());
        tokio::task::spawn_local(opening);
        self.add(connection)
    }

    async fn open(self: Rc<Self>, connection: Rc<Connection>, is_allowed: bool) {
        match self.connected(connection.flow.peer, is_allowed).await {
            Some(stream) => {
                self.counters.borrow_mut().opened += 1;
                self.serve(connection, Rc::new(stream)).await;
            }
            None => {
                self.counters.borrow_mut().connect_failures += 1;
                self.forget(&connection);
                for shard in &self.shards {
                    self.tell(shard, ToShard::Unreachable(connection.flow))
                        .await;
                }
            }
        }
    }

    async fn connected(&self, peer: SocketAddr, is_allowed: bool) -> Option<Stream> {
        if !is_allowed {
            return None;
        }
        let connecting = Stream::connect(self.uring, peer);
        tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .ok()?
            .ok()
    }

    /// Reads and writes until either end closes.
    async fn serve(self: Rc<Self>, connection: Rc<Connection>, stream: Rc<Stream>) {
        connection.open(&stream);
        let writer = tokio::task::spawn_local(connection.clone().write(stream.clone()));
        if !self.read(&connection, &stream).await {
            self.counters.borrow_mut().bad_streams += 1;
        }
        connection.arrived(None);
        // SIP knows no half-closed connections: NOTIFYs go elsewhere from now on. What was asked before is still answered.
        // The shards hear of it by the way that its messages took, so that the end comes after the last of them.
        self.retire(&connection);
        let reader = self.reader_of(&connection);
        self.tell(reader, ToShard::Closed(connection.flow)).await;
        self.counters.borrow_mut().closed += 1;
        if let Some(until) = connection.answers_until() {
            tokio::time::sleep_until(until.into()).await;
        }
        connection.cut();
        // The writer ends because the stream is shut down; it fails only if it panicked, which ends the process.
        self.counters.borrow_mut().undeliverable += writer.await.unwrap_or_default();
        self.forget(&connection);
        // By its number, for what a shard began on it meanwhile: what arrived named it so even if it was opened to a Contact.
        let numbered = Flow {
            connection: connection.number,
            ..connection.flow
        };
        self.tell(reader, ToShard::Closed(numbered)).await;
    }

    /// Takes messages off the stream; false when what came is no SIP.
    async fn read(&self, connection: &Connection, stream: &Stream) -> bool {
        let mut framer = Framer::new(self.bounds.head_most, self.bounds.body_most);
        let mut buffer = Vec::with_capacity(READ_SIZE);
        loop {
            buffer.clear();
            let (read, filled) = stream.read(buffer).await;
            buffer = filled;
            match read {
                Ok(0) | Err(_) => return true,
                Ok(len) => framer.push(&buffer[..len]),
            }
            let mut began = connection.began();
            while let Some(framed) = framer.next() {
                began = None;
                match framed {
                    Framed::Message(bytes) => {
                        // It came to its end, however long the shard lets it wait.
                        connection.arrived(None);
                        self.deliver(connection, bytes).await;
                    }
                    Framed::KeepAlive(len) if len >= PING => {
                        connection.push(PONG.to_vec(), PONG_BEHIND);
                    }
                    Framed::KeepAlive(_) => {}
                    Framed::Bad(_) => return false,
                }
            }
            let since = || began.unwrap_or_else(Instant::now);
            connection.arrived(framer.is_amid().then(since));
        }
    }

    /// Gives a message to a shard; while that is full, this connection is not read further.
    async fn deliver(&self, connection: &Connection, bytes: Vec<u8>) {
        connection.asked();
        let flow = Flow {
            connection: connection.number,
            ..connection.flow
        };
        let message = ToShard::Message { flow, bytes };
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

    /// Messages to its peer go to a new connection from now on.
    fn retire(&self, connection: &Connection) {
        let key = (connection.flow.local, connection.flow.peer);
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.get(&key) == Some(&connection.number) {
            outgoing.remove(&key);
        }
    }

    fn forget(&self, connection: &Connection) {
        self.retire(connection);
        self.open.borrow_mut().remove(&connection.number);
        if connection.flow.connection == 0 {
            return;
        }
        let mut sources = self.sources.borrow_mut();
        let source = connection.flow.peer.ip();
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }

    /// Closes connections that nobody used for the idle time, and cuts those whose message does not come to its end or whose
    /// peer does not read.
    pub fn sweep(&self, now: Instant) {
        let mut counters = self.counters.borrow_mut();
        let stall = Duration::from_millis(self.bounds.stall_ms);
        let idle = Duration::from_millis(self.bounds.idle_ms);
        for connection in self.open.borrow().values() {
            match connection.overdue(now, stall, idle) {
                Some(Overdue::Unfinished) => counters.bad_streams += 1,
                Some(Overdue::Stalled) => counters.slow_readers += 1,
                Some(Overdue::Idle) => counters.idle_closed += 1,
                None => continue,
            }
            connection.cut();
        }
    }

    /// Whether nothing waits to be written any more.
    pub fn is_flushed(&self) -> bool {
        self.open
            .borrow()
            .values()
            .all(|connection| connection.is_flushed())
    }
}
