//! The sockets by which servers are probed. Knows no answer.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;
use tracing::warn;

use crate::probe::Prober;

/// Answers to OPTIONS are small; what is longer is cut, and then no answer.
const DATAGRAM: usize = 8_192;

/// What is probed, and by which sockets: one of each family that is needed.
#[derive(Debug)]
pub struct Probes {
    pub prober: Prober,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Probes {
    /// Must be called within the runtime.
    pub async fn begin(prober: Prober) -> std::io::Result<Probes> {
        let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let (mut v4, mut v6) = (None, None);
        if prober.addresses().any(|address| address.is_ipv4()) {
            v4 = Some(UdpSocket::bind(any4).await?);
        }
        if prober.addresses().any(|address| address.is_ipv6()) {
            v6 = Some(UdpSocket::bind(any6).await?);
        }
        Ok(Probes { prober, v4, v6 })
    }

    /// Does what the time demands.
    pub fn tick(&mut self, now_ms: u64) {
        let (v4, v6) = (&self.v4, &self.v6);
        let socket = |to: SocketAddr| match to {
            SocketAddr::V4(_) => v4.as_ref(),
            SocketAddr::V6(_) => v6.as_ref(),
        };
        // RFC 3261 18.1.1: sent-by is where answers are to come; rport has them come whatever it says.
        self.prober.tick(now_ms, |to| {
            let port = socket(to)?.local_addr().ok()?.port();
            let ip = crate::config::source_towards(to).ok()?;
            Some(SocketAddr::new(ip, port))
        });
        while let Some((to, bytes)) = self.prober.next_message() {
            // What cannot be sent now is sent again, and is a failed probe in the end.
            let sent = socket(to).map(|socket| socket.try_send_to(&bytes, to));
            if let Some(Err(error)) = sent {
                tracing::debug!(%to, %error, "OPTIONS cannot be sent");
            }
        }
    }

    /// The next datagram that comes back.
    pub async fn receive(&self, buffer: &mut Vec<u8>) -> SocketAddr {
        buffer.resize(DATAGRAM, 0);
        let mut other = vec![0; DATAGRAM];
        loop {
            let received = tokio::select! {
                received = from(&self.v4, buffer) => received,
                received = from(&self.v6, &mut other) => {
                    std::mem::swap(buffer, &mut other);
                    received
                }
            };
            match received {
                Ok((length, source)) => {
                    buffer.truncate(length);
                    return source;
                }
                // The answer to a datagram that nobody took.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    warn!(%error, "cannot receive answers to OPTIONS");
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

async fn from(
    socket: &Option<UdpSocket>,
    buffer: &mut [u8],
) -> std::io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}
