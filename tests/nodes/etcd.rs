//! Nodes that find each other by a real etcd: what one learns all know; and what becomes of it when etcd goes away, comes
//! back, or has forgotten what there was in between.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::farm::{Node, Publisher, View};
use crate::process::PATIENCE;

/// One etcd; it ends with its test.
pub struct Etcd {
    child: Child,
    address: SocketAddr,
    peer: SocketAddr,
    /// Where it speaks TLS, with these certificates, if it does.
    tls: Option<(SocketAddr, Certificates)>,
    data: TempDir,
}

/// An authority, and what it says of etcd and of the nodes.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Certificates {
        let certificates = Certificates(tempfile::tempdir().expect("a directory"));
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        certificates.openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
        ));
        for (name, extension) in [
            ("etcd", "subjectAltName=IP:127.0.0.1"),
            ("node", "extendedKeyUsage=clientAuth"),
        ] {
            std::fs::write(certificates.path("ext"), extension).expect("written");
            certificates.openssl(&format!(
                "req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            certificates.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile ext"
            ));
        }
        let both = ["node.pem", "node.key"].map(|name| std::fs::read(certificates.path(name)));
        let both = both.map(|bytes| bytes.expect("it was made")).concat();
        std::fs::write(certificates.path("identity.pem"), both).expect("written");
        certificates
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }

    fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.to_str().expect("text").to_owned()
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound")
}

impl Etcd {
    pub fn start() -> Etcd {
        Etcd::start_with(None)
    }

    /// One that speaks TLS beside, and asks for certificates there.
    fn start_with(certificates: Option<Certificates>) -> Etcd {
        let data = tempfile::tempdir().expect("a directory");
        let mut tls = certificates.map(|certificates| (free_address(), certificates));
        // Another process may take a port before etcd does: then others are tried.
        for _ in 0..5 {
            let (address, peer) = (free_address(), free_address());
            if let Some((address, _)) = &mut tls {
                *address = free_address();
            }
            let mut child = Etcd::spawn(&data, address, peer, tls.as_ref());
            if Etcd::is_ready(&mut child, address) {
                return Etcd {
                    child,
                    address,
                    peer,
                    tls,
                    data,
                };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("etcd does not start");
    }

    fn spawn(
        data: &TempDir,
        address: SocketAddr,
        peer: SocketAddr,
        tls: Option<&(SocketAddr, Certificates)>,
    ) -> Child {
        let (mut client, peer) = (format!("http://{address}"), format!("http://{peer}"));
        let mut command = Command::new("etcd");
        if let Some((address, certificates)) = tls {
            client += &format!(",https://{address}");
            command
                .args(["--cert-file", &certificates.path("etcd.pem")])
                .args(["--key-file", &certificates.path("etcd.key")])
                .args(["--trusted-ca-file", &certificates.path("ca.pem")])
                .arg("--client-cert-auth");
        }
        command
            .args(["--name", "e1", "--logger", "zap", "--log-level", "error"])
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("e1={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed")
    }

    fn is_ready(child: &mut Child, address: SocketAddr) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if call(address, "kv/range", &json!({ "key": "YQ==" })).is_some() {
                return true;
            }
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// With what it had, where it was.
    fn restart(&mut self) {
        self.child = Etcd::spawn(&self.data, self.address, self.peer, self.tls.as_ref());
        assert!(Etcd::is_ready(&mut self.child, self.address));
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        call(self.address, path, body).unwrap_or_else(|| panic!("{path} {body}"))
    }

    pub fn node(&self, name: &str, more: &[&str]) -> Node {
        Node::start(name, &[], &[&["--etcd", &self.url()], more].concat())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What etcd answers with 200, as JSON.
fn call(address: SocketAddr, path: &str, body: &Value) -> Option<Value> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!(
        "POST /v3/{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200")
        .then(|| serde_json::from_str(body).ok())?
}

/// A way to etcd that can be cut.
struct Bridge {
    address: SocketAddr,
    /// The streams that go over it; none: it is cut.
    streams: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Bridge {
    fn to(far: SocketAddr) -> Bridge {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let streams: Arc<Mutex<Option<Vec<TcpStream>>>> = Arc::new(Mutex::new(Some(Vec::new())));
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut streams = kept.lock().expect("nobody panics");
                let Some(streams) = &mut *streams else {
                    continue;
                };
                let Ok(far) = TcpStream::connect(far) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let [mut from, mut to] =
                        [from, to].map(|one| one.try_clone().expect("a socket"));
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                streams.extend([near, far]);
            }
        });
        Bridge { address, streams }
    }

    fn cut(&self) {
        let streams = self.streams.lock().expect("nobody panics").take();
        for stream in streams.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        *self.streams.lock().expect("nobody panics") = Some(Vec::new());
    }
}

fn is(view: &View, id: &str, status: &str) -> bool {
    view.status(id) == Some(status)
}

#[test]
fn what_one_node_learns_all_know_and_a_dead_node_is_down() {
    let etcd = Etcd::start();
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| etcd.node(name, &[])).into();
    crate::publish_everywhere(&nodes);
    let watch = nodes[1].watch();
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "long", 1, 600).tag();
    publisher.publish(nodes[0].sip, "brief", 1, 5).tag();
    nodes.remove(0).kill();
    watch.view_where(|view| {
        is(view, "n1", "down") && is(view, "brief", "down") && is(view, "long", "up")
    });
    // One that ends in order is gone at once.
    let last = nodes.remove(1);
    last.process.signal(Signal::TERM);
    watch.status("n3", "deleted");
    assert_eq!(last.process.end().0.code(), Some(0));
    // One that comes later learns all of it.
    let late = etcd.node("n4", &[]);
    late.watch().view_where(|view| {
        !view.is_stale()
            && is(view, "brief", "down")
            && is(view, "long", "up")
            && is(view, "n2", "up")
    });
}

