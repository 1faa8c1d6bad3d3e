//! From a batch to what the kernel wants to see of it: headers, vectors, addresses, and runs of equal datagrams joined
//! to one send (UDP_SEGMENT). Both ways of sending read the same headers. Knows no ring and makes no system call.

#![allow(unsafe_code)]

use std::mem;
use std::ptr;

use super::Turn;
use super::address::{self, Name};
use super::ancillary;
use crate::wire::{Datagram, Transport};

/// UDP_MAX_SEGMENTS of the kernels before 6.9; newer ones take 128.
const SEGMENTS_MAX: usize = 64;
/// The largest payload of a UDP datagram over IPv4, and of a run, which the kernel builds as one.
const RUN_MAX: usize = 65_507;
/// A segment must fit the path's MTU; larger datagrams go singly and may be fragmented. 1,500 less IPv6 and UDP headers.
const SEGMENT_MAX: usize = 1_452;

/// Whether a socket's datagrams may go in runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segmentation {
    Off,
    On,
    /// A run failed as it does where offload is not to be had; a datagram of it that goes singly proves it.
    Suspect,
}

/// One send: datagrams `first..first + count` of the sending order.
#[derive(Debug, Clone, Copy)]
struct Run {
    socket: u16,
    first: u32,
    count: u32,
}

/// Which sends get a msghdr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headers {
    /// Every one, in the order of the sends.
    All,
    /// Those of more than one datagram.
    Runs,
}

/// The sends of one turn. Its pointers are good from `plan` until the batch is touched again.
#[derive(Debug)]
pub(super) struct Outgoing {
    segmentation: Vec<Segmentation>,
    wanted: Headers,
    keys: Vec<u128>,
    order: Vec<u32>,
    runs: Vec<Run>,
    vectors: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<[u8; ancillary::ROOM]>,
    headers: Vec<libc::mmsghdr>,
    again: Vec<u32>,
}

impl Outgoing {
    pub fn new(sockets: usize, gso: bool, wanted: Headers) -> Outgoing {
        let segmentation = if gso {
            Segmentation::On
        } else {
            Segmentation::Off
        };
        Outgoing {
            segmentation: vec![segmentation; sockets],
            wanted,
            keys: Vec::new(),
            order: Vec::new(),
            runs: Vec::new(),
            vectors: Vec::new(),
            names: Vec::new(),
            controls: Vec::new(),
            headers: Vec::new(),
            again: Vec::new(),
        }
    }

    /// Lays out the whole batch. Datagrams of one socket stand together; of one socket and peer, the shorter ones first,
    /// and equal ones in the order of the batch.
    pub fn plan(&mut self, batch: &[Datagram]) {
        self.again.clear();
        self.sort(batch);
        self.join(batch);
        self.lay_out(batch);
    }

    /// Lays out, one by one, what was sent in runs and failed. False if there is nothing of the kind.
    pub fn plan_again(&mut self, batch: &[Datagram]) -> bool {
        if self.again.is_empty() {
            return false;
        }
        mem::swap(&mut self.order, &mut self.again);
        self.again.clear();
        self.runs.clear();
        for (first, &index) in self.order.iter().enumerate() {
            self.runs.push(Run {
                socket: batch[index as usize].flow.local,
                first: first as u32,
                count: 1,
            });
        }
        self.lay_out(batch);
        true
    }

    /// How many sends there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// By which socket send number `send` goes.
    pub fn socket(&self, send: usize) -> u16 {
        self.runs[send].socket
    }

    /// The headers, in the order of the sends that have one.
    pub fn headers(&mut self) -> &mut [libc::mmsghdr] {
        &mut self.headers
    }

    /// The place in the batch and the address of a send that is one datagram; the address is good as long as the headers.
    pub fn single(&self, send: usize) -> Option<(usize, &Name)> {
        let run = self.runs[send];
        (run.count == 1).then(|| (self.order[run.first as usize] as usize, &self.names[send]))
    }

