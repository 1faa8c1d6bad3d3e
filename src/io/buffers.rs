//! Receive buffers lent to a ring (io_uring_register_buf_ring): the kernel takes one for each datagram, we give it back
//! once the datagram was handed over. Knows no datagram's content.

#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, types};

use super::memory::Pages;

/// The one group of buffers.
pub(super) const GROUP: u16 = 0;

/// Address space of a buffer: the largest payload of UDP (65,527 bytes over IPv6) with the kernel's header, the peer's
/// address and the control messages before it, in whole pages.
const SIZE: usize = (64 << 10) + 4096;

#[derive(Debug)]
pub(super) struct Buffers {
    ring: Pages,
    payloads: Pages,
    count: u16,
    /// The next free place of the ring; the kernel sees it after `publish`.
    tail: u16,
}

impl Buffers {
    /// Lends `count` buffers, a power of two up to 32,768, to the ring.
    ///
    /// # Safety
    /// The caller ends all that the ring does, by `unregister_buf_ring` at the last, before it drops the buffers.
    pub unsafe fn lend(ring: &IoUring, count: u16) -> io::Result<Buffers> {
        let entries = Pages::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let payloads = Pages::map(usize::from(count) * SIZE)?;
        let address = entries.at(0) as u64;
        // SAFETY: the pages hold `count` entries, are aligned as pages are, and live until the caller has unregistered.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        let mut buffers = Buffers {
            ring: entries,
            payloads,
            count,
            tail: 0,
        };
        for buffer in 0..count {
            buffers.give_back(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that the kernel filled and that was not given back since.
    pub fn filled(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(buffer < self.count && len <= SIZE);
        // SAFETY: the kernel took the buffer out of its ring to fill it, and does not write to it before `give_back`,
        // which borrows self mutably, and `publish` put it back.
        unsafe { self.payloads.slice(usize::from(buffer) * SIZE, len) }
    }

    /// Puts a buffer back into the ring. Each buffer is given back once for each time that the kernel filled it.
    pub fn give_back(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        let place = usize::from(self.tail & (self.count - 1));
        let entry = self.ring.at(place * size_of::<BufRingEntry>());
        // SAFETY: the entry lies within the ring's pages and is aligned, for the ring starts at a page; the kernel reads
        // it only when the tail has passed it. The tail itself lies in the part of entry 0 that no setter here writes.
        let entry = unsafe { &mut *entry.cast::<BufRingEntry>() };
        entry.set_addr(self.payloads.at(usize::from(buffer) * SIZE) as u64);
        entry.set_len(SIZE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub fn publish(&mut self) {
        // SAFETY: the first entry of the ring is mapped and initialised (zeroed pages are), and its `resv` is the tail.
        let tail = unsafe { types::BufRingEntry::tail(self.ring.at(0).cast()) };
        // SAFETY: the tail is a u16 in mapped memory, aligned, and is accessed only here and by the kernel, atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
