//! The engine against the real kernel, both ways of it: what is sent arrives, what arrives is handed over, what cannot go
//! is named, and sleeps end when they should. Knows no SIP.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fanfare::io::sockets::bind_shards;
use fanfare::io::{Engine, Kind, RECEIVED_PER_TURN, Received, Turn, Waker};
use fanfare::wire::{Batch, Flow};

const WAYS: [Kind; 2] = [Kind::Uring, Kind::Mmsg];
const PATIENCE: Duration = Duration::from_secs(20);
/// What an ordinary user gets everywhere: some 500 small datagrams.
const RCVBUF: usize = 425_984;
const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

struct Node {
    engine: Engine,
    waker: Waker,
    address: SocketAddr,
}

fn socket(address: &str, rcvbuf: usize) -> UdpSocket {
    bind_shards(
        address.parse().expect("the text is an address"),
        1,
        Some(rcvbuf),
    )
    .expect("loopback has ports")
    .remove(0)
}

fn node(kind: Kind, address: &str, gso: bool) -> Node {
    node_with(kind, address, gso, RCVBUF)
}

fn node_with(kind: Kind, address: &str, gso: bool, rcvbuf: usize) -> Node {
    let sockets = vec![socket(address, rcvbuf)];
    let address = sockets[0].local_addr().expect("the socket is bound");
    let (engine, waker) = Engine::open(kind, sockets, gso).expect("the engine opens");
    assert_eq!(engine.kind(), kind);
    Node {
        engine,
        waker,
        address,
    }
}

fn peer(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = socket(address, RCVBUF);
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket has a timeout");
    let address = socket.local_addr().expect("the socket is bound");
    (socket, address)
}

fn put(batch: &mut Batch, peer: SocketAddr, bytes: &[u8]) {
    let datagram = batch.next(Flow::udp(0, peer)).expect("the batch has room");
    datagram.bytes.extend_from_slice(bytes);
}

/// Content that no other datagram has, of a length that varies.
fn content(number: u32) -> Vec<u8> {
    let len = 4 + (number as usize * 37) % 1400;
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(len, number as u8);
    bytes
}

fn receive_until(node: &mut Node, batch: &mut Batch, count: usize) -> (Vec<Vec<u8>>, Turn) {
    let mut received = Vec::new();
    let mut total = Turn::default();
    let deadline = Instant::now() + PATIENCE;
    while received.len() < count && Instant::now() < deadline {
        let turn = node
            .engine
            .turn(batch, Duration::from_millis(20), &mut |arrived| {
                received.push(arrived.bytes.to_vec());
            })
            .expect("the engine works");
        batch.clear();
        total.sent += turn.sent;
        total.received += turn.received;
        total.overflowed += turn.overflowed;
        total.truncated += turn.truncated;
        total.gso_runs += turn.gso_runs;
        total.gso_off |= turn.gso_off;
        total.failed.extend(turn.failed);
    }
    (received, total)
}

fn take(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let (len, _) = socket
        .recv_from(&mut buffer)
        .expect("a datagram arrives in time");
    buffer.truncate(len);
    buffer
}

fn echo(node: &mut Node, stop: &AtomicBool) {
    let mut batch = Batch::new(256);
    let mut answers: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let now = answers.len().min(batch.room());
        for (peer, bytes) in answers.drain(..now) {
            put(&mut batch, peer, &bytes);
        }
        let wait = if answers.is_empty() {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let turn = node
            .engine
            .turn(&mut batch, wait, &mut |arrived: Received<'_>| {
                answers.push((arrived.peer, arrived.bytes.to_vec()));
            })
            .expect("the engine works");
        assert!(turn.failed.is_empty(), "{turn:?}");
        batch.clear();
    }
}

#[test]
fn thousands_of_datagrams_come_back_as_they_were_sent() {
    for kind in WAYS {
        for address in [V4, V6] {
            let stop = Arc::new(AtomicBool::new(false));
            let (tell, told) = std::sync::mpsc::channel();
            let stopped = Arc::clone(&stop);
            let echoing = thread::spawn(move || {
                let mut node = node(kind, address, true);
                tell.send((node.waker.clone(), node.address)).unwrap();
                echo(&mut node, &stopped);
            });
            let (waker, target) = told.recv().unwrap();
            let (socket, _) = peer(address);
            for window in 0..100u32 {
                let numbers = window * 50..(window + 1) * 50;
                for number in numbers.clone() {
                    socket.send_to(&content(number), target).unwrap();
                }
                let mut answers: Vec<Vec<u8>> = numbers.clone().map(|_| take(&socket)).collect();
                answers.sort_by_key(|bytes| bytes[..4].to_vec());
                for (answer, number) in answers.iter().zip(numbers) {
                    assert_eq!(*answer, content(number), "{kind} {address}");
                }
            }
            stop.store(true, Ordering::Release);
            waker.wake();
            echoing.join().unwrap();
        }
    }
}

