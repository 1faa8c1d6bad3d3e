//! Kamailio as a record-routing proxy before a node. Knows no scenario.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::sipp::Transport;
use crate::support::{Node, PATIENCE, Process, free_port, wait_until};

/// How often another port is tried where somebody else took the one that was free.
const PORT_TRIES: usize = 5;

/// A running Kamailio, at one port of UDP and TCP.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    pub address: SocketAddr,
    /// Its sockets and pid file.
    _directory: TempDir,
}

impl Kamailio {
    /// A proxy that sends requests outside a dialog to the node, by this transport.
    pub fn before(node: &Node, transport: Transport) -> Kamailio {
        Kamailio::idle(node, transport, Duration::from_secs(600))
    }

    /// The same; it closes connections that carried nothing for so long.
    pub fn idle(node: &Node, transport: Transport, idle: Duration) -> Kamailio {
        let mut said = String::new();
        for _ in 0..PORT_TRIES {
            match Kamailio::start(node, transport, idle) {
                Ok(kamailio) => return kamailio,
                Err(stderr) => said = stderr,
            }
        }
        panic!("Kamailio does not start:\n{said}");
    }

    /// What it said, if it ended.
    fn start(node: &Node, transport: Transport, idle: Duration) -> Result<Kamailio, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        let next = format!(
            "NODE=\"sip:{};transport={}\"",
            transport.of(node),
            transport.name()
        );
        let idle = format!("IDLE={}", idle.as_secs());
        let mut command = Command::new("kamailio");
        command
            .args([
                "-f",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/kamailio.cfg"),
            ])
            .args(["-DD", "-E", "-m", "32", "-M", "4", "-A", &next, "-A", &idle])
            .args([
                "-l",
                &format!("udp:{address}"),
                "-l",
                &format!("tcp:{address}"),
            ])
            .arg("-w")
            .arg(path)
            .arg("-Y")
            .arg(path)
            .arg("-P")
            .arg(path.join("pid"))
            .stdout(Stdio::null());
        let mut process = Process::start(&mut command, "kamailio");
        let stderr = process.stderr_reader();
        let silent = || format!("Kamailio does not answer:\n{}", stderr());
        let is_up = wait_until(&silent, || match process.ended() {
            Some(_) => Some(false),
            None => answers(address).then_some(true),
        });
        if !is_up {
            return Err(process.stderr());
        }
        Ok(Kamailio {
            process,
            address,
            _directory: directory,
        })
    }

    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it has told of so many requests of this method that it passed on by their Route header field.
    pub fn wait_for_routed(&self, method: &str, count: usize) {
        let told = format!("routed {method} by Route");
        let short = || format!("not {count} times {told}:\n{}", self.log());
        wait_until(&short, || {
            (self.log().matches(&told).count() >= count).then_some(())
        });
    }
}

/// Whether it answers an OPTIONS.
fn answers(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
    let own = socket.local_addr().expect("its address");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout above zero");
    let request = format!(
        "OPTIONS sip:{address} SIP/2.0\r\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{port}\r\n\
         From: <sip:test@example.com>;tag=1\r\nTo: <sip:{address}>\r\nCall-ID: {port}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        port = own.port()
    );
    let mut answer = [0; 1_500];
    // Until it listens, the kernel refuses for it.
    socket.send_to(request.as_bytes(), address).is_ok()
        && socket
            .recv(&mut answer)
            .is_ok_and(|len| answer[..len].starts_with(b"SIP/2.0 200"))
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // Its children end with it only if it is told to end.
        self.process.signal(Signal::TERM);
        self.process.wait_at_most(PATIENCE);
    }
}
