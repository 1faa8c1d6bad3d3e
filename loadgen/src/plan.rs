//! What a run shall do: the raw flags, and the checked plan made of them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::document::Format;
use crate::publisher::Change;
use crate::swarm::Share;

/// Raw flags of `loadgen run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Where the notifiers listen (UDP); entities go round robin over several.
    #[arg(long, required = true, num_args = 1.., value_name = "ADDRESS:PORT")]
    target: Vec<SocketAddr>,
    /// Where the simulated servers publish (UDP), in turn over several. Default: the targets.
    #[arg(long, num_args = 1.., value_name = "ADDRESS:PORT")]
    publish_to: Vec<SocketAddr>,
    /// How many entities subscribe.
    #[arg(long, value_parser = whole::<u32>(1, 16_000_000))]
    entities: u32,
    /// UDP sockets that the entities share.
    #[arg(long, default_value_t = 8, value_parser = whole::<u16>(1, 1024))]
    sockets: u16,
    /// Each entity is its own next hop, with an address of 127.0.0.0/8 in its Contact. Answers and SUBSCRIBEs leave from that address.
    #[arg(long, conflicts_with = "hops")]
    own_address: bool,
    /// The entities share K next hops, each an address of 127.0.0.0/8; without it the sockets are the next hops.
    #[arg(long, value_name = "K", value_parser = whole::<u32>(1, 16_000_000))]
    hops: Option<u32>,
    /// Length of the measured phase, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,
    /// Changes a second, each a PUBLISH; 0 for none.
    #[arg(long, value_name = "RATE", default_value_t = 1.0, value_parser = rate)]
    changes: f64,
    /// The event package: `SIPserver`, or `presence` (RFC 3856, PIDF of RFC 3863) for notifiers that know no other.
    #[arg(long, value_enum, default_value_t = Event::SipServer)]
    event: Event,
    /// Least size of what is published, in bytes; a NOTIFY of `SIPserver` adds about 130. Default: 0, and with
    /// `presence` as much as makes NOTIFYs as large as those of a change in `SIPserver`.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(..=8192))]
    body: Option<u16>,
    /// What a change changes beside the attribute `round`.
    #[arg(long, value_enum, default_value_t = Change::Status)]
    change: Change,
    /// Changes before the measured phase, that are checked but not measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// How long a change may take to reach an entity before it counts as missing.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,
    /// The notation that the entities ask for. Default: xml.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Expires of the subscriptions, in seconds; refreshed between half and nine tenths of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = whole::<u32>(1, u32::MAX.into()))]
    expires: u32,
    /// Share of the entities' datagrams that are lost, either way: what they receive, and what they send.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Share of the entities that answer nothing more from the first change on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    dead: f64,
    /// Share of the entities that answer each NOTIFY late, from the first change on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    slow: f64,
    /// How late those answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "0.4", value_parser = seconds)]
    slow_by: Duration,
    /// Subscriptions that are ended and made anew a second, while changes are under way.
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    churn: f64,
    /// All entities SUBSCRIBE within this time, evenly spread, whatever is answered; without it, as fast as answers come.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    within: Option<Duration>,
    /// Each SUBSCRIBE records a route of 65 to 70 bytes, its own next hop's, and each NOTIFY must come with it.
    #[arg(long)]
    record_route: bool,
    /// Host of the Request-URI.
    #[arg(long, default_value = "example.com", value_parser = domain)]
    domain: String,
    /// Cores to run on, as 1 or 0-3,6: a thread on each, with sockets and entities of its own. Without it: threads
    /// for 10,000 entities each, at most as many as there are cores, or half of them where a target is this machine.
    #[arg(long, alias = "core", value_name = "LIST", value_parser = cores)]
    cores: Option<Cores>,
    /// Simulated servers that publish the changes, in turn. Default: 4, and 1 with `presence`.
    #[arg(long, value_parser = whole::<u16>(1, 1024))]
    servers: Option<u16>,
    /// Seed of what is left to chance: who is dead, what is lost. Chosen and shown if not given.
    #[arg(long, value_parser = whole::<u64>(0, u64::MAX))]
    seed: Option<u64>,
    /// Write the report as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the run in this folder: report.json, HDR histograms latency.hlog and last.hlog, plot.svg.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// The event package that is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    #[value(name = "SIPserver")]
    SipServer,
    Presence,
}

impl Event {
    /// As it stands in the header field.
    pub fn name(self) -> &'static str {
        match self {
            Event::SipServer => "SIPserver",
            Event::Presence => "presence",
        }
    }
}