#[test]
fn runs_of_equal_datagrams_arrive_as_datagrams_in_their_order() {
    for kind in WAYS {
        for address in [V4, V6] {
            let mut node = node(kind, address, true);
            let (first, first_address) = peer(address);
            let (second, second_address) = peer(address);
            let mut batch = Batch::new(300);
            for number in 0..150u32 {
                let mut bytes = vec![number as u8; 700];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                put(&mut batch, first_address, &bytes);
                put(&mut batch, second_address, &bytes);
            }
            let turn = node
                .engine
                .turn(&mut batch, Duration::ZERO, &mut |_| {})
                .unwrap();
            batch.clear();
            assert_eq!((turn.sent, turn.failed.len()), (300, 0), "{kind}");
            assert_eq!((turn.gso_runs, turn.gso_off), (6, false), "{kind}");
            for socket in [&first, &second] {
                for number in 0..150u32 {
                    let bytes = take(socket);
                    assert_eq!(bytes.len(), 700);
                    assert_eq!(bytes[..4], number.to_be_bytes());
                    assert!(bytes[4..].iter().all(|&byte| byte == number as u8));
                }
            }
        }
    }
}

#[test]
fn single_datagrams_between_runs_arrive_whole() {
    for kind in WAYS {
        let mut node = node(kind, V4, true);
        let (socket, address) = peer(V4);
        let mut batch = Batch::new(8);
        // In the order of sending: a run, one alone, a run, one alone.
        let lens = [100, 100, 200, 300, 300, 300, 400];
        for (number, len) in lens.into_iter().enumerate() {
            put(&mut batch, address, &vec![number as u8; len]);
        }
        let turn = node
            .engine
            .turn(&mut batch, Duration::ZERO, &mut |_| {})
            .unwrap();
        assert_eq!((turn.sent, turn.gso_runs), (7, 2), "{kind}");
        for (number, len) in lens.into_iter().enumerate() {
            assert_eq!(take(&socket), vec![number as u8; len], "{kind}");
        }
    }
}

#[test]
fn a_destination_that_cannot_be_is_named_and_the_others_are_served() {
    for kind in WAYS {
        for gso in [false, true] {
            let mut node = node(kind, V4, gso);
            let (socket, address) = peer(V4);
            let nowhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let mut batch = Batch::new(8);
            for (number, target) in [address, nowhere, address, nowhere, address]
                .iter()
                .enumerate()
            {
                put(&mut batch, *target, &[number as u8; 100]);
            }
            put(&mut batch, address, &[9; 65_508]);
            let turn = node
                .engine
                .turn(&mut batch, Duration::ZERO, &mut |_| {})
                .unwrap();
            let mut failed = turn.failed.to_vec();
            failed.sort();
            let expected = [(1, libc::EINVAL), (3, libc::EINVAL), (5, libc::EMSGSIZE)];
            assert_eq!(failed, expected, "{kind}, GSO {gso}");
            assert_eq!((turn.sent, turn.gso_off), (3, false), "{kind}, GSO {gso}");
            for number in [0, 2, 4] {
                assert_eq!(take(&socket), [number; 100]);
            }
        }
    }
}

#[test]
fn the_largest_and_the_smallest_datagrams_travel_whole() {
    for kind in WAYS {
        for (address, largest) in [(V4, 65_507), (V6, 65_527)] {
            let mut node = node(kind, address, true);
            let (socket, peer) = peer(address);
            let lengths = [0, largest, 1, 0, 0, largest, 1300, 0];
            let mut batch = Batch::new(8);
            for (number, len) in lengths.into_iter().enumerate() {
                put(&mut batch, peer, &vec![number as u8; len]);
            }
            let turn = node
                .engine
                .turn(&mut batch, Duration::ZERO, &mut |_| {})
                .unwrap();
            batch.clear();
            assert!(turn.failed.is_empty(), "{kind}: {turn:?}");
            let mut sent: Vec<usize> = lengths.iter().map(|_| take(&socket).len()).collect();
            let mut expected = lengths;
            sent.sort();
            expected.sort();
            assert_eq!(sent, expected);

            for (number, len) in lengths.into_iter().enumerate() {
                socket
                    .send_to(&vec![number as u8; len], node.address)
                    .unwrap();
            }
            let (received, turn) = receive_until(&mut node, &mut batch, lengths.len());
            assert_eq!(turn.truncated, 0, "{kind}");
            assert_eq!(received.len(), lengths.len(), "{kind} {address}");
            for (number, (bytes, len)) in received.iter().zip(lengths).enumerate() {
                assert_eq!(*bytes, vec![number as u8; len], "{kind} {address}");
            }
        }
    }
}

