//! `fanfare adapt`: processes between the table and equipment that knows nothing of it. Joins what answers to a socket and to
//! a subscriber. Knows nothing of the protocol.

pub mod beside;
mod dispatcher;
mod dns;
mod redirect;

use std::io;
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use reqwest::Url;
use tokio::net::UdpSocket;
use tokio::task::LocalSet;

use crate::config::{self, AdapterKind};
use crate::session::{End, Signals};
use crate::subscriber::{Settings, Subscriber};
use crate::subscription::Wish;
use crate::tool::{self, Source, ToolError};
use crate::wire::Transport;

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
    Redirect(Redirect),
    /// Be the name server of the domain: NAPTR, SRV and addresses of the servers as they are
    Dns(Dns),
    /// Keep a destination set of Kamailio's dispatcher module equal to the table, by its JSON-RPC
    Dispatcher(Dispatcher),
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

#[derive(Debug, Clone, Args)]
struct Redirect {
    #[command(flatten)]
    common: Common,
    /// Address and port to be asked at
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[derive(Debug, Clone, Args)]
struct Dns {
    #[command(flatten)]
    common: Common,
    /// Address and port to be asked at
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Life of the records, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = config::ADAPTER_TTL_S, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    ttl: u32,
}

#[derive(Debug, Clone, Args)]
struct Dispatcher {
    #[command(flatten)]
    common: Common,
    /// Kamailio's JSON-RPC, such as http://127.0.0.1:5080/RPC
    #[arg(long, value_name = "URL", value_parser = rpc)]
    rpc: Url,
    /// Number of the destination set, which shall have nothing but these servers
    #[arg(long, value_name = "NUMBER", default_value_t = config::ADAPTER_SET)]
    set: i32,
}

fn rpc(text: &str) -> Result<Url, &'static str> {
    config::rpc(text).ok_or("allowed: http://HOST[:PORT]/RPC, or https")
}

/// Adapts until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let mut signals = Signals::new().map_err(ToolError::io("signals"))?;
    let (common, kind) = match arguments.adapter {
        Adapter::Redirect(Redirect { common, listen }) => {
            (common, AdapterKind::Redirect { listen })
        }
        Adapter::Dns(Dns {
            common,
            listen,
            ttl: ttl_s,
        }) => (common, AdapterKind::Dns { listen, ttl_s }),
        Adapter::Dispatcher(Dispatcher { common, rpc, set }) => {
            (common, AdapterKind::Dispatcher { rpc, set })
        }
    };
    let settings = common.source.settings(Vec::new(), EXPIRES_S).await?;
    let adapter = config::Adapter {
        domain: common.source.domain.into(),
        service: common.service,
        kind,
    };
    let ready = Ready::open(adapter).await?;
    let tasks = LocalSet::new();
    let stop = async { while signals.next().await != End::Stop {} };
    tasks.run_until(ready.run(settings, stop)).await;
    Ok(())
}

/// An adapter that has what it needs of this machine.
#[derive(Debug)]
pub struct Ready {
    domain: Box<str>,
    means: Means,
}

#[derive(Debug)]
enum Means {
    Redirect(Box<redirect::Adapter>),
    Dns(dns::Adapter),
    Dispatcher(dispatcher::Adapter),
}

impl Ready {
    pub async fn open(adapter: config::Adapter) -> Result<Ready, ToolError> {
        let config::Adapter {
            domain,
            service,
            kind,
        } = adapter;
        let means = match kind {
            AdapterKind::Redirect { listen } => {
                Means::Redirect(redirect::Adapter::open(listen, service).await?.into())
            }
            AdapterKind::Dns { listen, ttl_s } => {
                Means::Dns(dns::Adapter::open(listen, &domain, service, ttl_s).await?)
            }
            AdapterKind::Dispatcher { rpc, set } => {
                Means::Dispatcher(dispatcher::Adapter::new(rpc, set, service)?)
            }
        };
        Ok(Ready { domain, means })
    }

    /// What to follow to serve beside a node that listens there.
    pub fn beside(&self, node: SocketAddr) -> Settings {
        Settings {
            via: vec![node],
            source: None,
            transport: Transport::Udp,
            wish: Wish {
                domain: self.domain.to_string(),
                filter: None,
                expires_s: EXPIRES_S,
            },
            notifiers: 1,
        }
    }

    /// Adapts until it is to stop. Wants a `LocalSet`.
    pub async fn run(self, settings: Settings, stop: impl Future<Output = ()>) {
        // At two notifiers at least, so that none is missed.
        let subscriber = Subscriber::with(Settings {
            notifiers: settings.via.len().clamp(2, 8),
            ..settings
        });
        match self.means {
            Means::Redirect(adapter) => adapter.run(subscriber, stop).await,
            Means::Dns(adapter) => adapter.run(subscriber, stop).await,
            Means::Dispatcher(adapter) => adapter.run(subscriber, stop).await,
        }
    }
}

async fn bind(listen: SocketAddr) -> Result<(UdpSocket, SocketAddr), ToolError> {
    let socket = UdpSocket::bind(listen).await;
    let socket = socket.map_err(|error| unusable(listen, &error))?;
    let at = socket.local_addr().map_err(ToolError::io("socket"))?;
    Ok((socket, at))
}

fn unusable(listen: SocketAddr, error: &io::Error) -> ToolError {
    ToolError::Argument {
        flag: "--listen",
        value: listen.to_string(),
        problem: error.to_string(),
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
