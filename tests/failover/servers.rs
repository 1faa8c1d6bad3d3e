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
/// What a server publishes for, in seconds.
const LEASE: &str = "2";

pub struct Server {
    pub id: String,
    pub at: SocketAddr,
    pub process: Process,
    pub publisher: Fanfare,
}

impl Server {
    /// Takes calls at an address of its own, and says so at the node.
    pub fn start(id: &str, weight: u16, node: SocketAddr) -> Server {
        let ip: Ipv4Addr = own_address();
        let at = SocketAddr::from((ip, 5060));
        let mut command = Command::new("sipp");
        command
            .args([
                "-sf",
                SCENARIO,
                "-i",
                &ip.to_string(),
                "-p",
                "5060",
                "-nostdin",
            ])
            .stdout(Stdio::null());
        let process = Process::start(&mut command, "sip-tester");
        let (to, weight, address) = (node.to_string(), weight.to_string(), format!("{at}/udp"));
        let flags = [
            "publish",
            "--to",
            &to,
            "--domain",
            "example.com",
            "--id",
            id,
        ];
        let more = ["--address", &address, "--service", "proxy", "--load", "10"];
        let rest = ["--weight", &weight, "--expires", LEASE];
        let publisher = Fanfare::run(&[&flags[..], &more, &rest].concat());
        publisher.line_where(|line| line.starts_with("published"));
        Server {
            id: id.to_owned(),
            at,
            process,
            publisher,
        }
    }

    /// kill -9 of both.
    pub fn kill(self) {
        self.process.signal(Signal::KILL);
        self.publisher.signal(Signal::KILL);
    }
}

/// Since midnight, as SIPp's traces count.
pub fn now() -> Duration {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    Duration::from_secs(since.as_secs() % 86_400)
        + Duration::from_nanos(since.subsec_nanos().into())
}
