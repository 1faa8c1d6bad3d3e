//! One peer over UDP or TCP: whole messages out, whole messages in. Knows of SIP only where a message on a stream ends.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::client::Local;
use crate::config::source_towards;
use crate::info::MAX_DOCUMENT_BYTES;
use crate::sip::scan::{Frame, frame};
use crate::wire::Transport;

/// RFC 3261 19.1.2.
const DEFAULT_PORT: u16 = 5060;
/// A connection that is not made, or takes nothing, for so long is given up.
const STALL: Duration = Duration::from_secs(4);
/// The longest head a peer may send over a connection.
const HEAD_MOST: usize = 64 * 1024;
/// The largest datagram.
const DATAGRAM_MOST: usize = 65_535;

/// The way to one peer.
#[derive(Debug)]
pub struct Link {
    /// The address to speak from; `None`: whichever leads to the peer.
    source: Option<IpAddr>,
    peer: SocketAddr,
    local: SocketAddr,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Udp(UdpSocket),
    Tcp {
        stream: Option<TcpStream>,
        inbox: Vec<u8>,
    },
}

/// The address of `HOST`, `HOST:PORT`, `[IPv6]:PORT` or an IP address; port 5060 where none is named. A name is looked
/// up, and its first address taken.
pub fn resolve(text: &str) -> io::Result<SocketAddr> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let mut found = if text.contains(':') {
        text.to_socket_addrs()?
    } else {
        (text, DEFAULT_PORT).to_socket_addrs()?
    };
    found.next().ok_or(io::ErrorKind::NotFound.into())
}

impl Link {
    /// Over UDP the socket is bound to the address that the peer reaches us at. A TCP connection is made by `connect`.
    pub async fn open(peer: SocketAddr, transport: Transport) -> io::Result<Link> {
        Link::open_from(None, peer, transport).await
    }

    /// The same from an address of this machine, if it is of the peer's family.
    pub async fn open_from(
        source: Option<IpAddr>,
        peer: SocketAddr,
        transport: Transport,
    ) -> io::Result<Link> {
        let ip = match source.filter(|ip| ip.is_ipv4() == peer.is_ipv4()) {
            Some(ip) => ip,
            None => source_towards(peer)?,
        };
        let local = SocketAddr::new(ip, 0);
        let (local, way) = match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(local).await?;
                (socket.local_addr()?, Way::Udp(socket))
            }
            Transport::Tcp => {
                let inbox = Vec::new();
                (
                    local,
                    Way::Tcp {
                        stream: None,
                        inbox,
                    },
                )
            }
        };
        Ok(Link {
            source,
            peer,
            local,
            way,
        })
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn local(&self) -> Local {
        let transport = match self.way {
            Way::Udp(_) => Transport::Udp,
            Way::Tcp { .. } => Transport::Tcp,
        };
        Local {
            transport,
            address: self.local,
        }
    }

    /// From now on it is the way to this peer. A connection to another is closed.
    pub async fn turn(&mut self, peer: SocketAddr) -> io::Result<()> {
        if peer == self.peer {
            return Ok(());
        }
        let Local { transport, address } = self.local();
        let is_same_socket = transport == Transport::Udp && source_towards(peer)? == address.ip();
        if is_same_socket {
            self.peer = peer;
        } else {
            *self = Link::open_from(self.source, peer, transport).await?;
        }
        Ok(())
    }

    pub fn is_up(&self) -> bool {
        !matches!(self.way, Way::Tcp { stream: None, .. })
    }

    /// Takes no longer than `within`, and never longer than a stalled connection may.
    pub async fn connect(&mut self, within: Duration) -> io::Result<()> {
        let Way::Tcp { stream, inbox } = &mut self.way else {
            return Ok(());
        };
        inbox.clear();
        let (source, peer) = (self.source, self.peer);
        let connect = async {
            match source.filter(|ip| ip.is_ipv4() == peer.is_ipv4()) {
                None => TcpStream::connect(peer).await,
                Some(ip) => {
                    let socket = match ip {
                        IpAddr::V4(_) => TcpSocket::new_v4()?,
                        IpAddr::V6(_) => TcpSocket::new_v6()?,
                    };
                    socket.bind(SocketAddr::new(ip, 0))?;
                    socket.connect(peer).await
                }
            }
        };
        let connection = timeout(within.min(STALL), connect).await??;
        connection.set_nodelay(true)?;
        self.local = connection.local_addr()?;
        *stream = Some(connection);
        Ok(())
    }

    /// Sends one message: over UDP to `to`, else to the peer. A connection that fails is down.
    pub async fn send(&mut self, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        let stream = match &mut self.way {
            Way::Udp(socket) => {
                return socket
                    .send_to(bytes, to.unwrap_or(self.peer))
                    .await
                    .map(drop);
            }
            Way::Tcp { stream, .. } => stream,
        };
        let connection = stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let written = timeout(STALL, write_all(connection, bytes)).await;
        let written = written.map_err(io::Error::from).flatten();
        written.inspect_err(|_| *stream = None)
    }

    /// The next message and where it came from. May be given up at any await. A connection that fails is down; while it
    /// is, nothing comes.
    pub async fn receive(&mut self) -> io::Result<(SocketAddr, Vec<u8>)> {
        match &mut self.way {
            Way::Udp(socket) => loop {
                // A peer that never pauses shall not keep the others of this thread waiting.
                consume_budget().await;
                socket.readable().await?;
                match take_datagram(socket) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    taken => return taken,
                }
            },
            Way::Tcp { stream: None, .. } => std::future::pending().await,
            Way::Tcp { stream, inbox } => {
                let message = match stream {
                    Some(connection) => read_message(connection, inbox).await,
                    None => Err(io::ErrorKind::NotConnected.into()),
                };
                let message = message.inspect_err(|_| *stream = None)?;
                Ok((self.peer, message))
            }
        }
    }
}

