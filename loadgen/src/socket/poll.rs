//! Waiting for sockets, and the core that a thread runs on. Knows no datagram.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use libc::pollfd;

use super::{Endpoint, check};

/// A set of sockets to wait for.
#[derive(Debug)]
pub struct Poll {
    entries: Vec<pollfd>,
}

impl Poll {
    pub fn readable<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let entries = endpoints
            .map(|endpoint| pollfd {
                fd: endpoint.socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        Poll { entries }
    }

    pub(super) fn writable(fd: RawFd) -> Self {
        Poll {
            entries: vec![pollfd {
                fd,
                events: libc::POLLOUT,
                revents: 0,
            }],
        }
    }

    /// Waits until a socket is ready or the time is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the entries and the timeout live through the call, and the count is theirs.
        let result = unsafe {
            libc::ppoll(
                self.entries.as_mut_ptr(),
                self.entries.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        match check(result as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.entries.iter_mut().for_each(|entry| entry.revents = 0);
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Whether the socket at this place was ready when `wait` returned.
    pub fn is_ready(&self, at: usize) -> bool {
        self.entries[at].revents != 0
    }
}

/// Binds this thread to these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    if cores.iter().any(|&core| core >= libc::CPU_SETSIZE as usize) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: cpu_set_t is an array of integers, all zero is the empty set, the cores are within it, and the set
    // lives through the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    check(result as isize).map(|_| ())
}
