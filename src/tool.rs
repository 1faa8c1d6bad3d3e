//! What the tools have in common on the command line and at their end. Knows none of them.

use std::fmt;
use std::io::{self, Write, stdout};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::Refusal;
use crate::config;
use crate::info::{Filter, is_id};
use crate::notifier::names::Target;
use crate::resolver;
use crate::session::link::{Link, resolve};
use crate::subscriber::{Loss, Settings};
use crate::subscription::{Ending, Wish};
use crate::wire::Transport;

/// How long a view is waited for: four sendings of a SUBSCRIBE, the last at 7.5 s.
pub const VIEW_WITHIN: Duration = Duration::from_secs(8);

/// Why a tool ends without having done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// What was given cannot be worked with.
    #[error("{flag} {value}: {problem}")]
    Argument {
        flag: &'static str,
        value: String,
        problem: String,
    },
    #[error("{operation}: {source}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
    #[error("{peer}: refused with {refusal}")]
    Refused { peer: String, refusal: Refusal },
    #[error("{peer}: the notifier ended the subscription: {}", ending.as_str())]
    Terminated { peer: String, ending: Ending },
    #[error("{peer}: no view within {seconds} s")]
    Silent { peer: String, seconds: u64 },
    #[error("{peer}: {problem}")]
    Unreachable { peer: String, problem: String },
    /// What was to happen has not.
    #[error("{0}")]
    Unfinished(String),
    /// Servers are known, and none of them takes this work.
    #[error("nothing to pick: {0}")]
    NothingToPick(String),
}

impl ToolError {
    /// 2: the arguments; 3: nobody answered; 1: all else.
    pub fn exit_status(&self) -> u8 {
        match self {
            ToolError::Argument { .. } => 2,
            ToolError::Silent { .. } | ToolError::NothingToPick(_) => 3,
            _ => 1,
        }
    }

    pub fn io(operation: &'static str) -> impl FnOnce(io::Error) -> ToolError {
        move |source| ToolError::Io { operation, source }
    }
}

/// Over what requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArgument {
    Udp,
    Tcp,
}

impl From<TransportArgument> for Transport {
    fn from(argument: TransportArgument) -> Self {
        match argument {
            TransportArgument::Udp => Transport::Udp,
            TransportArgument::Tcp => Transport::Tcp,
        }
    }
}

/// A domain as a flag's value.
pub fn domain(text: &str) -> Result<String, &'static str> {
    let domain = config::domain_name(text).ok_or("no host name such as example.com");
    domain.map(String::from)
}

/// A service as a flag's value.
pub fn service(text: &str) -> Result<Box<str>, &'static str> {
    let allowed = "allowed: 1 to 64 of letters, digits, '.', '_', '-'";
    is_id(text).then(|| text.into()).ok_or(allowed)
}

/// Opens the way to the first of the notifiers that a flag names.
pub async fn open(
    flag: &'static str,
    named: &[String],
    notifiers: &[SocketAddr],
    transport: Transport,
) -> Result<Link, ToolError> {
    let unusable = |error: io::Error| ToolError::Argument {
        flag,
        value: named.join(","),
        problem: error.to_string(),
    };
    let first = notifiers.first().ok_or(io::ErrorKind::NotFound.into());
    let link = Link::open(*first.map_err(unusable)?, transport).await;
    link.map_err(unusable)
}

/// The notifiers that a flag names: addresses and hosts with a port as they are, domains by RFC 3263; each once.
pub async fn notifiers(
    flag: &'static str,
    named: &[String],
    transport: Transport,
) -> Result<Vec<SocketAddr>, ToolError> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for peer in named {
        let mut addresses = located(peer, transport).await;
        if addresses.is_empty() {
            addresses.push(resolve(peer).map_err(|error| ToolError::Argument {
                flag,
                value: peer.clone(),
                problem: error.to_string(),
            })?);
        }
        addresses.retain(|at| !found.contains(at));
        found.extend(addresses);
    }
    Ok(found)
}

