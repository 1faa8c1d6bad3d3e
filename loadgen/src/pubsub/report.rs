//! What a run against Redis or NATS came to, for people and for programs.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::crowd::{Round, Tally};
use super::protocol::Protocol;
use crate::curves::Curves;
use crate::histogram;
use crate::report::Ms;
use crate::timeline::OverTime;

/// What was asked for and what the publisher did.
#[derive(Debug)]
pub struct Run {
    pub protocol: Protocol,
    pub subscribers: u32,
    pub size: usize,
    pub rounds: u32,
    /// Rounds up to this one warmed up.
    pub warm_up: u32,
    pub connect_us: u64,
    pub cpu_ns: Option<u64>,
}

/// Microseconds from the intended time of a message to its arrival.
#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    last_entity_median: u64,
    last_entity_worst: u64,
}

/// The report of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    right: bool,
    arguments: Vec<String>,
    server: &'static str,
    /// Always false: these servers do not learn whether a subscriber got anything.
    acknowledged: bool,
    subscribers: u32,
    size: usize,
    connect_seconds: f64,
    rounds: u32,
    measured: u32,
    deliveries: u64,
    missing: u64,
    gaps: u64,
    out_of_order: u64,
    closed: u64,
    latency_us: Latency,
    cpu_us_per_delivery: Option<f64>,
    /// Of the busiest loop, from a message's first arrival to its last.
    fan_out_busy_percent: f64,
    curves: Curves,
}

impl Report {
    pub fn new(run: &Run, tallies: &[Tally]) -> Self {
        let mut all = Histogram::<u64>::new(3).expect("three significant digits are allowed");
        for tally in tallies {
            all.add(&tally.latencies)
                .expect("a histogram without bounds grows");
        }
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        let reached = |tally: &Tally| {
            let reached = tally.rounds.iter().map(|round| u64::from(round.reached));
            reached.sum::<u64>()
        };
        let deliveries = sum(reached);
        let due = u64::from(run.subscribers) * u64::from(run.rounds);
        let missing = due.saturating_sub(deliveries);
        let (gaps, out_of_order) = (sum(|tally| tally.gaps), sum(|tally| tally.out_of_order));
        let closed = sum(|tally| tally.closed);
        let lasts = lasts(run, tallies);
        let cpu_us = run.cpu_ns.map(|ns| ns as f64 / 1e3);
        Report {
            right: missing + gaps + out_of_order + closed == 0,
            arguments: std::env::args().skip(1).collect(),
            server: run.protocol.name(),
            acknowledged: false,
            subscribers: run.subscribers,
            size: run.size,
            connect_seconds: run.connect_us as f64 / 1e6,
            rounds: run.rounds,
            measured: run.rounds - run.warm_up,
            deliveries,
            missing,
            gaps,
            out_of_order,
            closed,
            latency_us: Latency {
                count: all.len(),
                p50: all.value_at_quantile(0.5),
                p90: all.value_at_quantile(0.9),
                p99: all.value_at_quantile(0.99),
                p999: all.value_at_quantile(0.999),
                max: all.max(),
                last_entity_median: lasts.get(lasts.len() / 2).copied().unwrap_or(0),
                last_entity_worst: lasts.last().copied().unwrap_or(0),
            },
            cpu_us_per_delivery: cpu_us.map(|us| us / deliveries.max(1) as f64),
            fan_out_busy_percent: tallies.iter().map(busy_percent).fold(0.0, f64::max),
            curves: Curves {
                percentiles: histogram::percentiles(&all),
                arrivals: OverTime::default(),
            },
        }
    }

    /// Every subscriber had every message once and in order.
    pub fn is_right(&self) -> bool {
        self.right
    }

    pub fn write(&self, json: Option<&Path>) -> io::Result<()> {
        write!(io::stdout(), "{self}")?;
        match json {
            Some(path) => std::fs::write(path, serde_json::to_vec_pretty(self)?),
            None => Ok(()),
        }
    }
}

/// Times to the last subscriber of all loops, of the measured rounds that everybody had, ascending.
fn lasts(run: &Run, tallies: &[Tally]) -> Vec<u64> {
    let mut lasts: Vec<u64> = (run.warm_up + 1..=run.rounds)
        .filter_map(|number| {
            let of_it = || {
                tallies
                    .iter()
                    .filter_map(|tally| tally.rounds.get(number as usize))
            };
            let reached: u32 = of_it().map(|round| round.reached).sum();
            let last = of_it()
                .map(|round| round.last_us().saturating_sub(round.intended_us))
                .max();
            last.filter(|_| reached == run.subscribers)
        })
        .collect();
    lasts.sort_unstable();
    lasts
}

fn busy_percent(tally: &Tally) -> f64 {
    let rounds = tally.rounds.iter().map(Round::lasted_and_waited_us);
    let (lasted, waited) = rounds.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    match lasted {
        0 => 0.0,
        lasted => 100.0 * (1.0 - waited as f64 / lasted as f64),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = &self.latency_us;
        writeln!(
            f,
            "subscribed      {} at {} in {:.3} s, over TCP; deliveries are not acknowledged",
            self.subscribers, self.server, self.connect_seconds
        )?;
        writeln!(
            f,
            "messages        {} of {} bytes ({} measured), {} deliveries, {} missing",
            self.rounds, self.size, self.measured, self.deliveries, self.missing
        )?;
        writeln!(
            f,
            "order           {} gaps, {} repeated or out of order, {} connections closed",
            self.gaps, self.out_of_order, self.closed
        )?;
        writeln!(
            f,
            "latency ms      p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            Ms(latency.p50),
            Ms(latency.p90),
            Ms(latency.p99),
            Ms(latency.p999),
            Ms(latency.max)
        )?;
        writeln!(
            f,
            "to the last ms  median {}  worst {}",
            Ms(latency.last_entity_median),
            Ms(latency.last_entity_worst)
        )?;
        writeln!(
            f,
            "loadgen         {:.2} us CPU a delivery, busy {:.0} % during fan-out",
            self.cpu_us_per_delivery.unwrap_or(f64::NAN),
            self.fan_out_busy_percent
        )?;
        let verdict = if self.right { "right" } else { "WRONG" };
        writeln!(f, "verdict         {verdict}")
    }
}
