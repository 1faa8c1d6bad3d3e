//! How a Kamailio that spreads calls over three servers learns that one has died: told by Fanfare, whose servers publish or
//! are probed by a node, or by probing them itself. SIPp calls meanwhile; one server is killed.
//!
//! `cargo bench --bench probing -- --runs 5`, a line a run. Recorded by `scripts/compare-probing`.

#[path = "../../tests/failover/balancer.rs"]
#[allow(dead_code, reason = "shared with the tests of failover")]
mod balancer;
#[path = "../../tests/failover/calls.rs"]
mod calls;
#[path = "../../tests/nodes/farm.rs"]
#[allow(dead_code, reason = "shared with the tests of nodes")]
mod farm;
#[path = "../../tests/tools/process.rs"]
#[allow(dead_code, reason = "shared with the tests of the tools")]
mod process;
#[path = "../../tests/failover/servers.rs"]
#[allow(dead_code, reason = "shared with the tests of failover")]
mod servers;
#[path = "../../tests/interop/sipp.rs"]
#[allow(dead_code, reason = "shared with the tests of interoperation")]
mod sipp;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of interoperation")]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::Signal;

use balancer::{Balancer, Destination};
use calls::{Call, calls, lost, taken_at};
use farm::Node;
use process::Fanfare;
use servers::{SHORT, now, publish, take_calls};
use sipp::{Sipp, Transport};
use support::{Process, wait_until};

const WEIGHTS: [u16; 3] = [50, 30, 20];
const IDS: [&str; 3] = ["p1", "p2", "p3"];
/// Calls a second.
const RATE: usize = 50;
/// Calls that have ended when the server is killed.
const BEFORE: usize = 2 * RATE;
/// Calls begin for so long after the death may be known at the latest.
const AFTER: Duration = Duration::from_secs(4);
/// A call that is answered later was not at the first server that it was sent to.
const LATE: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
struct Cli {
    /// Runs of each way, by turns.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Seconds between two OPTIONS of Kamailio to one server; each is a way of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,10,30")]
    every: Vec<u64>,
    /// cargo says so when it benches.
    #[arg(long, hide = true)]
    bench: bool,
    /// Only see that it works.
    #[arg(long)]
    test: bool,
}

/// How the balancer learns who takes calls.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Servers publish, for as long as `SHORT` says.
    Published,
    /// A node probes them, at the settings that `[[probe]]` has by default.
    ProbedByNode,
    /// Kamailio probes them.
    ProbedByItself(Duration),
}

impl Way {
    fn name(self) -> String {
        match self {
            Way::Published => format!("published for {SHORT} s"),
            Way::ProbedByNode => "probed by a node".to_owned(),
            Way::ProbedByItself(every) => format!("probed by Kamailio every {} s", every.as_secs()),
        }
    }

    /// No two runs kill at the same point of it.
    fn period(self) -> Duration {
        match self {
            Way::Published => Duration::from_secs(SHORT.into()),
            Way::ProbedByNode => Duration::from_secs(2),
            Way::ProbedByItself(every) => every,
        }
    }

    /// When the death is known at the latest, the machine's own delays apart.
    fn most(self) -> Duration {
        match self {
            Way::Published => self.period(),
            // Three probes that fail, each given up when the next is due.
            Way::ProbedByNode => 4 * self.period(),
            // The cfg's fr_timer.
            Way::ProbedByItself(every) => every + Duration::from_secs(2),
        }
    }
}

/// A server that takes calls.
struct Taker {
    at: SocketAddr,
    process: Process,
    publisher: Option<Fanfare>,
}

/// What one run found.
struct Found {
    known: Duration,
    calls: usize,
    lost: usize,
    late: usize,
    /// When the last call began that was lost or late, since the death.
    last_begun: Duration,
    /// Calls that began after the death was known, and were lost all the same.
    lost_when_known: usize,
    /// PUBLISHs or OPTIONS a second, for all servers together.
    rate: f64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Without --bench cargo only wants to see that it runs.
    let quick = cli.test || !cli.bench;
    let every = if quick { &[1][..] } else { &cli.every };
    let probed = every.iter().map(|seconds| Duration::from_secs(*seconds));
    let mut ways = vec![Way::Published, Way::ProbedByNode];
    ways.extend(probed.map(Way::ProbedByItself));
    let runs = if quick { 1 } else { cli.runs };
    println!("way\trun\tknown ms\tcalls\tlost\tlate\tlast begun ms\tasked a second");
    let mut is_right = true;
    for run in 0..runs {
        for way in &ways {
            let found = once(*way, way.period() * (2 * run + 1) / (2 * runs));
            println!(
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.2}",
                way.name(),
                run + 1,
                found.known.as_millis(),
                found.calls,
                found.lost,
                found.late,
                found.last_begun.as_millis(),
                found.rate
            );
            is_right &= found.lost_when_known == 0;
        }
    }
    if is_right {
        ExitCode::SUCCESS
    } else {
        eprintln!("calls that began after the death was known were lost");
        ExitCode::FAILURE
    }
}

