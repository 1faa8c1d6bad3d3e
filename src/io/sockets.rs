//! UDP sockets as the shards want them: one address, a socket a shard, room for bursts. Knows no datagram.

#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_socket_recv_buffer_size_force,
    set_socket_send_buffer_size_force,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// What a socket asks for its receive queue unless told otherwise, in the kernel's own measure (skb truesize): answers
/// to some 13,000 NOTIFYs.
pub const RECEIVE_BUFFER: usize = 16 << 20;
/// The same for the way out: a device's queue may hold a whole turn's sends.
const SEND_BUFFER: usize = 4 << 20;

/// Why an address could not be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("{address}: the address is in use by another socket")]
    InUse { address: SocketAddr },
    #[error("{address}: {operation}: {source}")]
    Io {
        address: SocketAddr,
        operation: &'static str,
        source: io::Error,
    },
}

/// Binds `shards` sockets to one UDP address, one for each shard, in the order by which `steering` numbers them.
///
/// With port 0 the first gets a free port and the others share it. `rcvbuf` is what the receive queue of a socket shall
/// hold in bytes as `receive_buffer` reports them, within what an ordinary user may have (net.core.rmem_max);
/// without it a socket asks for `RECEIVE_BUFFER`, with privilege if it has it.
pub fn bind_shards(
    address: SocketAddr,
    shards: usize,
    rcvbuf: Option<usize>,
) -> Result<Vec<UdpSocket>, BindError> {
    let first = open(address, rcvbuf)?;
    // Bound before it shares its port, the first collides with every other owner of the port, also with one that shares.
    bind(&first, address)?;
    let bound = local_address(&first, address)?;
    let mut sockets = vec![first];
    if shards > 1 {
        share(&sockets[0], bound)?;
    }
    for _ in 1..shards {
        let socket = open(bound, rcvbuf)?;
        share(&socket, bound)?;
        bind(&socket, bound)?;
        sockets.push(socket);
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// What a socket's receive queue holds, in bytes of kernel memory (sk_rcvbuf). A queued datagram of some hundred bytes
/// takes about 1,300 of them.
pub fn receive_buffer(socket: &UdpSocket) -> io::Result<usize> {
    socket2::SockRef::from(socket).recv_buffer_size()
}

fn open(address: SocketAddr, rcvbuf: Option<usize>) -> Result<Socket, BindError> {
    let domain = Domain::for_address(address);
    let socket =
        Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(at(address, "socket"))?;
    size_buffers(&socket, rcvbuf).map_err(at(address, "SO_RCVBUF"))?;
    count_overflow(&socket).map_err(at(address, "SO_RXQ_OVFL"))?;
    if address.is_ipv6() {
        socket
            .set_only_v6(true)
            .map_err(at(address, "IPV6_V6ONLY"))?;
    } else {
        // SIP's large datagrams are to be fragmented, not refused, and a forged ICMP must not shrink the path: no DF, no
        // path MTU. IPv6 routers do not fragment, so there the kernel's default, which learns the path's MTU, is kept.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT)
            .map_err(|errno| at(address, "IP_MTU_DISCOVER")(errno.into()))?;
    }
    Ok(socket)
}

/// The kernel doubles what it is asked for, to allow for its own overhead; so it is asked for half.
fn size_buffers(socket: &Socket, rcvbuf: Option<usize>) -> io::Result<()> {
    match rcvbuf {
        Some(bytes) => socket.set_recv_buffer_size(bytes / 2)?,
        None if set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER / 2).is_ok() => {}
        None => socket.set_recv_buffer_size(RECEIVE_BUFFER / 2)?,
    }
    if set_socket_send_buffer_size_force(socket, SEND_BUFFER / 2).is_ok() {
        return Ok(());
    }
    socket.set_send_buffer_size(SEND_BUFFER / 2)
}

fn count_overflow(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &1i32)
}

fn share(socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
    socket
        .set_reuse_port(true)
        .map_err(at(address, "SO_REUSEPORT"))
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
    socket.bind(&address.into()).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            return BindError::InUse { address };
        }
        at(address, "bind")(source)
    })
}

fn local_address(socket: &Socket, address: SocketAddr) -> Result<SocketAddr, BindError> {
    let bound = socket.local_addr().map_err(at(address, "getsockname"))?;
    Ok(bound.as_socket().expect("the socket is of the Internet"))
}

fn at(address: SocketAddr, operation: &'static str) -> impl Fn(io::Error) -> BindError {
    move |source| BindError::Io {
        address,
        operation,
        source,
    }
}

/// A socket option that no safe wrapper offers. `T` is the plain C type which that option takes.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads size_of::<T>() bytes at a reference to a T and keeps no pointer to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
