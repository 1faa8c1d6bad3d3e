//! The kernel's side of the swarm: batches in and out, big buffers, drops counted. The only unsafe code of
//! loadgen. Knows no SIP.
#![allow(unsafe_code)]

mod address;
mod inbox;
mod outbox;
mod poll;

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use libc::{c_int, c_void, msghdr, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

pub use inbox::{Inbox, Incoming, Origin};
pub use poll::{Poll, pin};

use address::RawAddress;
use outbox::Outbox;

/// Datagrams in one system call.
pub const BATCH: usize = 64;
/// Larger than any request that RFC 3261 18.1.1 lets over UDP; what is cut off is reported.
const DATAGRAM: usize = 4096;
/// Room for about 16,000 NOTIFYs of one socket.
const BUFFER: c_int = 32 << 20;
/// Linux, asm-generic/socket.h; not in libc.
const SO_MEMINFO: c_int = 55;

/// One UDP socket with the datagrams that wait to leave by it.
#[derive(Debug)]
pub struct Endpoint {
    socket: Socket,
    ip: IpAddr,
    port: u16,
    outbox: Outbox,
    /// Datagrams that the kernel refused.
    pub refused: u64,
}

impl Endpoint {
    /// Binds to `ip` and a port of the kernel's choice.
    pub fn bind(ip: IpAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address((ip, 0).into()),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.set_nonblocking(true)?;
        // As root past the system's limit.
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
            .or_else(|_| set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER))?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)
            .or_else(|_| set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER))?;
        if ip.is_ipv4() {
            // Never in fragments: the kernel then draws no identification for each datagram.
            set(
                &socket,
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DO,
            )?;
        }
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
        let local = socket.local_addr()?.as_socket();
        let port = local.ok_or(io::ErrorKind::AddrNotAvailable)?.port();
        Ok(Endpoint {
            socket,
            ip,
            port,
            outbox: Outbox::default(),
            refused: 0,
        })
    }

    /// The address that it is bound to.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Queues a datagram that `write` fills; it leaves with the next `flush`, or when the batch is full.
    pub fn queue(
        &mut self,
        to: SocketAddr,
        from: Option<Ipv4Addr>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        self.make_room()?;
        let (to, length) = RawAddress::new(to);
        self.outbox.push(to, length, from, write);
        Ok(())
    }

    /// Queues a datagram back to where one came from.
    pub fn reply(
        &mut self,
        to: Origin,
        from: Option<Ipv4Addr>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        self.make_room()?;
        self.outbox.push(to.address, to.length, from, write);
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.outbox.len() == BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends all that is queued. A full send buffer is waited for; a datagram that the kernel refuses is counted.
    pub fn flush(&mut self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        let mut sent = 0;
        while sent < self.outbox.len() {
            match self.outbox.send(fd, sent) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Poll::writable(fd).wait(Duration::from_millis(100))?;
                }
                Err(_) => {
                    self.refused += 1;
                    sent += 1;
                }
            }
        }
        self.outbox.clear();
        Ok(())
    }

    /// Fills `inbox` with what waits in the socket; returns how many datagrams.
    pub fn receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        match inbox.fill(self.socket.as_raw_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            // An ICMP error to an earlier datagram; the retransmission will show whether it lasts.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            result => result,
        }
    }

    /// Datagrams that the kernel threw away because this socket's buffer was full: the counter that
    /// SO_RXQ_OVFL and /proc/net/udp show.
    pub fn drops(&self) -> io::Result<u64> {
        let mut info = [0u32; 9];
        let mut length = size_of_val(&info) as socklen_t;
        // SAFETY: `info` and `length` live through the call, and `length` is the size of `info`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                info.as_mut_ptr().cast::<c_void>(),
                &raw mut length,
            )
        };
        check(result as isize)?;
        Ok(u64::from(info[libc::SK_MEMINFO_DROPS as usize]))
    }
}

