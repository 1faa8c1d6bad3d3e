//! A SIP server: SIPp that takes every call, and the agent that publishes it. Knows no caller.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::process::Fanfare;
use crate::sipp::own_address;
use crate::support::Process;

const SCENARIO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/interop/scenarios/serve.xml"
);
/// For how long a server publishes that shall die, in seconds, and one that shall not for want of a refresh.
pub const SHORT: u32 = 2;
pub const LONG: u32 = 600;

pub struct Server {
    pub id: String,
    weight: u16,
    pub at: SocketAddr,
    pub process: Process,
    pub publisher: Fanfare,
}

impl Server {
    /// Takes calls at an address of its own, and says so at the node.
    pub fn start(id: &str, weight: u16, node: SocketAddr) -> Server {
        let (at, process) = take_calls();
        let publisher = publish(id, weight, at, LONG, node);
        Server {
            id: id.to_owned(),
            weight,
            at,
            process,
            publisher,
        }
    }

    /// From now on by another publisher, that has to refresh more often or less.
    pub fn publish_for(&mut self, lease: u32, node: SocketAddr) {
        self.publisher.signal(Signal::KILL);
        self.publisher = publish(&self.id, self.weight, self.at, lease, node);
    }

    /// kill -9 of both. When that was.
    pub fn kill(self) -> Duration {
        let killed = now();
        self.process.signal(Signal::KILL);
        self.publisher.signal(Signal::KILL);
        killed
    }
}

/// SIPp that takes every call and answers OPTIONS, at an address of its own.
pub fn take_calls() -> (SocketAddr, Process) {
    let ip: Ipv4Addr = own_address();
    let address = ip.to_string();
    let mut command = Command::new("sipp");
    command
        .args(["-sf", SCENARIO, "-aa", "-nostdin"])
        .args(["-i", &address, "-p", "5060"])
        .stdout(Stdio::null());
    let process = Process::start(&mut command, "sip-tester");
    (SocketAddr::from((ip, 5060)), process)
}

/// An agent that has published it.
pub fn publish(id: &str, weight: u16, at: SocketAddr, lease: u32, node: SocketAddr) -> Fanfare {
    let (to, address) = (node.to_string(), format!("{at}/udp"));
    let (weight, lease) = (weight.to_string(), lease.to_string());
    let flags = ["publish", "--to", &to, "--domain", "example.com"];
    let server = ["--id", id, "--address", &address, "--service", "proxy"];
    let more = ["--load", "10", "--weight", &weight, "--expires", &lease];
    let publisher = Fanfare::run(&[&flags[..], &server, &more].concat());
    publisher.line_where(|line| line.starts_with("published"));
    publisher
}

/// Since midnight, as SIPp's traces count.
pub fn now() -> Duration {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    Duration::from_secs(since.as_secs() % 86_400)
        + Duration::from_nanos(since.subsec_nanos().into())
}
