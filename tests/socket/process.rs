//! The node as a process: its ready line, signals, addresses in use, and kernels that forbid io_uring. Whoever runs it
//! sees nothing else of it.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::node::{Node, PATIENCE, fanfare, run, until};
use crate::sip::{Tcp, Udp, publish, serves, subscribe};

#[test]
fn the_ready_line_names_addresses_at_which_it_serves() {
    let node = Node::start(&[
        "--shards",
        "2",
        "--node",
        "n7",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "[::1]:0",
    ]);
    let (four, six) = (node.addresses[0], node.addresses[1]);
    assert_eq!(
        node.ready,
        format!("fanfare ready udp={four},{six} tcp={four},{six} node=n7 shards=2 io=uring")
    );
    for address in [four, six] {
        serves(address);
        let udp = Udp::new(address);
        udp.subscribe();
        let mut tcp = Tcp::new(address);
        tcp.subscribe();
        let publisher = Udp::new(four);
        let id = if address.is_ipv4() { "four" } else { "six" };
        let draft = publish("UDP", publisher.address, id);
        assert_eq!(publisher.ask(&draft).status(), 200);
        assert_eq!(udp.notified().servers(), [id]);
        assert_eq!(tcp.notified().servers(), [id]);
    }
}

#[test]
fn the_end_is_told_to_every_subscriber_with_a_time_to_come_back() {
    for (io, signal) in [("uring", Signal::TERM), ("mmsg", Signal::INT)] {
        let node = Node::start(&["--io", io, "--shards", "2"]);
        let udp: Vec<Udp> = (0..4).map(|_| Udp::new(node.address())).collect();
        udp.iter().for_each(|peer| drop(peer.subscribe()));
        let mut tcp = Tcp::new(node.address());
        tcp.subscribe();
        node.counts("acknowledged", 5);
        let begun = Instant::now();
        node.signal(signal);
        let mut last: Vec<_> = udp.iter().map(Udp::notified).collect();
        last.push(tcp.notified());
        for notify in last {
            let state = notify.get("Subscription-State").to_owned();
            let after = state.strip_prefix("terminated;reason=probation;retry-after=");
            let after: u32 = after
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("{state}"));
            assert!((2..=10).contains(&after), "{state}");
        }
        let ended = node.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        assert!(
            ended.err.contains("counters shards=2 live=0"),
            "{}",
            ended.err
        );
        // All answered: the two seconds are not waited for. (Allow for a machine that is shared.)
        assert!(begun.elapsed() < PATIENCE);
        assert!(!ended.err.contains("did not answer"), "{}", ended.err);
        assert!(tcp.next().is_none(), "its connection is closed");
    }
}

#[test]
fn silent_subscribers_hold_up_the_end_for_two_seconds_at_the_most() {
    let node = Node::start(&["--shards", "2"]);
    let silent: Vec<Udp> = (0..3).map(|_| Udp::new(node.address())).collect();
    for peer in &silent {
        peer.subscribe();
    }
    // One that reads nothing either.
    let mut deaf = Tcp::new(node.address());
    deaf.subscribe();
    node.counts("acknowledged", 4);
    let begun = Instant::now();
    let ended = node.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert!(ended.err.contains("did not answer"), "{}", ended.err);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let node = Node::start(&["--shards", "1"]);
    let silent = Udp::new(node.address());
    silent.subscribe();
    node.counts("acknowledged", 1);
    node.signal(Signal::TERM);
    let last = silent.receive();
    assert!(last.get("Subscription-State").starts_with("terminated"));
    node.signal(Signal::TERM);
    let ended = node.ended();
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        !ended.err.contains("did not answer"),
        "it waited: {}",
        ended.err
    );
}

#[test]
fn no_subscriber_is_let_in_at_the_end() {
    let node = Node::start(&["--shards", "1"]);
    let silent = Udp::new(node.address());
    silent.subscribe();
    node.counts("acknowledged", 1);
    node.signal(Signal::TERM);
    assert!(silent.receive().is_notify());
    let late = Udp::new(node.address());
    let answer = late.ask(&subscribe("UDP", late.address));
    assert_eq!(answer.status(), 503);
    answer.get("Retry-After");
    assert_eq!(node.ended().status.code(), Some(0));
}

#[test]
fn sigusr1_logs_one_line_of_counters_and_changes_nothing() {
    let node = Node::start(&["--shards", "2"]);
    Udp::new(node.address()).subscribe();
    node.counts("acknowledged", 1);
    let counters = node.counters();
    assert_eq!(counters["shards"], 2);
    assert_eq!(counters["live"], 1);
    assert_eq!(counters["subscribed"], 1);
    assert_eq!(counters["notifies"], 1);
    serves(node.address());
}

