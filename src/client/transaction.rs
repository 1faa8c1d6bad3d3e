//! The non-INVITE client transaction (RFC 3261 17.1.2). Knows no request's meaning.

use super::{Chance, Draft, Local, Response};

const T1_MS: u64 = 500;
const T2_MS: u64 = 4_000;
/// Timers F and, of RFC 6665 4.1.2.4, N.
pub const LIFE_MS: u64 = 64 * T1_MS;

/// One request on its way, until its final answer or Timer F.
#[derive(Debug)]
pub struct Transaction {
    bytes: Vec<u8>,
    branch: String,
    method: String,
    /// Timer E; `None` over a reliable transport.
    resend_ms: Option<u64>,
    interval_ms: u64,
    /// Timer F.
    end_ms: u64,
}

/// What the time brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Timer E: send these bytes again.
    Resend(Vec<u8>),
    /// Timer F: no answer will count any more.
    TimedOut,
}

impl Transaction {
    /// Gives a request its branch. `bytes` is to be sent now.
    pub fn begin(now_ms: u64, local: &Local, chance: &mut Chance, draft: Draft) -> Self {
        // RFC 3261 8.1.1.7: the cookie, then what is unique.
        let branch = format!("z9hG4bK{}", chance.token());
        let method = draft.method.to_string();
        Transaction {
            bytes: draft.write(local, &branch),
            branch,
            method,
            resend_ms: (!local.transport.is_reliable()).then_some(now_ms + T1_MS),
            interval_ms: T1_MS,
            end_ms: now_ms + LIFE_MS,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When `due` has something to say.
    pub fn deadline_ms(&self) -> u64 {
        self.resend_ms
            .map_or(self.end_ms, |resend| resend.min(self.end_ms))
    }

    pub fn due(&mut self, now_ms: u64) -> Option<Due> {
        if now_ms >= self.end_ms {
            return Some(Due::TimedOut);
        }
        self.resend_ms.filter(|resend| now_ms >= *resend)?;
        // RFC 3261 17.1.2.2: Timer E doubles up to T2.
        self.interval_ms = (2 * self.interval_ms).min(T2_MS);
        self.resend_ms = Some(now_ms + self.interval_ms);
        Some(Due::Resend(self.bytes.clone()))
    }

    /// Whether a response is of this transaction (RFC 3261 17.1.3: branch and CSeq method).
    pub fn matches(&self, response: &Response) -> bool {
        response.branch == self.branch && response.method == self.method
    }

    /// RFC 3261 17.1.2.2: in Proceeding, Timer E runs at T2.
    pub fn provisional(&mut self, now_ms: u64) {
        if self.resend_ms.is_some() && self.interval_ms < T2_MS {
            self.interval_ms = T2_MS;
            self.resend_ms = Some(now_ms + T2_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transport;
    use rsip::Method;

    fn begin(transport: Transport) -> Transaction {
        let local = Local {
            transport,
            address: "[::1]:5070".parse().expect("an address"),
        };
        let draft = Draft {
            method: Method::Publish,
            uri: "sip:example.com".to_owned(),
            from: "<sip:p1@example.com>;tag=a".to_owned(),
            to: "<sip:example.com>".to_owned(),
            call_id: "c1".to_owned(),
            cseq: 1,
            headers: Vec::new(),
            body: Some(("text/plain", b"x".to_vec())),
        };
        Transaction::begin(0, &local, &mut Chance::new(7), draft)
    }

    #[test]
    fn over_udp_it_is_sent_eleven_times_in_32_seconds() {
        let mut transaction = begin(Transport::Udp);
        let mut sent = vec![0];
        loop {
            let now_ms = transaction.deadline_ms();
            match transaction.due(now_ms) {
                Some(Due::Resend(bytes)) => {
                    assert_eq!(bytes, transaction.bytes());
                    sent.push(now_ms);
                }
                Some(Due::TimedOut) => break assert_eq!(now_ms, 32_000),
                None => panic!("nothing was due at {now_ms}"),
            }
        }
        let expected = [
            0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn over_tcp_it_is_sent_once() {
        let mut transaction = begin(Transport::Tcp);
        assert_eq!(transaction.deadline_ms(), 32_000);
        assert_eq!(transaction.due(31_999), None);
        assert_eq!(transaction.due(32_000), Some(Due::TimedOut));
    }

    #[test]
    fn a_provisional_answer_slows_it_down() {
        let mut transaction = begin(Transport::Udp);
        transaction.provisional(100);
        assert_eq!(transaction.deadline_ms(), 4_100);
    }

    #[test]
    fn the_request_reads_back_as_it_was_meant() {
        let transaction = begin(Transport::Udp);
        let message = crate::sip::scan::scan(transaction.bytes()).expect("a message");
        let request = crate::sip::request::Request::parse(&message).expect("a request");
        assert_eq!(request.via.host, b"[::1]");
        assert!(request.via.rport);
        assert_eq!(request.cseq.number, 1);
        assert_eq!(request.from_tag(), Some(&b"a"[..]));
        assert_eq!(request.body, b"x");
    }
}
