//! Control messages beside a datagram (cmsg), as plain bytes: the drop counter read, the segment size written.
//! The layout is that of the kernel's cmsghdr: a length of the machine's word, level, type, data, padding to a word.

const HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// Room for one control message with up to a word of data.
pub(super) const ROOM: usize = HEADER + size_of::<usize>();

/// The socket's count of dropped datagrams (SO_RXQ_OVFL), if the datagram bears it. It counts from the socket's birth
/// and wraps.
pub(super) fn overflow(mut control: &[u8]) -> Option<u32> {
    loop {
        let len = usize::from_ne_bytes(*control.first_chunk()?);
        let level = word(control, size_of::<usize>())?;
        let kind = word(control, size_of::<usize>() + size_of::<i32>())?;
        if level == libc::SOL_SOCKET && kind == libc::SO_RXQ_OVFL {
            return word(control, HEADER).map(|drops| drops as u32);
        }
        control = control.get(len.max(HEADER).next_multiple_of(size_of::<usize>())..)?;
    }
}

fn word(control: &[u8], at: usize) -> Option<i32> {
    control
        .get(at..)?
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes))
}

/// A UDP_SEGMENT message: cut what is sent into datagrams of `segment` bytes.
pub(super) fn segments_of(segment: u16) -> [u8; ROOM] {
    let mut control = [0; ROOM];
    let len = HEADER + size_of::<u16>();
    control[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    let level = size_of::<usize>();
    control[level..level + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[level + 4..HEADER].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[HEADER..len].copy_from_slice(&segment.to_ne_bytes());
    control
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: u32) -> Vec<u8> {
        let mut bytes = (HEADER + 4).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data.to_ne_bytes());
        bytes.resize(ROOM, 0);
        bytes
    }

    #[test]
    fn the_drop_counter_is_found_behind_others() {
        let mut control = message(libc::IPPROTO_IP, libc::IP_TTL, 64);
        control.extend(message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 7));
        assert_eq!(overflow(&control), Some(7));
    }

    #[test]
    fn no_counter_no_number() {
        assert_eq!(overflow(&[]), None);
        assert_eq!(overflow(&message(libc::IPPROTO_IP, libc::IP_TTL, 64)), None);
        assert_eq!(overflow(&[0; ROOM]), None);
        assert_eq!(
            overflow(&message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 7)[..HEADER]),
            None
        );
    }
}
