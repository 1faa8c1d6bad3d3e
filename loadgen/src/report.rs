//! What a run came to, for people and for programs. Judges nothing but the sum.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::curves::Curves;

use crate::document::Malformed;
use crate::entity::{Fault, Faults};
use crate::histogram;
use crate::plan::Plan;
use crate::plot;
use crate::publisher;
use crate::rounds::{Outcome, Rounds};
use crate::timeline::Timeline;

/// What the swarm counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// SUBSCRIBEs that made a dialog and were answered 2xx.
    pub subscribed: u64,
    /// Entities that had a full document.
    pub ready: u64,
    pub last_subscribed_us: u64,
    pub last_ready_us: u64,
    pub subscribes_repeated: u64,
    pub refreshes: u64,
    /// SUBSCRIBEs that Timer F ended.
    pub unanswered: u64,
    /// Final answers to SUBSCRIBE that are no success, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Answers that no SUBSCRIBE waited for.
    pub late_answers: u64,
    /// NOTIFYs that arrived, retransmissions and those lost on purpose among them.
    pub received: u64,
    /// The same over the time of the run.
    pub arrivals: Timeline,
    /// NOTIFYs that were new.
    pub notified: u64,
    pub retransmissions: u64,
    /// New documents that show the view that the entity had already.
    pub repeated_views: u64,
    /// Documents that did not fit, so that the entity asked for a full one.
    pub gaps: u64,
    /// Datagrams that arrived and were treated as lost.
    pub lost_on_purpose: u64,
    /// Datagrams that were not sent, as if lost.
    pub withheld_on_purpose: u64,
    /// NOTIFYs that arrived in the measured phase, and the bytes of their bodies.
    pub bodies: u64,
    pub body_bytes: u64,
    /// 503 with Retry-After to a SUBSCRIBE, which then came again.
    pub put_off: u64,
    /// Subscriptions that were ended to be made anew, and those that were.
    pub churned: u64,
    pub returned: u64,
    pub not_returned: u64,
    pub slow: u64,
    pub leavers: u64,
    /// NOTIFYs that belong to no subscription of this run.
    pub strays: u64,
    pub unreadable: u64,
    pub malformed: Option<Malformed>,
    pub documents_parsed: u64,
    pub heads_parsed: u64,
    pub dead: u64,
    pub left: u64,
    pub not_left: u64,
    /// Datagrams that the kernel dropped before loadgen.
    pub socket_drops: u64,
    /// Datagrams that the kernel did not send.
    pub send_refused: u64,
}

impl Counts {
    /// Adds what another crew counted.
    pub fn add(&mut self, other: Counts) {
        self.subscribed += other.subscribed;
        self.ready += other.ready;
        self.last_subscribed_us = self.last_subscribed_us.max(other.last_subscribed_us);
        self.last_ready_us = self.last_ready_us.max(other.last_ready_us);
        self.subscribes_repeated += other.subscribes_repeated;
        self.refreshes += other.refreshes;
        self.unanswered += other.unanswered;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.late_answers += other.late_answers;
        self.received += other.received;
        self.arrivals.add(&other.arrivals);
        self.notified += other.notified;
        self.retransmissions += other.retransmissions;
        self.repeated_views += other.repeated_views;
        self.gaps += other.gaps;
        self.lost_on_purpose += other.lost_on_purpose;
        self.withheld_on_purpose += other.withheld_on_purpose;
        self.bodies += other.bodies;
        self.body_bytes += other.body_bytes;
        self.put_off += other.put_off;
        self.churned += other.churned;
        self.returned += other.returned;
        self.not_returned += other.not_returned;
        self.slow += other.slow;
        self.leavers += other.leavers;
        self.strays += other.strays;
        self.unreadable += other.unreadable;
        self.malformed = self.malformed.take().or(other.malformed);
        self.documents_parsed += other.documents_parsed;
        self.heads_parsed += other.heads_parsed;
        self.dead += other.dead;
        self.left += other.left;
        self.socket_drops += other.socket_drops;
        self.send_refused += other.send_refused;
    }
}

