//! Takes messages off a stream's bytes (RFC 3261 18.3), looking at no byte more often than it must: a peer that sends
//! single bytes costs no more than it pays. Knows no connection.

use memchr::{memchr, memmem};

use crate::sip::scan::{Frame, ScanError, content_length, frame};

/// What is kept for an idle connection.
const KEPT: usize = 4_096;

/// Bytes that arrived, and what they lack.
#[derive(Debug)]
pub struct Framer {
    head_most: usize,
    body_most: usize,
    pending: Vec<u8>,
    /// Bytes of `pending` that were given out.
    at: usize,
    lack: Lack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Nothing,
    /// A line's end: without one no head can be whole.
    LineEnd,
    /// This many bytes in all.
    Bytes(usize),
}

/// What stands first on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framed {
    Message(Vec<u8>),
    /// Line ends between messages, this many bytes (RFC 5626 4.4.1).
    KeepAlive(usize),
    /// Where the next message begins cannot be told any more.
    Bad(ScanError),
}

impl Framer {
    /// Heads and bodies are at most so many bytes.
    pub fn new(head_most: usize, body_most: usize) -> Self {
        Framer {
            head_most,
            body_most,
            pending: Vec::new(),
            at: 0,
            lack: Lack::Nothing,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let len = self.pending.len();
        let supplied = match self.lack {
            Lack::Nothing => true,
            Lack::LineEnd => memchr(b'\n', bytes).is_some() || len >= self.head_most,
            Lack::Bytes(needed) => len >= needed,
        };
        if supplied {
            self.lack = Lack::Nothing;
        }
    }

    /// The next message, `None` until more has arrived.
    pub fn next(&mut self) -> Option<Framed> {
        if self.lack != Lack::Nothing {
            return None;
        }
        let bytes = &self.pending[self.at..];
        if bytes.is_empty() {
            self.settle();
            return None;
        }
        match frame(bytes, self.head_most, self.body_most) {
            Frame::Complete(len) => {
                let message = bytes[..len].to_vec();
                self.at += len;
                Some(Framed::Message(message))
            }
            Frame::KeepAlive(len) => {
                self.at += len;
                Some(Framed::KeepAlive(len))
            }
            Frame::Bad(error) => Some(Framed::Bad(error)),
            Frame::Partial => {
                self.settle();
                self.lack = self.lacking();
                None
            }
        }
    }

    /// Whether a message has begun and not come to its end.
    pub fn is_amid(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Lets go of what was given out.
    fn settle(&mut self) {
        self.pending.drain(..self.at);
        self.at = 0;
        if self.pending.is_empty() && self.pending.capacity() > KEPT {
            self.pending = Vec::new();
        }
    }

    fn lacking(&self) -> Lack {
        let Some(end) = memmem::find(&self.pending, b"\r\n\r\n") else {
            return Lack::LineEnd;
        };
        let head = &self.pending[..end + 4];
        content_length(head).map_or(Lack::Nothing, |body| Lack::Bytes(head.len() + body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"\r\n\r\nOPTIONS sip:a SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\nSIP/2.0 200 OK\r\nl: 0\r\n\r\n\r\n";

    fn all(framer: &mut Framer) -> Vec<Framed> {
        std::iter::from_fn(|| framer.next()).collect()
    }

    fn messages(found: &[Framed]) -> Vec<&[u8]> {
        let mut messages = Vec::new();
        for framed in found {
            if let Framed::Message(bytes) = framed {
                messages.push(&bytes[..]);
            }
        }
        messages
    }

    #[test]
    fn a_stream_gives_the_same_messages_however_it_is_cut() {
        let wanted = [
            &b"OPTIONS sip:a SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n"[..],
            b"SIP/2.0 200 OK\r\nl: 0\r\n\r\n",
        ];
        for size in 1..=STREAM.len() {
            let mut framer = Framer::new(1_000, 1_000);
            let mut found = Vec::new();
            for piece in STREAM.chunks(size) {
                framer.push(piece);
                found.extend(all(&mut framer));
            }
            assert_eq!(messages(&found), wanted, "pieces of {size}");
            assert!(!framer.is_amid());
        }
    }

    #[test]
    fn a_body_is_not_looked_at_before_it_is_whole() {
        let mut framer = Framer::new(1_000, 1_000);
        framer.push(b"OPTIONS sip:a SIP/2.0\r\nl: 900\r\n\r\n");
        assert_eq!(framer.next(), None);
        let whole = framer.pending.len() + 900;
        assert_eq!(framer.lack, Lack::Bytes(whole));
        framer.push(&[b'\n'; 899]);
        assert_eq!(framer.lack, Lack::Bytes(whole));
        framer.push(b"x");
        assert!(matches!(framer.next(), Some(Framed::Message(bytes)) if bytes.len() == whole));
    }

    #[test]
    fn an_endless_head_is_bad_even_without_line_ends() {
        let mut framer = Framer::new(1_000, 1_000);
        for _ in 0..999 {
            framer.push(b"x");
            assert_eq!(framer.next(), None);
        }
        framer.push(b"x");
        assert_eq!(framer.next(), Some(Framed::Bad(ScanError::HeadTooLong)));
    }

    #[test]
    fn a_large_message_leaves_no_memory_behind() {
        let mut framer = Framer::new(1_000, 100_000);
        framer.push(b"OPTIONS sip:a SIP/2.0\r\nl: 90000\r\n\r\n");
        framer.push(&[0; 90_000]);
        assert_eq!(all(&mut framer).len(), 1);
        assert_eq!(framer.pending.capacity(), 0);
    }
}