fn set(socket: &Socket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its length is stated right.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    check(result as isize).map(|_| ())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn empty_header() -> msghdr {
    // SAFETY: msghdr is plain integers and pointers; all zero is a valid empty one.
    unsafe { zeroed() }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn received(at: &Endpoint, inbox: &mut Inbox) -> usize {
        let mut poll = Poll::readable(std::iter::once(at));
        poll.wait(Duration::from_secs(10)).unwrap();
        assert!(poll.is_ready(0));
        at.receive(inbox).unwrap()
    }

    #[test]
    fn a_batch_arrives_whole_and_in_order() {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let (mut sender, receiver) = (Endpoint::bind(ip).unwrap(), Endpoint::bind(ip).unwrap());
            for number in 0..BATCH as u8 {
                sender
                    .queue((ip, receiver.port()).into(), None, |out| out.push(number))
                    .unwrap();
            }
            sender.flush().unwrap();
            let mut inbox = Inbox::new();
            assert_eq!(received(&receiver, &mut inbox), BATCH);
            for number in 0..BATCH {
                let incoming = inbox.get(number);
                assert_eq!(incoming.bytes, [number as u8]);
                assert_eq!(
                    incoming.from.address.address(),
                    SocketAddr::from((ip, sender.port()))
                );
                assert!(!incoming.truncated);
            }
            assert_eq!(receiver.receive(&mut inbox).unwrap(), 0);
            assert_eq!(receiver.drops().unwrap(), 0);
        }
    }

    #[test]
    fn a_datagram_leaves_from_the_address_named() {
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let (mut sender, receiver) = (Endpoint::bind(any).unwrap(), Endpoint::bind(any).unwrap());
        let own = Ipv4Addr::new(127, 7, 7, 7);
        let to = (Ipv4Addr::new(127, 9, 9, 9), receiver.port()).into();
        sender
            .queue(to, Some(own), |out| out.extend_from_slice(b"x"))
            .unwrap();
        sender.flush().unwrap();
        let mut inbox = Inbox::new();
        assert_eq!(received(&receiver, &mut inbox), 1);
        assert_eq!(
            inbox.get(0).from.address.address(),
            SocketAddr::from((own, sender.port()))
        );
    }

    #[test]
    fn a_datagram_too_long_is_marked() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (mut sender, receiver) = (Endpoint::bind(ip).unwrap(), Endpoint::bind(ip).unwrap());
        sender
            .queue((ip, receiver.port()).into(), None, |out| {
                out.resize(DATAGRAM + 1, 0)
            })
            .unwrap();
        sender.flush().unwrap();
        let mut inbox = Inbox::new();
        assert_eq!(received(&receiver, &mut inbox), 1);
        assert!(inbox.get(0).truncated);
    }

    #[test]
    fn a_datagram_that_the_kernel_refuses_is_counted() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut sender = Endpoint::bind(ip).unwrap();
        sender
            .queue((ip, 9).into(), None, |out| out.resize(70_000, 0))
            .unwrap();
        sender.flush().unwrap();
        assert_eq!(sender.refused, 1);
    }

    #[test]
    fn what_a_full_buffer_drops_is_counted() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (mut sender, receiver) = (Endpoint::bind(ip).unwrap(), Endpoint::bind(ip).unwrap());
        let mut sent = 0;
        while receiver.drops().unwrap() == 0 {
            for _ in 0..BATCH {
                sender
                    .queue((ip, receiver.port()).into(), None, |out| {
                        out.resize(DATAGRAM, 0)
                    })
                    .unwrap();
            }
            sender.flush().unwrap();
            sent += BATCH as u64;
            assert!(sent < 1_000_000, "a socket's buffer has an end");
        }
        let mut inbox = Inbox::new();
        let mut taken = 0;
        loop {
            let count = receiver.receive(&mut inbox).unwrap();
            if count == 0 {
                break;
            }
            taken += count as u64;
        }
        assert_eq!(taken + receiver.drops().unwrap(), sent);
    }
}
