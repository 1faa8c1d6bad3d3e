//! `loadgen pubsub`: what `run` measures, with Redis or NATS in the notifier's place. Subscribers have a TCP connection
//! each, and nothing is acknowledged. Open loop, like `run`.

mod crowd;
mod message;
mod protocol;
mod publisher;
mod report;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};

use crate::plan::{Cores, cores, rate, seconds, whole};
use crate::progress::Progress;
use crate::socket::pin;
use crowd::{Crowd, Shared, Tally};
use protocol::{Malformed, Protocol};
use publisher::Publisher;
use report::{Report, Run};

const SECOND_US: u64 = 1_000_000;
/// Subscribing ends when nothing has moved for so long.
const STALL_US: u64 = 10 * SECOND_US;
/// Between two looks at what the loops share.
const LOOK_US: u64 = 10_000;
/// Descriptors beside those of the subscribers.
const DESCRIPTORS: u64 = 64;

/// Arguments of `loadgen pubsub`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where Redis listens.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        required_unless_present = "nats",
        conflicts_with = "nats"
    )]
    redis: Option<SocketAddr>,
    /// Where NATS listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    nats: Option<SocketAddr>,
    /// Connections that subscribe.
    #[arg(long, value_parser = whole::<u32>(1, 1_000_000))]
    subscribers: u32,
    /// Length of a message in bytes.
    #[arg(long, default_value_t = 800, value_parser = whole::<usize>(message::LEAST as u64, 65_536))]
    size: usize,
    /// Length of the measured phase, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,
    /// Messages a second.
    #[arg(long, value_name = "RATE", default_value_t = 1.0, value_parser = rate)]
    changes: f64,
    /// Messages before the measured phase, that are checked but not measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// How long to wait for the last deliveries.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,
    /// Cores to run on, as 1 or 0-3,6: an event loop on each; without it as many loops as there are cores.
    #[arg(long, alias = "core", value_name = "LIST", value_parser = cores)]
    cores: Option<Cores>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "{} descriptors are needed, {allowed} are allowed (ulimit -Hn)",
        needed
    )]
    Descriptors { needed: u64, allowed: u64 },
    #[error("core {0}: {1}")]
    Core(usize, io::Error),
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("sockets: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("the server closed the publisher's connection")]
    Closed,
    #[error("somebody else publishes at the server, too")]
    NotOurs,
    #[error("only {0} subscriptions of {1} stand after {seconds} s without another", seconds = STALL_US / SECOND_US)]
    NotSubscribed(u64, u32),
    #[error("report: {0}")]
    Report(io::Error),
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Failure::Socket(error.into())
    }
}

impl Failure {
    fn refused(reason: &[u8]) -> Self {
        Failure::Refused(String::from_utf8_lossy(reason).into_owned())
    }
}

/// The whole run; whether all was right.
pub fn run(arguments: &Arguments) -> Result<bool, Failure> {
    allow_descriptors(u64::from(arguments.subscribers) + DESCRIPTORS)?;
    let (protocol, target) = match (arguments.redis, arguments.nats) {
        (Some(target), _) => (Protocol::Redis, target),
        (None, Some(target)) => (Protocol::Nats, target),
        (None, None) => unreachable!("clap demands one of the two"),
    };
    let cores: Vec<Option<usize>> = match &arguments.cores {
        Some(Cores(cores)) => cores.iter().copied().map(Some).collect(),
        None => vec![None; thread::available_parallelism().map_or(1, Into::into)],
    };
    let shared = Shared {
        start: Instant::now(),
        ready: AtomicU64::new(0),
        received: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        warm_us: AtomicU64::new(0),
    };
    let report = thread::scope(|scope| {
        let crowds: Vec<_> = (0..)
            .zip(&cores)
            .map(|(at, &core)| {
                let count = share(arguments.subscribers, at, cores.len() as u32);
                let shared = &shared;
                scope.spawn(move || {
                    stay_on(core)?;
                    Crowd::connect(protocol, target, count, shared)?.attend()
                })
            })
            .collect();
        let conductor = Conductor {
            arguments,
            protocol,
            shared: &shared,
            progress: Progress::new(),
        };
        let run = conductor.conduct(target, cores[0], &crowds);
        shared.stop.store(true, Ordering::Relaxed);
        // A loop that failed says why better than the conductor who waited for it.
        let tallies = crowds
            .into_iter()
            .map(|crowd| crowd.join().expect("a panic aborts"))
            .collect::<Result<Vec<Tally>, _>>()?;
        Ok::<_, Failure>(Report::new(&run?, &tallies))
    })?;
    report
        .write(arguments.json.as_deref())
        .map_err(Failure::Report)?;
    Ok(report.is_right())
}

