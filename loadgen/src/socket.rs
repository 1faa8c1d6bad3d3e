//! The kernel's side of the swarm: batches in and out, big buffers, drops counted. The only unsafe code of
//! loadgen. Knows no SIP.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, pollfd, sockaddr_in, sockaddr_in6, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams in one system call.
pub const BATCH: usize = 64;
/// Larger than any request that RFC 3261 18.1.1 lets over UDP; what is cut off is reported.
const DATAGRAM: usize = 4096;
/// Room for about 16,000 NOTIFYs of one socket.
const BUFFER: c_int = 32 << 20;
/// Linux, asm-generic/socket.h; not in libc.
const SO_MEMINFO: c_int = 55;

/// An address as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy)]
union RawAddress {
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

impl RawAddress {
    fn new(address: SocketAddr) -> (Self, socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let raw = sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: raw_v4(*v4.ip()),
                    sin_zero: [0; 8],
                };
                (
                    RawAddress { v4: raw },
                    size_of::<sockaddr_in>() as socklen_t,
                )
            }
            SocketAddr::V6(v6) => {
                let raw = sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                (
                    RawAddress { v6: raw },
                    size_of::<sockaddr_in6>() as socklen_t,
                )
            }
        }
    }

    fn address(&self) -> SocketAddr {
        // SAFETY: both variants begin with the family and are plain integers and `Inbox` initialised all of the longer one, so
        // every read is of initialised bytes.
        unsafe {
            if c_int::from(self.v4.sin_family) == libc::AF_INET6 {
                let raw = self.v6;
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into()
            } else {
                let ip = Ipv4Addr::from(u32::from_be(self.v4.sin_addr.s_addr));
                SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into()
            }
        }
    }
}

fn raw_v4(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from(ip).to_be(),
    }
}

/// IP_PKTINFO as ancillary data: the address that a datagram leaves from.
#[repr(C)]
#[derive(Clone, Copy)]
struct Source {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

impl Source {
    fn new(ip: Ipv4Addr) -> Self {
        Source {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<libc::in_pktinfo>(),
                cmsg_level: libc::IPPROTO_IP,
                cmsg_type: libc::IP_PKTINFO,
            },
            info: libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: raw_v4(ip),
                ipi_addr: raw_v4(Ipv4Addr::UNSPECIFIED),
            },
        }
    }
}

/// A datagram to be sent.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    to: SocketAddr,
    /// Where it leaves from; `None` for the socket's own address.
    from: Option<Ipv4Addr>,
}

/// One UDP socket with the datagrams that wait to leave by it.
#[derive(Debug)]
pub struct Endpoint {
    socket: Socket,
    port: u16,
    outgoing: Vec<Outgoing>,
    waiting: usize,
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
        grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
        grow(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
        let local = socket.local_addr()?.as_socket();
        let port = local.ok_or(io::ErrorKind::AddrNotAvailable)?.port();
        Ok(Endpoint {
            socket,
            port,
            outgoing: Vec::new(),
            waiting: 0,
            refused: 0,
        })
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
        if self.waiting == BATCH {
            self.flush()?;
        }
        if self.waiting == self.outgoing.len() {
            self.outgoing.push(Outgoing {
                bytes: Vec::with_capacity(DATAGRAM / 4),
                to,
                from,
            });
        }
        let outgoing = &mut self.outgoing[self.waiting];
        outgoing.bytes.clear();
        outgoing.to = to;
        outgoing.from = from;
        write(&mut outgoing.bytes);
        self.waiting += 1;
        Ok(())
    }

    /// Sends all that is queued. A full send buffer is waited for; a datagram that the kernel refuses is counted.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.waiting {
            match send(self.socket.as_raw_fd(), &self.outgoing[sent..self.waiting]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut poll = Poll::writable(self.socket.as_raw_fd());
                    poll.wait(Duration::from_millis(100))?;
                }
                Err(_) => {
                    self.refused += 1;
                    sent += 1;
                }
            }
        }
        self.waiting = 0;
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

/// Sets a buffer's size past the system's limit where allowed, else up to it.
fn grow(socket: &Socket, force: c_int, plain: c_int) -> io::Result<()> {
    let set = |option| {
        let size = BUFFER;
        // SAFETY: `size` lives through the call and its length is stated right.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast::<c_void>(),
                size_of::<c_int>() as socklen_t,
            )
        };
        check(result as isize)
    };
    set(force).or_else(|_| set(plain)).map(|_| ())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn send(fd: RawFd, outgoing: &[Outgoing]) -> io::Result<usize> {
    let mut addresses = [MaybeUninit::<RawAddress>::uninit(); BATCH];
    let mut sources = [MaybeUninit::<Source>::uninit(); BATCH];
    let mut vectors = [const {
        iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }
    }; BATCH];
    let mut headers = [MaybeUninit::<mmsghdr>::uninit(); BATCH];
    for (at, datagram) in outgoing.iter().enumerate() {
        let (address, length) = RawAddress::new(datagram.to);
        vectors[at] = iovec {
            iov_base: datagram.bytes.as_ptr().cast_mut().cast::<c_void>(),
            iov_len: datagram.bytes.len(),
        };
        let mut header = empty_header();
        header.msg_name = std::ptr::from_mut(addresses[at].write(address)).cast::<c_void>();
        header.msg_namelen = length;
        header.msg_iov = &raw mut vectors[at];
        header.msg_iovlen = 1;
        if let Some(ip) = datagram.from {
            header.msg_control =
                std::ptr::from_mut(sources[at].write(Source::new(ip))).cast::<c_void>();
            header.msg_controllen = size_of::<Source>();
        }
        headers[at].write(mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        });
    }
    // SAFETY: the first `outgoing.len()` headers are written (never more than BATCH, as `queue` sees to); they
    // point to addresses, sources, vectors and bytes that outlive the call, and the kernel only reads the bytes.
    let result = unsafe {
        libc::sendmmsg(
            fd,
            headers.as_mut_ptr().cast::<mmsghdr>(),
            outgoing.len() as u32,
            libc::MSG_DONTWAIT,
        )
    };
    check(result as isize)
}

