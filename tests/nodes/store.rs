//! etcd as a process, alone or as three members, plain or with TLS; and a way to it that can be cut, or fall silent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::farm::Node;
use crate::process::PATIENCE;

/// One etcd; it ends with its test.
pub struct Etcd {
    child: Option<Child>,
    name: String,
    /// All members, as etcd's flag has them.
    members: String,
    pub address: SocketAddr,
    peer: SocketAddr,
    /// Where it speaks TLS, with these certificates, if it does.
    pub tls: Option<(SocketAddr, Certificates)>,
    more: Vec<String>,
    data: TempDir,
}

/// An authority, and what it says of etcd and of the nodes.
pub struct Certificates(TempDir);

impl Certificates {
    pub fn new() -> Certificates {
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

    pub fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.to_str().expect("text").to_owned()
    }
}

pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound")
}

impl Etcd {
    pub fn start() -> Etcd {
        Etcd::start_with(None, &[])
    }

    /// One that speaks TLS beside, and asks for certificates there.
    pub fn start_with(certificates: Option<Certificates>, more: &[&str]) -> Etcd {
        let mut tls = certificates.map(|certificates| (free_address(), certificates));
        Etcd::try_often(|| {
            if let Some((address, _)) = &mut tls {
                *address = free_address();
            }
            let mut etcd = Etcd::of("e1", free_address());
            etcd.tls = tls.take();
            etcd.more = more.iter().map(|&flag| flag.to_owned()).collect();
            etcd.spawn();
            if etcd.is_ready() {
                return Some(etcd);
            }
            tls = etcd.tls.take();
            None
        })
    }

    /// Three members of one store.
    pub fn start_three() -> [Etcd; 3] {
        Etcd::try_often(|| {
            let mut three = ["e1", "e2", "e3"].map(|name| Etcd::of(name, free_address()));
            let members = three.each_ref().map(|etcd| etcd.members.clone()).join(",");
            for etcd in &mut three {
                etcd.members.clone_from(&members);
                etcd.spawn();
            }
            three.iter_mut().all(Etcd::is_ready).then_some(three)
        })
    }

    /// Another process may take a port before etcd does: then others are tried.
    fn try_often<T>(mut start: impl FnMut() -> Option<T>) -> T {
        let tries = (0..5).find_map(|_| start());
        tries.expect("etcd does not start")
    }

    fn of(name: &str, peer: SocketAddr) -> Etcd {
        Etcd {
            child: None,
            name: name.to_owned(),
            members: format!("{name}=http://{peer}"),
            address: free_address(),
            peer,
            tls: None,
            more: Vec::new(),
            data: tempfile::tempdir().expect("a directory"),
        }
    }

    fn spawn(&mut self) {
        let mut client = format!("http://{}", self.address);
        let peer = format!("http://{}", self.peer);
        let mut command = Command::new("etcd");
        if let Some((address, certificates)) = &self.tls {
            client += &format!(",https://{address}");
            command
                .args(["--cert-file", &certificates.path("etcd.pem")])
                .args(["--key-file", &certificates.path("etcd.key")])
                .args(["--trusted-ca-file", &certificates.path("ca.pem")])
                .arg("--client-cert-auth");
        }
        let child = command
            .args(["--name", &self.name])
            .args(["--logger", "zap", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.members])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("etcd is installed"));
    }

    fn is_ready(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was spawned");
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if call(self.address, "kv/range", &json!({ "key": "YQ==" })).is_some() {
                return true;
            }
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("a child");
        }
    }

    /// With what it had, where it was.
    pub fn restart(&mut self) {
        self.spawn();
        assert!(self.is_ready());
    }

    /// What it has on its disk; it must not run.
    pub fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a directory");
        copy_all(self.data.path(), copy.path());
        copy
    }

    /// It runs again, and knows what it knew then.
    pub fn restart_with(&mut self, backup: TempDir) {
        self.data = backup;
        self.restart();
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn call(&self, path: &str, body: &Value) -> Value {
        call(self.address, path, body).unwrap_or_else(|| panic!("{path} {body}"))
    }

    pub fn node(&self, name: &str, more: &[&str]) -> Node {
        Node::start(name, &[], &[&["--etcd", &self.url()], more].concat())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("it can be read");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("of some type").is_dir() {
            std::fs::create_dir(&to).expect("there is room");
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("there is room");
        }
    }
}

/// What etcd answers with 200, as JSON.
pub fn call(address: SocketAddr, path: &str, body: &Value) -> Option<Value> {
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
pub struct Bridge {
    pub address: SocketAddr,
    /// The streams that go over it; none: it is cut.
    streams: Arc<Mutex<Option<Vec<TcpStream>>>>,
    /// What the watches say is lost, though their streams stand.
    mutes: Arc<AtomicBool>,
}

impl Bridge {
    pub fn to(far: SocketAddr) -> Bridge {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let streams: Arc<Mutex<Option<Vec<TcpStream>>>> = Arc::new(Mutex::new(Some(Vec::new())));
        let mutes = Arc::new(AtomicBool::new(false));
        let (kept, muted) = (Arc::clone(&streams), Arc::clone(&mutes));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut streams = kept.lock().expect("nobody panics");
                let Some(streams) = &mut *streams else {
                    continue;
                };
                let Ok(far) = TcpStream::connect(far) else {
                    continue;
                };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a socket");
                let is_watch = Arc::new(AtomicBool::new(false));
                let seen = Arc::clone(&is_watch);
                pass(copy(&near), copy(&far), move |bytes| {
                    let text = String::from_utf8_lossy(bytes);
                    seen.fetch_or(text.contains("/v3/watch"), Ordering::Relaxed);
                    true
                });
                let muted = Arc::clone(&muted);
                pass(copy(&far), copy(&near), move |_| {
                    !(muted.load(Ordering::Relaxed) && is_watch.load(Ordering::Relaxed))
                });
                streams.extend([near, far]);
            }
        });
        Bridge {
            address,
            streams,
            mutes,
        }
    }

    pub fn cut(&self) {
        let streams = self.streams.lock().expect("nobody panics").take();
        for stream in streams.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        *self.streams.lock().expect("nobody panics") = Some(Vec::new());
    }

    /// Every watch over it falls silent; other requests are answered.
    pub fn mute_watches(&self) {
        self.mutes.store(true, Ordering::Relaxed);
    }

    pub fn unmute(&self) {
        self.mutes.store(false, Ordering::Relaxed);
    }
}

/// Passes on what is let through, until one of both ends.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    lets_through: impl Fn(&[u8]) -> bool + Send + 'static,
) {
    thread::spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if lets_through(&buffer[..length]) && to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
