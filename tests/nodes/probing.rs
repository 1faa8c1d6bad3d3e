//! Servers that do not publish: one node asks each of them, all know what it found, and another goes on when it dies.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fanfare::rendezvous::rendezvous;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::farm::{Entity, Node, response};
use crate::process::PATIENCE;

/// A SIP server that answers every request with one status; 0: with nothing.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    /// Which nodes asked, in the order they did.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(status: u16) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let server = Server {
            address: socket.local_addr().expect("bound"),
            status: Arc::new(AtomicU16::new(status)),
            asked: Arc::default(),
        };
        let (status, asked) = (Arc::clone(&server.status), Arc::clone(&server.asked));
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                assert!(text.starts_with("OPTIONS sip:127.0.0.1:"), "{text}");
                let user = text
                    .lines()
                    .find_map(|line| line.strip_prefix("From: <sip:"));
                let node = user.and_then(|user| user.split('@').next());
                let node = node.expect("it says who asks").to_owned();
                asked.lock().expect("nobody panics").push(node);
                let status = status.load(Ordering::Relaxed);
                if status == 0 {
                    continue;
                }
                let answer = response(&text, status);
                socket.send_to(answer.as_bytes(), from).expect("sent");
            }
        });
        server
    }

    fn say(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// How often a node has asked.
    fn asked_by(&self, node: &str) -> usize {
        let asked = self.asked.lock().expect("nobody panics");
        asked.iter().filter(|by| *by == node).count()
    }

    /// Waits until a node has asked so often more.
    fn await_asked_by(&self, node: &str, more: usize) {
        let (enough, until) = (self.asked_by(node) + more, Instant::now() + PATIENCE);
        while self.asked_by(node) < enough {
            assert!(Instant::now() < until, "{node} does not ask");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A file by which `server` is probed twice a second.
fn config(directory: &TempDir, server: &Server) -> String {
    let path = directory.path().join("fanfare.toml");
    let config = format!(
        "[[probe]]\nid = \"gw1\"\naddress = \"{}\"\nservices = [\"gateway\"]\ninterval = \"500ms\"\ndown-after = 2\n",
        server.address
    );
    std::fs::write(&path, config).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_server_that_only_answers_options_is_known_to_all_and_to_the_next_node() {
    let server = Server::start(405);
    let directory = tempfile::tempdir().expect("a directory");
    let path = config(&directory, &server);
    let config = ["--config", &path];
    let first = Node::start("n1", &[], &config);
    let second = Node::start("n2", &[first.gossip], &config);
    let mut nodes = vec![("n1", first), ("n2", second)];
    for (_, node) in &nodes {
        node.watch().view_where(|view| {
            ["gw1", "n1", "n2"]
                .iter()
                .all(|id| view.status(id) == Some("up"))
        });
    }
    server.say(503);
    for (_, node) in &nodes {
        node.watch().status("gw1", "down");
    }
    server.say(200);
    for (_, node) in &nodes {
        node.watch().status("gw1", "up");
    }
    // Who probes it is known to everybody.
    let owner = rendezvous(&["n1", "n2"], &["probe", "gw1"]).expect("there are two");
    let place = usize::from(*owner == "n2");
    nodes.remove(place).1.kill();
    let (left, watch) = (nodes[0].0, nodes[0].1.watch());
    watch.view_where(|view| view.status(owner) == Some("down") && view.status("gw1") == Some("up"));
    server.await_asked_by(left, 1);
    server.say(0);
    watch.status("gw1", "down");
}

/// Two nodes that know `server`: who probes it, with its name, and the other.
fn two(server: &Server, drain_time: &str) -> [(&'static str, Node); 2] {
    let directory = tempfile::tempdir().expect("a directory");
    let path = config(&directory, server);
    let config = ["--config", &path, "--drain-time", drain_time];
    let first = Node::start("n1", &[], &config);
    let second = Node::start("n2", &[first.gossip], &config);
    for node in [&first, &second] {
        node.watch().view_where(|view| {
            ["gw1", "n1", "n2"]
                .iter()
                .all(|id| view.status(id) == Some("up"))
        });
    }
    let mut nodes = [("n1", first), ("n2", second)];
    let owner = *rendezvous(&["n1", "n2"], &["probe", "gw1"]).expect("there are two");
    nodes.sort_by_key(|(name, _)| *name != owner);
    nodes
}

#[test]
fn a_node_that_ends_takes_no_server_down_that_it_probed() {
    let server = Server::start(200);
    // Longer than two probes that nobody hears the answers of.
    let [(owner, ends), (_, stays)] = two(&server, "4s");
    let watch = stays.watch();
    watch.status(owner, "up");
    // Without a subscription it would be gone at once.
    let mut entity = Entity::subscribe(ends.sip);
    entity.notify_where(|notify| notify.contains("gw1"));
    ends.process.signal(Signal::TERM);
    watch.view_where(|view| {
        assert_eq!(view.status("gw1"), Some("up"));
        view.status(owner) == Some("deleted")
    });
    server.say(0);
    watch.status("gw1", "down");
}

#[test]
fn a_draining_node_leaves_the_servers_that_it_probed_to_another() {
    let server = Server::start(200);
    let [(owner, drains), (other, stays)] = two(&server, "90s");
    let watch = stays.watch();
    let mut entity = Entity::subscribe(drains.sip);
    entity.notify_where(|notify| notify.contains("gw1"));
    drains.process.signal(Signal::TERM);
    watch.view_where(|view| {
        assert_ne!(view.status("gw1"), Some("down"));
        view.status(owner) == Some("draining")
    });
    server.await_asked_by(other, 2);
    let before = server.asked_by(owner);
    server.await_asked_by(other, 3);
    assert_eq!(server.asked_by(owner), before, "{owner} still asks");
    server.say(0);
    let at = Instant::now();
    let view = watch.status("gw1", "down");
    assert_eq!(view.status(owner), Some("draining"));
    // What was found before would hold for a minute.
    assert!(at.elapsed() < PATIENCE / 3, "{:?}", at.elapsed());
}