    /// Takes what the kernel said of a send: its bytes, or a negated errno.
    pub fn settle(&mut self, send: usize, result: i32, turn: &mut Turn) {
        let run = self.runs[send];
        let datagrams = run.first as usize..(run.first + run.count) as usize;
        let segmentation = &mut self.segmentation[usize::from(run.socket)];
        if result >= 0 {
            turn.sent += run.count;
            turn.gso_runs += u32::from(run.count > 1);
            if run.count == 1 && *segmentation == Segmentation::Suspect {
                *segmentation = Segmentation::Off;
                turn.gso_off = true;
            }
            return;
        }
        let errno = -result;
        let unsegmented = matches!(errno, libc::EIO | libc::EINVAL);
        if run.count > 1 && (unsegmented || errno == libc::EMSGSIZE) {
            if unsegmented {
                *segmentation = Segmentation::Suspect;
            }
            self.again.extend_from_slice(&self.order[datagrams]);
            return;
        }
        for &index in &self.order[datagrams] {
            turn.failed.push((index, errno));
        }
    }

    /// Ends a turn's sends: a suspicion that was not proved was the destination's fault.
    pub fn close(&mut self) {
        for segmentation in &mut self.segmentation {
            if *segmentation == Segmentation::Suspect {
                *segmentation = Segmentation::On;
            }
        }
    }

    fn sort(&mut self, batch: &[Datagram]) {
        self.order.clear();
        let alike = !self.segmentation.contains(&Segmentation::On) && self.segmentation.len() == 1;
        if alike {
            self.order.extend(0..batch.len() as u32);
            return;
        }
        self.keys.clear();
        let keys = batch.iter().zip(0u32..).map(|(datagram, index)| {
            debug_assert_eq!(datagram.flow.transport, Transport::Udp);
            let len = datagram.bytes.len().min(usize::from(u16::MAX)) as u128;
            u128::from(datagram.flow.local) << 112
                | u128::from(address::sort_key(&datagram.flow.peer)) << 48
                | len << 32
                | u128::from(index)
        });
        self.keys.extend(keys);
        self.keys.sort_unstable();
        self.order.extend(self.keys.iter().map(|&key| key as u32));
    }

    fn join(&mut self, batch: &[Datagram]) {
        self.runs.clear();
        for (place, &index) in self.order.iter().enumerate() {
            let datagram = &batch[index as usize];
            if let Some(run) = self.runs.last_mut() {
                let leader = &batch[self.order[run.first as usize] as usize];
                let joins = self.segmentation[usize::from(run.socket)] == Segmentation::On
                    && may_join(leader, run.count as usize, datagram);
                if joins {
                    run.count += 1;
                    continue;
                }
            }
            self.runs.push(Run {
                socket: datagram.flow.local,
                first: place as u32,
                count: 1,
            });
        }
    }

    /// Fills the vectors first and points to them afterwards: a vector that still grows may move.
    fn lay_out(&mut self, batch: &[Datagram]) {
        self.vectors.clear();
        self.names.clear();
        self.controls.clear();
        self.headers.clear();
        let wanted = self.wanted;
        let has_header = |run: &&Run| wanted == Headers::All || run.count > 1;
        for run in &self.runs {
            let leader = &batch[self.order[run.first as usize] as usize];
            self.names.push(Name::from(leader.flow.peer));
        }
        for run in self.runs.iter().filter(has_header) {
            let datagrams = &self.order[run.first as usize..(run.first + run.count) as usize];
            let leader = &batch[datagrams[0] as usize];
            self.controls
                .push(ancillary::segments_of(leader.bytes.len() as u16));
            for &index in datagrams {
                let datagram = &batch[index as usize];
                self.vectors.push(vector(&datagram.bytes));
            }
        }
        let mut vectors = self.vectors.as_mut_ptr();
        let runs = self.runs.iter().zip(&self.names);
        let runs = runs.filter(|(run, _)| has_header(run));
        for ((run, name), control) in runs.zip(&self.controls) {
            let count = run.count as usize;
            // SAFETY: a msghdr is integers and pointers, for which zero is a value.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = ptr::from_ref(&name.bytes).cast_mut().cast();
            header.msg_hdr.msg_namelen = name.len.into();
            header.msg_hdr.msg_iov = vectors;
            header.msg_hdr.msg_iovlen = count as _;
            if run.count > 1 {
                header.msg_hdr.msg_control = ptr::from_ref(control).cast_mut().cast();
                header.msg_hdr.msg_controllen = control.len() as _;
            }
            self.headers.push(header);
            // SAFETY: the loop above pushed exactly as many vectors as the counts here add up to, so this ends at most
            // one past the last.
            vectors = unsafe { vectors.add(count) };
        }
    }
}