fn allow_descriptors(needed: u64) -> Result<(), Failure> {
    let now = rustix::process::getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let limit = Rlimit {
        current: Some(needed),
        maximum: now.maximum.map(|most| most.max(needed)),
    };
    rustix::process::setrlimit(Resource::Nofile, limit).map_err(|_| Failure::Descriptors {
        needed,
        allowed: now.maximum.unwrap_or(u64::MAX),
    })
}

/// How many of `all` the loop at `at` has.
fn share(all: u32, at: u32, loops: u32) -> u32 {
    all / loops + u32::from(at < all % loops)
}

fn stay_on(core: Option<usize>) -> Result<(), Failure> {
    core.map_or(Ok(()), |core| {
        pin(&[core]).map_err(|error| Failure::Core(core, error))
    })
}

type Crowds<'scope> = [ScopedJoinHandle<'scope, Result<Tally, Failure>>];

/// Who moves the run through its phases, and publishes.
#[derive(Debug)]
struct Conductor<'a> {
    arguments: &'a Arguments,
    protocol: Protocol,
    shared: &'a Shared,
    progress: Progress,
}

impl Conductor<'_> {
    fn conduct(
        mut self,
        target: SocketAddr,
        core: Option<usize>,
        crowds: &Crowds,
    ) -> Result<Run, Failure> {
        stay_on(core)?;
        let connect_us = self.await_subscriptions(crowds)?;
        let mut publisher = Publisher::connect(self.protocol, target)?;
        let before = cpu_ns();
        let (rounds, warm_up) = self.measure(&mut publisher)?;
        self.await_deliveries(&mut publisher, rounds)?;
        let cpu_ns = cpu_ns().zip(before).map(|(after, before)| after - before);
        self.progress.finish();
        Ok(Run {
            protocol: self.protocol,
            subscribers: self.arguments.subscribers,
            size: self.arguments.size,
            rounds,
            warm_up,
            connect_us,
            cpu_ns,
        })
    }

    fn await_subscriptions(&mut self, crowds: &Crowds) -> Result<u64, Failure> {
        let wanted = self.arguments.subscribers;
        self.progress.begin("subscribing", wanted.into());
        let mut moved = (self.shared.now_us(), 0);
        loop {
            let (now, ready) = (
                self.shared.now_us(),
                self.shared.ready.load(Ordering::Relaxed),
            );
            if ready >= wanted.into() {
                return Ok(now);
            }
            if ready != moved.1 {
                moved = (now, ready);
            }
            let failed = crowds.iter().any(ScopedJoinHandle::is_finished);
            if failed || now - moved.0 >= STALL_US {
                return Err(Failure::NotSubscribed(ready, wanted));
            }
            self.progress.at(ready);
            thread::sleep(Duration::from_micros(LOOK_US));
        }
    }

    /// Open loop: a message leaves at its instant, whatever became of those before. Returns how many left, and how many of
    /// them to warm up.
    fn measure(&mut self, publisher: &mut Publisher) -> Result<(u32, u32), Failure> {
        let began = self.shared.now_us();
        let warm = began + self.arguments.warmup.as_micros() as u64;
        let end = warm + self.arguments.duration.as_micros() as u64;
        self.shared.warm_us.store(warm, Ordering::Relaxed);
        self.progress.begin("measuring", (end - began) / SECOND_US);
        let (mut rounds, mut warm_up) = (0, 0);
        loop {
            let now = self.shared.now_us();
            let ahead = f64::from(rounds) / self.arguments.changes * SECOND_US as f64;
            let next = if self.arguments.changes > 0.0 {
                began + ahead as u64
            } else {
                u64::MAX
            };
            if now >= end && next >= end {
                return Ok((rounds, warm_up));
            }
            if next <= now && next < end {
                rounds += 1;
                warm_up += u32::from(next < warm);
                publisher.publish(&message::write(rounds, next, self.arguments.size))?;
                continue;
            }
            publisher.listen(next.min(end) - now)?;
            self.progress.at((now - began) / SECOND_US);
        }
    }

    fn await_deliveries(&mut self, publisher: &mut Publisher, rounds: u32) -> Result<(), Failure> {
        let wanted = u64::from(rounds) * u64::from(self.arguments.subscribers);
        let until = self.shared.now_us() + self.arguments.grace.as_micros() as u64;
        while self.shared.received.load(Ordering::Relaxed) < wanted && self.shared.now_us() < until
        {
            publisher.listen(LOOK_US)?;
        }
        Ok(())
    }
}

/// CPU time of all threads of this process, in nanoseconds; `None` where the kernel does not say.
fn cpu_ns() -> Option<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}
