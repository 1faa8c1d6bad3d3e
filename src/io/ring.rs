//! Datagrams by io_uring: one ring a shard, multishot receive into lent buffers, sends in batches, one enter to
//! send and one to wait.
//! Knows neither SIP nor other threads; the thread that opened the ring is the only one that may use it.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use io_uring::types::{Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::address;
use super::ancillary;
use super::buffers::{Buffers, GROUP};
use super::outgoing::{Headers, Outgoing};
use super::waker::Sleeper;
use super::{RECEIVED_PER_TURN, Received, Turn, Unavailable};
use crate::wire::Datagram;

/// Sends that one enter takes.
const SUBMISSIONS: u32 = 1024;
/// More than the submissions, the buffers and the sockets can bring at once, so that the queue never overflows.
const COMPLETIONS: u32 = 4096;
/// Receive buffers of a ring.
const BUFFERS: u16 = 128;
/// Completions that end a wait before its gathering is over.
const WORTH_WAKING: usize = 64;
/// How long the kernel gathers completions before a single one ends the wait, where they come that often. It saves most
/// wake-ups at 10,000 datagrams/s and more, and delays none by more than this.
const GATHER: Duration = Duration::from_micros(200);
/// The same while sends and answers fill the turns: then the answers of one turn are there before the next is written.
const GATHER_BUSY: Duration = Duration::from_micros(50);
/// Datagrams received in one turn that make it a busy one.
const BUSY: u32 = 32;
/// No wait is longer; the caller's loop goes round.
const WAIT_MAX: Duration = Duration::from_secs(3600);

const SEND: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;
const KIND: u64 = !0 << 32;

/// A socket's multishot receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    /// The kernel has it.
    Armed,
    /// It ended as it may, and goes on at once.
    Ended,
    /// It met an error, and is tried again in the next turn.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    socket: u16,
    buffer: u16,
    len: u32,
}

/// A ring with what it was lent for its life. Dropped before all else that the kernel may look at.
struct Base {
    ring: IoUring,
    buffers: Buffers,
}

impl Base {
    /// DEFER_TASKRUN (6.1) is the youngest feature needed: a kernel that has it has multishot RecvMsg (6.0) and rings of
    /// provided buffers (5.19) too.
    fn open(sockets: &[UdpSocket], sleeper: &Sleeper, buffers: u16) -> io::Result<Base> {
        let mut ring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let mut files: Vec<i32> = Vec::with_capacity(sockets.len() + 1);
        for socket in sockets {
            // With O_NONBLOCK the ring would report EAGAIN where it is to wait.
            socket.set_nonblocking(false)?;
            files.push(socket.as_raw_fd());
        }
        files.push(sleeper.as_fd().as_raw_fd());
        ring.submitter().register_files(&files)?;
        // A seccomp profile may let the ring be made and forbid its use.
        // SAFETY: a request that does nothing points to nothing.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }
            .expect("a new ring has room");
        ring.submit_and_wait(1)?;
        ring.completion().for_each(drop);
        // SAFETY: `drop` below cancels all requests and takes the buffers back before it drops them.
        let buffers = unsafe { Buffers::lend(&ring, buffers) }?;
        Ok(Base { ring, buffers })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let everything = types::CancelBuilder::any();
        let submitter = self.ring.submitter();
        // Nothing to cancel is an error too; a ring that is closed next needs none of these answers.
        let _ = submitter.register_sync_cancel(Some(Timespec::new().sec(1)), everything);
        let _ = submitter.unregister_buf_ring(GROUP);
    }
}

/// A ring and its sockets.
pub(super) struct Ring {
    base: Base,
    /// What the kernel leaves room for before a payload: address and control messages.
    shape: Box<libc::msghdr>,
    sockets: Vec<UdpSocket>,
    receives: Vec<Receive>,
    drops: Vec<u32>,
    sleeper: Sleeper,
    watching_waker: bool,
    outgoing: Outgoing,
    /// Sends whose buffers the kernel holds.
    lent: usize,
    arrivals: Vec<Arrival>,
    /// Whether this kernel can gather (min_wait_usec, 6.12).
    can_gather: bool,
    gather: Option<Duration>,
    broken: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("descriptor", &self.base.ring.as_raw_fd())
            .field("sockets", &self.sockets)
            .field("buffers", &self.base.buffers)
            .field("lent", &self.lent)
            .finish_non_exhaustive()
    }
}

