//! Datagrams by sendmmsg, recvmmsg and ppoll, for hosts where io_uring is forbidden. Knows no ring.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address;
use super::ancillary;
use super::memory::Pages;
use super::outgoing::{Headers, Outgoing};
use super::waker::Sleeper;
use super::{OpenError, RECEIVED_PER_TURN, Received, Turn};
use crate::wire::Datagram;

/// Datagrams taken from the kernel with one call.
const TAKEN_AT_ONCE: usize = 64;
/// UIO_MAXIOV: what one sendmmsg takes.
const SENT_AT_ONCE: usize = 1024;
/// Address space for one datagram: no payload of UDP is larger.
const BUFFER: usize = 64 << 10;

/// The sockets, and the memory to which recvmmsg writes.
#[derive(Debug)]
pub(super) struct Mmsg {
    sockets: Vec<UdpSocket>,
    drops: Vec<u32>,
    sleeper: Sleeper,
    outgoing: Outgoing,
    inbox: Inbox,
    /// Whose turn it is to be read first: a turn that is full shall not always starve the same sockets.
    first: usize,
}

impl Mmsg {
    pub fn open(sockets: Vec<UdpSocket>, sleeper: Sleeper, gso: bool) -> Result<Mmsg, OpenError> {
        for socket in &sockets {
            socket
                .set_nonblocking(true)
                .map_err(|source| OpenError::Io {
                    operation: "O_NONBLOCK",
                    source,
                })?;
        }
        let inbox = Inbox::new().map_err(|source| OpenError::Io {
            operation: "mmap of receive buffers",
            source,
        })?;
        Ok(Mmsg {
            drops: vec![0; sockets.len()],
            outgoing: Outgoing::new(sockets.len(), gso, Headers::All),
            sockets,
            sleeper,
            inbox,
            first: 0,
        })
    }

    pub fn turn(
        &mut self,
        batch: &[Datagram],
        wait: Duration,
        receive: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<Turn> {
        let mut turn = Turn::default();
        if !batch.is_empty() {
            self.outgoing.plan(batch);
            self.send(&mut turn)?;
            if self.outgoing.plan_again(batch) {
                self.send(&mut turn)?;
            }
            self.outgoing.close();
        }
        self.sleep(wait)?;
        turn.woken = self.sleeper.get_up();
        self.receive(&mut turn, receive)?;
        Ok(turn)
    }

    /// Sends all that is planned, in as few calls as there are sockets and failures. sendmmsg stops before a message that
    /// fails and names its error only when that one is the first.
    fn send(&mut self, turn: &mut Turn) -> io::Result<()> {
        let mut next = 0;
        while next < self.outgoing.len() {
            let socket = self.outgoing.socket(next);
            let mut end = next + 1;
            while end < self.outgoing.len()
                && end - next < SENT_AT_ONCE
                && self.outgoing.socket(end) == socket
            {
                end += 1;
            }
            let descriptor = self.sockets[usize::from(socket)].as_raw_fd();
            let headers = &mut self.outgoing.headers()[next..end];
            // SAFETY: the headers point to vectors, addresses and payloads that `plan` laid out from the batch which
            // `turn` still borrows, and the kernel is done with them when the call returns.
            let sent = unsafe {
                libc::sendmmsg(
                    descriptor,
                    headers.as_mut_ptr(),
                    headers.len() as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EBADF | libc::ENOTSOCK) | None => return Err(error),
                    Some(errno) => self.outgoing.settle(next, -errno, turn),
                }
                next += 1;
                continue;
            }
            for send in next..next + sent as usize {
                self.outgoing.settle(send, 0, turn);
            }
            next += sent as usize;
        }
        Ok(())
    }

