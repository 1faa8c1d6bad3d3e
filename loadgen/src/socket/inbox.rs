//! Buffers for one batch of received datagrams, and the system call that fills them.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use libc::{c_void, iovec, mmsghdr, socklen_t};

use super::address::RawAddress;
use super::{BATCH, DATAGRAM, check, empty_header};

/// From one buffer to the next: not a multiple of 4,096, so that the beginnings of datagrams do not compete for the
/// same lines of the cache.
const STRIDE: usize = DATAGRAM + 192;

/// One received datagram.
pub struct Incoming<'a> {
    pub bytes: &'a [u8],
    /// It was longer than any that loadgen takes.
    pub truncated: bool,
    pub from: Origin,
}

/// Where a datagram came from, as the kernel said it.
#[derive(Clone, Copy)]
pub struct Origin {
    pub(super) address: RawAddress,
    pub(super) length: socklen_t,
}

#[derive(Clone, Copy)]
struct Received {
    from: Origin,
    length: usize,
    truncated: bool,
}

/// One batch of received datagrams.
pub struct Inbox {
    bytes: Box<[u8]>,
    received: Box<[Received]>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Default for Inbox {
    /// No room at all: what stands in for an Inbox that is in use elsewhere.
    fn default() -> Self {
        Inbox::with_room(0)
    }
}

impl Inbox {
    pub fn new() -> Self {
        Inbox::with_room(BATCH)
    }

    fn with_room(room: usize) -> Self {
        let (nowhere, _) = RawAddress::new(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        let nothing = Received {
            from: Origin {
                address: nowhere,
                length: 0,
            },
            length: 0,
            truncated: false,
        };
        Inbox {
            bytes: vec![0; room * STRIDE].into(),
            received: vec![nothing; room].into(),
        }
    }

    /// The datagram at `at`, less than what `receive` returned.
    pub fn get(&self, at: usize) -> Incoming<'_> {
        let received = &self.received[at];
        Incoming {
            bytes: &self.bytes[at * STRIDE..][..received.length],
            truncated: received.truncated,
            from: received.from,
        }
    }

    pub(super) fn fill(&mut self, fd: RawFd) -> io::Result<usize> {
        let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; BATCH];
        let room = self.received.len();
        let buffers = self.bytes.chunks_exact_mut(STRIDE);
        for (at, (buffer, received)) in buffers.zip(&mut self.received).enumerate() {
            let vector = vectors[at].write(iovec {
                iov_base: buffer.as_mut_ptr().cast::<c_void>(),
                iov_len: DATAGRAM,
            });
            let mut header = empty_header();
            header.msg_name = (&raw mut received.from.address).cast::<c_void>();
            header.msg_namelen = size_of::<RawAddress>() as socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            headers[at].write(mmsghdr {
                msg_hdr: header,
                msg_len: 0,
            });
        }
        // SAFETY: the first `room` headers are written (never more than BATCH, which is all the room that `with_room`
        // is asked for); each points to an address, a vector and a buffer of this Inbox or this frame, written once
        // per header, of the length stated, and all outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr().cast::<mmsghdr>(),
                room as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = check(result as isize)?;
        for (header, received) in headers[..count].iter().zip(&mut self.received) {
            // SAFETY: the kernel filled `count` headers, no more than the `room` that are written above.
            let header = unsafe { header.assume_init_ref() };
            received.length = (header.msg_len as usize).min(DATAGRAM);
            received.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            received.from.length = header.msg_hdr.msg_namelen;
        }
        Ok(count)
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").finish_non_exhaustive()
    }
}
