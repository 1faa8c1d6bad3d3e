//! What Redis and NATS want to hear and say: RESP (redis.io/docs/reference/protocol-spec) and NATS' client protocol
//! (docs.nats.io/reference/reference-protocols/nats-protocol). Bytes to bytes; knows no socket.

/// Everybody subscribes to this.
const TOPIC: &str = "fanfare.loadgen";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Redis,
    Nats,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    Message(&'a [u8]),
    /// The subscription stands: whatever is published from now on will come.
    Subscribed,
    /// It wants to hear `PONG`.
    Ping,
    Error(&'a [u8]),
    Other,
}

/// The server spoke another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the protocol")]
pub struct Malformed;

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Redis => "Redis",
            Protocol::Nats => "NATS",
        }
    }

    /// What a subscriber says first.
    pub fn subscribe(self) -> String {
        match self {
            Protocol::Redis => format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{TOPIC}\r\n", TOPIC.len()),
            // The answer to the PING shows that the SUB was read.
            Protocol::Nats => format!("{}SUB {TOPIC} 1\r\nPING\r\n", self.greeting()),
        }
    }

    /// What the publisher says first.
    pub fn greeting(self) -> &'static str {
        match self {
            Protocol::Redis => "",
            Protocol::Nats => "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n",
        }
    }

    pub fn publish(self, payload: &[u8], out: &mut Vec<u8>) {
        let (topic, size) = (TOPIC.len(), payload.len());
        let head = match self {
            Protocol::Redis => {
                format!("*3\r\n$7\r\nPUBLISH\r\n${topic}\r\n{TOPIC}\r\n${size}\r\n")
            }
            Protocol::Nats => format!("PUB {TOPIC} {size}\r\n"),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    /// The first thing said and its length; `None` while it is not whole.
    pub fn next(self, bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
        match self {
            Protocol::Redis => next_of_redis(bytes),
            Protocol::Nats => next_of_nats(bytes),
        }
    }
}

/// The line at `at` without its end, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = memchr::memchr(b'\n', bytes.get(at..)?)?;
    let line = &bytes[at..at + length];
    Some((line.strip_suffix(b"\r").unwrap_or(line), at + length + 1))
}

fn number(text: &[u8]) -> Result<usize, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

/// So many bytes from `at` on and a line's end, and where the next thing begins.
fn block(bytes: &[u8], at: usize, length: usize) -> Option<(&[u8], usize)> {
    let end = at.checked_add(length)?.checked_add(2)?;
    Some((bytes.get(at..end)?.get(..length)?, end))
}

fn next_of_redis(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
    let Some((head, mut at)) = line(bytes, 0) else {
        return Ok(None);
    };
    match head.split_first() {
        Some((b'*', count)) => {
            let count = number(count)?;
            let mut elements: [&[u8]; 3] = [b""; 3];
            for place in 0..count {
                let Some((element, next)) = redis_element(bytes, at)? else {
                    return Ok(None);
                };
                *elements.get_mut(place).ok_or(Malformed)? = element;
                at = next;
            }
            let said = match elements {
                [b"message", _, payload] => Said::Message(payload),
                [b"subscribe", ..] => Said::Subscribed,
                _ => Said::Other,
            };
            Ok(Some((said, at)))
        }
        Some((b'-', reason)) => Ok(Some((Said::Error(reason), at))),
        Some((b':' | b'+', _)) => Ok(Some((Said::Other, at))),
        _ => Err(Malformed),
    }
}

/// An element of an array: a bulk string or a number.
fn redis_element(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((head, next)) = line(bytes, at) else {
        return Ok(None);
    };
    match head.split_first() {
        Some((b'$', length)) => Ok(block(bytes, next, number(length)?)),
        Some((b':', value)) => Ok(Some((value, next))),
        _ => Err(Malformed),
    }
}

fn next_of_nats(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
    let Some((head, at)) = line(bytes, 0) else {
        return Ok(None);
    };
    if head.starts_with(b"MSG ") {
        let length = head.rsplit(|&byte| byte == b' ').next().ok_or(Malformed)?;
        let payload = block(bytes, at, number(length)?);
        return Ok(payload.map(|(payload, next)| (Said::Message(payload), next)));
    }
    let said = match head {
        b"PONG" => Said::Subscribed,
        b"PING" => Said::Ping,
        b"+OK" => Said::Other,
        _ if head.starts_with(b"INFO ") => Said::Other,
        _ => Said::Error(head.strip_prefix(b"-ERR ").ok_or(Malformed)?),
    };
    Ok(Some((said, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is said, fed byte by byte as a slow network would.
    fn heard(protocol: Protocol, bytes: &[u8]) -> Vec<String> {
        let (mut heard, mut from) = (Vec::new(), 0);
        for until in 0..=bytes.len() {
            while let Some((said, used)) = protocol.next(&bytes[from..until]).unwrap() {
                heard.push(match said {
                    Said::Message(text) => String::from_utf8_lossy(text).into_owned(),
                    said => format!("{said:?}"),
                });
                from += used;
            }
        }
        assert_eq!(from, bytes.len());
        heard
    }

    #[test]
    fn redis_is_understood_in_pieces() {
        let bytes = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$4\r\na\r\nb\r\n:7\r\n";
        assert_eq!(
            heard(Protocol::Redis, bytes),
            ["Subscribed", "a\r\nb", "Other"]
        );
        assert_eq!(Protocol::Redis.next(b"MSG\r\n"), Err(Malformed));
        assert_eq!(Protocol::Redis.next(b"*3\r\n$x\r\n"), Err(Malformed));
        assert_eq!(
            Protocol::Redis.next(b"-ERR max\r\n"),
            Ok(Some((Said::Error(b"ERR max"), 10)))
        );
    }

    #[test]
    fn nats_is_understood_in_pieces() {
        let bytes = b"INFO {}\r\nPONG\r\nMSG t 1 4\r\na\r\nb\r\nPING\r\nMSG t 1 _r 0\r\n\r\n";
        assert_eq!(
            heard(Protocol::Nats, bytes),
            ["Other", "Subscribed", "a\r\nb", "Ping", ""]
        );
        assert_eq!(Protocol::Nats.next(b"HTTP/1.1 400\r\n"), Err(Malformed));
        assert_eq!(
            Protocol::Nats.next(b"-ERR 'max'\r\n"),
            Ok(Some((Said::Error(b"'max'"), 12)))
        );
    }

    #[test]
    fn what_is_published_has_its_length() {
        let mut out = Vec::new();
        Protocol::Redis.publish(b"abc", &mut out);
        Protocol::Nats.publish(b"abc", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "*3\r\n$7\r\nPUBLISH\r\n$15\r\nfanfare.loadgen\r\n$3\r\nabc\r\nPUB fanfare.loadgen 3\r\nabc\r\n"
        );
    }
}