/// What one thread measured of itself, in the measured phase.
#[derive(Debug, Default, Clone)]
pub struct Thread {
    /// `None`: wherever the kernel put it.
    pub core: Option<usize>,
    /// Entities that it counts on.
    pub live: u32,
    pub lasted_us: u64,
    pub waited_us: u64,
    pub fan_out_us: u64,
    pub fan_out_waited_us: u64,
    pub cpu_ns: Option<u64>,
    pub received: u64,
    pub socket_drops: u64,
}

/// When the measured phase was, without what warms up.
#[derive(Debug, Default, Clone, Copy)]
pub struct Span {
    pub began_at: Option<SystemTime>,
    /// In the time of the run.
    pub began_us: u64,
    pub ended_us: u64,
}

/// What the phases measured.
#[derive(Debug, Default)]
pub struct Measured {
    pub subscribe_us: u64,
    pub all_ready_us: u64,
    pub live: u32,
    pub span: Span,
    pub threads: Vec<Thread>,
    pub outcome: Outcome,
}

/// Loadgen is the limit from this share of its time on, in per cent.
const BUSY_PERCENT: f64 = 95.0;

#[derive(Debug, Serialize)]
struct Subscribing {
    entities: u32,
    subscribed: u64,
    not_subscribed: u64,
    seconds: f64,
    per_second: f64,
    all_notified_seconds: f64,
    repeated: u64,
    refreshes: u64,
    unanswered: u64,
    late_answers: u64,
    put_off: u64,
    refused: BTreeMap<u16, u64>,
}

#[derive(Debug, Serialize)]
struct Notifying {
    received: u64,
    notified: u64,
    retransmissions: u64,
    repeated_views: u64,
    gaps: u64,
    lost_on_purpose: u64,
    withheld_on_purpose: u64,
    body_bytes_mean: u64,
    strays: u64,
    unreadable: u64,
    documents_parsed: u64,
    heads_parsed: u64,
    dead: u64,
    slow: u64,
    churned: u64,
    returned: u64,
    not_returned: u64,
    not_terminated: u64,
}

#[derive(Debug, Serialize)]
struct Changing {
    rounds: u32,
    measured: u32,
    failed: u64,
    live_entities: u32,
    missing: u64,
    late: u64,
    publish_repeated: u64,
    publish_refused: BTreeMap<u16, u64>,
}

/// Microseconds from the intended time of a change to its arrival.
#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    p50: u64,
    p90: u64,
    p98: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    max: u64,
    last_entity_median: u64,
    last_entity_worst: u64,
    /// From the last change to when the last entity had all of them.
    settled: u64,
}

#[derive(Debug, Serialize)]
struct Itself {
    cpu_us_per_notify: Option<f64>,
    busy_percent: f64,
    fan_out_busy_percent: f64,
    socket_drops: u64,
    send_refused: u64,
    is_limit: bool,
    threads: Vec<ThreadItself>,
}

#[derive(Debug, Serialize)]
struct ThreadItself {
    core: Option<usize>,
    entities: u32,
    cpu_us_per_notify: Option<f64>,
    busy_percent: f64,
    fan_out_busy_percent: f64,
    socket_drops: u64,
}

impl ThreadItself {
    fn new(thread: &Thread) -> Self {
        let received = thread.received.max(1) as f64;
        ThreadItself {
            core: thread.core,
            entities: thread.live,
            cpu_us_per_notify: thread.cpu_ns.map(|ns| ns as f64 / 1e3 / received),
            busy_percent: busy_percent(thread.lasted_us, thread.waited_us),
            fan_out_busy_percent: busy_percent(thread.fan_out_us, thread.fan_out_waited_us),
            socket_drops: thread.socket_drops,
        }
    }

    /// Why the notifier may have waited for it.
    fn limit(&self) -> Option<String> {
        let place = match self.core {
            Some(core) => format!("core {core}"),
            None => "a thread".to_owned(),
        };
        if self.socket_drops > 0 {
            return Some(format!("{place} dropped {} datagrams", self.socket_drops));
        }
        let busiest = self.busy_percent.max(self.fan_out_busy_percent);
        (busiest > BUSY_PERCENT)
            .then(|| format!("{place} {busiest:.0} % busy while changes were under way"))
    }
}

