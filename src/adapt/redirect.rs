//! A redirect server (RFC 3261 8.3) on a socket. Knows nothing of the protocol.

use std::net::SocketAddr;
use std::pin::pin;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{DATAGRAM_MOST, bind, send, taken};
use crate::client::Chance;
use crate::redirect::Redirector;
use crate::subscriber::Subscriber;
use crate::tool::{ToolError, say};

#[derive(Debug)]
pub(super) struct Adapter {
    socket: UdpSocket,
    redirector: Redirector,
}

impl Adapter {
    pub(super) async fn open(
        listen: SocketAddr,
        service: Option<Box<str>>,
    ) -> Result<Self, ToolError> {
        let (socket, at) = bind(listen).await?;
        say(format_args!("fanfare redirect ready udp={at}"));
        let redirector = Redirector::new(service, Chance::new(rand::random()));
        Ok(Adapter { socket, redirector })
    }

    pub(super) async fn run(self, subscriber: Subscriber, stop: impl Future<Output = ()>) {
        let Adapter {
            socket,
            mut redirector,
        } = self;
        let mut stop = pin!(stop);
        let epoch = Instant::now();
        let mut buffer = vec![0; DATAGRAM_MOST];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = &mut stop => break,
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
    }
}
