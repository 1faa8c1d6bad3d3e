//! A node, two publishers and a watcher: what a new user does first.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::Fanfare;

/// A node on a free port, and the address that it tells.
fn serve() -> (Fanfare, String) {
    let node = Fanfare::run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--domain",
        "example.com",
    ]);
    let ready = node.line_where(|line| line.starts_with("fanfare ready"));
    let address = ready
        .split(['=', ' ', ','])
        .find(|word| word.starts_with("127.0.0.1:"));
    let address = address.expect("ready names the address").to_owned();
    (node, address)
}

fn publish(to: &str, id: &str, transport: &str) -> Fanfare {
    Fanfare::run(&[
        "publish",
        "--to",
        to,
        "--domain",
        "example.com",
        "--id",
        id,
        "--address",
        "192.0.2.1:5060/udp",
        "--expires",
        "3",
        "--transport",
        transport,
    ])
}

/// The status of a server in a line of `watch --json`.
fn status(line: &str, id: &str) -> Option<String> {
    let view: Value = serde_json::from_str(line).expect("JSON");
    let servers = view["servers"].as_array().expect("an array");
    let server = servers.iter().find(|server| server["id"] == id)?;
    let status = server["status"].as_str().or(server["state"].as_str())?;
    Some(status.to_owned())
}

fn follow(watch: &Fanfare, id: &str, wanted: &str) {
    watch.line_where(|line| status(line, id).as_deref() == Some(wanted));
}

#[test]
fn a_killed_publishers_entry_goes_down_within_its_lease_and_a_stopped_ones_goes() {
    for transport in ["udp", "tcp"] {
        let (node, address) = serve();
        let watch_flags = [
            "watch",
            "--via",
            &address,
            "--domain",
            "example.com",
            "--json",
            "--transport",
            transport,
        ];
        let watch = Fanfare::run(&watch_flags);
        let killed = publish(&address, "p1", transport);
        let stopped = publish(&address, "p2", transport);
        assert!(killed.line().starts_with("published p1"));
        assert!(stopped.line().starts_with("published p2"));
        let is_up = |line: &str, id| status(line, id).as_deref() == Some("up");
        watch.line_where(|line| is_up(line, "p1") && is_up(line, "p2"));

        killed.signal(Signal::KILL);
        let at = Instant::now();
        follow(&watch, "p1", "down");
        // The lease is 3 s; the rest is for a machine that does other work.
        assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());

        stopped.signal(Signal::TERM);
        follow(&watch, "p2", "deleted");
        assert_eq!(stopped.end().0.code(), Some(0));
        watch.signal(Signal::TERM);
        assert_eq!(watch.end().0.code(), Some(0));
        node.signal(Signal::TERM);
        assert_eq!(node.end().0.code(), Some(0));
    }
}

#[test]
fn a_publisher_finds_its_notifier_again_after_a_restart() {
    let (node, address) = serve();
    let publisher = publish(&address, "p1", "udp");
    assert!(publisher.line().starts_with("published p1"));
    node.signal(Signal::KILL);
    node.end();
    let again = Fanfare::run(&[
        "serve",
        "--listen",
        &address,
        "--shards",
        "1",
        "--domain",
        "example.com",
    ]);
    again.line_where(|line| line.starts_with("fanfare ready"));
    let watch = Fanfare::run(&[
        "watch",
        "--via",
        &address,
        "--domain",
        "example.com",
        "--json",
    ]);
    follow(&watch, "p1", "up");
}