/// Where a tool's table comes from.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// Notifier, or proxy on the way to it, to subscribe at; of several the tables are merged (repeatable, or with commas). A
    /// domain is looked up by NAPTR and SRV
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1:5060",
        value_delimiter = ','
    )]
    pub via: Vec<String>,
    /// Domain whose servers the table has
    #[arg(long, value_name = "NAME", value_parser = domain)]
    pub domain: String,
    /// Transport of the subscription
    #[arg(long, default_value = "udp")]
    transport: TransportArgument,
}

impl Source {
    /// What to follow there: servers of one of these services, or without any all; for as many notifiers as were named.
    pub async fn settings(
        &self,
        services: Vec<Box<str>>,
        expires_s: u32,
    ) -> Result<Settings, ToolError> {
        let named = services.join(" ");
        let filter = Filter::new(services, Vec::new(), Vec::new(), None);
        let filter = filter.map_err(|error| ToolError::Argument {
            flag: "--service",
            value: named,
            problem: error.to_string(),
        })?;
        let transport = Transport::from(self.transport);
        Ok(Settings {
            via: notifiers("--via", &self.via, transport).await?,
            source: None,
            transport,
            wish: Wish {
                domain: self.domain.clone(),
                filter: Some(filter).filter(|filter| !filter.is_empty()),
                expires_s,
            },
            notifiers: self.via.len(),
        })
    }

    /// Those that were named, for messages.
    pub fn peers(&self) -> String {
        self.via.join(", ")
    }

    /// Nobody told a view in time.
    pub fn silent(&self) -> ToolError {
        ToolError::Silent {
            peer: self.peers(),
            seconds: VIEW_WITHIN.as_secs(),
        }
    }
}

/// Where a domain has servers for this transport; nothing where `peer` is no domain, or has none.
async fn located(peer: &str, transport: Transport) -> Vec<SocketAddr> {
    let is_domain = !peer.contains(':') && peer.parse::<IpAddr>().is_err();
    let Some(resolver) = resolver::open(&[]).ok().filter(|_| is_domain) else {
        return Vec::new();
    };
    let target = Target {
        host: peer.into(),
        port: None,
        transport: None,
    };
    let location = resolver::locate(&resolver, &target).await;
    let fitting = location.addresses.into_iter();
    let fitting = fitting.filter(|(by, _)| *by == transport);
    fitting.map(|(_, at)| at).collect()
}

/// Why a tool ends when nobody takes its subscription.
pub fn over(at: SocketAddr, loss: Loss) -> ToolError {
    let peer = at.to_string();
    match loss {
        Loss::Refused(refusal) => ToolError::Refused { peer, refusal },
        Loss::Terminated(ending) => ToolError::Terminated { peer, ending },
        Loss::Unreachable(problem) => ToolError::Unreachable { peer, problem },
        Loss::Done => ToolError::Terminated {
            peer,
            ending: Ending::Unknown,
        },
    }
}

/// A line for whoever reads along; the tool goes on when nobody does.
pub fn say(line: fmt::Arguments<'_>) {
    let written = writeln!(stdout().lock(), "{line}");
    if let Err(error) = written {
        tracing::debug!(%error, "nobody reads along");
    }
}

/// Runs a tool to its end, on this thread.
pub fn drive(tool: impl Future<Output = Result<(), ToolError>>) -> Result<(), ToolError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(ToolError::io("runtime"))?.block_on(tool)
}

/// The first paragraph of a message about the command line, on one line, and where there is more to read.
pub fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let first = message.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{line}; see --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        let message =
            "error: the following required arguments were not provided:\n  --id <ID>\n\nUsage: x\n";
        assert_eq!(
            one_line(message),
            "the following required arguments were not provided: --id <ID>; see --help"
        );
    }
}
