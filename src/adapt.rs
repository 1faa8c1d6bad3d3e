//! `fanfare adapt`: processes between the table and equipment that knows nothing of it. Joins what answers to a socket and to
//! a subscriber. Knows nothing of the protocol.

mod dispatcher;
mod dns;
mod redirect;

use std::io;
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use tokio::net::UdpSocket;

use crate::session::Signals;
use crate::subscriber::{Settings, Subscriber};
use crate::tool::{self, Source, ToolError};

/// The life that the subscriptions ask for, in seconds.
const EXPIRES_S: u32 = 60;
/// The largest datagram.
const DATAGRAM_MOST: usize = 65_535;

/// Flags of `fanfare adapt`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    adapter: Adapter,
}

#[derive(Debug, Clone, Subcommand)]
enum Adapter {
    /// Answer every SIP request with 302 and the servers to send it to, best first; 503 where none is left
    Redirect(redirect::Arguments),
    /// Be the name server of the domain: NAPTR, SRV and addresses of the servers as they are
    Dns(dns::Arguments),
    /// Keep a destination set of Kamailio's dispatcher module equal to the table, by its JSON-RPC
    Dispatcher(dispatcher::Arguments),
}

/// What every adapter wants to know.
#[derive(Debug, Clone, Args)]
struct Common {
    #[command(flatten)]
    source: Source,
    /// Service that the servers must offer
    #[arg(long, value_name = "NAME", value_parser = tool::service)]
    service: Option<Box<str>>,
}

impl Common {
    /// At two notifiers at least, so that none is missed.
    async fn subscribe(&self) -> Result<Subscriber, ToolError> {
        let settings = self.source.settings(Vec::new(), EXPIRES_S).await?;
        Ok(Subscriber::with(Settings {
            notifiers: settings.via.len().clamp(2, 8),
            ..settings
        }))
    }
}

/// Where those are asked that answer.
#[derive(Debug, Clone, Args)]
struct Listen {
    /// Address and port to be asked at
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

impl Listen {
    async fn bind(&self) -> Result<(UdpSocket, SocketAddr), ToolError> {
        let socket = UdpSocket::bind(self.listen).await;
        let socket = socket.map_err(|error| self.unusable(&error))?;
        let at = socket.local_addr().map_err(ToolError::io("socket"))?;
        Ok((socket, at))
    }

    fn unusable(&self, error: &io::Error) -> ToolError {
        ToolError::Argument {
            flag: "--listen",
            value: self.listen.to_string(),
            problem: error.to_string(),
        }
    }
}

/// Adapts until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let signals = Signals::new().map_err(ToolError::io("signals"))?;
    match arguments.adapter {
        Adapter::Redirect(flags) => redirect::run(flags, signals).await,
        Adapter::Dns(flags) => dns::run(flags, signals).await,
        Adapter::Dispatcher(flags) => dispatcher::run(flags, signals).await,
    }
}

/// What was received, and from whom. An error is an ICMP message for an answer that came too late.
fn taken(received: io::Result<(usize, SocketAddr)>) -> Option<(usize, SocketAddr)> {
    received
        .inspect_err(|error| tracing::debug!(%error, "not received"))
        .ok()
}

/// An answer that cannot be sent is asked for again by who wants it.
async fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%error, %to, "not sent");
    }
}
