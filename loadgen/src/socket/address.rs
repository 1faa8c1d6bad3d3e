//! Addresses as the kernel takes them. Knows no socket.

use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddr};
#[cfg(test)]
use std::net::{Ipv6Addr, SocketAddrV4, SocketAddrV6};

use libc::{sockaddr_in, sockaddr_in6, socklen_t};

/// The address of a socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawAddress {
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

impl RawAddress {
    pub fn new(address: SocketAddr) -> (Self, socklen_t) {
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

    #[cfg(test)]
    pub fn address(&self) -> SocketAddr {
        // SAFETY: both variants begin with the family and are plain integers and `Inbox` initialised all of the longer one, so
        // every read is of initialised bytes.
        unsafe {
            if libc::c_int::from(self.v4.sin_family) == libc::AF_INET6 {
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
pub(super) struct Source {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

impl Source {
    pub fn new(ip: Ipv4Addr) -> Self {
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
