//! The engine where the kernel refuses: a path that takes no runs any more, a send queue that is full. Each test runs itself
//! once more in a network namespace of its own, which it may break; that needs `unshare` and `ip`.

use std::env;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use fanfare::io::sockets::bind_shards;
use fanfare::io::{Engine, Kind, Turn, may_pass};
use fanfare::wire::{Batch, Flow};

const WAYS: [Kind; 2] = [Kind::Uring, Kind::Mmsg];
const INSIDE: &str = "FANFARE_TEST_NAMESPACE";
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the test of this name in a new network namespace, in which the shell has run `setup`.
fn inside(test: &str, setup: &str, body: fn()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let allowed = |arguments: &[&str]| {
        let tried = Command::new("unshare").args(arguments).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    // Who is not root is root in a user namespace, where the machine allows that.
    let ways: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];
    let way = ways.into_iter().find(|way| allowed(way));
    let way = way.expect("this test needs a network namespace: run it as root");
    let program = env::current_exe().expect("a test has a program");
    let output = Command::new("unshare")
        .args(way)
        .args(["sh", "-ec", &format!("{setup}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .expect("unshare starts");
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

fn shell(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status();
    assert!(status.is_ok_and(|status| status.success()), "{command}");
}

fn socket(address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("the text is an address");
    bind_shards(address, 1, None)
        .expect("a namespace has free ports")
        .remove(0)
}

fn peer() -> UdpSocket {
    let socket = socket("127.0.0.1:0");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket has a timeout");
    socket
}

fn put(batch: &mut Batch, peer: SocketAddr, bytes: &[u8]) {
    let flow = Flow::udp(0, peer);
    let datagram = batch.next(flow).expect("the batch has room");
    datagram.bytes.extend_from_slice(bytes);
}

fn turn(engine: &mut Engine, batch: &mut Batch) -> Turn {
    let turn = engine.turn(batch, Duration::ZERO, &mut |_| {});
    batch.clear();
    turn.expect("the engine works")
}

/// Eight datagrams of one length to one peer: all arrive, in order.
fn send_run(engine: &mut Engine, batch: &mut Batch, peer: &UdpSocket) -> Turn {
    let to = peer.local_addr().expect("the socket is bound");
    for number in 0..8 {
        put(batch, to, &[number; 800]);
    }
    let turn = turn(engine, batch);
    assert_eq!((turn.sent, &turn.failed[..]), (8, &[][..]));
    let mut buffer = [0; 1_500];
    for number in 0..8 {
        let len = peer.recv(&mut buffer).expect("a datagram arrives in time");
        assert_eq!(buffer[..len], [number; 800]);
    }
    turn
}

#[test]
fn a_path_that_takes_no_runs_any_more_gets_each_datagram() {
    inside(
        "a_path_that_takes_no_runs_any_more_gets_each_datagram",
        "ip link set lo up",
        || {
            for kind in WAYS {
                shell("ip link set lo mtu 65536");
                let sockets = vec![socket("127.0.0.1:0")];
                let (mut engine, _waker) = Engine::open(kind, sockets, true).expect("it opens");
                let (peer, mut batch) = (peer(), Batch::new(64));
                assert_eq!(send_run(&mut engine, &mut batch, &peer).gso_runs, 1);
                // The kernel refuses runs whose segments the path would not take; single datagrams are fragmented.
                shell("ip link set lo mtu 600");
                for _ in 0..3 {
                    assert_eq!(send_run(&mut engine, &mut batch, &peer).gso_runs, 0);
                }
            }
        },
    );
}

#[test]
fn a_full_send_queue_is_said_of_each_datagram_and_passes() {
    inside(
        "a_full_send_queue_is_said_of_each_datagram_and_passes",
        // Nobody answers behind this link, so datagrams wait for the address of their next hop, and count as being sent.
        "ip link set lo up; ip link add near type veth peer name far; ip addr add 10.9.0.1/24 dev near; \
         ip link set near up; ip link set far up",
        || {
            for kind in WAYS {
                let sockets = vec![socket("0.0.0.0:0")];
                socket2::SockRef::from(&sockets[0])
                    .set_send_buffer_size(16_384)
                    .expect("a send buffer has a size");
                let (mut engine, _waker) = Engine::open(kind, sockets, true).expect("it opens");
                let (peer, mut batch) = (peer(), Batch::new(64));
                let live = peer.local_addr().expect("the socket is bound");
                for host in 0..40u8 {
                    let silent = SocketAddr::from(([10, 9, 0, 100 + host], 5060));
                    put(&mut batch, silent, &[host; 1_200]);
                }
                let full = turn(&mut engine, &mut batch);
                assert_eq!(full.sent as usize + full.failed.len(), 40);
                assert!(full.sent > 0 && !full.failed.is_empty(), "{full:?}");
                assert!(full.failed.iter().all(|&(_, errno)| errno == libc::EAGAIN));
                assert!(may_pass(libc::EAGAIN));
                // The kernel gives up on the silent ones after some seconds: then there is room again.
                let deadline = Instant::now() + PATIENCE;
                loop {
                    put(&mut batch, live, b"there you are");
                    if turn(&mut engine, &mut batch).sent == 1 {
                        break;
                    }
                    assert!(Instant::now() < deadline, "the queue is full for ever");
                    std::thread::sleep(Duration::from_millis(20));
                }
                let mut buffer = [0; 100];
                let len = peer.recv(&mut buffer).expect("a datagram arrives in time");
                assert_eq!(&buffer[..len], b"there you are");
            }
        },
    );
}
