//! A name server (RFC 1035 4.2) on a socket and on connections. Knows nothing of names.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{DATAGRAM_MOST, bind, send, taken, unusable};
use crate::dns::{Carrier, Zone};
use crate::subscriber::Subscriber;
use crate::tool::{ToolError, say};

/// Connections of a name server at a time, and how long one may say nothing.
const STREAMS_MOST: usize = 64;
const STREAM_IDLE: Duration = Duration::from_secs(5);
/// Where no connection could be accepted, for want of descriptors.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Adapter {
    socket: UdpSocket,
    listener: TcpListener,
    zone: Zone,
}

impl Adapter {
    pub(super) async fn open(
        listen: SocketAddr,
        domain: &str,
        service: Option<Box<str>>,
        ttl_s: u32,
    ) -> Result<Self, ToolError> {
        let (socket, at) = bind(listen).await?;
        let listener = TcpListener::bind(at).await;
        let listener = listener.map_err(|error| unusable(listen, &error))?;
        let zone = Zone::new(domain, service, ttl_s, Some(at.ip()));
        let zone = zone.ok_or_else(|| ToolError::Argument {
            flag: "--domain",
            value: domain.to_owned(),
            problem: "no name of DNS".to_owned(),
        })?;
        say(format_args!("fanfare dns ready udp={at} tcp={at}"));
        Ok(Adapter {
            socket,
            listener,
            zone,
        })
    }

    pub(super) async fn run(self, subscriber: Subscriber, stop: impl Future<Output = ()>) {
        let Adapter {
            socket,
            listener,
            zone,
        } = self;
        let zone = Rc::new(RefCell::new(zone));
        let subscriber = Rc::new(subscriber);
        let mut stop = pin!(stop);
        let mut buffer = vec![0; DATAGRAM_MOST];
        let places = Arc::new(Semaphore::new(STREAMS_MOST));
        let mut streams = JoinSet::new();
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
                    streams.spawn_local(async move {
                        let answer = |query: &[u8]| {
                            zone.borrow_mut().answer(&subscriber.view(), query, Carrier::Tcp)
                        };
                        // It ends as it may: who asked asks again.
                        let _ = over_stream(stream, answer).await;
                        drop(place);
                    });
                }
                Some(_) = streams.join_next() => {}
                () = &mut stop => break,
            }
        }
        streams.shutdown().await;
        tracing::info!(counters = ?zone.borrow().counters, "ends");
        if let Some(subscriber) = Rc::into_inner(subscriber) {
            subscriber.stop().await;
        }
    }
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
