//! The kernel's side of a shard: datagrams in, datagrams out, and a sleep that ends in time.
//! Knows bytes, sockets and deadlines; knows no SIP. The only room with unsafe code.

mod address;
mod ancillary;
mod buffers;
mod memory;
mod mmsg;
mod outgoing;
pub mod pin;
mod ring;
pub mod sockets;
pub mod steering;
mod unavailable;
mod waker;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;

use crate::wire::Batch;
use mmsg::Mmsg;
use ring::Ring;
pub use unavailable::Unavailable;
pub use waker::{Sleeper, Waker};

/// The most datagrams one turn hands over; what is left waits in the kernel for the next turn.
pub const RECEIVED_PER_TURN: u32 = 4096;

/// By which of the kernel's interfaces datagrams travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// io_uring or nothing.
    Uring,
    /// sendmmsg and recvmmsg.
    Mmsg,
    /// io_uring, and sendmmsg where that is not to be had.
    Auto,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Uring => "uring",
            Kind::Mmsg => "mmsg",
            Kind::Auto => "auto",
        })
    }
}

/// Why an engine could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("{operation}: {source}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
}

/// One datagram as it arrived. The bytes are lent for the time of the call.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Which of the engine's sockets, by its place in `open`'s list.
    pub socket: u16,
    pub peer: SocketAddr,
    pub bytes: &'a [u8],
}

/// What one turn did. All counts are of this turn alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// Datagrams that the kernel took.
    pub sent: u32,
    /// Datagrams that it refused: place in the batch, and errno.
    pub failed: SmallVec<[(u32, i32); 4]>,
    /// Datagrams handed over.
    pub received: u32,
    /// Datagrams dropped because they were larger than a receive buffer (no legal one is) or bore no Internet address.
    pub truncated: u32,
    /// Datagrams that the kernel dropped for want of room in a socket's queue (SO_RXQ_OVFL). A drop shows with the first
    /// datagram queued after it.
    pub overflowed: u64,
    /// How often the receive buffers ran dry. Nothing is lost by it.
    pub enobufs: u32,
    /// Sends that carried more than one datagram.
    pub gso_runs: u32,
    /// A socket's segmentation offload failed and was turned off; its datagrams went singly.
    pub gso_off: bool,
    /// Somebody called `Waker::wake` since the last turn.
    pub woken: bool,
}

/// Whether a send that failed so may go well the next time: a queue or memory was full, a full table of connections made
/// the packet filter drop it (EPERM), a route is away for a moment, or the error is an ICMP message's for an earlier
/// datagram, which the kernel tells to whoever sends next.
pub fn may_pass(errno: i32) -> bool {
    matches!(
        errno,
        libc::EAGAIN
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EINTR
            | libc::ECONNREFUSED
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
    )
}

/// A shard's side of its sockets. Made and used on the shard's own thread.
#[derive(Debug)]
pub struct Engine {
    way: Way,
    fallback: Option<Unavailable>,
}

#[derive(Debug)]
enum Way {
    Uring(Box<Ring>),
    Mmsg(Box<Mmsg>),
}

impl Engine {
    /// Takes over the sockets, in the order of `Flow::local`. With `Kind::Auto` a refused io_uring is no error: see
    /// `fallback_reason`. `gso` allows runs of equal datagrams to one peer to go as one send (UDP_SEGMENT).
    pub fn open(
        kind: Kind,
        sockets: Vec<UdpSocket>,
        gso: bool,
    ) -> Result<(Engine, Waker), OpenError> {
        let (waker, sleeper) = waker::pair().map_err(|source| OpenError::Io {
            operation: "eventfd",
            source,
        })?;
        let (fallback, sockets, sleeper) = if kind == Kind::Mmsg {
            (None, sockets, sleeper)
        } else {
            match Ring::open(sockets, sleeper, gso) {
                Ok(ring) => {
                    let way = Way::Uring(Box::new(ring));
                    let fallback = None;
                    return Ok((Engine { way, fallback }, waker));
                }
                Err((unavailable, ..)) if kind == Kind::Uring => return Err(unavailable.into()),
                Err((unavailable, sockets, sleeper)) => (Some(unavailable), sockets, sleeper),
            }
        };
        let way = Way::Mmsg(Box::new(Mmsg::open(sockets, sleeper, gso)?));
        Ok((Engine { way, fallback }, waker))
    }

    /// `Kind::Uring` or `Kind::Mmsg`.
    pub fn kind(&self) -> Kind {
        match self.way {
            Way::Uring(_) => Kind::Uring,
            Way::Mmsg(_) => Kind::Mmsg,
        }
    }

    /// Why `Kind::Auto` had to do without io_uring.
    pub fn fallback_reason(&self) -> Option<&Unavailable> {
        self.fallback.as_ref()
    }

    /// One turn: submits what the batch holds, waits for traffic, the waker or the deadline, and hands over what has
    /// arrived. It may end early with nothing. When it returns, the kernel has let go of the batch's buffers. An error
    /// means that the engine is of no further use.
    pub fn turn(
        &mut self,
        batch: &mut Batch,
        wait: Duration,
        receive: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<Turn> {
        match &mut self.way {
            Way::Uring(ring) => ring.turn(batch.datagrams(), wait, receive),
            Way::Mmsg(mmsg) => mmsg.turn(batch.datagrams(), wait, receive),
        }
    }
}

#[cfg(test)]
mod tests;