    /// Until a socket is readable, the waker calls, or the time is over.
    fn sleep(&self, wait: Duration) -> io::Result<()> {
        if wait.is_zero() || !self.sleeper.lie_down() {
            return Ok(());
        }
        let mut watched: smallvec::SmallVec<[PollFd<'_>; 8]> = self
            .sockets
            .iter()
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        watched.push(PollFd::new(&self.sleeper, PollFlags::IN));
        // A wait beyond the range of time_t is one without end.
        let limit = Timespec::try_from(wait).ok();
        match poll(&mut watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if watched
            .last()
            .is_some_and(|event| !event.revents().is_empty())
        {
            self.sleeper.drain();
        }
        Ok(())
    }

    fn receive(
        &mut self,
        turn: &mut Turn,
        receive: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<()> {
        let first = self.first;
        self.first = (first + 1) % self.sockets.len().max(1);
        for number in (first..self.sockets.len()).chain(0..first) {
            while turn.received < RECEIVED_PER_TURN {
                let taken = match self.inbox.take(&self.sockets[number]) {
                    Ok(taken) => taken,
                    Err(error) if is_passing(&error) => break,
                    Err(error) => return Err(error),
                };
                for place in 0..taken {
                    let arrived = self.inbox.read(place);
                    if let Some(drops) = arrived.drops {
                        let before = mem::replace(&mut self.drops[number], drops);
                        turn.overflowed += u64::from(drops.wrapping_sub(before));
                    }
                    match arrived.peer {
                        Some(peer) if !arrived.truncated => {
                            turn.received += 1;
                            receive(Received {
                                socket: number as u16,
                                peer,
                                bytes: arrived.bytes,
                            });
                        }
                        _ => turn.truncated += 1,
                    }
                }
                if taken < TAKEN_AT_ONCE {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Errors after which the next call may go well: nothing there, a signal, an ICMP message, memory.
fn is_passing(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT | libc::EOPNOTSUPP)
    )
}

/// Where recvmmsg writes: payloads, addresses, control messages, and the headers that point to them.
#[derive(Debug)]
struct Inbox {
    payloads: Pages,
    sides: Box<[Side]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

#[derive(Debug, Clone, Copy)]
struct Side {
    name: [u8; address::ROOM],
    control: [u8; ancillary::ROOM],
}

#[derive(Debug)]
struct Arrived<'a> {
    peer: Option<std::net::SocketAddr>,
    bytes: &'a [u8],
    drops: Option<u32>,
    truncated: bool,
}

impl Inbox {
    fn new() -> io::Result<Inbox> {
        let payloads = Pages::map(TAKEN_AT_ONCE * BUFFER)?;
        let empty = Side {
            name: [0; address::ROOM],
            control: [0; ancillary::ROOM],
        };
        let vectors = (0..TAKEN_AT_ONCE).map(|place| libc::iovec {
            iov_base: payloads.at(place * BUFFER).cast(),
            iov_len: BUFFER,
        });
        // SAFETY: a msghdr is integers and pointers, for which zero is a value.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        Ok(Inbox {
            sides: vec![empty; TAKEN_AT_ONCE].into(),
            vectors: vectors.collect(),
            headers: vec![header; TAKEN_AT_ONCE].into(),
            payloads,
        })
    }

    /// How many datagrams were taken; as many places can be read.
    fn take(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let places = self.sides.iter_mut().zip(&mut self.vectors);
        for (header, (side, vector)) in self.headers.iter_mut().zip(places) {
            let header = &mut header.msg_hdr;
            header.msg_name = side.name.as_mut_ptr().cast();
            header.msg_namelen = address::ROOM as u32;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = side.control.as_mut_ptr().cast();
            header.msg_controllen = ancillary::ROOM as _;
        }
        // SAFETY: the headers were just pointed to the vectors, sides and pages of this inbox, which is borrowed mutably
        // until the call is over; a null timeout is allowed.
        let taken = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                TAKEN_AT_ONCE as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if taken < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(taken as usize)
    }

    fn read(&self, place: usize) -> Arrived<'_> {
        let header = &self.headers[place];
        let side = &self.sides[place];
        let name = &side.name[..(header.msg_hdr.msg_namelen as usize).min(address::ROOM)];
        let control = &side.control[..header.msg_hdr.msg_controllen.min(ancillary::ROOM)];
        let len = (header.msg_len as usize).min(BUFFER);
        Arrived {
            peer: address::parse(name),
            // SAFETY: recvmmsg writes only while `take` borrows the inbox mutably.
            bytes: unsafe { self.payloads.slice(place * BUFFER, len) },
            drops: ancillary::overflow(control),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }
}
