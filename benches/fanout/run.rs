//! One scenario: its variants by turns, as often as asked, and what each run's figures are.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use super::figures::Figures;
use super::process::{Kind, Reading, Server, load, value};
use super::record::Record;
use super::scenario::{Measure, Scenario, Variant};

/// Counters of Fanfare that stay 0 where nothing is lost.
const LOST: [&str; 10] = [
    "retransmissions",
    "receive_drops",
    "send_failures",
    "truncated",
    "overflows",
    "response_overflows",
    "timeouts",
    "removed",
    "undeliverable",
    "transport_errors",
];

/// Whether every bound held and every run was right.
pub fn run(scenario: &Scenario, runs: u32, record: &Record) -> io::Result<bool> {
    let mut figures: BTreeMap<&'static str, Vec<Figures>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 1..=runs {
        for variant in &scenario.variants {
            eprintln!("{} {number} of {runs}: {}", scenario.name, variant.name);
            let (found, faults) = once(scenario, variant, number, record)?;
            wrong.extend(faults);
            figures.entry(variant.name).or_default().extend(found);
            record.table(scenario, &figures_so_far(scenario, &figures))?;
        }
    }
    record.summary(scenario, &figures, &wrong)
}

fn figures_so_far(
    scenario: &Scenario,
    figures: &BTreeMap<&'static str, Vec<Figures>>,
) -> BTreeMap<&'static str, Vec<Figures>> {
    let empty = scenario
        .variants
        .iter()
        .map(|variant| (variant.name, Vec::new()));
    let mut all: BTreeMap<_, _> = empty.collect();
    all.extend(figures.clone());
    all
}

/// How long loadgen goes on, with which changes, and when the server is read: before and after, in seconds.
fn schedule(measure: Measure) -> (String, f64, f64) {
    match measure {
        Measure::Changes { count, every_s } => {
            // The server is read when a fan-out is over, well before the next.
            let warmup = 2.75 * every_s;
            let last = f64::from(count) * every_s;
            let rate = 1.0 / every_s;
            let duration = last + 0.15 * every_s;
            (
                format!(
                    "--change status --changes {rate} --warmup {warmup} --duration {duration} --grace {}",
                    every_s.max(5.0)
                ),
                warmup,
                last,
            )
        }
        Measure::Subscribing => ("--changes 0 --duration 2".to_owned(), 0.0, 1.0),
        Measure::Idle { settle_s, seconds } => (
            format!("--changes 0 --duration {}", settle_s + seconds + 1),
            f64::from(settle_s),
            f64::from(seconds),
        ),
        Measure::Storm { seconds, rate } => (
            format!("--change status --changes {rate} --duration {seconds} --grace 5"),
            0.0,
            f64::from(seconds),
        ),
    }
}

fn once(
    scenario: &Scenario,
    variant: &Variant,
    run: u32,
    record: &Record,
) -> io::Result<(Vec<Figures>, Option<String>)> {
    let log = record.file(scenario.name, variant.name, run, "log")?;
    let json = record.file(scenario.name, variant.name, run, "json")?;
    let server = Server::start(variant.server, variant.cores, &variant.flags, &log)?;
    let (empty, _) = server.memory()?;
    let (more, until, last) = schedule(variant.measure);
    let mut flags = vec!["--entities".to_owned(), variant.entities.to_string()];
    flags.extend(variant.load.iter().cloned());
    flags.extend(more.split_whitespace().map(str::to_owned));
    let begin = server.read()?;
    let window = last / f64::from(scenario.windows);
    let (mut readings, mut memory) = (vec![begin], (0, 0));
    let report = load(server.address, &flags, &json, || {
        thread::sleep(Duration::from_secs_f64(until));
        if !matches!(variant.measure, Measure::Subscribing) {
            readings = vec![server.read()?];
        }
        for _ in 0..scenario.windows {
            thread::sleep(Duration::from_secs_f64(window));
            readings.push(server.read()?);
        }
        memory = server.memory()?;
        Ok(())
    })?;
    let counters = server.stop()?;
    let mut all = Vec::new();
    for pair in readings.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        let mut figures = figures(variant, &report, before, after, window);
        if variant.server == Kind::Fanfare {
            let each = memory.0.saturating_sub(empty) as f64 / f64::from(variant.entities);
            figures.insert("bytes each", each);
            figures.insert("peak MiB", memory.1 as f64 / f64::from(1 << 20));
            let retransmissions = value(&counters, "retransmissions");
            figures.insert("retransmissions", retransmissions as f64);
            if after.imbalance > 0.0 {
                let received = (after.received - before.received) as f64;
                let handed_over = (after.handed_over - before.handed_over) as f64;
                figures.insert("handed over %", 100.0 * handed_over / received);
                figures.insert("fullest shard over emptiest", after.imbalance);
            }
        }
        all.push(figures);
    }
    let fault = fault(variant, run, &report, &counters);
    Ok((all, fault))
}

fn figures(
    variant: &Variant,
    report: &serde_json::Value,
    before: Reading,
    after: Reading,
    last: f64,
) -> Figures {
    let cpu_us = (after.cpu_ns - before.cpu_ns) as f64 / 1e3;
    let notifies = (after.notifies - before.notifies) as f64;
    let get = |path: &str| report.pointer(path).and_then(serde_json::Value::as_f64);
    let mut figures = Figures::new();
    let exchanges = match variant.measure {
        Measure::Subscribing => f64::from(variant.entities),
        _ => notifies,
    };
    // Without exchanges there is no such figure, and what is held against it was not measured.
    if exchanges > 0.0 {
        figures.insert("CPU us", cpu_us / exchanges);
    }
    let mut keep = |name, figure: Option<f64>| figure.map(|figure| figures.insert(name, figure));
    match variant.measure {
        Measure::Changes { .. } | Measure::Storm { .. } => {
            let ms = |path: &str| get(path).map(|us| us / 1e3);
            keep("to the last ms", ms("/latency_us/last_entity_median"));
            keep("worst ms", ms("/latency_us/last_entity_worst"));
            keep("p50 ms", ms("/latency_us/p50"));
            keep("p98 ms", ms("/latency_us/p98"));
            keep("p99.9 ms", ms("/latency_us/p999"));
            keep("p99.99 ms", ms("/latency_us/p9999"));
            keep("settled ms", ms("/latency_us/settled"));
            keep("loadgen busy %", get("/loadgen/fan_out_busy_percent"));
            keep("loadgen CPU us", get("/loadgen/cpu_us_per_notify"));
        }
        Measure::Idle { .. } => {
            keep("core %", Some(cpu_us / 1e4 / last));
            keep("NOTIFYs a second", Some(notifies / last));
        }
        Measure::Subscribing => {
            keep("SUBSCRIBEs a second", get("/subscribing/per_second"));
            keep("all told after s", get("/subscribing/all_notified_seconds"));
        }
    }
    figures
}

fn fault(
    variant: &Variant,
    run: u32,
    report: &serde_json::Value,
    counters: &str,
) -> Option<String> {
    let mut faults = Vec::new();
    if variant.must_be_right && report.get("right") != Some(&serde_json::Value::Bool(true)) {
        faults.push("loadgen says that it was not right".to_owned());
    }
    if variant.must_lose_nothing {
        for name in LOST {
            match value(counters, name) {
                0 => {}
                count => faults.push(format!("{name}={count}")),
            }
        }
    }
    (!faults.is_empty()).then(|| format!("{} {run}: {}", variant.name, faults.join(", ")))
}
