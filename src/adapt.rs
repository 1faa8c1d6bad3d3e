//! `fanfare adapt`: processes between the table and equipment that knows nothing of it. Joins what answers to a socket and to
//! a subscriber. Knows nothing of the protocol.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use crate::client::Chance;
use crate::dns::{Carrier, Zone};
use crate::redirect::Redirector;
use crate::session::{End, Signals};
use crate::subscriber::{Settings, Subscriber};
use crate::tool::{self, Source, ToolError, say};

/// The life that the subscriptions ask for, in seconds.
const EXPIRES_S: u32 = 60;
/// The largest datagram.
const DATAGRAM_MOST: usize = 65_535;
/// Connections of a name server at a time, and how long one may say nothing.
const STREAMS_MOST: usize = 64;
const STREAM_IDLE: Duration = Duration::from_secs(5);
/// Where no connection could be accepted, for want of descriptors.
const REST: Duration = Duration::from_millis(100);

/// Flags of `fanfare adapt`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    adapter: Adapter,
}

#[derive(Debug, Clone, Subcommand)]
enum Adapter {
    /// Answer every SIP request with 302 and the servers to send it to, best first; 503 where none is left
    Redirect(Common),
    /// Be the name server of the domain: NAPTR, SRV and addresses of the servers as they are
    Dns(Dns),
}

/// What every adapter wants to know.
#[derive(Debug, Clone, Args)]
struct Common {
    #[command(flatten)]
    source: Source,
    /// Address and port to be asked at
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Service that the servers must offer
    #[arg(long, value_name = "NAME", value_parser = tool::service)]
    service: Option<Box<str>>,
}

impl Common {
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

    /// At two notifiers at least, so that none is missed.
    async fn subscribe(&self) -> Result<Subscriber, ToolError> {
        let settings = self.source.settings(Vec::new(), EXPIRES_S).await?;
        Ok(Subscriber::with(Settings {
            notifiers: settings.via.len().clamp(2, 8),
            ..settings
        }))
    }
}

/// Flags of `fanfare adapt dns`.
#[derive(Debug, Clone, Args)]
struct Dns {
    #[command(flatten)]
    common: Common,
    /// Life of the records, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    ttl: u32,
}

/// Adapts until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let signals = Signals::new().map_err(ToolError::io("signals"))?;
    match arguments.adapter {
        Adapter::Redirect(flags) => redirect(flags, signals).await,
        Adapter::Dns(flags) => dns(flags, signals).await,
    }
}

async fn redirect(flags: Common, mut signals: Signals) -> Result<(), ToolError> {
    let (socket, at) = flags.bind().await?;
    let subscriber = flags.subscribe().await?;
    say(format_args!("fanfare redirect ready udp={at}"));
    let mut redirector = Redirector::new(flags.service, Chance::new(rand::random()));
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
        let Some((length, source)) = taken(received) else {
            continue;
        };
        let now_ms = epoch.elapsed().as_millis() as u64;
        let bytes = &buffer[..length];
        let answered = redirector.answer(&subscriber.view(), now_ms, source, bytes);
        if let Some((to, bytes)) = answered {
            send(&socket, to, &bytes).await;
        }
    }
    tracing::info!(counters = ?redirector.counters, "ends");
    subscriber.stop().await;
    Ok(())
}

async fn dns(flags: Dns, mut signals: Signals) -> Result<(), ToolError> {
    let Dns { common, ttl } = flags;
    let (socket, at) = common.bind().await?;
    let listener = TcpListener::bind(at).await;
    let listener = listener.map_err(|error| common.unusable(&error))?;
    let domain = &common.source.domain;
    let zone = Zone::new(domain, common.service.clone(), ttl, Some(at.ip()));
    let zone = zone.ok_or_else(|| ToolError::Argument {
        flag: "--domain",
        value: domain.clone(),
        problem: "no name of DNS".to_owned(),
    })?;
    let zone = Rc::new(RefCell::new(zone));
    let subscriber = Rc::new(common.subscribe().await?);
    say(format_args!("fanfare dns ready udp={at} tcp={at}"));
    let mut buffer = vec![0; DATAGRAM_MOST];
    let streams = LocalSet::new();
    let serve = async {
        let places = Arc::new(Semaphore::new(STREAMS_MOST));
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    let Some((length, source)) = taken(received) else {
                        continue;
                    };
                    let view = subscriber.view();
                    let bytes = &buffer[..length];
                    let answer = zone.borrow_mut().answer(&view, bytes, Carrier::Udp);
                    if let Some(bytes) = answer {
                        send(&socket, source, &bytes).await;
                    }
                }
                accepted = accept(&listener, &places) => {
                    let Some((stream, place)) = accepted else {
                        continue;
                    };
                    let (zone, subscriber) = (Rc::clone(&zone), Rc::clone(&subscriber));
                    spawn_local(async move {
                        let answer = |query: &[u8]| {
                            zone.borrow_mut().answer(&subscriber.view(), query, Carrier::Tcp)
                        };
                        // It ends as it may: who asked asks again.
                        let _ = over_stream(stream, answer).await;
                        drop(place);
                    });
                }
                end = signals.next() => match end {
                    End::Stop => return,
                    End::Resized => {}
                },
            }
        }
    };
    streams.run_until(serve).await;
    drop(streams);
    tracing::info!(counters = ?zone.borrow().counters, "ends");
    if let Some(subscriber) = Rc::into_inner(subscriber) {
        subscriber.stop().await;
    }
    Ok(())
}

/// The next connection, once there is a place for it; no connection where the kernel has none to give just now.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::debug!(%error, "not accepted");
            tokio::time::sleep(REST).await;
            None
        }
    }
}

/// RFC 7766: query after query, each with its length before it; who says nothing for a while is let go.
async fn over_stream(
    mut stream: TcpStream,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        };
        let query = timeout(STREAM_IDLE, read).await??;
        let Some(answer) = answer(&query) else {
            return Ok(());
        };
        let length = (answer.len() as u16).to_be_bytes();
        let whole = [&length[..], &answer].concat();
        timeout(STREAM_IDLE, stream.write_all(&whole)).await??;
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