#[derive(Debug, Serialize)]
struct FaultExample {
    fault: &'static str,
    entity: u32,
    cseq: u32,
    expected: u64,
    got: u64,
}

/// The report of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    right: bool,
    arguments: Vec<String>,
    seed: u64,
    subscribing: Subscribing,
    notifying: Notifying,
    changing: Changing,
    latency_us: Latency,
    loadgen: Itself,
    faults: BTreeMap<&'static str, u64>,
    fault_examples: Vec<FaultExample>,
    malformed: Option<String>,
    curves: Curves,
    #[serde(skip)]
    histograms: Histograms,
}

/// What the curves and percentiles were made of, in full.
#[derive(Debug)]
struct Histograms {
    began: SystemTime,
    lasted: Duration,
    every: Histogram<u64>,
    last: Histogram<u64>,
}

impl Histograms {
    fn new(measured: &Measured, rounds: &Rounds) -> Self {
        let mut last = Histogram::new(3).expect("three significant digits are allowed");
        for &us in &measured.outcome.lasts_us {
            last.record(us).expect("a histogram without bounds grows");
        }
        Histograms {
            began: measured.span.began_at.unwrap_or(SystemTime::UNIX_EPOCH),
            lasted: Duration::from_micros(measured.span.ended_us - measured.span.began_us),
            every: rounds.latencies().clone(),
            last,
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn busy_percent(lasted_us: u64, waited_us: u64) -> f64 {
    if lasted_us == 0 {
        return 0.0;
    }
    100.0 * (1.0 - waited_us as f64 / lasted_us as f64).max(0.0)
}

impl Report {
    pub fn new(
        plan: &Plan,
        counts: Counts,
        measured: Measured,
        rounds: &Rounds,
        faults: &Faults,
        publications: publisher::Counts,
    ) -> Self {
        let outcome = &measured.outcome;
        let not_subscribed = u64::from(plan.entities) - counts.ready;
        let failed = publications.rounds_failed;
        let latency = latency(rounds, outcome);
        Report {
            right: not_subscribed == 0
                && counts.refused.is_empty()
                && counts.unanswered == 0
                && counts.not_left == 0
                && counts.not_returned == 0
                && outcome.missing == 0
                && failed == 0
                && faults.total() == 0,
            arguments: std::env::args().skip(1).collect(),
            seed: plan.seed,
            latency_us: latency,
            curves: Curves {
                percentiles: histogram::percentiles(rounds.latencies()),
                arrivals: counts
                    .arrivals
                    .between(measured.span.began_us, measured.span.ended_us),
            },
            histograms: Histograms::new(&measured, rounds),
            loadgen: Itself::new(&counts, &measured),
            subscribing: Subscribing {
                entities: plan.entities,
                subscribed: counts.subscribed,
                not_subscribed,
                seconds: seconds(measured.subscribe_us),
                per_second: counts.subscribed as f64 / seconds(measured.subscribe_us.max(1)),
                all_notified_seconds: seconds(measured.all_ready_us),
                repeated: counts.subscribes_repeated,
                refreshes: counts.refreshes,
                unanswered: counts.unanswered,
                late_answers: counts.late_answers,
                put_off: counts.put_off,
                refused: counts.refused,
            },
            notifying: Notifying {
                received: counts.received,
                notified: counts.notified,
                retransmissions: counts.retransmissions,
                repeated_views: counts.repeated_views,
                gaps: counts.gaps,
                lost_on_purpose: counts.lost_on_purpose,
                withheld_on_purpose: counts.withheld_on_purpose,
                body_bytes_mean: counts.body_bytes / counts.bodies.max(1),
                strays: counts.strays,
                unreadable: counts.unreadable,
                documents_parsed: counts.documents_parsed,
                heads_parsed: counts.heads_parsed,
                dead: counts.dead,
                slow: counts.slow,
                churned: counts.churned,
                returned: counts.returned,
                not_returned: counts.not_returned,
                not_terminated: counts.not_left,
            },
            changing: Changing {
                rounds: outcome.rounds,
                measured: outcome.measured,
                failed,
                live_entities: measured.live,
                missing: outcome.missing,
                late: outcome.late,
                publish_repeated: publications.retransmitted,
                publish_refused: publications.refused,
            },
            faults: Fault::ALL
                .iter()
                .map(|&fault| (fault.name(), faults.count(fault)))
                .collect(),
            fault_examples: examples(faults),
            malformed: counts.malformed.map(|reason| reason.to_string()),
        }
    }

    /// Every entity had every change, in order.
    pub fn is_right(&self) -> bool {
        self.right
    }

    /// The table to standard output, the JSON to `json`; where that is standard output too, the table makes way
    /// to standard error.
    pub fn write(&self, json: Option<&Path>) -> io::Result<()> {
        match json {
            Some(path) if path == Path::new("-") => {
                write!(io::stderr(), "{self}")?;
                let mut out = io::stdout().lock();
                serde_json::to_writer_pretty(&mut out, self)?;
                writeln!(out)
            }
            Some(path) => {
                write!(io::stdout(), "{self}")?;
                std::fs::write(path, serde_json::to_vec_pretty(self)?)
            }
            None => write!(io::stdout(), "{self}"),
        }
    }

    /// Keeps the run in a folder: the report, a histogram of every entity's latencies and one of the last entity's of
    /// each change, a picture.
    pub fn keep(&self, folder: &Path) -> Result<(), plot::Failure> {
        let kept = &self.histograms;
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::from)?;
        text.push(b'\n');
        std::fs::write(folder.join("report.json"), text)?;
        for (name, what, of) in [
            (
                "latency",
                "from a change's intended time to each entity",
                &kept.every,
            ),
            (
                "last",
                "from a change's intended time to the last entity",
                &kept.last,
            ),
        ] {
            let path = folder.join(name).with_extension("hlog");
            histogram::write(&path, what, of, kept.began, kept.lasted)?;
        }
        let title = format!(
            "{} changes to {} entities",
            self.changing.measured, self.subscribing.entities
        );
        let run = [(title.clone(), self.curves.clone())];
        match plot::runs(&folder.join("plot.svg"), &title, &run) {
            Err(plot::Failure::Nothing) => Ok(()),
            drawn => drawn,
        }
    }
}

fn latency(rounds: &Rounds, outcome: &Outcome) -> Latency {
    let all = rounds.latencies();
    Latency {
        count: all.len(),
        p50: all.value_at_quantile(0.5),
        p90: all.value_at_quantile(0.9),
        p98: all.value_at_quantile(0.98),
        p99: all.value_at_quantile(0.99),
        p999: all.value_at_quantile(0.999),
        p9999: all.value_at_quantile(0.9999),
        max: all.max(),
        last_entity_median: outcome.last_median_us,
        last_entity_worst: outcome.last_worst_us,
        settled: outcome.settled_us,
    }
}

fn examples(faults: &Faults) -> Vec<FaultExample> {
    let examples = faults.examples().iter();
    examples
        .map(|example| FaultExample {
            fault: example.fault.name(),
            entity: example.entity,
            cseq: example.cseq,
            expected: example.expected,
            got: example.got,
        })
        .collect()
}

impl Itself {
    fn new(counts: &Counts, measured: &Measured) -> Self {
        let threads: Vec<_> = measured.threads.iter().map(ThreadItself::new).collect();
        let received: u64 = measured.threads.iter().map(|thread| thread.received).sum();
        let cpu_ns = measured
            .threads
            .iter()
            .map(|thread| thread.cpu_ns)
            .sum::<Option<u64>>();
        let busiest =
            |percent: fn(&ThreadItself) -> f64| threads.iter().map(percent).fold(0.0, f64::max);
        Itself {
            cpu_us_per_notify: cpu_ns.map(|ns| ns as f64 / 1e3 / received.max(1) as f64),
            busy_percent: busiest(|thread| thread.busy_percent),
            fan_out_busy_percent: busiest(|thread| thread.fan_out_busy_percent),
            socket_drops: counts.socket_drops,
            send_refused: counts.send_refused,
            is_limit: threads.iter().any(|thread| thread.limit().is_some()),
            threads,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subscribing, notifying) = (&self.subscribing, &self.notifying);
        let (changing, latency, itself) = (&self.changing, &self.latency_us, &self.loadgen);
        writeln!(
            f,
            "subscribed      {} of {} in {:.3} s, {:.0} SUBSCRIBE/s; all had a full document after {:.3} s",
            subscribing.subscribed,
            subscribing.entities,
            subscribing.seconds,
            subscribing.per_second,
            subscribing.all_notified_seconds
        )?;
        writeln!(
            f,
            "SUBSCRIBE       {} repeated, {} refreshes, {} unanswered, {} answered late, {} put off, refused {:?}",
            subscribing.repeated,
            subscribing.refreshes,
            subscribing.unanswered,
            subscribing.late_answers,
            subscribing.put_off,
            subscribing.refused
        )?;
        writeln!(
            f,
            "NOTIFY          {} received, {} new, {} retransmissions, {} with the same view, {} gaps",
            notifying.received,
            notifying.notified,
            notifying.retransmissions,
            notifying.repeated_views,
            notifying.gaps
        )?;
        writeln!(
            f,
            "                {} lost and {} withheld on purpose, {} of {} came back, {} strays, {} unreadable, {} dead entities, {} never terminated",
            notifying.lost_on_purpose,
            notifying.withheld_on_purpose,
            notifying.returned,
            notifying.churned,
            notifying.strays,
            notifying.unreadable,
            notifying.dead,
            notifying.not_terminated
        )?;
        writeln!(
            f,
            "changes         {} ({} measured) to {} entities, {} missing ({} of them late), {} not accepted",
            changing.rounds,
            changing.measured,
            changing.live_entities,
            changing.missing,
            changing.late,
            changing.failed
        )?;
        writeln!(
            f,
            "latency ms      p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
            Ms(latency.p50),
            Ms(latency.p90),
            Ms(latency.p99),
            Ms(latency.p999),
            Ms(latency.p9999),
            Ms(latency.max)
        )?;
        writeln!(
            f,
            "to the last ms  median {}  worst {}  after the last change {}",
            Ms(latency.last_entity_median),
            Ms(latency.last_entity_worst),
            Ms(latency.settled)
        )?;
        let limits: Vec<_> = itself
            .threads
            .iter()
            .filter_map(ThreadItself::limit)
            .collect();
        let limit = if limits.is_empty() {
            "loadgen was not the limit".to_owned()
        } else {
            format!("loadgen was the limit: {}", limits.join(", "))
        };
        writeln!(
            f,
            "loadgen         {:.2} us CPU a NOTIFY, busy {:.0} % (during fan-out {:.0} %), {} socket drops, {} not sent: {limit}",
            itself.cpu_us_per_notify.unwrap_or(f64::NAN),
            itself.busy_percent,
            itself.fan_out_busy_percent,
            itself.socket_drops,
            itself.send_refused
        )?;
        self.write_faults(f)
    }
}

impl Report {
    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.faults.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "FAULT           {name}: {count}")?;
        }
        for example in &self.fault_examples {
            writeln!(
                f,
                "                {}: entity {}, CSeq {}, expected {}, got {}",
                example.fault, example.entity, example.cseq, example.expected, example.got
            )?;
        }
        if let Some(reason) = &self.malformed {
            writeln!(f, "                malformed: {reason}")?;
        }
        let verdict = if self.right { "right" } else { "WRONG" };
        writeln!(f, "verdict         {verdict} (seed {})", self.seed)
    }
}

/// Microseconds, shown as milliseconds.
pub struct Ms(pub u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0 as f64 / 1e3)
    }
}