#[test]
fn a_batch_larger_than_the_ring_goes_whole() {
    for kind in WAYS {
        for gso in [false, true] {
            let mut node = node(kind, V4, gso);
            let peers: Vec<_> = (0..10).map(|_| peer(V4)).collect();
            let mut batch = Batch::new(3000);
            for number in 0..3000u32 {
                let (_, address) = peers[number as usize % peers.len()];
                put(&mut batch, address, &number.to_be_bytes());
            }
            let turn = node
                .engine
                .turn(&mut batch, Duration::ZERO, &mut |_| {})
                .unwrap();
            assert_eq!((turn.sent, turn.failed.len()), (3000, 0), "{kind}");
            assert_eq!(turn.gso_runs, if gso { 50 } else { 0 });
            for number in 0..3000u32 {
                let (socket, _) = &peers[number as usize % peers.len()];
                assert_eq!(take(socket), number.to_be_bytes());
            }
        }
    }
}

#[test]
fn a_long_queue_is_taken_in_bounded_turns_and_whole() {
    const SOCKETS: usize = 24;
    const EACH: u32 = 400;
    const TOTAL: u32 = SOCKETS as u32 * EACH;
    for kind in WAYS {
        let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| socket(V4, RCVBUF)).collect();
        let targets: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let (mut engine, _waker) = Engine::open(kind, sockets, false).unwrap();
        let (sender, _) = peer(V4);
        for target in targets {
            for number in 0..EACH {
                sender.send_to(&number.to_be_bytes(), target).unwrap();
            }
        }
        let mut batch = Batch::new(1);
        let mut next = [0u32; SOCKETS];
        let mut longest = 0;
        let deadline = Instant::now() + PATIENCE;
        while next != [EACH; SOCKETS] && Instant::now() < deadline {
            let turn = engine
                .turn(&mut batch, Duration::from_millis(20), &mut |arrived| {
                    let next = &mut next[usize::from(arrived.socket)];
                    assert_eq!(arrived.bytes, next.to_be_bytes());
                    *next += 1;
                })
                .unwrap();
            longest = longest.max(turn.received);
            assert_eq!(turn.overflowed, 0);
        }
        assert_eq!(next, [EACH; SOCKETS], "{kind}");
        // The first turn finds more than it may take, and takes little more than it may.
        assert!(longest >= RECEIVED_PER_TURN && TOTAL > 2 * RECEIVED_PER_TURN);
        assert!(longest < RECEIVED_PER_TURN + 1024, "{kind}: {longest}");
    }
}

#[test]
fn drops_at_a_small_receive_buffer_are_counted() {
    for kind in WAYS {
        let mut node = node_with(kind, V4, false, 16_384);
        let (socket, _) = peer(V4);
        for number in 0..300u32 {
            socket.send_to(&content(number), node.address).unwrap();
        }
        let mut batch = Batch::new(1);
        let (before, first) = receive_until(&mut node, &mut batch, 1);
        assert!(before.len() < 300, "the buffer is meant to be too small");
        // The counter travels with the datagrams that were queued after the drops.
        socket.send_to(b"last", node.address).unwrap();
        let (after, second) = receive_until(&mut node, &mut batch, 1);
        let counted = first.overflowed + second.overflowed;
        let received = (before.len() + after.len()) as u64;
        assert_eq!(received + counted, 301, "{kind}: {received} + {counted}");
    }
}

