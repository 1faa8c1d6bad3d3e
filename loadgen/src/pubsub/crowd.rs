//! One event loop of subscribers: takes what their connections bring, and checks that each gets every message once and
//! in order. Knows nothing of the other loops but the sums that all share.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use super::Failure;
use super::message;
use super::protocol::{Protocol, Said};

/// Holds many messages of the greatest size.
const BUFFER: usize = 256 << 10;
const EVENTS: usize = 256;
/// How soon a loop notices that it is to stop.
const NOTICE_MS: i64 = 20;

/// What all loops and the publisher share.
#[derive(Debug)]
pub struct Shared {
    pub start: Instant,
    /// Connections whose subscription stands.
    pub ready: AtomicU64,
    pub received: AtomicU64,
    pub stop: AtomicBool,
    /// Messages meant for before this time warm up: they are checked, but not measured.
    pub warm_us: AtomicU64,
}

impl Shared {
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// An instant, and how long the loop had waited for something to do until then.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at_us: u64,
    waited_us: u64,
}

/// One message at the subscribers of one loop.
#[derive(Debug, Clone, Default)]
pub struct Round {
    pub reached: u32,
    pub intended_us: u64,
    first: Mark,
    last: Mark,
}

impl Round {
    pub fn last_us(&self) -> u64 {
        self.last.at_us
    }

    /// How long the loop was at it, and how much of that it waited.
    pub fn lasted_and_waited_us(&self) -> (u64, u64) {
        (
            self.last.at_us - self.first.at_us,
            self.last.waited_us - self.first.waited_us,
        )
    }
}

/// What a loop has seen.
#[derive(Debug)]
pub struct Tally {
    /// By number, from 1; the one of number 0 is empty.
    pub rounds: Vec<Round>,
    pub latencies: Histogram<u64>,
    /// Messages that came again or after a newer one.
    pub out_of_order: u64,
    /// Messages before which others were left out.
    pub gaps: u64,
    /// Connections that the server closed.
    pub closed: u64,
}

impl Tally {
    fn new() -> Self {
        Tally {
            rounds: Vec::new(),
            latencies: Histogram::new(3).expect("three significant digits are allowed"),
            out_of_order: 0,
            gaps: 0,
            closed: 0,
        }
    }

    fn arrived(&mut self, round: u32, intended_us: u64, now: Mark) {
        let at = round as usize;
        if at >= self.rounds.len() {
            self.rounds.resize(at + 1, Round::default());
        }
        let round = &mut self.rounds[at];
        if round.reached == 0 {
            (round.intended_us, round.first) = (intended_us, now);
        }
        round.reached += 1;
        round.last = now;
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Bytes of something that is not whole yet.
    rest: Vec<u8>,
    /// Number of the message that comes next.
    next: u32,
}

/// Subscribers and their event loop.
#[derive(Debug)]
pub struct Crowd<'a> {
    protocol: Protocol,
    shared: &'a Shared,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    waited_us: u64,
    tally: Tally,
}

impl<'a> Crowd<'a> {
    pub fn connect(
        protocol: Protocol,
        target: SocketAddr,
        count: u32,
        shared: &'a Shared,
    ) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(count as usize);
        for at in 0..count {
            let mut stream = TcpStream::connect(target).map_err(Failure::Connect)?;
            stream.write_all(protocol.subscribe().as_bytes())?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(at.into());
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            connections.push(Connection {
                stream,
                rest: Vec::new(),
                next: 1,
            });
        }
        Ok(Crowd {
            protocol,
            shared,
            epoll,
            connections,
            buffer: vec![0; BUFFER],
            waited_us: 0,
            tally: Tally::new(),
        })
    }

    /// Until all is over.
    pub fn attend(mut self) -> Result<Tally, Failure> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: NOTICE_MS * 1_000_000,
        };
        let mut room = [MaybeUninit::uninit(); EVENTS];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let began = self.shared.now_us();
            let events = match epoll::wait(&self.epoll, &mut room, Some(&timeout)) {
                Ok((events, _)) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.waited_us += self.shared.now_us() - began;
            let mut received = 0;
            for event in events {
                received += self.hear(event.data.u64() as usize)?;
            }
            self.shared.received.fetch_add(received, Ordering::Relaxed);
        }
        Ok(self.tally)
    }

    /// Takes what a connection has brought; returns how many messages.
    fn hear(&mut self, at: usize) -> Result<u64, Failure> {
        let connection = &mut self.connections[at];
        let kept = connection.rest.len();
        self.buffer[..kept].copy_from_slice(&connection.rest);
        let count = match connection.stream.read(&mut self.buffer[kept..]) {
            Ok(0) => {
                epoll::delete(&self.epoll, &connection.stream)?;
                self.tally.closed += 1;
                return Ok(0);
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let now = Mark {
            at_us: self.shared.now_us(),
            waited_us: self.waited_us,
        };
        let (bytes, mut from, mut received) = (&self.buffer[..kept + count], 0, 0);
        while let Some((said, used)) = self.protocol.next(&bytes[from..])? {
            from += used;
            match said {
                Said::Message(payload) => {
                    let (round, intended_us) = message::read(payload).ok_or(Failure::NotOurs)?;
                    received += 1;
                    if round < connection.next {
                        self.tally.out_of_order += 1;
                        continue;
                    }
                    self.tally.gaps += u64::from(round > connection.next);
                    connection.next = round + 1;
                    self.tally.arrived(round, intended_us, now);
                    if intended_us >= self.shared.warm_us.load(Ordering::Relaxed) {
                        let latency = now.at_us.saturating_sub(intended_us);
                        let recorded = self.tally.latencies.record(latency);
                        recorded.expect("a histogram without bounds grows");
                    }
                }
                Said::Subscribed => {
                    self.shared.ready.fetch_add(1, Ordering::Relaxed);
                }
                Said::Ping => connection.stream.write_all(b"PONG\r\n")?,
                Said::Error(reason) => return Err(Failure::refused(reason)),
                Said::Other => {}
            }
        }
        connection.rest.clear();
        connection.rest.extend_from_slice(&bytes[from..]);
        Ok(received)
    }
}