#[test]
fn an_address_in_use_is_one_line_and_status_2() {
    let refused = |arguments: &[&str]| {
        let ended = run(fanfare().arg("serve").args(arguments));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.err);
        let lines: Vec<&str> = ended.err.lines().collect();
        assert_eq!(lines.len(), 1, "{}", ended.err);
        assert!(ended.out.is_empty());
        lines[0].to_owned()
    };
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let node = Node::start(&["--shards", "2"]);
    let shared = Node::start(&["--shards", "1"]);
    let addresses = [
        udp.local_addr().expect("bound"),
        tcp.local_addr().expect("bound"),
        node.address(),
        shared.address(),
    ];
    for address in addresses {
        for shards in ["1", "2"] {
            let line = refused(&["--listen", &address.to_string(), "--shards", shards]);
            assert!(line.contains(&address.to_string()), "{line}");
            assert!(line.to_lowercase().contains("in use"), "{line}");
        }
    }
    let line = refused(&[
        "--listen",
        "192.0.2.1:5060",
        "--allow-subscribe",
        "192.0.2.0/24",
        "--allow-publish",
        "192.0.2.0/24",
    ]);
    assert!(line.contains("192.0.2.1:5060"), "{line}");
    serves(node.address());
    serves(shared.address());
}

#[test]
fn a_restart_takes_the_address_at_once_though_connections_were_open() {
    let node = Node::start(&["--shards", "1"]);
    let address = node.address().to_string();
    let mut peer = Tcp::new(node.address());
    peer.subscribe();
    assert!(node.stop().status.success());
    let again = Node::start(&["--listen", &address, "--shards", "1"]);
    serves(again.address());
}

#[test]
fn more_shards_than_cores_serve_every_subscription_wherever_it_lands() {
    for io in ["uring", "mmsg"] {
        let node = Node::start(&["--shards", "4", "--io", io]);
        let peers: Vec<Udp> = (0..24).map(|_| Udp::new(node.address())).collect();
        let mut calls = Vec::new();
        for peer in &peers {
            let draft = subscribe("UDP", peer.address);
            let tag = peer.ask(&draft).get("To").to_owned();
            peer.notified();
            calls.push(draft.with("To", &tag));
        }
        let publisher = Udp::new(node.address());
        let draft = publish("UDP", publisher.address, "p1");
        assert_eq!(publisher.ask(&draft).status(), 200);
        for peer in &peers {
            assert_eq!(peer.notified().servers(), ["p1"]);
        }
        // A refresh from anywhere finds its dialog.
        for (number, (peer, call)) in peers.iter().zip(calls).enumerate() {
            let refresh = call.with("CSeq", "2 SUBSCRIBE").with(
                "Via",
                &format!("SIP/2.0/UDP host;rport;branch=z9hG4bKr{number}"),
            );
            let stranger = Udp::new(node.address());
            assert_eq!(stranger.ask(&refresh).status(), 200);
            assert_eq!(peer.notified().servers(), ["p1"]);
        }
        let counters = node.counters();
        assert!(counters["handed_over"] > 0, "{counters:?}");
        assert_eq!(counters["live"], 24);
        assert!(!counters.contains_key("overflows"), "{counters:?}");
    }
}

/// Does this where io_uring_setup fails with that error, as container runtimes have it: what a thread may do, its children
/// may.
fn forbidding_io_uring<T: Send + 'static>(
    errno: i32,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into();
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("an architecture with seccomp");
    let refuse = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    let program: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("one rule makes a filter");
    let filtered = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).expect("anybody may be allowed less");
        act()
    });
    filtered.join().expect("what was done did not panic")
}

#[test]
fn where_io_uring_is_forbidden_auto_warns_once_and_serves() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let node = forbidding_io_uring(errno, || Node::start(&["--shards", "2", "--io", "auto"]));
        assert!(node.ready.ends_with("io=mmsg"), "{}", node.ready);
        let udp = Udp::new(node.address());
        udp.subscribe();
        let mut tcp = Tcp::new(node.address());
        tcp.subscribe();
        let draft = publish("UDP", udp.address, "p1");
        Udp::new(node.address()).send(&draft.bytes());
        until("the change", || {
            let message = udp.receive();
            if message.is_notify() {
                udp.send(&message.response("200 OK"));
                return (message.servers() == ["p1"]).then_some(());
            }
            None
        });
        assert_eq!(tcp.notified().servers(), ["p1"]);
        let log = node.log();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("io_uring"), "{warnings:?}");
        let ended = node.stop();
        assert_eq!(ended.status.code(), Some(0));
    }
}

#[test]
fn where_io_uring_is_forbidden_asking_for_it_is_an_error_that_names_the_cause() {
    for (errno, cause) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "no io_uring")] {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--io", "uring"];
        let ended = forbidding_io_uring(errno, move || run(fanfare().args(arguments)));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(ended.err.contains(cause), "{}", ended.err);
    }
}
