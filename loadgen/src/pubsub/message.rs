//! What is published: the number of its round and when it was meant to be sent, then padding. Pure.

/// Ten digits, sixteen digits, and a space after each.
pub const LEAST: usize = 28;

pub fn write(round: u32, intended_us: u64, size: usize) -> Vec<u8> {
    let mut text = format!("{round:010} {intended_us:016} ").into_bytes();
    text.resize(size.max(LEAST), b'.');
    text
}

/// Round and intended time.
pub fn read(payload: &[u8]) -> Option<(u32, u64)> {
    let digits = |range| std::str::from_utf8(payload.get(range)?).ok();
    Some((digits(0..10)?.parse().ok()?, digits(11..27)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let payload = write(7, 1_234_567, 800);
        assert_eq!((payload.len(), read(&payload)), (800, Some((7, 1_234_567))));
        assert_eq!(read(b"0000000007 garbage"), None);
    }
}