#[test]
fn while_etcd_is_away_nobody_goes_down_and_what_was_refreshed_lives_on() {
    let mut etcd = Etcd::start();
    let nodes = ["n1", "n2"].map(|name| etcd.node(name, &[]));
    let watches: Vec<_> = nodes.iter().map(Node::watch).collect();
    let mut publisher = Publisher::new();
    let kept = publisher.publish(nodes[0].sip, "kept", 1, 8).tag();
    publisher.publish(nodes[0].sip, "quiet", 1, 6).tag();
    for watch in &watches {
        watch.view_where(|view| {
            ["kept", "quiet", "n1", "n2"]
                .iter()
                .all(|id| is(view, id, "up"))
        });
    }
    etcd.kill();
    for watch in &watches {
        watch.view_where(View::is_stale);
    }
    // A lease that is known goes on; what would be lost is refused.
    let newer = publisher.refresh(nodes[0].sip, &kept, 600).tag();
    let refused = publisher.publish(nodes[0].sip, "new", 1, 600);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("Retry-After: "), "{}", refused.text);
    assert_eq!(publisher.refresh(nodes[0].sip, &newer, 0).status, 503);
    // Longer than the leases of `quiet` and of `kept` before it was refreshed.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(100));
    }
    let frozen = nodes[1].watch().view_where(|_| true);
    assert!(is(&frozen, "quiet", "up") && is(&frozen, "kept", "up") && frozen.is_stale());
    etcd.restart();
    for watch in &watches {
        // The quiet one's publisher has died; the other's lease was told after all.
        let view = watch.view_where(|view| !view.is_stale() && is(view, "quiet", "down"));
        assert!(is(&view, "kept", "up") && is(&view, "n1", "up") && is(&view, "n2", "up"));
        assert_eq!(view.status("new"), None);
    }
    assert_eq!(publisher.refresh(nodes[1].sip, &newer, 600).status, 200);
    publisher.publish(nodes[1].sip, "new", 1, 600).tag();
    for watch in &watches {
        watch.status("new", "up");
    }
    nodes[0].await_log("etcd is away");
    nodes[0].await_log("etcd is back");
}

#[test]
fn a_node_that_was_cut_off_catches_up_even_with_what_etcd_has_forgotten() {
    let etcd = Etcd::start();
    let bridge = Bridge::to(etcd.address);
    let far = Node::start(
        "n1",
        &[],
        &["--etcd", &format!("http://{}", bridge.address)],
    );
    let near = etcd.node("n2", &[]);
    let (far_watch, near_watch) = (far.watch(), near.watch());
    let mut publisher = Publisher::new();
    let early = publisher.publish(far.sip, "early", 1, 600).tag();
    far_watch.view_where(|view| is(view, "early", "up") && is(view, "n2", "up"));
    near_watch.view_where(|view| is(view, "early", "up") && is(view, "n1", "up"));
    for compacts in [false, true] {
        bridge.cut();
        far_watch.view_where(View::is_stale);
        near_watch.status("n1", "down");
        assert_eq!(
            publisher.refresh(near.sip, &early, 0).status,
            [412, 200][usize::from(!compacts)]
        );
        let id = format!("late{compacts}");
        publisher.publish(near.sip, &id, 1, 600).tag();
        if compacts {
            let now = etcd.call("kv/range", &json!({ "key": "YQ==" }));
            let revision = &now["header"]["revision"];
            etcd.call(
                "kv/compaction",
                &json!({ "revision": revision, "physical": true }),
            );
        }
        bridge.mend();
        far_watch.view_where(|view| {
            !view.is_stale() && is(view, &id, "up") && view.status("early") == Some("deleted")
        });
        near_watch.status("n1", "up");
    }
}