/// What is subscribed to and published.
#[derive(Debug, Clone)]
pub struct Subject {
    pub event: Event,
    pub domain: String,
    pub change: Change,
    /// Least size of what is published, in bytes.
    pub body: usize,
}

impl Subject {
    /// The URI of the resource.
    pub fn uri(&self) -> String {
        match self.event {
            Event::SipServer => format!("sip:{}", self.domain),
            Event::Presence => format!("sip:presentity@{}", self.domain),
        }
    }
}

/// Bytes of a published PIDF whose NOTIFY body, to which Kamailio 5.6 adds 33 bytes, is as large as one of Fanfare's
/// that tells of one change.
const CHANGE_BYTES: u16 = 385;

/// Numbers of cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

pub fn cores(text: &str) -> Result<Cores, Refusal> {
    let mut cores = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse().ok().filter(|&core: &usize| core < 1024);
        let (first, last) = number(first).zip(number(last)).ok_or(Refusal::Cores)?;
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    if cores.is_empty() {
        return Err(Refusal::Cores);
    }
    Ok(Cores(cores))
}

/// Entities that one thread moves well.
const ENTITIES_A_THREAD: u32 = 10_000;

fn threads(flags: &Flags) -> u32 {
    if let Some(Cores(cores)) = &flags.cores {
        return cores.len() as u32;
    }
    let all = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let is_local = flags.target.iter().any(|target| target.ip().is_loopback());
    let most = if is_local { all.div_ceil(2) } else { all };
    flags.entities.div_ceil(ENTITIES_A_THREAD).min(most)
}

pub fn whole<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, Refusal> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok();
        number
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or(Refusal::Whole(least, most))
    }
}

pub fn seconds(text: &str) -> Result<Duration, Refusal> {
    let value: f64 = text.parse().map_err(|_| Refusal::Seconds)?;
    if !(0.0..=1_000_000.0).contains(&value) {
        return Err(Refusal::Seconds);
    }
    Ok(Duration::from_secs_f64(value))
}

pub fn rate(text: &str) -> Result<f64, Refusal> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=10_000.0).contains(value))
        .ok_or(Refusal::Rate)
}

fn share(text: &str) -> Result<f64, Refusal> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or(Refusal::Share)
}

fn domain(text: &str) -> Result<String, Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(allowed) {
        return Err(Refusal::Domain);
    }
    Ok(text.to_owned())
}

/// Why flags make no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a whole number from {0} to {1} is allowed")]
    Whole(u64, u64),
    #[error("a number of seconds from 0 to 1000000 is allowed")]
    Seconds,
    #[error("a rate from 0 to 10000 a second is allowed")]
    Rate,
    #[error("a share from 0 to 1 is allowed")]
    Share,
    #[error("a domain has letters, digits, `-` and `.`, at most 253")]
    Domain,
    #[error("cores are named as 1, 0-3 or 0,2,4-6, each below 1024")]
    Cores,
    #[error("--format is of --event SIPserver alone: presence has PIDF")]
    Format,
    #[error("--target and --publish-to: all must be IPv4, or all IPv6")]
    MixedTargets,
    #[error(
        "--own-address and --hops need IPv4 targets on the loopback: only there are many addresses local"
    )]
    HopsOffLoopback,
}

/// A checked plan.
#[derive(Debug, Clone)]
pub struct Plan {
    pub targets: Vec<SocketAddr>,
    pub publish_to: Vec<SocketAddr>,
    pub entities: u32,
    pub sockets: u16,
    /// How many addresses of 127.0.0.0/8 the entities stand behind; `None`: the sockets' own.
    pub hops: Option<u32>,
    pub duration: Duration,
    pub changes: f64,
    pub subject: Subject,
    pub warmup: Duration,
    pub grace: Duration,
    pub format: Format,
    pub expires: u32,
    pub loss: f64,
    pub dead: f64,
    pub slow: f64,
    pub slow_by: Duration,
    pub churn: f64,
    pub within: Option<Duration>,
    pub record_route: bool,
    /// Where the threads run; empty: anywhere.
    pub cores: Vec<usize>,
    pub threads: u32,
    pub servers: u16,
    pub seed: u64,
    pub json: Option<PathBuf>,
    pub report: Option<PathBuf>,
}