/// What `Ring::open` hands back where there is no io_uring, for another way to be tried.
pub(super) type Refusal = (Unavailable, Vec<UdpSocket>, Sleeper);

impl Ring {
    pub fn open(sockets: Vec<UdpSocket>, sleeper: Sleeper, gso: bool) -> Result<Ring, Refusal> {
        Ring::with_buffers(sockets, sleeper, gso, BUFFERS)
    }

    fn with_buffers(
        sockets: Vec<UdpSocket>,
        sleeper: Sleeper,
        gso: bool,
        buffers: u16,
    ) -> Result<Ring, Refusal> {
        let base = match Base::open(&sockets, &sleeper, buffers) {
            Ok(base) => base,
            Err(error) => return Err((Unavailable::from_setup(&error), sockets, sleeper)),
        };
        // SAFETY: a msghdr is integers and pointers, for which zero is a value.
        let mut shape: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        shape.msg_namelen = address::ROOM as u32;
        shape.msg_controllen = ancillary::ROOM as _;
        Ok(Ring {
            can_gather: base.ring.params().is_feature_min_timeout(),
            base,
            shape,
            receives: vec![Receive::Ended; sockets.len()],
            drops: vec![0; sockets.len()],
            outgoing: Outgoing::new(sockets.len(), gso, Headers::Runs),
            sockets,
            sleeper,
            watching_waker: false,
            lent: 0,
            arrivals: Vec::new(),
            gather: None,
            broken: false,
        })
    }

    pub fn turn(
        &mut self,
        batch: &[Datagram],
        wait: Duration,
        receive: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<Turn> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Sends that are written to the ring and were not taken would be taken with the next turn, when the batch is gone.
        self.broken = true;
        let mut turn = Turn::default();
        for state in &mut self.receives {
            if *state == Receive::Failed {
                *state = Receive::Ended;
            }
        }
        self.arm(&mut turn)?;
        self.send(batch, &mut turn)?;
        let slept = self.wait(wait, &mut turn)?;
        turn.woken = self.sleeper.get_up();
        self.broken = false;
        self.receive(&mut turn, receive)?;
        if let Some(slept) = slept.filter(|_| self.can_gather) {
            self.gather = worth_gathering(self.gather, slept, turn.received);
        }
        Ok(turn)
    }

