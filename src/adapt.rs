//! `fanfare adapt`: processes between the table and equipment that knows nothing of it. Joins what answers to a socket and to
//! a subscriber. Knows nothing of the protocol.

use std::io;
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::client::Chance;
use crate::redirect::Redirector;
use crate::session::{End, Signals};
use crate::subscriber::{Settings, Subscriber};
use crate::subscription::Wish;
use crate::tool::{self, ToolError, TransportArgument};
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
}

/// Where the table comes from.
#[derive(Debug, Clone, Args)]
struct Source {
    /// Notifiers to subscribe at, others are found from there (repeatable, or with commas). A domain is looked up by
    /// NAPTR and SRV
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1:5060",
        value_delimiter = ','
    )]
    via: Vec<String>,
    /// Domain whose servers are used
    #[arg(long, value_name = "NAME", value_parser = tool::domain)]
    domain: String,
    /// Transport of the subscriptions
    #[arg(long, default_value = "udp")]
    transport: TransportArgument,
}

impl Source {
    async fn subscribe(&self) -> Result<Subscriber, ToolError> {
        let transport = Transport::from(self.transport);
        let via = tool::notifiers("--via", &self.via, transport).await?;
        Ok(Subscriber::with(Settings {
            notifiers: via.len().clamp(2, 8),
            via,
            transport,
            wish: Wish {
                domain: self.domain.clone(),
                filter: None,
                expires_s: EXPIRES_S,
            },
        }))
    }
}

/// Flags of `fanfare adapt redirect`.
#[derive(Debug, Clone, Args)]
struct Redirect {
    #[command(flatten)]
    source: Source,
    /// Address and UDP port to take requests at
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Service that the servers must offer
    #[arg(long, value_name = "NAME", value_parser = tool::service)]
    service: Option<Box<str>>,
}

/// Adapts until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let Adapter::Redirect(redirect) = arguments.adapter;
    let socket = UdpSocket::bind(redirect.listen).await;
    let socket = socket.map_err(|error| ToolError::Argument {
        flag: "--listen",
        value: redirect.listen.to_string(),
        problem: error.to_string(),
    })?;
    let mut signals = Signals::new().map_err(ToolError::io("signals"))?;
    let subscriber = redirect.source.subscribe().await?;
    let at = socket.local_addr().map_err(ToolError::io("socket"))?;
    println!("fanfare redirect ready udp={at}");
    let mut redirector = Redirector::new(redirect.service, Chance::new(rand::random()));
    let epoch = Instant::now();
    let mut buffer = vec![0; DATAGRAM_MOST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            end = signals.next() => match end {
                End::Stop => break,
                End::Resized => continue,
            },
        };
        let answered = match received {
            Ok((length, source)) => {
                let now_ms = epoch.elapsed().as_millis() as u64;
                redirector.answer(&subscriber.view(), now_ms, source, &buffer[..length])
            }
            // An ICMP message for an answer that came too late.
            Err(error) => {
                tracing::debug!(%error, "not received");
                None
            }
        };
        if let Some((to, bytes)) = answered {
            send(&socket, to, &bytes).await;
        }
    }
    tracing::info!(?redirector.counters, "redirected");
    subscriber.stop().await;
    Ok(())
}

/// RFC 3261 18.2.2: an answer that cannot be sent is repeated by who asks again.
async fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    let sent: io::Result<usize> = socket.send_to(bytes, to).await;
    if let Err(error) = sent {
        tracing::debug!(%error, %to, "not sent");
    }
}