#[test]
fn every_wake_up_ends_a_long_wait() {
    const TRIES: u32 = 10_000;
    for kind in WAYS {
        let mut node = node(kind, V4, false);
        let asked = Arc::new(AtomicU32::new(0));
        let (waker, wanted) = (node.waker.clone(), Arc::clone(&asked));
        let waking = thread::spawn(move || {
            for number in 1..=TRIES {
                while wanted.load(Ordering::Acquire) < number {
                    thread::yield_now();
                }
                linger(number * 7 % 977);
                waker.wake();
            }
        });
        let mut batch = Batch::new(1);
        for number in 1..=TRIES {
            asked.store(number, Ordering::Release);
            // Both sides take varying times, so that wake-ups come before, while and after the engine falls asleep.
            linger(number * 31 % 1499);
            let start = Instant::now();
            let mut woken = false;
            while !woken {
                let turn = node.engine.turn(&mut batch, PATIENCE, &mut |_| {}).unwrap();
                woken = turn.woken;
                let took = start.elapsed();
                assert!(took < PATIENCE / 2, "{kind}: {number} came after {took:?}");
            }
        }
        waking.join().unwrap();
    }
}

fn linger(steps: u32) {
    for _ in 0..steps {
        std::hint::spin_loop();
    }
}

#[test]
fn a_wait_without_traffic_lasts_to_its_deadline_in_one_turn() {
    for kind in WAYS {
        let mut node = node(kind, V4, false);
        let mut batch = Batch::new(1);
        for wait in [1, 5, 60].map(Duration::from_millis) {
            let start = Instant::now();
            let turn = node.engine.turn(&mut batch, wait, &mut |_| {}).unwrap();
            let took = start.elapsed();
            assert_eq!(turn, Turn::default());
            assert!(took >= wait, "{kind}: {took:?} of {wait:?}");
            assert!(took < wait + PATIENCE / 4, "{kind}: {took:?} of {wait:?}");
        }
    }
}

#[test]
fn a_single_datagram_ends_a_long_wait() {
    for kind in WAYS {
        let mut node = node(kind, V4, false);
        let (socket, _) = peer(V4);
        let target = node.address;
        let sending = thread::spawn(move || {
            for _ in 0..20 {
                socket.send_to(b"?", target).unwrap();
                assert_eq!(take(&socket), b"!");
            }
        });
        let mut batch = Batch::new(1);
        let start = Instant::now();
        let mut answered = 0;
        while answered < 20 {
            let mut from = None;
            let turn = node
                .engine
                .turn(&mut batch, PATIENCE, &mut |arrived| {
                    from = Some(arrived.peer)
                })
                .unwrap();
            batch.clear();
            if let Some(peer) = from {
                assert_eq!(turn.received, 1);
                put(&mut batch, peer, b"!");
                answered += 1;
            }
        }
        node.engine
            .turn(&mut batch, Duration::ZERO, &mut |_| {})
            .unwrap();
        assert!(start.elapsed() < PATIENCE, "{kind}: {:?}", start.elapsed());
        sending.join().unwrap();
    }
}

#[test]
fn several_sockets_keep_their_numbers_both_ways() {
    for kind in WAYS {
        let mut sockets = Vec::new();
        for address in [V4, V6, V4] {
            sockets.push(socket(address, RCVBUF));
        }
        let addresses: Vec<SocketAddr> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let (mut engine, _waker) = Engine::open(kind, sockets, true).unwrap();
        let peers = [V4, V6, V4].map(peer);
        let mut batch = Batch::new(30);
        for round in 0..10u8 {
            for (local, (_, peer)) in peers.iter().enumerate() {
                let flow = Flow::udp(local as u16, *peer);
                batch.next(flow).unwrap().bytes.extend([round, local as u8]);
            }
        }
        let turn = engine
            .turn(&mut batch, Duration::ZERO, &mut |_| {})
            .unwrap();
        batch.clear();
        assert_eq!((turn.sent, turn.gso_runs), (30, 3), "{kind}");
        let mut buffer = [0; 9];
        for (local, (socket, _)) in peers.iter().enumerate() {
            for round in 0..10 {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..len], [round, local as u8]);
                assert_eq!(from, addresses[local]);
                socket.send_to(&buffer[..len], from).unwrap();
            }
        }
        let mut seen = [0; 3];
        let deadline = Instant::now() + PATIENCE;
        while seen != [10; 3] && Instant::now() < deadline {
            engine
                .turn(&mut batch, Duration::from_millis(20), &mut |arrived| {
                    let local = usize::from(arrived.socket);
                    assert_eq!(arrived.bytes[1], local as u8);
                    assert_eq!(arrived.peer, peers[local].1);
                    seen[local] += 1;
                })
                .unwrap();
        }
        assert_eq!(seen, [10; 3], "{kind}");
    }
}