/// Kills the first of three servers at this point of the way's period.
fn once(way: Way, phase: Duration) -> Found {
    let mut takers: Vec<Taker> = WEIGHTS.iter().map(|_| taker()).collect();
    let servers: Vec<Destination<'_>> = IDS
        .into_iter()
        .zip(WEIGHTS)
        .zip(&takers)
        .map(|((id, weight), taker)| (id, weight, taker.at))
        .collect();
    let (balancer, told) = match way {
        Way::ProbedByItself(every) => (Balancer::start_probing(&servers, every), None),
        Way::Published | Way::ProbedByNode => {
            let balancer = Balancer::start();
            let probes = match way {
                Way::ProbedByNode => probes(&servers),
                _ => String::new(),
            };
            let directory = tempfile::tempdir().expect("a temporary directory");
            let file = directory.path().join("node.toml");
            fs::write(&file, probes).expect("a file of settings");
            let file = file.to_str().expect("a path in UTF-8");
            let node = Node::start("n1", &[], &["--config", file]);
            if matches!(way, Way::Published) {
                for (taker, (id, weight, at)) in takers.iter_mut().zip(&servers) {
                    taker.publisher = Some(publish(id, *weight, *at, SHORT, node.sip));
                }
            }
            let via = node.sip.to_string();
            let adapter = Fanfare::run(&[
                "adapt",
                "dispatcher",
                "--via",
                &via,
                "--domain",
                "example.com",
                "--service",
                "proxy",
                "--rpc",
                &balancer.rpc,
            ]);
            (balancer, Some((node, adapter)))
        }
    };
    let asked = || match (&told, way) {
        (Some((node, _)), Way::Published) => node.counter("publishes"),
        (Some((node, _)), _) => node.counter("probes"),
        (None, _) => balancer.requests(),
    };
    balancer.await_set(&IDS.map(|id| (id, true)), 3);
    let (asked_before, asked_from) = (asked(), Instant::now());
    // Whatever is periodic began a moment ago.
    thread::sleep(phase);
    let length = way.most() + AFTER;
    let count = BEFORE + RATE * length.as_secs() as usize;
    let rate = RATE.to_string();
    let callers = Sipp::calls(
        count,
        "call",
        Transport::Udp,
        balancer.sip,
        &["-r", &rate, "-timeout", "150s"],
    );
    wait_until(&|| format!("not {BEFORE} calls have ended"), || {
        (callers.ended_calls() >= BEFORE).then_some(())
    });
    let killed = now();
    let dead = takers.remove(0);
    dead.process.signal(Signal::KILL);
    if let Some(publisher) = &dead.publisher {
        publisher.signal(Signal::KILL);
    }
    balancer.await_set(&[("p1", false), ("p2", true), ("p3", true)], 3);
    let known = now() - killed;
    let calls = calls(&callers.messages_at_the_end());
    let rate = (asked() - asked_before) as f64 / asked_from.elapsed().as_secs_f64();
    assert_eq!(calls.len(), count, "{way:?}: calls that began");
    for taker in [&dead].into_iter().chain(&takers) {
        assert!(
            taken_at(&calls, taker.at) > 0,
            "{way:?}: {} took none",
            taker.at
        );
    }
    let lost = lost(&calls);
    let is_after = |call: &&&Call| call.begun > killed + known;
    let late: Vec<&Call> = calls
        .iter()
        .filter(|call| call.is_whole && is_late(call))
        .collect();
    let hurt = lost.iter().chain(&late).map(|call| call.begun);
    Found {
        known,
        calls: calls.len(),
        lost: lost.len(),
        late: late.len(),
        lost_when_known: lost.iter().filter(is_after).count(),
        last_begun: hurt
            .max()
            .map_or(Duration::ZERO, |last| last.saturating_sub(killed)),
        rate,
    }
}

fn taker() -> Taker {
    let (at, process) = take_calls();
    Taker {
        at,
        process,
        publisher: None,
    }
}

/// What a node's file says of servers to be probed.
fn probes(servers: &[Destination<'_>]) -> String {
    let one = |(id, weight, at): &Destination<'_>| {
        format!(
            "[[probe]]\nid = \"{id}\"\naddress = \"{at}\"\nservices = [\"proxy\"]\nweight = {weight}\n"
        )
    };
    servers.iter().map(one).collect()
}

/// Whether its INVITE was answered late.
fn is_late(call: &Call) -> bool {
    let answered = call
        .passed
        .iter()
        .find(|(_, way, line)| *way == "received" && line.starts_with("SIP/2.0 200"));
    answered.is_some_and(|(at, ..)| *at > call.begun + LATE)
}
