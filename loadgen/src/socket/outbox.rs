//! The datagrams that wait to leave by one socket: their bytes end to end, and one system call for all of them.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use libc::{c_void, iovec, mmsghdr, socklen_t};

use super::address::{RawAddress, Source};
use super::{BATCH, check, empty_header};

/// A datagram's bytes in the outbox, where it goes and where it leaves from.
struct Outgoing {
    start: usize,
    end: usize,
    to: RawAddress,
    to_length: socklen_t,
    /// `None` for the socket's own address.
    from: Option<Source>,
}

/// At most BATCH datagrams.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    datagrams: Vec<Outgoing>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("datagrams", &self.datagrams.len())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub fn push(
        &mut self,
        to: RawAddress,
        to_length: socklen_t,
        from: Option<Ipv4Addr>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.datagrams.push(Outgoing {
            start,
            end: self.bytes.len(),
            to,
            to_length,
            from: from.map(Source::new),
        });
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }

    /// Sends what comes after the first `sent`, and returns how many of them the kernel took.
    pub fn send(&self, fd: RawFd, sent: usize) -> io::Result<usize> {
        let datagrams = &self.datagrams[sent..];
        let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; BATCH];
        for (at, datagram) in datagrams.iter().enumerate() {
            let bytes = &self.bytes[datagram.start..datagram.end];
            let vector = vectors[at].write(iovec {
                iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(),
                iov_len: bytes.len(),
            });
            let mut header = empty_header();
            header.msg_name = std::ptr::from_ref(&datagram.to).cast_mut().cast::<c_void>();
            header.msg_namelen = datagram.to_length;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            if let Some(from) = &datagram.from {
                header.msg_control = std::ptr::from_ref(from).cast_mut().cast::<c_void>();
                header.msg_controllen = size_of::<Source>();
            }
            headers[at].write(mmsghdr {
                msg_hdr: header,
                msg_len: 0,
            });
        }
        // SAFETY: the first `datagrams.len()` headers are written (never more than BATCH, as `Endpoint::make_room`
        // sees to); they point to addresses, sources, vectors and bytes that outlive the call. The kernel writes to
        // nothing but msg_len of the headers: it only reads what they point to.
        let result = unsafe {
            libc::sendmmsg(
                fd,
                headers.as_mut_ptr().cast::<mmsghdr>(),
                datagrams.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        check(result as isize)
    }
}
