//! Calls of the demonstration's entities, each as short as a call can be: INVITE, ACK, BYE (RFC 3261 13, 15). Pure: knows no
//! socket, and is told the time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::client::Response;
use crate::sip::scan::{Name, scan};

/// A caller hangs up when nobody answers for so long.
pub const PATIENCE_MS: u64 = 2_000;
/// RFC 3261 17.1.1.2: Timer A.
const T1_MS: u64 = 500;

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub entity: usize,
    pub server: Arc<str>,
    pub begun_ms: u64,
    pub is_served: bool,
}

#[derive(Debug)]
struct Call {
    entity: usize,
    server: Arc<str>,
    at: SocketAddr,
    begun_ms: u64,
    resend_ms: u64,
    /// What waits for an answer: an INVITE, or a BYE to whoever took it, by the To of the 200.
    taken_by: Option<String>,
}

/// The calls that are up.
#[derive(Debug)]
pub struct Calls {
    local: SocketAddr,
    /// Makes Call-IDs of one process its own.
    seed: u64,
    next: u64,
    open: BTreeMap<u64, Call>,
}

impl Calls {
    pub fn new(local: SocketAddr, seed: u64) -> Self {
        Calls {
            local,
            seed,
            next: 0,
            open: BTreeMap::new(),
        }
    }

