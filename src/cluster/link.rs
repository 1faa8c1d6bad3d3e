//! The socket that all goes by between nodes: gossip as chitchat wants it, and our own messages beside it. Knows no record.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tracing::warn;

use super::Counters;
use super::frame::{FrameError, Frames, Kind};
use super::message::{Message, UNCONFIRMED};
use crate::log::Seldom;

/// The largest datagram that UDP carries.
const DATAGRAM: usize = 65_536;
/// A socket that only fails is asked again after this.
const REST: Duration = Duration::from_millis(50);
/// Gossip comes several times as often.
const LATELY: Duration = Duration::from_secs(1);
const HEARD_MOST: usize = 1_024;

/// One node's socket.
pub struct Link {
    socket: UdpSocket,
    frames: Mutex<Frames>,
    allow: Vec<IpNet>,
    counters: Arc<Mutex<Counters>>,
    /// Our own messages as they come.
    inbound: mpsc::Sender<(SocketAddr, Message)>,
    refused: Refused,
    /// Who sent something that was taken, and when last.
    heard: Mutex<HashMap<SocketAddr, Instant>>,
}

/// What was refused is logged by reason: much of one hides none of another.
#[derive(Debug, Default)]
struct Refused {
    strangers: Seldom,
    malformed: Seldom,
    other_cluster: Seldom,
    forged: Seldom,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub fn new(
        socket: UdpSocket,
        frames: Frames,
        allow: Vec<IpNet>,
        counters: Arc<Mutex<Counters>>,
        inbound: mpsc::Sender<(SocketAddr, Message)>,
    ) -> Arc<Self> {
        Arc::new(Link {
            socket,
            frames: Mutex::new(frames),
            allow,
            counters,
            inbound,
            refused: Refused::default(),
            heard: Mutex::default(),
        })
    }

    pub async fn send(&self, to: SocketAddr, message: &Message) {
        self.send_bytes(to, message.kind(), &message.write()).await;
    }

    /// What cannot be sent is lost, like what gets lost on the way; gossip makes up for both.
    pub async fn send_bytes(&self, to: SocketAddr, kind: Kind, bytes: &[u8]) {
        let datagrams = self.frames.lock().seal(kind, bytes);
        for datagram in datagrams {
            if self.socket.send_to(&datagram, to).await.is_err() {
                self.counters.lock().cluster_send_failures += 1;
            }
        }
    }

    /// The next gossip; our own messages go their way.
    async fn receive(&self, buffer: &mut [u8]) -> (SocketAddr, ChitchatMessage) {
        loop {
            let (length, from) = match self.socket.recv_from(buffer).await {
                Ok(received) => received,
                // The answer to a datagram that nobody took; the socket is as good as before.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    warn!(%error, "cannot receive from other nodes");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Some((kind, bytes)) = self.open(from, &buffer[..length]) else {
                continue;
            };
            if kind == Kind::Gossip {
                match ChitchatMessage::deserialize(&mut &bytes[..]) {
                    Ok(message) => return (from, message),
                    Err(_) => self.refuse(from, FrameError::Malformed),
                }
                continue;
            }
            let Some((mut message, bad)) = Message::read(kind, &bytes) else {
                self.refuse(from, FrameError::Malformed);
                continue;
            };
            for _ in 0..bad {
                self.refuse(from, FrameError::Malformed);
            }
            if let Message::Tell { number, .. } = &mut message
                && bad > 0
            {
                // Not all of it can be known here.
                *number = UNCONFIRMED;
            }
            if self.inbound.try_send((from, message)).is_err() {
                self.counters.lock().cluster_overflows += 1;
            }
        }
    }

    fn open(&self, from: SocketAddr, bytes: &[u8]) -> Option<(Kind, Vec<u8>)> {
        {
            let mut counters = self.counters.lock();
            counters.cluster_datagrams += 1;
            counters.cluster_bytes += bytes.len() as u64;
            if !self
                .allow
                .iter()
                .any(|network| network.contains(&from.ip()))
            {
                counters.cluster_strangers += 1;
                drop(counters);
                log(
                    &self.refused.strangers,
                    from,
                    "it may not speak to this node",
                );
                return None;
            }
        }
        let opened = self.frames.lock().open(from, bytes);
        match opened {
            Ok(opened) => {
                self.hear(from, Instant::now());
                opened
            }
            Err(error) => {
                self.refuse(from, error);
                None
            }
        }
    }

    fn hear(&self, from: SocketAddr, now: Instant) {
        let mut heard = self.heard.lock();
        heard.insert(from, now);
        if heard.len() > HEARD_MOST {
            heard.retain(|_, at| now < *at + LATELY);
        }
        if heard.len() > HEARD_MOST {
            heard.clear();
        }
    }

    /// Who sent something in the last second: nodes that are there, whether they are known to be alive yet or not.
    pub fn lately(&self) -> Vec<SocketAddr> {
        let now = Instant::now();
        let heard = self.heard.lock();
        let lately = heard.iter().filter(|(_, at)| now < **at + LATELY);
        lately.map(|(from, _)| *from).collect()
    }

    fn refuse(&self, from: SocketAddr, error: FrameError) {
        let mut counters = self.counters.lock();
        let (count, seldom) = match error {
            FrameError::Malformed => (&mut counters.cluster_malformed, &self.refused.malformed),
            FrameError::OtherCluster => {
                (&mut counters.cluster_wrong_id, &self.refused.other_cluster)
            }
            FrameError::Forged => (&mut counters.cluster_forged, &self.refused.forged),
        };
        *count += 1;
        drop(counters);
        log(seldom, from, error);
    }
}

fn log(seldom: &Seldom, from: SocketAddr, reason: impl std::fmt::Display) {
    if seldom.permits(Instant::now()) {
        warn!(%from, %reason, "datagram of the cluster refused");
    }
}

/// A link as chitchat opens it: it is open already.
pub struct Opened(pub Arc<Link>);

#[async_trait]
impl Transport for Opened {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(Gossip {
            link: Arc::clone(&self.0),
            buffer: vec![0; DATAGRAM].into(),
        }))
    }
}

struct Gossip {
    link: Arc<Link>,
    buffer: Box<[u8]>,
}

#[async_trait]
impl Socket for Gossip {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let bytes = message.serialize_to_vec();
        self.link.send_bytes(to, Kind::Gossip, &bytes).await;
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        Ok(self.link.receive(&mut self.buffer).await)
    }
}
