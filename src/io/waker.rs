//! Ends a shard's sleep from another thread, and costs next to nothing while the shard is awake. Knows an eventfd and
//! one flag; the same pair serves the control thread, which polls the descriptor itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const WOKEN: u8 = 2;

#[derive(Debug)]
struct Bed {
    state: AtomicU8,
    event: OwnedFd,
}

/// Wakes one sleeper. Clones wake the same one.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Bed>);

/// The side that sleeps: `lie_down`, wait until the descriptor is readable, `get_up`.
#[derive(Debug)]
pub struct Sleeper(Arc<Bed>);

/// A waker and its sleeper.
pub fn pair() -> io::Result<(Waker, Sleeper)> {
    let bed = Arc::new(Bed {
        state: AtomicU8::new(AWAKE),
        event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
    });
    Ok((Waker(Arc::clone(&bed)), Sleeper(bed)))
}

impl Waker {
    /// What was written before this call is seen by the sleeper after its next `get_up`. Enters the kernel only if the
    /// sleeper lies down.
    pub fn wake(&self) {
        if self.0.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            // The one possible failure is a counter at its end, and then the descriptor is readable as it should be.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }
}

impl Sleeper {
    /// Announces a sleep. False if a wake-up came since the last `get_up`: then do not sleep.
    pub fn lie_down(&self) -> bool {
        self.0
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends the sleep, or what would have been one. True if there was a wake-up since the last call.
    pub fn get_up(&self) -> bool {
        self.0.state.swap(AWAKE, Ordering::AcqRel) == WOKEN
    }

    /// Makes the descriptor unreadable again, for those who wait for its level and not for its edge.
    pub fn drain(&self) {
        let mut count = [0; 8];
        // An empty counter is EAGAIN: nothing to drain.
        let _ = rustix::io::read(&self.0.event, &mut count);
    }
}

impl AsFd for Sleeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(sleeper: &Sleeper) -> bool {
        let mut fds = [PollFd::new(sleeper, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn wakers_may_go_to_any_thread() {
        fn anywhere<T: Send + Sync + 'static>() {}
        anywhere::<Waker>();
    }

    #[test]
    fn a_wake_before_the_sleep_forbids_it_and_writes_nothing() {
        let (waker, sleeper) = pair().unwrap();
        waker.wake();
        assert!(!readable(&sleeper));
        assert!(!sleeper.lie_down());
        assert!(sleeper.get_up());
        assert!(sleeper.lie_down());
    }

    #[test]
    fn a_wake_in_the_sleep_makes_the_descriptor_readable_once() {
        let (waker, sleeper) = pair().unwrap();
        assert!(sleeper.lie_down());
        waker.wake();
        waker.wake();
        assert!(readable(&sleeper));
        sleeper.drain();
        assert!(!readable(&sleeper));
        assert!(sleeper.get_up());
        assert!(!sleeper.get_up());
    }
}
