//! Running nodes and peers for the tests over real processes: starts them, reads what they say, and ends them whatever
//! becomes of the test. Knows no SIP.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that takes a moment on an idle machine; other work shares the cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks until `found` has an answer; panics with `what` where none came in time.
pub fn wait_until<T>(what: &dyn Fn() -> String, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = found() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{}", what());
        thread::sleep(POLL_EVERY);
    }
}

/// A port that neither UDP nor TCP uses at 127.0.0.1. Another process may take it before its user does: who cannot bind
/// it asks for another.
pub fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        let address = udp.local_addr().expect("its address");
        if TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
}

/// A child process that ends with its owner, and what it writes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it; `package` is named where the program is not installed. Standard output is the caller's to set.
    pub fn start(command: &mut Command, package: &str) -> Process {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run {program} ({error}): install the package {package}")
            });
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut pipe = child.stderr.take().expect("stderr is piped");
        let text = stderr.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(len @ 1..) = pipe.read(&mut buffer) {
                let piece = String::from_utf8_lossy(&buffer[..len]);
                text.lock().expect("no reader panics").push_str(&piece);
            }
        });
        Process { child, stderr }
    }

    pub fn stderr(&self) -> String {
        self.stderr_reader()()
    }

    /// Reads its standard error while the process itself is borrowed.
    pub fn stderr_reader(&self) -> impl Fn() -> String + use<> {
        let stderr = self.stderr.clone();
        move || stderr.lock().expect("no reader panics").clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("a child takes signals");
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end, which may not come.
    pub fn wait_at_most(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(POLL_EVERY);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only where the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `fanfare serve`.
#[derive(Debug)]
pub struct Node {
    process: Process,
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    shards: u64,
    asking: Mutex<()>,
}

/// The counters of a node; those never counted are 0.
#[derive(Debug)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl Node {
    /// Runs `fanfare serve --listen 127.0.0.1:0` with these further arguments, and waits until it serves.
    pub fn start(args: &[&str]) -> Node {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command, "fanfare");
        let stdout = process.child.stdout.take().expect("stdout is piped");
        let (line_to, line) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever started the node reads the first line only.
                let _ = line_to.send(line);
            }
        });
        let ready = line
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the node is not ready:\n{}", process.stderr()));
        let field = |name: &str| {
            ready
                .strip_prefix("fanfare ready ")
                .into_iter()
                .flat_map(str::split_whitespace)
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_else(|| panic!("no {name} in: {ready}"))
        };
        let address = |name: &str| field(name).parse().expect("an address and port");
        Node {
            udp: address("udp"),
            tcp: address("tcp"),
            shards: field("shards").parse().expect("a number"),
            process,
            asking: Mutex::new(()),
        }
    }

    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// What the node has counted until now, all shards together.
    pub fn counters(&self) -> Counters {
        let _asking = self.asking.lock().expect("nobody panics while asking");
        let silent = || format!("the node does not tell its counters:\n{}", self.stderr());
        loop {
            let known = self.stderr().len();
            self.process.signal(Signal::USR1);
            let counters = wait_until(&silent, || {
                // A line is read when it has come to its end.
                let text = self.stderr();
                let (lines, _) = text[known..].rsplit_once('\n')?;
                lines.lines().rev().find_map(counters_of)
            });
            // A shard too busy to report in time is left out.
            if counters.get("shards") == self.shards {
                return counters;
            }
        }
    }

    /// Waits until a counter has come to `count`; what was counted then.
    pub fn wait_for(&self, name: &str, count: u64) -> Counters {
        self.wait_while(name, |counters| counters.get(name) < count)
    }

    /// Waits until no subscription lives; what was counted then.
    pub fn wait_for_nobody(&self) -> Counters {
        self.wait_while("live", |counters| counters.get("live") > 0)
    }

    fn wait_while(&self, name: &str, is_short: impl Fn(&Counters) -> bool) -> Counters {
        let short = || format!("waited in vain for {name}:\n{}", self.stderr());
        wait_until(&short, || {
            Some(self.counters()).filter(|counters| !is_short(counters))
        })
    }

    /// SIGTERM, and how the node ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        let stderr = self.process.stderr_reader();
        let alive = || format!("the node does not end:\n{}", stderr());
        let process = &mut self.process;
        wait_until(&alive, || process.ended())
    }
}

fn counters_of(line: &str) -> Option<Counters> {
    let (_, fields) = line.split_once(": counters ")?;
    let fields = fields.split_whitespace().filter_map(|field| {
        let (name, count) = field.split_once('=')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    Some(Counters(fields.collect()))
}
