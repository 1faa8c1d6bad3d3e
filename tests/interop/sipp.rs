//! SIPp as the peer: runs one scenario of `scenarios/`, and tells all it can where the scenario did not come to its end.
//! Knows nothing of what the scenarios say.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Node, Process, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }

    /// Where a node listens for it.
    pub fn of(self, node: &Node) -> SocketAddr {
        match self {
            Transport::Udp => node.udp,
            Transport::Tcp => node.tcp,
        }
    }
}

/// A scenario under way.
#[derive(Debug)]
pub struct Sipp {
    scenario: String,
    process: Process,
    directory: TempDir,
}

/// One SIP message as SIPp saw it.
#[derive(Debug)]
pub struct Message {
    /// Since the midnight before the first.
    pub at: Duration,
    pub is_sent: bool,
    pub text: String,
}

impl Message {
    pub fn is_notify(&self) -> bool {
        !self.is_sent && self.text.starts_with("NOTIFY ")
    }

    /// The values of a header field, a line each.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().filter_map(move |line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Sipp {
    /// Starts one call of a scenario towards `target`. SIPp finds a port for itself.
    pub fn start(scenario: &str, transport: Transport, target: SocketAddr, args: &[&str]) -> Sipp {
        Sipp::calls(1, scenario, transport, target, args)
    }

    /// Starts so many calls at once.
    pub fn calls(
        calls: usize,
        scenario: &str,
        transport: Transport,
        target: SocketAddr,
        args: &[&str],
    ) -> Sipp {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let screen = File::create(directory.path().join("screen")).expect("a file for the screen");
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/interop/scenarios")
            .join(scenario)
            .with_extension("xml");
        let calls = calls.to_string();
        let mut command = Command::new("sipp");
        command
            .arg(target.to_string())
            .arg("-sf")
            .arg(file)
            .args(["-t", &format!("{}1", &transport.name()[..1])])
            .args(["-i", &own_address().to_string(), "-nostdin"])
            .args(["-m", &calls, "-l", &calls, "-r", "100"])
            // A failure is told, not mended with a BYE.
            .args(["-default_behaviors", "abortunexp"])
            .args(["-timeout", "75s", "-timeout_error"])
            .args(["-key", "domain", "example.com", "-key", "fold", " "])
            .args(["-trace_err", "-error_file", "errors"])
            .args(["-trace_msg", "-message_file", "messages"])
            .args(args)
            .env("TZ", "UTC")
            .current_dir(directory.path())
            .stdout(screen);
        Sipp {
            scenario: format!("{scenario} over {}", transport.name()),
            process: Process::start(&mut command, "sip-tester"),
            directory,
        }
    }

    /// Waits for the scenario's end; it must have matched. The messages, in the order that SIPp saw them.
    pub fn finish(mut self, node: &Node) -> Vec<Message> {
        let scenario = self.scenario.clone();
        let stuck = || format!("{scenario} does not end:\n{}", node.stderr());
        let status = wait_until(&stuck, || self.process.ended());
        assert!(
            status.success(),
            "{scenario}: {status}\n--- SIPp's errors\n{}{}\n--- messages\n{}\n--- the node\n{}",
            self.read("errors"),
            self.process.stderr(),
            self.read("messages"),
            node.stderr()
        );
        messages(&self.read("messages"))
    }

    /// Waits for the end of all calls, however they end. The messages, in the order that SIPp saw them.
    pub fn messages_at_the_end(mut self) -> Vec<Message> {
        let scenario = self.scenario.clone();
        let stuck = || format!("{scenario} does not end");
        wait_until(&stuck, || self.process.ended());
        messages(&self.read("messages"))
    }

    /// How many calls have ended with a BYE so far.
    pub fn ended_calls(&self) -> usize {
        self.read("messages").matches("\nBYE sip:").count()
    }

    fn read(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        // SIPp makes the file when it has something to write.
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }
}

/// A loopback address for this SIPp alone: it looks for a free port before it listens there, which two at once on one
/// address may both find.
pub fn own_address() -> Ipv4Addr {
    static GIVEN: AtomicU8 = AtomicU8::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, number)
}

/// Runs one call of a scenario to its end.
pub fn run(scenario: &str, transport: Transport, node: &Node, args: &[&str]) -> Vec<Message> {
    Sipp::start(scenario, transport, transport.of(node), args).finish(node)
}

/// SIPp's trace: a line with the time, one with the direction, an empty one, the message.
fn messages(trace: &str) -> Vec<Message> {
    let mut midnight = Duration::ZERO;
    let mut last = Duration::ZERO;
    let mut found = Vec::new();
    for piece in trace.split("----------------------------------------------- ") {
        let Some((time, rest)) = piece.split_once('\n') else {
            continue;
        };
        let Some((direction, text)) = rest.split_once("\n\n") else {
            continue;
        };
        let at = time_of_day(time).unwrap_or_else(|| panic!("no time: {time}"));
        if midnight + at < last {
            midnight += Duration::from_secs(86_400);
        }
        last = midnight + at;
        found.push(Message {
            at: last,
            is_sent: direction.contains(" sent "),
            text: text.to_owned(),
        });
    }
    found
}

fn time_of_day(time: &str) -> Option<Duration> {
    let (_, clock) = time.trim().split_once(' ')?;
    let mut seconds = 0.0;
    for field in clock.split(':') {
        seconds = seconds * 60.0 + field.parse::<f64>().ok()?;
    }
    Some(Duration::from_secs_f64(seconds))
}
