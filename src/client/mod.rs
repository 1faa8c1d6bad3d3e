//! What asking for anything over SIP takes: requests, their transactions, the answers, patience and chance. Pure: the time
//! and the seed are given, bytes go in and out. Knows neither PUBLISH nor SUBSCRIBE, no socket and no clock.

mod agent;
mod chance;
mod request;
mod response;
mod transaction;

use std::net::SocketAddr;

pub use agent::{Agent, Outgoing};
pub use chance::{Backoff, Chance};
pub use request::Draft;
pub use response::Response;
pub use transaction::{Due, LIFE_MS, Transaction};

use crate::wire::Transport;

/// After so long without an answer the user is told, though the transaction goes on: four sendings over UDP.
pub const PATIENCE_MS: u64 = 4_000;

/// Where this end is reached: what stands in Via and Contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub transport: Transport,
    pub address: SocketAddr,
}

/// An answer that is no success, as a user should read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}{}", warning.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub struct Refusal {
    pub status: u16,
    pub reason: String,
    /// The text of the Warning header field.
    pub warning: Option<String>,
}

/// What goes wrong and may get well again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("no answer")]
    Silent,
    #[error("the connection is lost")]
    Disconnected,
    #[error("answered {0}")]
    Refused(Refusal),
    /// RFC 6665 4.1.2.4: a SUBSCRIBE was accepted and no NOTIFY came before Timer N.
    #[error("subscribed, but no NOTIFY comes")]
    NoNotify,
    /// RFC 6665 4.1.3: for this reason.
    #[error("the notifier ended the subscription: {0}")]
    Ended(&'static str),
    /// A notifier says again and again what cannot be taken.
    #[error("what it says cannot be taken: {0}")]
    Nonsense(&'static str),
}
