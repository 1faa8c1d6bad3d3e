//! A `fanfare` process that ends with its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Other work may share the cores: no test fails for being slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Fanfare {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Fanfare {
    pub fn run(arguments: &[&str]) -> Fanfare {
        Fanfare::run_by(Command::new(env!("CARGO_BIN_EXE_fanfare")), arguments)
    }

    /// One that `command` becomes, as it does with `ip netns exec`.
    pub fn run_by(command: Command, arguments: &[&str]) -> Fanfare {
        let mut fanfare = Fanfare::silent(command, arguments);
        let stdout = fanfare.child.stdout.take().expect("a pipe");
        fanfare.lines = lines(stdout);
        fanfare
    }

    /// One whose standard output nobody reads yet.
    fn silent(mut command: Command, arguments: &[&str]) -> Fanfare {
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let (_, lines) = channel();
        let log = Arc::default();
        let reader = follow(child.stderr.take().expect("a pipe"), Arc::clone(&log));
        Fanfare {
            child,
            lines,
            log,
            reader: Some(reader),
        }
    }

    /// One whose standard output is closed.
    pub fn unread(arguments: &[&str]) -> Fanfare {
        let command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let mut fanfare = Fanfare::silent(command, arguments);
        drop(fanfare.child.stdout.take());
        fanfare
    }

    /// The next line of standard output that is looked for.
    pub fn line_where(&self, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}; seen: {seen:#?}"),
            }
        }
    }

    pub fn line(&self) -> String {
        self.line_where(|_| true)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end: the exit status and what it wrote to standard error.
    pub fn end(mut self) -> (ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(Instant::now() < until, "it does not end"),
            }
            // Waits for a change, not for time: the pipe closes at the end.
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::yield_now(),
            }
        };
        let reader = self.reader.take().expect("it ends once");
        reader.join().expect("the reader does not panic");
        (status, self.log())
    }

    /// What it wrote to standard error until now.
    pub fn log(&self) -> String {
        self.log.lock().expect("the reader does not panic").clone()
    }
}

impl Drop for Fanfare {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(mut stderr: ChildStderr, log: Arc<Mutex<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok(length @ 1..) = stderr.read(&mut buffer) {
            let piece = String::from_utf8_lossy(&buffer[..length]);
            log.lock().expect("no reader panics").push_str(&piece);
        }
    })
}

fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (to, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
