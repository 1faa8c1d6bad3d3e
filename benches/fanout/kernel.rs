//! One UDP socket by sendmmsg and recvmmsg, with nothing in between: what both yardsticks stand on. Knows no SIP, and
//! shares no code with the engine that is held against it.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams that one call takes.
pub const BATCH: usize = 256;
/// No datagram of a yardstick's run is larger.
const ROOM: usize = 4096;
/// UDP_MAX_SEGMENTS, and the largest run that the kernel builds.
const SEGMENTS_MOST: usize = 64;
const RUN_MOST: usize = 65_507;
/// As much as a default host lets a root process force.
const RCVBUF: usize = 4 << 20;

/// How long `receive` sleeps where nothing else is said.
pub const WAIT_MOST: Duration = Duration::from_millis(100);

/// One datagram to be sent: two pieces, one peer.
#[derive(Debug, Clone, Copy)]
pub struct Parcel<'a> {
    pub peer: SocketAddrV4,
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl Parcel<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 24]);

pub struct Wire {
    socket: UdpSocket,
    gso: bool,
    wait: Duration,
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_in>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// Those of the sends.
    to: Vec<libc::sockaddr_in>,
    pieces: Vec<libc::iovec>,
    controls: Vec<Control>,
    sends: Vec<libc::mmsghdr>,
}

impl Wire {
    pub fn bind(listen: SocketAddrV4, rcvbuf: Option<usize>, gso: bool) -> io::Result<Wire> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        match rcvbuf {
            Some(size) => socket.set_recv_buffer_size(size / 2)?,
            None => force_receive_buffer(&socket)?,
        }
        socket.bind(&listen.into())?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(WAIT_MOST))?;
        let mut bytes = vec![0; BATCH * ROOM];
        // SAFETY: both are integers and pointers, for which zero is a value.
        let (name, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let vectors = bytes
            .chunks_exact_mut(ROOM)
            .map(|room| libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: ROOM,
            })
            .collect();
        Ok(Wire {
            socket,
            gso,
            wait: WAIT_MOST,
            bytes,
            names: vec![name; BATCH],
            vectors,
            headers: vec![header; BATCH],
            to: Vec::new(),
            pieces: Vec::new(),
            controls: Vec::new(),
            sends: Vec::new(),
        })
    }

    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Sets how long `receive` may sleep, in whole milliseconds.
    pub fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        if wait != self.wait {
            self.socket.set_read_timeout(Some(wait))?;
            self.wait = wait;
        }
        Ok(())
    }

    /// Takes up to `BATCH` datagrams; with `wait`, sleeps for the first.
    pub fn receive(
        &mut self,
        wait: bool,
        taken: &mut dyn FnMut(SocketAddrV4, &[u8]),
    ) -> io::Result<usize> {
        let rooms = self.names.iter_mut().zip(&mut self.vectors);
        for (header, (name, vector)) in self.headers.iter_mut().zip(rooms) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let flags = if wait {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        // SAFETY: every header points to a name, a vector and through it to a room of this wire, borrowed mutably until
        // the call is over.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as u32,
                flags,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused => Ok(0),
                _ => Err(error),
            };
        }
        for place in 0..count as usize {
            let name = &self.names[place];
            let address = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            let peer = SocketAddrV4::new(address, u16::from_be(name.sin_port));
            let len = self.headers[place].msg_len as usize;
            taken(peer, &self.bytes[place * ROOM..][..len]);
        }
        Ok(count as usize)
    }

    /// Sends all, neighbours of equal length to one peer joined to one send where GSO is on.
    pub fn send(&mut self, parcels: &[Parcel<'_>]) -> io::Result<()> {
        self.lay_out(parcels);
        let mut done = 0;
        while done < self.sends.len() {
            // SAFETY: the headers point to names, pieces and controls that `lay_out` has just filled, and to parcels
            // borrowed until the call is over.
            let count = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    self.sends[done..].as_mut_ptr(),
                    (self.sends.len() - done).min(1024) as u32,
                    0,
                )
            };
            if count < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    // An ICMP message for an earlier datagram.
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            done += count as usize;
        }
        Ok(())
    }

    fn lay_out(&mut self, parcels: &[Parcel<'_>]) {
        self.to.clear();
        self.pieces.clear();
        self.controls.clear();
        self.sends.clear();
        let mut runs: Vec<(usize, usize)> = Vec::with_capacity(parcels.len());
        for (place, parcel) in parcels.iter().enumerate() {
            for piece in [parcel.head, parcel.body] {
                self.pieces.push(libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                });
            }
            if let Some((first, count)) = runs.last_mut() {
                let leader = &parcels[*first];
                let joins = self.gso
                    && leader.peer == parcel.peer
                    && leader.len() == parcel.len()
                    && *count < SEGMENTS_MOST
                    && (*count + 1) * parcel.len() <= RUN_MOST;
                if joins {
                    *count += 1;
                    continue;
                }
            }
            runs.push((place, 1));
        }
        for &(first, _) in &runs {
            self.to.push(name_of(parcels[first].peer));
            self.controls.push(segments_of(parcels[first].len() as u16));
        }
        for (number, &(first, count)) in runs.iter().enumerate() {
            // SAFETY: as in `bind`.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = ptr::from_mut(&mut self.to[number]).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
            header.msg_hdr.msg_iov = &mut self.pieces[2 * first];
            header.msg_hdr.msg_iovlen = 2 * count;
            if count > 1 {
                header.msg_hdr.msg_control = ptr::from_mut(&mut self.controls[number]).cast();
                header.msg_hdr.msg_controllen = mem::size_of::<Control>();
            }
            self.sends.push(header);
        }
    }
}

fn force_receive_buffer(socket: &Socket) -> io::Result<()> {
    let size = (RCVBUF / 2) as libc::c_int;
    // SAFETY: the option's value is an int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            ptr::from_ref(&size).cast(),
            mem::size_of::<libc::c_int>() as u32,
        )
    };
    if done == 0 {
        return Ok(());
    }
    socket.set_recv_buffer_size(RCVBUF / 2)
}

fn name_of(peer: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: peer.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*peer.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// A control message UDP_SEGMENT: a cmsghdr of 16 bytes, and a u16.
fn segments_of(len: u16) -> Control {
    let mut control = Control([0; 24]);
    control.0[..8].copy_from_slice(&18usize.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control.0[16..18].copy_from_slice(&len.to_ne_bytes());
    control
}
