//! A node as a process of its own: started, watched, counted, ended. Knows no SIP.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Other work shares the cores: whatever takes longer than this never comes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a node's log that a failed test shows.
const LINES_SHOWN: usize = 20;

pub struct Node {
    child: Child,
    pub addresses: Vec<SocketAddr>,
    pub ready: String,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    _config: Option<tempfile::NamedTempFile>,
}

/// What a process said and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

pub fn fanfare() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fanfare"))
}

/// A command that ends by itself.
pub fn run(command: &mut Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let (log, reader) = follow(child.stderr.take().expect("piped"));
    let (out, out_reader) = follow(child.stdout.take().expect("piped"));
    let status = end_of(&mut child, &log);
    reader.join().expect("the reader ends");
    out_reader.join().expect("the reader ends");
    let text = |log: &Mutex<String>| log.lock().expect("no reader panics").clone();
    Ended {
        status,
        out: text(&out),
        err: text(&log),
    }
}

impl Node {
    /// A node with these arguments, at a free port of 127.0.0.1 unless they say otherwise.
    pub fn start(arguments: &[&str]) -> Node {
        Node::configured("", arguments)
    }

    /// The same with a configuration file of this text.
    pub fn configured(toml: &str, arguments: &[&str]) -> Node {
        let mut command = fanfare();
        command.arg("serve");
        let mut config = tempfile::NamedTempFile::new().expect("a temporary file");
        config.write_all(toml.as_bytes()).expect("written");
        command.arg("--config").arg(config.path()).args(arguments);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut node = Node::spawn(&mut command);
        node._config = Some(config);
        node
    }

    /// Whatever command becomes a node.
    pub fn spawn(command: &mut Command) -> Node {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let (log, reader) = follow(child.stderr.take().expect("piped"));
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        out.read_line(&mut ready).expect("the node speaks UTF-8");
        assert!(
            ready.starts_with("fanfare ready"),
            "not ready: {ready:?} {}",
            log.lock().expect("no reader panics")
        );
        let addresses = ready
            .split(' ')
            .find_map(|word| word.strip_prefix("udp="))
            .expect("the ready line has addresses")
            .split(',')
            .map(|address| address.parse().expect("an address"))
            .collect();
        Node {
            child,
            addresses,
            ready: ready.trim_end().to_owned(),
            log,
            readers: vec![reader],
            _config: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the node runs");
    }

    /// The counters now; those that are zero are left out.
    pub fn counters(&self) -> HashMap<String, u64> {
        let before = counter_lines(&self.log()).len();
        self.signal(Signal::USR1);
        let line = until("a line of counters", || {
            counter_lines(&self.log()).get(before).cloned()
        });
        line.split(' ')
            .filter_map(|word| word.split_once('='))
            .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
            .collect()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.counters().get(name).copied().unwrap_or_default()
    }

    /// Waits until a counter is at least so much.
    pub fn counts(&self, name: &str, least: u64) {
        until(&format!("{name} >= {least}"), || {
            (self.counter(name) >= least).then_some(())
        });
    }

    /// Ends the node by SIGTERM.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        let status = end_of(&mut self.child, &self.log);
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader ends");
        }
        Ended {
            status,
            out: self.ready.clone(),
            err: self.log(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("the node's log ends:\n{}", last.join("\n"));
        }
    }
}

/// Polls until there is something, at most `PATIENCE`.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn counter_lines(log: &str) -> Vec<String> {
    // A line still being written is no line.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .filter(|line| line.contains("counters shards="))
        .map(str::to_owned)
        .collect()
}

fn follow(mut pipe: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let log = Arc::new(Mutex::new(String::new()));
    let shared = log.clone();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = pipe.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..len]);
            shared.lock().expect("no reader panics").push_str(&text);
        }
    });
    (log, reader)
}

fn end_of(child: &mut Child, log: &Mutex<String>) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("it does not end: {}", log.lock().expect("no reader panics"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