#[test]
fn values_that_are_no_records_other_clusters_and_twins_do_no_harm() {
    let etcd = Etcd::start();
    let bytes = |text: &str| STANDARD.encode(text);
    for (id, value) in [("p1", "no record"), ("p2", "1 said\n{}"), ("p3", "")] {
        let key = bytes(&format!("/fanfare/fanfare/servers/*/{id}"));
        etcd.call("kv/put", &json!({ "key": key, "value": bytes(value) }));
    }
    let node = etcd.node("n1", &[]);
    let stranger = etcd.node("n2", &["--cluster-id", "other"]);
    let watch = node.watch();
    let mut publisher = Publisher::new();
    // What cannot be read is written over.
    publisher.publish(node.sip, "p1", 1, 600).tag();
    publisher.publish(stranger.sip, "p4", 1, 600).tag();
    let view = watch.view_where(|view| is(view, "p1", "up") && is(view, "n1", "up"));
    for id in ["p2", "p3", "p4", "n2"] {
        assert_eq!(view.status(id), None, "{id}");
    }
    node.await_log("value in etcd refused");
    let twin = etcd.node("n1", &[]);
    twin.await_log("another node of this name");
}

#[test]
fn a_user_and_a_password_are_given_to_an_etcd_that_asks_for_them() {
    let etcd = Etcd::start();
    etcd.call("auth/role/add", &json!({ "name": "root" }));
    etcd.call(
        "auth/user/add",
        &json!({ "name": "root", "password": "correct horse" }),
    );
    etcd.call(
        "auth/user/grant",
        &json!({ "user": "root", "role": "root" }),
    );
    etcd.call("auth/enable", &json!({}));
    let directory = tempfile::tempdir().expect("a directory");
    let config = |name: &str, password: &str| {
        let path = directory.path().join(name);
        let text = format!("etcd-user = \"root\"\netcd-password = \"{password}\"\n");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (good, bad) = (
        config("good", "correct horse"),
        config("bad", "battery staple"),
    );
    // Who authenticates may find nobody at the first endpoint.
    let gone = format!("http://{},{}", free_address(), etcd.url());
    let nodes = ["n1", "n2"].map(|name| {
        let flags = ["--etcd", &gone, "--config", &good];
        Node::start(name, &[], &flags)
    });
    let outside = etcd.node("n3", &["--config", &bad]);
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    nodes[1].watch().status("p1", "up");
    assert_eq!(publisher.publish(outside.sip, "p2", 1, 600).status, 503);
    outside.await_log("etcd is away");
}

#[test]
fn etcd_is_spoken_to_by_tls_with_a_certificate_of_this_nodes() {
    let etcd = Etcd::start_with(Some(Certificates::new()));
    let (address, certificates) = etcd.tls.as_ref().expect("it was asked for");
    let url = format!("https://{address}");
    let config = |name: &str, text: String| {
        std::fs::write(certificates.path(name), text).expect("written");
        certificates.path(name)
    };
    let ca = format!("etcd-ca = \"{}\"\n", certificates.path("ca.pem"));
    let identity = format!("etcd-cert = \"{}\"\n", certificates.path("identity.pem"));
    let good = config("good.toml", ca.clone() + &identity);
    // Without a certificate of its own etcd does not take it; without the authority it does not take etcd.
    let (unknown, mistrusting) = (
        config("unknown.toml", ca),
        config("mistrusting.toml", identity),
    );
    let start =
        |name: &str, config: &str| Node::start(name, &[], &["--etcd", &url, "--config", config]);
    let nodes = [start("n1", &good), start("n2", &good)];
    let outside = [start("n3", &unknown), start("n4", &mistrusting)];
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    nodes[1].watch().status("p1", "up");
    for node in &outside {
        assert_eq!(publisher.publish(node.sip, "p2", 1, 600).status, 503);
        node.await_log("etcd is away");
    }
}

#[test]
fn another_endpoint_is_asked_where_one_is_gone() {
    let etcd = Etcd::start();
    let bridge = Bridge::to(etcd.address);
    let both = format!("http://{},{}", bridge.address, etcd.url());
    let node = Node::start("n1", &[], &["--etcd", &both]);
    let other = etcd.node("n2", &[]);
    let watch = node.watch();
    watch.view_where(|view| is(view, "n2", "up") && !view.is_stale());
    let mut publisher = Publisher::new();
    let early = publisher.publish(node.sip, "early", 1, 600).tag();
    bridge.cut();
    // Its watch stood at the endpoint that is gone.
    publisher.publish(other.sip, "late", 1, 600).tag();
    watch.view_where(|view| is(view, "late", "up") && !view.is_stale());
    let other_watch = other.watch();
    let view = other_watch.view_where(|view| is(view, "early", "up"));
    assert!(is(&view, "n1", "up"));
    assert_eq!(publisher.refresh(node.sip, &early, 600).status, 200);
    // One that starts now has never heard of the first.
    let started = Node::start("n3", &[], &["--etcd", &both]);
    started
        .watch()
        .view_where(|view| is(view, "late", "up") && !view.is_stale());
}
