//! What the tools have in common on the command line and at their end. Knows none of them.

use std::fmt;
use std::io::{self, Write, stdout};
use std::net::SocketAddr;

use clap::ValueEnum;

use crate::client::Refusal;
use crate::config;
use crate::info::is_id;
use crate::notifier::names::Target;
use crate::resolver;
use crate::session::link::{Link, resolve};
use crate::subscriber::Loss;
use crate::subscription::Ending;
use crate::wire::Transport;

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

/// Opens the way to the peer that a flag names.
pub async fn open(flag: &'static str, peer: &str, transport: Transport) -> Result<Link, ToolError> {
    let unusable = |error: io::Error| ToolError::Argument {
        flag,
        value: peer.to_owned(),
        problem: error.to_string(),
    };
    let address: SocketAddr = resolve(peer).map_err(unusable)?;
    Link::open(address, transport).await.map_err(unusable)
}

/// The notifiers that a flag names: addresses, hosts with a port, or domains that are looked up by RFC 3263.
pub async fn notifiers(
    flag: &'static str,
    peers: &[String],
    transport: Transport,
) -> Result<Vec<SocketAddr>, ToolError> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for peer in peers {
        let is_domain = !peer.contains(':') && peer.parse::<std::net::IpAddr>().is_err();
        let mut addresses = Vec::new();
        if is_domain && let Ok(resolver) = resolver::open(&[]) {
            let target = Target {
                host: peer.as_str().into(),
                port: None,
                transport: None,
            };
            let location = resolver::locate(&resolver, &target).await;
            let fitting = location.addresses.into_iter();
            addresses.extend(fitting.filter(|(by, _)| *by == transport).map(|(_, at)| at));
        }
        if addresses.is_empty() {
            addresses.push(resolve(peer).map_err(|error| ToolError::Argument {
                flag,
                value: peer.clone(),
                problem: error.to_string(),
            })?);
        }
        let new: Vec<_> = addresses
            .into_iter()
            .filter(|at| !found.contains(at))
            .collect();
        found.extend(new);
    }
    Ok(found)
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
