//! The hybrid logical clock's stamps that order what is said of one server. Knows no clock: the compositor keeps it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::server::is_id;

/// When something was said: Unix ms, a counter within the millisecond, and the node that took it. Compared as
/// two integers, then bytes. Written `1795379461123.0.n1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub ms: u64,
    pub counter: u32,
    pub node: Arc<str>,
}

/// A text that is no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stamp is <Unix ms>.<counter>.<node>")]
pub struct StampError;

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.ms, self.counter)
            .cmp(&(other.ms, other.counter))
            .then_with(|| self.node.as_bytes().cmp(other.node.as_bytes()))
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.ms, self.counter, self.node)
    }
}

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let mut fields = text.splitn(3, '.');
        let mut field = || fields.next().ok_or(StampError);
        let (ms, counter, node) = (field()?, field()?, field()?);
        if !is_id(node) {
            return Err(StampError);
        }
        Ok(Stamp {
            ms: canonical(ms)?,
            counter: canonical(counter)?,
            node: node.into(),
        })
    }
}

/// One number has one spelling, so that equal stamps are equal bytes.
fn canonical<N: FromStr>(digits: &str) -> Result<N, StampError> {
    let leading = digits.len() > 1 && digits.starts_with('0');
    if leading || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(StampError);
    }
    digits.parse().map_err(|_| StampError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for text in [
            "1795379461123.0.n1",
            "0.0.a.b.c",
            "18446744073709551615.4294967295.-",
        ] {
            assert_eq!(text.parse::<Stamp>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_no_stamps() {
        for text in [
            "",
            "1",
            "1.2",
            "1.2.",
            "+1.2.n",
            "01.2.n",
            "1.-2.n",
            "1.4294967296.n",
            "1.2.n 1",
            "18446744073709551616.0.n",
            ".0.n",
            "1..n",
        ] {
            assert_eq!(text.parse::<Stamp>(), Err(StampError), "{text}");
        }
    }

    #[test]
    fn stamps_are_ordered_by_number_not_by_text() {
        let order = [
            "9.9.z",
            "10.0.a",
            "10.9.b",
            "10.10.a",
            "10.10.n1",
            "10.10.n10",
        ];
        let stamps: Vec<Stamp> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(stamps.is_sorted());
        assert_eq!(stamps[4].cmp(&stamps[4].clone()), Ordering::Equal);
    }
}
