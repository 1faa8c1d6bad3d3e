//! Address space to be lent to the kernel: mapped, not allocated, so that only the pages it touches take memory.
//! Knows no ring and no socket.

#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

/// Zeroed pages at an address that never moves.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// `len` bytes, rounded up by the kernel to whole pages.
    pub fn map(len: usize) -> io::Result<Pages> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that exists already.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A huge page would make 2 MiB resident for the first datagram. Kernels built without them answer EINVAL: as wished.
        // SAFETY: the range is the mapping made above; the advice changes no content.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let start = NonNull::new(start.cast()).expect("mmap maps nothing at address 0");
        Ok(Pages { start, len })
    }

    /// Where byte `at` lies; `at` is within the mapping.
    pub fn at(&self, at: usize) -> *mut u8 {
        assert!(at < self.len, "{at} lies outside of {} bytes", self.len);
        // SAFETY: the offset was just checked to lie inside the one mapping.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// A piece of the mapping to read.
    ///
    /// # Safety
    /// The piece is not lent to the kernel, nor written by anybody, while the slice lives.
    pub unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        assert!(
            at <= self.len && len <= self.len - at,
            "{at} + {len} is more than {}",
            self.len
        );
        // SAFETY: the range was just checked, mapped pages are initialised (zeroed), and the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone; slices of it borrow self; whoever lent it to the kernel took it back before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
