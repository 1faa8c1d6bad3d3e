//! The yardstick: what one exchange (800 bytes out, 400 back) costs with nothing but the engine, on this machine.
//! A figure of the notifier is to be read beside these. Knows no SIP.
//!
//! `cargo bench --bench limit`. The engine runs on the first core, its peer on the second.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fanfare::io::sockets::bind_shards;
use fanfare::io::{Engine, Kind, pin};
use fanfare::wire::{Batch, Flow};
use hdrhistogram::Histogram;

const OUT: usize = 800;
const BACK: usize = 400;
/// Next hops that a fan-out's runs go to.
const HOPS: usize = 8;
const TICK: Duration = Duration::from_millis(5);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let measured = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // cargo passes --bench when it benches and nothing when it only tests that the bench runs.
    let long = measured("--bench") && !measured("--test");
    let last = if long {
        Duration::from_millis(800)
    } else {
        Duration::from_millis(20)
    };
    println!("exchanges: {OUT} bytes out, {BACK} back, window 256; CPU of the engine's thread");
    let mut halves = Vec::new();
    for round in 0..if long { 3 } else { 1 } {
        let each_us = [false, true].map(|gso| {
            let (sent, cpu) = send_half(Kind::Uring, gso, last);
            cpu.as_secs_f64() * 1e6 / sent as f64
        });
        halves.push(each_us[1] / each_us[0]);
        println!(
            "run {round} sent alone to {HOPS} next hops: {:.2} us each singly, {:.2} us in runs, ratio {:.2}",
            each_us[0], each_us[1], halves[round],
        );
        for kind in [Kind::Uring, Kind::Mmsg] {
            for (peers, gso) in [(64, false), (64, true), (1, true)] {
                let (exchanges, took, cpu) = windowed(kind, peers, gso, last);
                println!(
                    "run {round} {kind:5} {peers:2} peers, GSO {gso:5}: {:7.0}/s, {:.2} us each, core {:3.0} % busy",
                    exchanges as f64 / took.as_secs_f64(),
                    cpu.as_secs_f64() * 1e6 / exchanges as f64,
                    100.0 * cpu.as_secs_f64() / took.as_secs_f64(),
                );
            }
            for gap_us in [60, 2000] {
                let (latency, share) = paced(kind, Duration::from_micros(gap_us), last);
                println!(
                    "run {round} {kind:5} one request each {gap_us:4} us: core {:4.1} % busy, answered after p50 {} us, p99 {} us",
                    100.0 * share,
                    latency.value_at_quantile(0.5) / 1000,
                    latency.value_at_quantile(0.99) / 1000,
                );
            }
        }
    }
    halves.sort_by(f64::total_cmp);
    println!(
        "the send half in runs, of the singly-sent: median {:.2}, to reach at most 0.35",
        halves[halves.len() / 2]
    );
}

fn open(kind: Kind, sockets: usize, gso: bool) -> (Engine, Vec<SocketAddr>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets: Vec<_> = (0..sockets)
        .flat_map(|_| bind_shards(any, 1, None).expect("loopback has ports"))
        .collect();
    let addresses = sockets
        .iter()
        .map(|socket| socket.local_addr().expect("the socket is bound"))
        .collect();
    let (engine, _) = Engine::open(kind, sockets, gso).expect("the engine opens");
    (engine, addresses)
}

fn pin_to(place: usize) {
    let cores = pin::cores().expect("the kernel lists cores");
    pin::pin(cores[place % cores.len()]).expect("the core is ours");
}

/// The CPU time of the calling thread: the first figure of schedstat, in ns.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat is there");
    let figure = text.split(' ').next().expect("there is a figure");
    Duration::from_nanos(figure.parse().expect("it is a number"))
}

/// Answers whatever comes, until told to stop.
fn answer(mut engine: Engine, stop: &AtomicBool) {
    let mut batch = Batch::new(8192);
    while !stop.load(Ordering::Acquire) {
        let mut next = Batch::new(8192);
        engine
            .turn(&mut batch, TICK, &mut |arrived| {
                if let Some(slot) = next.next(Flow::udp(arrived.socket, arrived.peer)) {
                    slot.bytes.resize(BACK, b'b');
                }
            })
            .expect("the peer's engine works");
        batch = next;
    }
}

