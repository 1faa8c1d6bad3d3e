//! The processes of a run: a server on the first core, loadgen on the second, and what the kernel says of the server.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const PATIENCE: Duration = Duration::from_secs(20);

/// Which server stands on the first core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Fanfare,
    /// This very program, as `minimal`.
    Minimal,
}

/// What a server has done up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// CPU time of all threads, in ns, from schedstat.
    pub cpu_ns: u64,
    pub notifies: u64,
    /// Fanfare's alone: messages received, and those of them that another shard had to take.
    pub received: u64,
    pub handed_over: u64,
    /// Fanfare's alone: subscriptions of the fullest shard over those of the emptiest.
    pub imbalance: f64,
}

pub struct Server {
    kind: Kind,
    child: Child,
    log: PathBuf,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(
        kind: Kind,
        cores: Option<&str>,
        flags: &[String],
        log: &Path,
    ) -> io::Result<Server> {
        let mut command = Command::new("taskset");
        command.args(["-c", cores.unwrap_or(SERVER_CORE)]);
        match kind {
            Kind::Fanfare => command.args([env!("CARGO_BIN_EXE_fanfare"), "serve"]),
            Kind::Minimal => command.arg(std::env::current_exe()?).arg("minimal"),
        };
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log)?)
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .split_once("udp=")
            .and_then(|(_, rest)| rest.split([',', ' ', '\n']).next())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                io::Error::other(format!("no server: {line:?}, see {}", log.display()))
            })?;
        Ok(Server {
            kind,
            child,
            log: log.to_owned(),
            address,
        })
    }

    pub fn cpu_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let figure = text
                .split(' ')
                .next()
                .and_then(|text| text.parse::<u64>().ok());
            sum += figure.ok_or_else(|| io::Error::other("schedstat has no figure"))?;
        }
        Ok(sum)
    }

    /// Resident memory, in bytes: now, and at the most so far.
    pub fn memory(&self) -> io::Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = |key: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(key)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0u64)
        };
        Ok((kib("VmRSS:") * 1024, kib("VmHWM:") * 1024))
    }

    pub fn read(&self) -> io::Result<Reading> {
        // The CPU first: what the question costs is not the fan-out's.
        let cpu_ns = self.cpu_ns()?;
        if self.kind == Kind::Minimal {
            let notifies = self.ask_minimal()?;
            return Ok(Reading {
                cpu_ns,
                notifies,
                ..Reading::default()
            });
        }
        let counters = self.counters()?;
        Ok(Reading {
            cpu_ns,
            notifies: value(&counters, "notifies"),
            received: value(&counters, "received"),
            handed_over: value(&counters, "handed_over"),
            imbalance: imbalance(&counters),
        })
    }

    fn ask_minimal(&self) -> io::Result<u64> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"counters", self.address)?;
        let mut bytes = [0; 200];
        let (len, _) = socket.recv_from(&mut bytes)?;
        Ok(value(&String::from_utf8_lossy(&bytes[..len]), "notifies"))
    }

    /// The counters that Fanfare logs when it is asked to.
    fn counters(&self) -> io::Result<String> {
        let count = |text: &str| text.matches(" counters ").count();
        let before = count(&fs::read_to_string(&self.log)?);
        self.signal(Signal::USR1)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.log)?;
            if count(&text) > before && text.ends_with('\n') {
                return Ok(last_counters(&text));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the server does not log its counters"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Ends the server; Fanfare's last counters come back.
    pub fn stop(mut self) -> io::Result<String> {
        if self.kind == Kind::Fanfare {
            self.signal(Signal::TERM)?;
            self.child.wait()?;
            return Ok(last_counters(&fs::read_to_string(&self.log)?));
        }
        Ok(String::new())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; there is nothing else to do about it here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_counters(log: &str) -> String {
    let line = log.lines().rfind(|line| line.contains(" counters "));
    line.unwrap_or_default().to_owned()
}

fn imbalance(counters: &str) -> f64 {
    let word = counters
        .split(' ')
        .find_map(|word| word.strip_prefix("live_by_shard="));
    let each: Vec<f64> = word
        .unwrap_or_default()
        .split('/')
        .filter_map(|text| text.parse().ok())
        .collect();
    let most = each.iter().copied().fold(0.0, f64::max);
    most / each.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The number behind `name=`, 0 where it is not said.
pub fn value(counters: &str, name: &str) -> u64 {
    counters
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or(0)
}

/// loadgen, up to the end of its run. `measuring` is called as soon as everybody is subscribed, while loadgen goes on.
pub fn load(
    target: SocketAddr,
    flags: &[String],
    json: &Path,
    measuring: impl FnOnce() -> io::Result<()>,
) -> io::Result<serde_json::Value> {
    let loadgen = Path::new(env!("CARGO_BIN_EXE_fanfare")).with_file_name("loadgen");
    let mut child = Command::new(loadgen)
        .arg("run")
        .args(["--target", &target.to_string(), "--core", LOAD_CORE])
        .args(flags)
        .arg("--json")
        .arg(json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let mut measuring = Some(measuring);
    for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
        let line = line?;
        if line.starts_with("measuring (")
            && let Some(measuring) = measuring.take()
        {
            measuring()?;
        }
        said = said + &line + "\n";
    }
    child.wait()?;
    let text = fs::read_to_string(json)
        .map_err(|error| io::Error::other(format!("loadgen gave no report ({error}): {said}")))?;
    Ok(serde_json::from_str(&text)?)
}