impl Plan {
    pub fn check(flags: Flags) -> Result<Plan, Refusal> {
        let first = flags.target[0].ip();
        if (flags.target.iter())
            .chain(&flags.publish_to)
            .any(|target| target.is_ipv4() != first.is_ipv4())
        {
            return Err(Refusal::MixedTargets);
        }
        let hops = if flags.own_address {
            Some(flags.entities)
        } else {
            flags.hops
        };
        let all_loopback = flags.target.iter().all(|target| match target.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(_) => false,
        });
        if hops.is_some() && !all_loopback {
            return Err(Refusal::HopsOffLoopback);
        }
        let (format, servers, padding) = match (flags.event, flags.format) {
            (Event::SipServer, format) => (format.unwrap_or(Format::Xml), 4, 0),
            (Event::Presence, None) => (Format::Pidf, 1, CHANGE_BYTES),
            (Event::Presence, Some(_)) => return Err(Refusal::Format),
        };
        let threads = Share::crews(threads(&flags), flags.entities, hops, flags.sockets.into());
        let publish_to = match &flags.publish_to[..] {
            [] => flags.target.clone(),
            _ => flags.publish_to,
        };
        Ok(Plan {
            targets: flags.target,
            publish_to,
            entities: flags.entities,
            sockets: flags.sockets,
            hops,
            duration: flags.duration,
            changes: flags.changes,
            subject: Subject {
                event: flags.event,
                domain: flags.domain,
                change: flags.change,
                body: flags.body.unwrap_or(padding).into(),
            },
            warmup: flags.warmup,
            grace: flags.grace,
            format,
            expires: flags.expires,
            loss: flags.loss,
            dead: flags.dead,
            slow: flags.slow,
            slow_by: flags.slow_by,
            churn: flags.churn,
            within: flags.within,
            record_route: flags.record_route,
            threads,
            cores: flags.cores.map(|cores| cores.0).unwrap_or_default(),
            servers: flags.servers.unwrap_or(servers),
            seed: flags.seed.unwrap_or_else(rand::random),
            json: flags.json,
            report: flags.report,
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    /// A plan for nine entities.
    pub fn plan(line: &str) -> Plan {
        check(&format!("--target 127.0.0.1:5060 {line}")).unwrap()
    }

    fn check(line: &str) -> Result<Plan, Refusal> {
        let line = format!("x --entities 9 --duration 1 {line}");
        Plan::check(Line::try_parse_from(line.split_whitespace()).unwrap().flags)
    }

    #[test]
    fn hops_need_ipv4_on_the_loopback() {
        assert_eq!(
            check("--target 127.0.0.1:5060 --own-address").unwrap().hops,
            Some(9)
        );
        assert_eq!(
            check("--target 127.0.0.1:5060 --hops 3").unwrap().hops,
            Some(3)
        );
        assert_eq!(
            check("--target [::1]:5060 --hops 3").unwrap_err(),
            Refusal::HopsOffLoopback
        );
        assert_eq!(
            check("--target 192.0.2.1:5060 --own-address").unwrap_err(),
            Refusal::HopsOffLoopback
        );
    }

    #[test]
    fn targets_are_of_one_family() {
        assert_eq!(
            check("--target 127.0.0.1:1 [::1]:1").unwrap_err(),
            Refusal::MixedTargets
        );
        assert_eq!(
            check("--target 127.0.0.1:1 --publish-to [::1]:1").unwrap_err(),
            Refusal::MixedTargets
        );
        let both = check("--target 127.0.0.1:1 127.0.0.2:1").unwrap();
        assert_eq!((both.targets.len(), both.publish_to.len()), (2, 2));
        let apart = check("--target 127.0.0.1:1 127.0.0.2:1 --publish-to 127.0.0.3:1").unwrap();
        assert_eq!((apart.targets.len(), apart.publish_to.len()), (2, 1));
    }

    #[test]
    fn cores_are_a_list_and_one_core_is_one() {
        let at = plan;
        assert_eq!(at("--core 1").cores, [1]);
        assert_eq!(at("--cores 3,0-1").cores, [0, 1, 3]);
        assert_eq!((at("--cores 0-3").threads, at("").threads), (4, 1));
        assert_eq!(at("--cores 0-3 --hops 2").threads, 2);
        assert!(at("").cores.is_empty());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "--loss 1.1",
            "--dead x",
            "--changes -1",
            "--domain a/b",
            "--warmup NaN",
            "--sockets 0",
            "--cores x",
            "--cores 3-1",
            "--cores 1,",
        ] {
            let line = format!("x --target 127.0.0.1:1 --entities 9 --duration 1 {line}");
            assert!(
                Line::try_parse_from(line.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