fn empty_header() -> msghdr {
    // SAFETY: msghdr is plain integers and pointers; all zero is a valid empty one.
    unsafe { zeroed() }
}

/// One received datagram.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub bytes: &'a [u8],
    pub from: SocketAddr,
    /// It was longer than any that loadgen takes.
    pub truncated: bool,
}

/// Buffers for one batch of received datagrams.
pub struct Inbox {
    bytes: Vec<[u8; DATAGRAM]>,
    addresses: [RawAddress; BATCH],
    lengths: [usize; BATCH],
    truncated: [bool; BATCH],
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("lengths", &self.lengths)
            .finish_non_exhaustive()
    }
}

impl Default for Inbox {
    /// No room at all: what stands in for an Inbox that is in use elsewhere.
    fn default() -> Self {
        Inbox::with_room(0)
    }
}

impl Inbox {
    pub fn new() -> Self {
        Inbox::with_room(BATCH)
    }

    fn with_room(room: usize) -> Self {
        let (nowhere, _) = RawAddress::new(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        Inbox {
            bytes: vec![[0; DATAGRAM]; room],
            addresses: [nowhere; BATCH],
            lengths: [0; BATCH],
            truncated: [false; BATCH],
        }
    }

    /// The datagram at `at`, less than what `receive` returned.
    pub fn get(&self, at: usize) -> Incoming<'_> {
        Incoming {
            bytes: &self.bytes[at][..self.lengths[at]],
            from: self.addresses[at].address(),
            truncated: self.truncated[at],
        }
    }

    fn fill(&mut self, fd: RawFd) -> io::Result<usize> {
        let mut vectors = [const {
            iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            }
        }; BATCH];
        let mut headers = [mmsghdr {
            msg_hdr: empty_header(),
            msg_len: 0,
        }; BATCH];
        for at in 0..BATCH {
            vectors[at] = iovec {
                iov_base: self.bytes[at].as_mut_ptr().cast::<c_void>(),
                iov_len: DATAGRAM,
            };
            let header = &mut headers[at].msg_hdr;
            header.msg_name = (&raw mut self.addresses[at]).cast::<c_void>();
            header.msg_namelen = size_of::<RawAddress>() as socklen_t;
            header.msg_iov = &raw mut vectors[at];
            header.msg_iovlen = 1;
        }
        // SAFETY: every header points to an address, a vector and a buffer of this Inbox or this frame, each
        // written once per header, of the length stated, and all outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = check(result as isize)?;
        for (at, header) in headers[..count].iter().enumerate() {
            self.lengths[at] = (header.msg_len as usize).min(DATAGRAM);
            self.truncated[at] = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        }
        Ok(count)
    }
}

/// A set of sockets to wait for.
#[derive(Debug)]
pub struct Poll {
    entries: Vec<pollfd>,
}

impl Poll {
    pub fn readable<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let entries = endpoints
            .map(|endpoint| pollfd {
                fd: endpoint.socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        Poll { entries }
    }

    fn writable(fd: RawFd) -> Self {
        Poll {
            entries: vec![pollfd {
                fd,
                events: libc::POLLOUT,
                revents: 0,
            }],
        }
    }

    /// Waits until a socket is ready or the time is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the entries and the timeout live through the call, and the count is theirs.
        let result = unsafe {
            libc::ppoll(
                self.entries.as_mut_ptr(),
                self.entries.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        match check(result as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.entries.iter_mut().for_each(|entry| entry.revents = 0);
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Whether the socket at this place was ready when `wait` returned.
    pub fn is_ready(&self, at: usize) -> bool {
        self.entries[at].revents != 0
    }
}

/// Binds this thread to one core.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: cpu_set_t is an array of integers, all zero is the empty set, `core` is within it, and the set
    // lives through the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    check(result as isize).map(|_| ())
}

#[cfg(test)]
mod tests {
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
                assert_eq!(incoming.from, SocketAddr::from((ip, sender.port())));
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
        assert_eq!(inbox.get(0).from, SocketAddr::from((own, sender.port())));
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