    /// Sends the batch and reaps every answer to it before anything waits. Left in the queue, the completions of the
    /// sends would end the next wait early: an enter is cheaper than a sleep.
    fn send(&mut self, batch: &[Datagram], turn: &mut Turn) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.outgoing.plan(batch);
        self.write_sends(batch, turn)?;
        if self.outgoing.plan_again(batch) {
            self.write_sends(batch, turn)?;
        }
        self.outgoing.close();
        Ok(())
    }

    fn write_sends(&mut self, batch: &[Datagram], turn: &mut Turn) -> io::Result<()> {
        let mut headers = 0;
        for number in 0..self.outgoing.len() {
            let socket = Fixed(u32::from(self.outgoing.socket(number)));
            let send = match self.outgoing.single(number) {
                // Without a msghdr the kernel has less to copy and to check.
                Some((place, name)) => {
                    let bytes = &batch[place].bytes;
                    opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32)
                        .dest_addr(name.bytes.as_ptr().cast())
                        .dest_addr_len(name.len.into())
                        .flags(libc::MSG_DONTWAIT)
                        .build()
                }
                None => {
                    let header = &raw const self.outgoing.headers()[headers].msg_hdr;
                    headers += 1;
                    opcode::SendMsg::new(socket, header)
                        .flags(libc::MSG_DONTWAIT as u32)
                        .build()
                }
            };
            self.push(&send.user_data(SEND | number as u64), turn)?;
            self.lent += 1;
        }
        // With MSG_DONTWAIT no send can linger.
        while self.lent > 0 {
            self.enter(self.lent, &SubmitArgs::new())?;
            self.reap(turn)?;
        }
        Ok(())
    }

    /// Waits for traffic, the waker or the end of the time. Says how long it slept, if it did.
    fn wait(&mut self, wait: Duration, turn: &mut Turn) -> io::Result<Option<Duration>> {
        if self.base.ring.submission().taskrun() {
            self.enter(0, &SubmitArgs::new())?;
            self.reap(turn)?;
        }
        // What was reaped since may have ended a receive or the watch: nobody would wake the sleeper.
        let watched =
            self.watching_waker && self.receives.iter().all(|state| *state == Receive::Armed);
        if wait.is_zero() || !watched || !self.arrivals.is_empty() || !self.sleeper.lie_down() {
            // Receives and the watch on the waker may have been written just now.
            self.enter(0, &SubmitArgs::new())?;
            self.reap(turn)?;
            return Ok(None);
        }
        let begin = Instant::now();
        let wait = wait.min(WAIT_MAX);
        let limit = Timespec::from(wait);
        let args = SubmitArgs::new().timespec(&limit);
        match self.gather {
            Some(gather) => {
                let args = args.min_wait_usec(gather.min(wait).as_micros() as u32);
                self.enter(WORTH_WAKING, &args)?;
            }
            None => self.enter(1, &args)?,
        }
        self.reap(turn)?;
        Ok(Some(begin.elapsed()))
    }

    /// Hands over what has arrived, and goes on while that brings much, or a receive has ended: then the sockets may hold
    /// more than anybody has looked at. What trickles in meanwhile is there for the next turn, at no enter of its own.
    fn receive(
        &mut self,
        turn: &mut Turn,
        receive: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<()> {
        for _ in 0..RECEIVED_PER_TURN {
            let before = turn.received;
            self.hand_over(turn, receive);
            let much = turn.received - before >= BUSY && self.base.ring.submission().taskrun();
            let more = much || self.receives.contains(&Receive::Ended);
            if !more || turn.received >= RECEIVED_PER_TURN {
                break;
            }
            self.arm(turn)?;
            self.enter(0, &SubmitArgs::new())?;
            self.reap(turn)?;
        }
        self.hand_over(turn, receive);
        Ok(())
    }

    fn hand_over(&mut self, turn: &mut Turn, receive: &mut dyn FnMut(Received<'_>)) {
        if self.arrivals.is_empty() {
            return;
        }
        for arrival in self.arrivals.drain(..) {
            let filled = self
                .base
                .buffers
                .filled(arrival.buffer, arrival.len as usize);
            match RecvMsgOut::parse(filled, &self.shape) {
                Ok(message) => {
                    if let Some(drops) = ancillary::overflow(message.control_data()) {
                        let before =
                            mem::replace(&mut self.drops[usize::from(arrival.socket)], drops);
                        turn.overflowed += u64::from(drops.wrapping_sub(before));
                    }
                    match address::parse(message.name_data()) {
                        Some(peer) if !message.is_payload_truncated() => {
                            turn.received += 1;
                            receive(Received {
                                socket: arrival.socket,
                                peer,
                                bytes: message.payload_data(),
                            });
                        }
                        _ => turn.truncated += 1,
                    }
                }
                Err(()) => turn.truncated += 1,
            }
            self.base.buffers.give_back(arrival.buffer);
        }
        self.base.buffers.publish();
    }

    /// Asks again for what has ended: the receive of a socket, the watch on the waker.
    fn arm(&mut self, turn: &mut Turn) -> io::Result<()> {
        for socket in 0..self.receives.len() {
            if self.receives[socket] != Receive::Ended {
                continue;
            }
            let receive = opcode::RecvMsgMulti::new(Fixed(socket as u32), &*self.shape, GROUP)
                .build()
                .user_data(RECEIVE | socket as u64);
            self.push(&receive, turn)?;
            self.receives[socket] = Receive::Armed;
        }
        if !self.watching_waker {
            let event = Fixed(self.sockets.len() as u32);
            let watch = opcode::PollAdd::new(event, libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(WAKE);
            self.push(&watch, turn)?;
            self.watching_waker = true;
        }
        Ok(())
    }

    /// Writes one request to the ring, and has the kernel take what is there if there is no room.
    fn push(&mut self, request: &squeue::Entry, turn: &mut Turn) -> io::Result<()> {
        // SAFETY: a send points to headers and payloads that `send` laid out from the batch, and `turn` does not return
        // to the batch's owner before the kernel has completed every send (`write_sends`), or else never submits again
        // (`broken`). A receive points to `shape`, which lives in a box until `drop` has cancelled everything.
        while unsafe { self.base.ring.submission().push(request) }.is_err() {
            self.enter(0, &SubmitArgs::new())?;
            self.reap(turn)?;
        }
        Ok(())
    }

    fn enter(&mut self, want: usize, args: &SubmitArgs<'_, '_>) -> io::Result<()> {
        let submission = self.base.ring.submission();
        if want == 0 && submission.is_empty() && !submission.taskrun() {
            return Ok(());
        }
        drop(submission);
        match self.base.ring.submitter().submit_with_args(want, args) {
            Ok(_) => Ok(()),
            // The time is over, a signal came, or the kernel is short of memory or of completion entries: reap and go on.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, turn: &mut Turn) -> io::Result<()> {
        let mut fatal = None;
        for completion in self.base.ring.completion() {
            let number = (completion.user_data() & !KIND) as usize;
            let result = completion.result();
            match completion.user_data() & KIND {
                SEND => {
                    self.lent -= 1;
                    self.outgoing.settle(number, result, turn);
                }
                RECEIVE => {
                    let ended = !cqueue::more(completion.flags());
                    if ended {
                        self.receives[number] = Receive::Ended;
                    }
                    if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                        self.arrivals.push(Arrival {
                            socket: number as u16,
                            buffer,
                            len: result.max(0) as u32,
                        });
                    } else if -result == libc::ENOBUFS {
                        turn.enobufs += 1;
                    } else if result < 0 {
                        self.receives[number] = Receive::Failed;
                        if is_lasting(-result) {
                            fatal = Some(io::Error::from_raw_os_error(-result));
                        }
                    }
                }
                _ => self.watching_waker = cqueue::more(completion.flags()),
            }
        }
        fatal.map_or(Ok(()), Err)
    }
}

/// How long the next sleep shall gather, after one that lasted `slept` and brought `received`. A datagram that comes
/// alone after a long sleep is followed by another such; to gather for it would cost a timer and win nothing.
fn worth_gathering(
    gathering: Option<Duration>,
    slept: Duration,
    received: u32,
) -> Option<Duration> {
    let often = match gathering {
        Some(_) => received > 1,
        None => received > 0 && slept < GATHER,
    };
    let length = if received < BUSY { GATHER } else { GATHER_BUSY };
    often.then_some(length)
}

/// Errors of a receive that the next try would meet again.
fn is_lasting(errno: i32) -> bool {
    matches!(
        errno,
        libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT | libc::EOPNOTSUPP
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sockets::bind_shards;
    use crate::io::waker;

    #[test]
    fn a_sleep_gathers_only_where_datagrams_come_often() {
        let (short, long) = (GATHER / 2, GATHER * 2);
        assert_eq!(worth_gathering(None, long, 1), None);
        assert_eq!(worth_gathering(None, short, 0), None);
        assert_eq!(worth_gathering(None, short, 1), Some(GATHER));
        assert_eq!(worth_gathering(Some(GATHER), long, 2), Some(GATHER));
        assert_eq!(worth_gathering(Some(GATHER), long, BUSY), Some(GATHER_BUSY));
        assert_eq!(worth_gathering(Some(GATHER_BUSY), short, 1), None);
    }

    #[test]
    fn buffers_that_run_dry_lose_nothing_that_the_socket_held() {
        let sockets = bind_shards(([127, 0, 0, 1], 0).into(), 1, Some(425_984)).unwrap();
        let target = sockets[0].local_addr().unwrap();
        let (_waker, sleeper) = waker::pair().unwrap();
        let mut ring = Ring::with_buffers(sockets, sleeper, false, 8).ok().unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..400u32 {
            peer.send_to(&number.to_be_bytes(), target).unwrap();
        }
        let (mut next, mut enobufs) = (0u32, 0);
        for _ in 0..1000 {
            let turn = ring.turn(&[], Duration::from_millis(20), &mut |arrived| {
                assert_eq!(arrived.bytes, next.to_be_bytes());
                next += 1;
            });
            let turn = turn.unwrap();
            enobufs += turn.enobufs;
            assert_eq!((turn.overflowed, turn.truncated), (0, 0));
            if next == 400 {
                break;
            }
        }
        assert_eq!(next, 400);
        assert!(enobufs > 0, "8 buffers were enough for 400 datagrams");
    }
}
