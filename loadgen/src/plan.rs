//! What a run shall do: the raw flags, and the checked plan made of them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::document::Format;
use crate::publisher::Change;

/// Raw flags of `loadgen run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Where the notifiers listen (UDP); entities go round robin over several.
    #[arg(long, required = true, num_args = 1.., value_name = "ADDRESS:PORT")]
    target: Vec<SocketAddr>,
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
    /// What a change changes beside the attribute `round`.
    #[arg(long, value_enum, default_value_t = Change::Status)]
    change: Change,
    /// Changes before the measured phase, that are checked but not measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// How long a change may take to reach an entity before it counts as missing.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,
    /// The notation that the entities ask for.
    #[arg(long, value_enum, default_value_t = Format::Xml)]
    format: Format,
    /// Expires of the subscriptions, in seconds; refreshed between half and nine tenths of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = whole::<u32>(1, u32::MAX.into()))]
    expires: u32,
    /// Share of the received NOTIFYs that are treated as lost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Share of the entities that answer nothing more from the first change on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    dead: f64,
    /// Host of the Request-URI.
    #[arg(long, default_value = "example.com", value_parser = domain)]
    domain: String,
    /// Core to run on.
    #[arg(long, value_name = "N", value_parser = whole::<usize>(0, 1023))]
    core: Option<usize>,
    /// Simulated servers that publish the changes, in turn.
    #[arg(long, default_value_t = 4, value_parser = whole::<u16>(1, 1024))]
    servers: u16,
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
    #[error("--target: all must be IPv4, or all IPv6")]
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
    pub entities: u32,
    pub sockets: u16,
    /// How many addresses of 127.0.0.0/8 the entities stand behind; `None`: the sockets' own.
    pub hops: Option<u32>,
    pub duration: Duration,
    pub changes: f64,
    pub change: Change,
    pub warmup: Duration,
    pub grace: Duration,
    pub format: Format,
    pub expires: u32,
    pub loss: f64,
    pub dead: f64,
    pub domain: String,
    pub core: Option<usize>,
    pub servers: u16,
    pub seed: u64,
    pub json: Option<PathBuf>,
    pub report: Option<PathBuf>,
}

impl Plan {
    pub fn check(flags: Flags) -> Result<Plan, Refusal> {
        let first = flags.target[0].ip();
        if flags
            .target
            .iter()
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
        Ok(Plan {
            targets: flags.target,
            entities: flags.entities,
            sockets: flags.sockets,
            hops,
            duration: flags.duration,
            changes: flags.changes,
            change: flags.change,
            warmup: flags.warmup,
            grace: flags.grace,
            format: flags.format,
            expires: flags.expires,
            loss: flags.loss,
            dead: flags.dead,
            domain: flags.domain,
            core: flags.core,
            servers: flags.servers,
            seed: flags.seed.unwrap_or_else(rand::random),
            json: flags.json,
            report: flags.report,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn plan(line: &str) -> Result<Plan, Refusal> {
        let line = format!("x --entities 9 --duration 1 {line}");
        Plan::check(Line::try_parse_from(line.split_whitespace()).unwrap().flags)
    }

    #[test]
    fn hops_need_ipv4_on_the_loopback() {
        assert_eq!(
            plan("--target 127.0.0.1:5060 --own-address").unwrap().hops,
            Some(9)
        );
        assert_eq!(
            plan("--target 127.0.0.1:5060 --hops 3").unwrap().hops,
            Some(3)
        );
        assert_eq!(
            plan("--target [::1]:5060 --hops 3").unwrap_err(),
            Refusal::HopsOffLoopback
        );
        assert_eq!(
            plan("--target 192.0.2.1:5060 --own-address").unwrap_err(),
            Refusal::HopsOffLoopback
        );
    }

    #[test]
    fn targets_are_of_one_family() {
        assert_eq!(
            plan("--target 127.0.0.1:1 [::1]:1").unwrap_err(),
            Refusal::MixedTargets
        );
        assert_eq!(
            plan("--target 127.0.0.1:1 127.0.0.2:1")
                .unwrap()
                .targets
                .len(),
            2
        );
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
        ] {
            let line = format!("x --target 127.0.0.1:1 --entities 9 --duration 1 {line}");
            assert!(
                Line::try_parse_from(line.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