    /// The INVITE of a new call.
    pub fn begin(
        &mut self,
        now_ms: u64,
        entity: usize,
        server: Arc<str>,
        at: SocketAddr,
    ) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        let call = Call {
            entity,
            server,
            at,
            begun_ms: now_ms,
            resend_ms: now_ms + T1_MS,
            taken_by: None,
        };
        let bytes = self.request(number, &call);
        self.open.insert(number, call);
        bytes
    }

    /// Takes an answer: what is to be sent for it, and whether that call has ended.
    pub fn receive(
        &mut self,
        now_ms: u64,
        bytes: &[u8],
    ) -> (Vec<(SocketAddr, Vec<u8>)>, Option<End>) {
        let nothing = (Vec::new(), None);
        let Some(response) = Response::parse(bytes).filter(|response| response.status >= 200)
        else {
            return nothing;
        };
        let Some(number) = self.number(&response.branch) else {
            return nothing;
        };
        let Some(call) = self.open.get_mut(&number) else {
            return nothing;
        };
        let is_bye = response.method == "BYE";
        if is_bye != call.taken_by.is_some() {
            // An answer that was repeated.
            return nothing;
        }
        if is_bye || !response.is_success() {
            return (Vec::new(), self.end(number, response.is_success()));
        }
        let to = scan(bytes).ok().and_then(|message| message.first(Name::To));
        call.taken_by = Some(String::from_utf8_lossy(to.unwrap_or_default()).into_owned());
        call.resend_ms = now_ms + T1_MS;
        let call = &self.open[&number];
        let ack = self.message("ACK", 1, number, call);
        (
            vec![(call.at, ack), (call.at, self.request(number, call))],
            None,
        )
    }

    /// What is to be sent again, and the calls that nobody answered in time.
    pub fn advance(&mut self, now_ms: u64) -> (Vec<(SocketAddr, Vec<u8>)>, Vec<End>) {
        let late = self
            .open
            .iter()
            .filter(|(_, call)| now_ms >= call.begun_ms + PATIENCE_MS);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        let ends = late
            .into_iter()
            .filter_map(|number| self.end(number, false))
            .collect();
        let due = self
            .open
            .iter_mut()
            .filter(|(_, call)| now_ms >= call.resend_ms);
        let due = due.map(|(number, call)| {
            call.resend_ms = now_ms + 2 * T1_MS;
            *number
        });
        let due: Vec<u64> = due.collect();
        let again = due.into_iter().map(|number| {
            let call = &self.open[&number];
            (call.at, self.request(number, call))
        });
        (again.collect(), ends)
    }

    fn end(&mut self, number: u64, is_served: bool) -> Option<End> {
        let Call {
            entity,
            server,
            begun_ms,
            ..
        } = self.open.remove(&number)?;
        Some(End {
            entity,
            server,
            begun_ms,
            is_served,
        })
    }

    /// The request that waits for an answer.
    fn request(&self, number: u64, call: &Call) -> Vec<u8> {
        match call.taken_by {
            None => self.message("INVITE", 1, number, call),
            Some(_) => self.message("BYE", 2, number, call),
        }
    }

    fn message(&self, method: &str, cseq: u32, number: u64, call: &Call) -> Vec<u8> {
        let Calls { local, seed, .. } = self;
        let Call {
            entity,
            at,
            taken_by,
            ..
        } = call;
        let nobody_yet = || format!("<sip:callee@{at}>");
        let to = taken_by.clone().unwrap_or_else(nobody_yet);
        format!(
            "{method} sip:callee@{at} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{seed:x}-{number}-{method};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:entity{entity}@{local}>;tag=e{entity}\r\nTo: {to}\r\n\
             Call-ID: {seed:x}-{number}\r\nCSeq: {cseq} {method}\r\nContact: <sip:entity{entity}@{local}>\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    /// Of the call that a branch is of.
    fn number(&self, branch: &str) -> Option<u64> {
        let own = branch.strip_prefix("z9hG4bK")?;
        let (seed, rest) = own.split_once('-')?;
        let (number, _) = rest.split_once('-')?;
        (seed == format!("{:x}", self.seed))
            .then(|| number.parse().ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::server;

    fn at() -> SocketAddr {
        ([127, 0, 0, 1], 5080).into()
    }

    fn calls() -> Calls {
        Calls::new(([127, 0, 0, 1], 5090).into(), 0xabc)
    }

    fn answer(request: &[u8]) -> Option<Vec<u8>> {
        server::answer(at(), at(), request).map(|(_, answer)| answer)
    }

    fn end(begun_ms: u64, is_served: bool) -> End {
        End {
            entity: 7,
            server: "p1".into(),
            begun_ms,
            is_served,
        }
    }

    #[test]
    fn a_call_is_set_up_and_torn_down() {
        let mut calls = calls();
        let invite = calls.begin(0, 7, "p1".into(), at());
        let ok = answer(&invite).expect("an answer");
        let (sent, ended) = calls.receive(1, &ok);
        assert_eq!(ended, None);
        let [(_, ack), (to, bye)] = &sent[..] else {
            panic!("an ACK and a BYE");
        };
        assert!(ack.starts_with(b"ACK ") && bye.starts_with(b"BYE ") && *to == at());
        assert_eq!(answer(ack), None);
        // A repeated 200 changes nothing.
        assert_eq!(calls.receive(1, &ok), (Vec::new(), None));
        let ok = answer(bye).expect("an answer");
        assert_eq!(calls.receive(2, &ok), (Vec::new(), Some(end(0, true))));
        assert_eq!(calls.receive(2, &ok), (Vec::new(), None));
        assert_eq!(calls.advance(9_999), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_call_that_nobody_answers_is_asked_again_twice_and_lost() {
        let mut calls = calls();
        let invite = calls.begin(100, 7, "p1".into(), at());
        for now_ms in [600, 1_600] {
            assert_eq!(calls.advance(now_ms - 1), (Vec::new(), Vec::new()));
            assert_eq!(
                calls.advance(now_ms),
                (vec![(at(), invite.clone())], Vec::new())
            );
        }
        assert_eq!(calls.advance(2_100), (Vec::new(), vec![end(100, false)]));
    }

    #[test]
    fn a_server_that_dies_before_the_end_loses_the_call() {
        let mut calls = calls();
        let invite = calls.begin(0, 7, "p1".into(), at());
        let (sent, _) = calls.receive(1, &answer(&invite).expect("an answer"));
        assert_eq!(calls.advance(501), (vec![sent[1].clone()], Vec::new()));
        assert_eq!(calls.advance(2_000).1, [end(0, false)]);
    }
}