/// The notifier's side: as many requests under way as the window allows, each answered singly.
fn windowed(kind: Kind, peers: usize, gso: bool, last: Duration) -> (u64, Duration, Duration) {
    const WINDOW: usize = 256;
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let peer = thread::spawn(move || {
        pin_to(1);
        let (engine, addresses) = open(Kind::Mmsg, peers, false);
        tell.send(addresses).expect("the other side listens");
        answer(engine, &stopped);
    });
    let targets = told.recv().expect("the peer opens");
    let ours = thread::spawn(move || {
        pin_to(0);
        let (mut engine, _) = open(kind, 1, gso);
        let mut batch = Batch::new(WINDOW);
        let (mut outstanding, mut answered, mut turns) = (0usize, 0u64, 0usize);
        let (start, before) = (Instant::now(), cpu());
        while start.elapsed() < last {
            while outstanding < WINDOW {
                let target = targets[turns % targets.len()];
                let slot = batch
                    .next(Flow::udp(0, target))
                    .expect("a batch is a window");
                slot.bytes.resize(OUT, b'n');
                outstanding += 1;
                turns += 1;
            }
            let mut received = 0;
            engine
                .turn(&mut batch, TICK, &mut |_| received += 1)
                .expect("the engine works");
            batch.clear();
            outstanding -= received;
            answered += received as u64;
        }
        (answered, start.elapsed(), cpu() - before)
    });
    let figures = ours.join().expect("the engine's thread ends");
    stop.store(true, Ordering::Release);
    peer.join().expect("the peer ends");
    figures
}

/// What only sending costs: batches of a fan-out to a few next hops, each taken by its peer before the next is sent, so that
/// nothing is lost and nobody answers. What was sent, and the CPU time of the engine's thread.
fn send_half(kind: Kind, gso: bool, last: Duration) -> (u64, Duration) {
    const EACH: usize = 32;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let peers: Vec<_> = (0..HOPS)
        .flat_map(|_| bind_shards(any, 1, None).expect("loopback has ports"))
        .collect();
    let targets: Vec<_> = peers
        .iter()
        .map(|peer| {
            peer.set_read_timeout(Some(Duration::from_secs(60)))
                .expect("a socket has a timeout");
            peer.local_addr().expect("the socket is bound")
        })
        .collect();
    let (begin, begun) = mpsc::sync_channel(1);
    let (tell, told) = mpsc::sync_channel(1);
    let taker = thread::spawn(move || {
        pin_to(1);
        let mut bytes = [0; OUT];
        while begun.recv().is_ok() {
            for peer in peers.iter().flat_map(|peer| [peer; EACH]) {
                peer.recv(&mut bytes).expect("nothing is lost");
            }
            tell.send(()).expect("the engine's thread listens");
        }
    });
    let ours = thread::spawn(move || {
        pin_to(0);
        let (mut engine, _) = open(kind, 1, gso);
        let mut batch = Batch::new(HOPS * EACH);
        let (mut sent, start, before) = (0, Instant::now(), cpu());
        while start.elapsed() < last {
            for number in 0..HOPS * EACH {
                let target = targets[number % HOPS];
                let slot = batch
                    .next(Flow::udp(0, target))
                    .expect("a batch holds a round");
                slot.bytes.resize(OUT, b'n');
            }
            let turn = engine.turn(&mut batch, Duration::ZERO, &mut |_| {});
            sent += u64::from(turn.expect("the engine works").sent);
            batch.clear();
            begin.send(()).expect("the taker waits");
            told.recv().expect("the taker took it all");
        }
        (sent, cpu() - before)
    });
    let figures = ours.join().expect("the engine's thread ends");
    taker.join().expect("the taker ends");
    figures
}

/// The node's side: a request at each tick of an open loop, answered at once; latency from the intended time.
fn paced(kind: Kind, gap: Duration, last: Duration) -> (Histogram<u64>, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let node = thread::spawn(move || {
        pin_to(0);
        let (engine, addresses) = open(kind, 1, false);
        tell.send(addresses[0]).expect("the other side listens");
        let (start, before) = (Instant::now(), cpu());
        answer(engine, &stopped);
        (cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64()
    });
    let target = told.recv().expect("the node opens");
    pin_to(1);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = bind_shards(any, 1, None)
        .expect("loopback has ports")
        .remove(0);
    socket
        .set_nonblocking(true)
        .expect("a socket can be nonblocking");
    let mut latency = Histogram::new(3).expect("three digits are allowed");
    let mut bytes = [0; BACK];
    let start = Instant::now();
    let (mut sent, mut answered) = (0u32, 0u32);
    while start.elapsed() < last + TICK {
        if gap * sent <= start.elapsed() && start.elapsed() < last {
            bytes[..4].copy_from_slice(&sent.to_be_bytes());
            socket
                .send_to(&bytes, target)
                .expect("loopback takes a datagram");
            sent += 1;
        }
        // Answers come in the order of the requests: one socket on each side, and no loss with their queues.
        while socket.recv_from(&mut bytes).is_ok() {
            let ns = start.elapsed().saturating_sub(gap * answered).as_nanos();
            latency
                .record(ns as u64)
                .expect("a histogram that grows takes any value");
            answered += 1;
        }
    }
    stop.store(true, Ordering::Release);
    let share = node.join().expect("the node ends");
    (latency, share)
}