/// A datagram that is there. All links of a thread share the room for the largest.
fn take_datagram(socket: &UdpSocket) -> io::Result<(SocketAddr, Vec<u8>)> {
    thread_local! {
        static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_MOST]);
    }
    ROOM.with_borrow_mut(|room| {
        let (length, source) = socket.try_recv_from(room)?;
        Ok((source, room[..length].to_vec()))
    })
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.ready(Interest::WRITABLE).await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads into `inbox` until a whole message is there.
async fn read_message(stream: &TcpStream, inbox: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut chunk = [0; 16 * 1024];
    loop {
        match frame(inbox, HEAD_MOST, MAX_DOCUMENT_BYTES) {
            Frame::KeepAlive(length) => drop(inbox.drain(..length)),
            Frame::Complete(length) => return Ok(inbox.drain(..length).collect()),
            Frame::Bad(error) => return Err(io::Error::other(error)),
            Frame::Partial => {
                consume_budget().await;
                stream.ready(Interest::READABLE).await?;
                match stream.try_read(&mut chunk) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => inbox.extend_from_slice(&chunk[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn a_peer_without_port_is_at_5060() {
        let at = |text: &str| resolve(text).map(|address| address.to_string()).ok();
        assert_eq!(at("192.0.2.1").as_deref(), Some("192.0.2.1:5060"));
        assert_eq!(at("192.0.2.1:5070").as_deref(), Some("192.0.2.1:5070"));
        assert_eq!(at("2001:db8::1").as_deref(), Some("[2001:db8::1]:5060"));
        assert_eq!(at("[2001:db8::1]").as_deref(), Some("[2001:db8::1]:5060"));
        assert_eq!(
            at("[2001:db8::1]:5070").as_deref(),
            Some("[2001:db8::1]:5070")
        );
        assert_eq!(at("192.0.2.1:99999"), None);
    }

    /// Whom the peer sees when this source is asked for.
    async fn seen(source: [u8; 4], transport: Transport) -> IpAddr {
        let here = "127.0.0.1:0";
        let (udp, tcp) = (UdpSocket::bind(here).await, TcpListener::bind(here).await);
        let (udp, tcp) = (udp.unwrap(), tcp.unwrap());
        let peer = match transport {
            Transport::Udp => udp.local_addr(),
            Transport::Tcp => tcp.local_addr(),
        };
        let source = Some(source.into());
        let mut link = Link::open_from(source, peer.unwrap(), transport)
            .await
            .unwrap();
        link.connect(Duration::from_secs(60)).await.unwrap();
        link.send(None, b"x").await.unwrap();
        let from = match transport {
            Transport::Udp => udp.recv_from(&mut [0; 9]).await.unwrap().1,
            Transport::Tcp => tcp.accept().await.unwrap().1,
        };
        assert_eq!(link.local().address, from);
        from.ip()
    }

    #[tokio::test]
    async fn it_speaks_from_the_address_that_was_asked_for() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let source = [127, 1, 2, 3];
            assert_eq!(seen(source, transport).await, IpAddr::from(source));
        }
    }
}
