//! Socket addresses as the kernel lays them out (sockaddr_in, sockaddr_in6), as plain bytes. Knows no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The room of the largest address here, sockaddr_in6.
pub(super) const ROOM: usize = size_of::<libc::sockaddr_in6>();

const V4: usize = size_of::<libc::sockaddr_in>();

/// An address for the kernel to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub bytes: [u8; ROOM],
    pub len: u8,
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Name {
        let mut bytes = [0; ROOM];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, len) = match address {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, V4)
            }
            SocketAddr::V6(v6) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, ROOM)
            }
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        Name {
            bytes,
            len: len as u8,
        }
    }
}

/// Reads an address that the kernel wrote; `None` if it is neither IPv4 nor IPv6. The flow label is left out, so that
/// one peer is always one key.
pub(super) fn parse(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    if family == libc::AF_INET {
        let ip = Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?);
        return Some(SocketAddrV4::new(ip, port).into());
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let ip = Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?);
    let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
    Some(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// A number of 64 bits that is equal for equal addresses, and seldom for others: what sorting needs to bring them together.
pub(super) fn sort_key(address: &SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            // Fibonacci hashing; hosts of one network differ in the low half, networks in the high one.
            ((bits >> 64) as u64 ^ (bits as u64).rotate_left(32))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                >> 16
        }
    };
    ip << 16 | u64::from(address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in [
            "127.0.0.1:5060",
            "255.1.2.3:65535",
            "[::1]:1",
            "[fe80::1%7]:5061",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let name = Name::from(address);
            assert_eq!(parse(&name.bytes[..usize::from(name.len)]), Some(address));
        }
    }

    #[test]
    fn a_short_or_foreign_name_is_no_address() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
        let name = Name::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 9)));
        assert_eq!(parse(&name.bytes[..27]), None);
    }
}