fn may_join(leader: &Datagram, count: usize, datagram: &Datagram) -> bool {
    let len = datagram.bytes.len();
    leader.flow.local == datagram.flow.local
        && leader.flow.peer == datagram.flow.peer
        && leader.bytes.len() == len
        && (1..=SEGMENT_MAX).contains(&len)
        && count < SEGMENTS_MAX
        && (count + 1) * len <= RUN_MAX
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Batch, Flow};

    fn batch(datagrams: &[(u16, &str, usize)]) -> Batch {
        let mut batch = Batch::new(datagrams.len());
        for &(local, peer, len) in datagrams {
            let flow = Flow::udp(local, peer.parse().unwrap());
            batch.next(flow).unwrap().bytes.resize(len, 0);
        }
        batch
    }

    fn runs(outgoing: &Outgoing) -> Vec<Vec<u32>> {
        let datagrams = |run: &Run| run.first as usize..(run.first + run.count) as usize;
        outgoing
            .runs
            .iter()
            .map(|run| outgoing.order[datagrams(run)].to_vec())
            .collect()
    }

    #[test]
    fn equal_datagrams_to_one_peer_from_one_socket_join_in_order() {
        let (a, b) = ("10.0.0.1:5060", "[2001:db8::1]:5060");
        let batch = batch(&[
            (0, a, 800),
            (0, b, 800),
            (1, a, 800),
            (0, a, 801),
            (0, a, 800),
            (0, b, 800),
        ]);
        let mut outgoing = Outgoing::new(2, true, Headers::All);
        outgoing.plan(batch.datagrams());
        let mut runs = runs(&outgoing);
        runs.sort();
        assert_eq!(runs, [vec![0, 4], vec![1, 5], vec![2], vec![3]]);
    }

    #[test]
    fn a_run_ends_at_64_segments_at_65507_bytes_and_at_the_mtu() {
        for (len, longest) in [(100, 64), (1_452, 45), (1_453, 1), (0, 1)] {
            let batch = batch(&vec![(0, "10.0.0.1:5060", len); 130]);
            let mut outgoing = Outgoing::new(1, true, Headers::All);
            outgoing.plan(batch.datagrams());
            assert_eq!(runs(&outgoing)[0].len(), longest, "{len} bytes");
        }
    }

    #[test]
    fn without_offload_every_datagram_goes_alone() {
        let batch = batch(&[(0, "10.0.0.1:5060", 800); 5]);
        let mut outgoing = Outgoing::new(1, false, Headers::All);
        outgoing.plan(batch.datagrams());
        assert_eq!(runs(&outgoing), [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn offload_is_turned_off_only_when_a_datagram_of_the_run_goes_singly() {
        let batch = batch(&[(0, "10.0.0.1:5060", 800); 2]);
        for (single, off) in [(-libc::EINVAL, false), (800, true)] {
            let mut outgoing = Outgoing::new(1, true, Headers::All);
            let mut turn = Turn::default();
            outgoing.plan(batch.datagrams());
            outgoing.settle(0, -libc::EINVAL, &mut turn);
            assert!(outgoing.plan_again(batch.datagrams()));
            outgoing.settle(0, single, &mut turn);
            outgoing.settle(1, single, &mut turn);
            outgoing.close();
            assert_eq!(turn.gso_off, off);
            outgoing.plan(batch.datagrams());
            assert_eq!(outgoing.len(), if off { 2 } else { 1 });
        }
    }
}
