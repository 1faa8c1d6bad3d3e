//! The simulated servers: they publish themselves, change at the rounds' instants and keep their leases. Knows no
//! entity. Time is given to it, in microseconds of the run.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use crate::plan::Subject;
use crate::publication::document;
use crate::sip::{Publish, Response, Run};
use crate::socket::Endpoint;

/// RFC 3261 17.1.2.2: T1 and T2 in microseconds; Timer F is 64 times T1.
pub const T1_US: u64 = 500_000;
pub const T2_US: u64 = 4_000_000;
pub const TIMER_F_US: u64 = 64 * T1_US;

/// The lease that a simulated server asks for, in seconds.
const LEASE_S: u32 = 30;
const SECOND_US: u64 = 1_000_000;

/// Timer E after a request was sent for the `tries`th time.
pub fn timer_e_us(tries: u8) -> u64 {
    (T1_US << u32::from(tries - 1).min(8)).min(T2_US)
}

/// What changes in a round, beside the attribute `round`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Change {
    /// The status, between `up` and `draining`: passes a node's throttle.
    Status,
    /// The load, between 20 and 70.
    Load,
    /// Nothing else.
    Attribute,
}

/// Figures of the publications.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub accepted: u64,
    pub retransmitted: u64,
    pub unanswered: u64,
    /// Final answers that are no success, by status; 412 and 423 among them although they are handled.
    pub refused: BTreeMap<u16, u64>,
    /// Rounds that no answer of success confirmed.
    pub rounds_failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Round(u32),
    Refresh,
    Withdraw,
}

#[derive(Debug)]
struct Outstanding {
    purpose: Purpose,
    bytes: Vec<u8>,
    sent_us: u64,
    tries: u8,
    next_us: u64,
}

#[derive(Debug)]
struct Server {
    target: SocketAddr,
    cseq: u32,
    entity_tag: Option<String>,
    lease_s: u32,
    refresh_us: u64,
    /// Newest round that it was asked to show.
    round: u32,
    /// The newest round waits until the outstanding PUBLISH is answered (RFC 3903 4).
    is_behind: bool,
    outstanding: Option<Outstanding>,
    gone: bool,
}

/// The simulated servers and the socket that they publish from.
#[derive(Debug)]
pub struct Publisher {
    endpoint: Endpoint,
    local: SocketAddr,
    run: Run,
    subject: Subject,
    servers: Vec<Server>,
    pub counts: Counts,
}

/// The ids of one run's servers begin with this.
pub fn id_prefix(run: Run) -> String {
    format!("lg{:08x}-", run.0)
}

impl Publisher {
    pub fn new(
        endpoint: Endpoint,
        local: SocketAddr,
        run: Run,
        subject: Subject,
        targets: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let servers = targets
            .map(|target| Server {
                target,
                cseq: 0,
                entity_tag: None,
                lease_s: LEASE_S,
                refresh_us: u64::MAX,
                round: 0,
                is_behind: false,
                outstanding: None,
                gone: false,
            })
            .collect();
        Publisher {
            endpoint,
            local,
            run,
            subject,
            servers,
            counts: Counts::default(),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Every server publishes itself for the first time.
    pub fn start(&mut self, now_us: u64) -> io::Result<()> {
        for server in 0..self.servers.len() {
            self.send(server, Purpose::Round(0), now_us)?;
        }
        self.endpoint.flush()
    }

    /// Whether every server has been accepted.
    pub fn is_published(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.entity_tag.is_some())
    }

    /// Whether no answer is awaited.
    pub fn is_idle(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.outstanding.is_none())
    }

    /// The round's content goes out now, or as soon as the former PUBLISH is answered.
    pub fn change(&mut self, server: u16, round: u32, now_us: u64) -> io::Result<()> {
        let at = usize::from(server);
        self.servers[at].round = round;
        if self.servers[at].outstanding.is_some() {
            self.servers[at].is_behind = true;
            return Ok(());
        }
        self.send(at, Purpose::Round(round), now_us)?;
        self.endpoint.flush()
    }

    /// Every server takes its publication back.
    pub fn withdraw(&mut self, now_us: u64) -> io::Result<()> {
        for at in 0..self.servers.len() {
            self.servers[at].gone = true;
            self.servers[at].is_behind = false;
            if self.servers[at].outstanding.is_none() && self.servers[at].entity_tag.is_some() {
                self.send(at, Purpose::Withdraw, now_us)?;
            }
        }
        self.endpoint.flush()
    }

    /// Repeats and refreshes what is due; returns when it wants to be called again.
    pub fn tend(&mut self, now_us: u64) -> io::Result<u64> {
        for at in 0..self.servers.len() {
            match &self.servers[at].outstanding {
                Some(outstanding) if outstanding.next_us <= now_us => self.repeat(at, now_us)?,
                None if self.servers[at].refresh_us <= now_us && !self.servers[at].gone => {
                    self.send(at, Purpose::Refresh, now_us)?;
                }
                _ => {}
            }
        }
        self.endpoint.flush()?;
        let next = self.servers.iter().map(|server| match &server.outstanding {
            Some(outstanding) => outstanding.next_us,
            None if server.gone => u64::MAX,
            None => server.refresh_us,
        });
        Ok(next.min().unwrap_or(u64::MAX))
    }

    fn repeat(&mut self, at: usize, now_us: u64) -> io::Result<()> {
        let server = &mut self.servers[at];
        let Some(outstanding) = &mut server.outstanding else {
            return Ok(());
        };
        if now_us - outstanding.sent_us >= TIMER_F_US {
            self.counts.unanswered += 1;
            if let Purpose::Round(_) = outstanding.purpose {
                self.counts.rounds_failed += 1;
            }
            server.outstanding = None;
            server.refresh_us = now_us + SECOND_US;
            return Ok(());
        }
        outstanding.tries += 1;
        outstanding.next_us =
            (now_us + timer_e_us(outstanding.tries)).min(outstanding.sent_us + TIMER_F_US);
        self.counts.retransmitted += 1;
        self.endpoint.queue(server.target, None, |out| {
            out.extend_from_slice(&outstanding.bytes)
        })
    }

    fn send(&mut self, at: usize, purpose: Purpose, now_us: u64) -> io::Result<()> {
        let servers = self.servers.len() as u32;
        let server = &mut self.servers[at];
        // Without an entity-tag nothing stands that could be refreshed: RFC 3903 4.1 asks for the whole.
        let purpose = match (purpose, &server.entity_tag) {
            (Purpose::Refresh, None) => Purpose::Round(server.round),
            (purpose, _) => purpose,
        };
        server.cseq += 1;
        let body = match purpose {
            Purpose::Round(round) => document(
                &self.subject,
                &id_prefix(self.run),
                at as u32,
                servers,
                round,
            ),
            Purpose::Refresh | Purpose::Withdraw => String::new(),
        };
        let publish = Publish {
            run: self.run,
            subject: &self.subject,
            server: at as u32,
            cseq: server.cseq,
            local: self.local,
            entity_tag: server.entity_tag.as_deref(),
            expires: if purpose == Purpose::Withdraw {
                0
            } else {
                server.lease_s
            },
            body: &body,
        };
        let bytes = publish.into_bytes();
        self.endpoint
            .queue(server.target, None, |out| out.extend_from_slice(&bytes))?;
        server.outstanding = Some(Outstanding {
            purpose,
            bytes,
            sent_us: now_us,
            tries: 1,
            next_us: now_us + T1_US,
        });
        Ok(())
    }

    /// Takes an answer to a PUBLISH.
    pub fn receive(&mut self, response: &Response, now_us: u64) -> io::Result<()> {
        let Some((at, cseq)) = self.run.transaction(response.branch) else {
            return Ok(());
        };
        let at = at as usize;
        let Some(server) = self
            .servers
            .get_mut(at)
            .filter(|server| server.cseq == cseq)
        else {
            return Ok(());
        };
        if response.status < 200 {
            return Ok(());
        }
        let Some(outstanding) = server.outstanding.take() else {
            return Ok(());
        };
        if response.status < 300 {
            self.counts.accepted += 1;
            self.accepted(at, response, now_us)?;
        } else {
            *self.counts.refused.entry(response.status).or_default() += 1;
            self.refused(at, outstanding.purpose, response, now_us)?;
        }
        self.endpoint.flush()
    }

    fn accepted(&mut self, at: usize, response: &Response, now_us: u64) -> io::Result<()> {
        let server = &mut self.servers[at];
        let granted = response.expires.unwrap_or(server.lease_s);
        server.entity_tag = response
            .entity_tag
            .map(|tag| String::from_utf8_lossy(tag).into_owned());
        server.refresh_us = now_us + u64::from(granted) * SECOND_US / 3;
        if granted == 0 {
            server.entity_tag = None;
            server.refresh_us = u64::MAX;
        } else if server.gone {
            self.send(at, Purpose::Withdraw, now_us)?;
        } else if server.is_behind {
            server.is_behind = false;
            let round = server.round;
            self.send(at, Purpose::Round(round), now_us)?;
        }
        Ok(())
    }

    fn refused(
        &mut self,
        at: usize,
        purpose: Purpose,
        response: &Response,
        now_us: u64,
    ) -> io::Result<()> {
        let server = &mut self.servers[at];
        if server.gone {
            return Ok(());
        }
        let round = server.round;
        match (response.status, response.min_expires) {
            // RFC 3903 5: discard the tag and publish afresh.
            (412, _) if server.entity_tag.take().is_some() => {
                self.send(at, Purpose::Round(round), now_us)?
            }
            // RFC 3903 5: raise the Expires to what Min-Expires says.
            (423, Some(least)) if least > server.lease_s => {
                server.lease_s = least;
                self.send(at, purpose, now_us)?;
            }
            _ => {
                if let Purpose::Round(_) = purpose {
                    self.counts.rounds_failed += 1;
                }
                server.refresh_us = now_us + SECOND_US;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use std::net::Ipv4Addr;

    #[test]
    fn timer_e_doubles_up_to_t2() {
        let steps: Vec<u64> = (1..=6).map(|tries| timer_e_us(tries) / 1_000).collect();
        assert_eq!(steps, [500, 1_000, 2_000, 4_000, 4_000, 4_000]);
    }

    fn publisher() -> Publisher {
        let ip = Ipv4Addr::LOCALHOST.into();
        let endpoint = Endpoint::bind(ip).unwrap();
        let local = (ip, endpoint.port()).into();
        let target = std::iter::once(local);
        let mut publisher = Publisher::new(
            endpoint,
            local,
            Run(1),
            plan("--change load").subject,
            target,
        );
        publisher.start(0).unwrap();
        publisher
    }

    fn answer(
        publisher: &mut Publisher,
        status: u16,
        tag: Option<&[u8]>,
        min_expires: Option<u32>,
    ) {
        let branch = format!("z9hG4bK0000000100000000{}", publisher.servers[0].cseq);
        let response = Response {
            status,
            branch: branch.as_bytes(),
            to_tag: b"",
            contact: None,
            expires: (status == 200).then_some(30),
            min_expires,
            entity_tag: tag,
            retry_after: None,
        };
        publisher.receive(&response, 1_000).unwrap();
    }

    fn outstanding(publisher: &Publisher) -> String {
        let outstanding = publisher.servers[0]
            .outstanding
            .as_ref()
            .expect("a PUBLISH is outstanding");
        String::from_utf8(outstanding.bytes.clone()).unwrap()
    }

    #[test]
    fn a_change_waits_for_the_answer_to_the_former() {
        let mut publisher = publisher();
        publisher.change(0, 1, 10).unwrap();
        publisher.change(0, 2, 20).unwrap();
        assert!(outstanding(&publisher).contains(">0<"));
        answer(&mut publisher, 200, Some(b"e1"), None);
        let text = outstanding(&publisher);
        assert!(
            text.contains(">2<") && text.contains("SIP-If-Match: e1\r\n"),
            "{text}"
        );
        answer(&mut publisher, 200, Some(b"e2"), None);
        assert!(publisher.is_idle() && publisher.is_published());
    }

    #[test]
    fn a_412_is_answered_by_publishing_afresh() {
        let mut publisher = publisher();
        answer(&mut publisher, 200, Some(b"e1"), None);
        publisher.change(0, 1, 10).unwrap();
        answer(&mut publisher, 412, None, None);
        let text = outstanding(&publisher);
        assert!(
            text.contains(">1<") && !text.contains("SIP-If-Match"),
            "{text}"
        );
    }

    #[test]
    fn a_423_raises_the_expires() {
        let mut publisher = publisher();
        answer(&mut publisher, 423, None, Some(60));
        assert!(outstanding(&publisher).contains("Expires: 60\r\n"));
    }

    #[test]
    fn a_lease_is_refreshed_without_a_body_at_a_third() {
        let mut publisher = publisher();
        answer(&mut publisher, 200, Some(b"e1"), None);
        assert_eq!(publisher.tend(2_000).unwrap(), 10_001_000);
        publisher.tend(10_001_000).unwrap();
        let text = outstanding(&publisher);
        assert!(
            text.contains("SIP-If-Match: e1\r\n") && text.contains("Content-Length: 0\r\n"),
            "{text}"
        );
    }

    #[test]
    fn a_withdrawal_has_expires_zero_and_no_body() {
        let mut publisher = publisher();
        answer(&mut publisher, 200, Some(b"e1"), None);
        publisher.withdraw(2_000).unwrap();
        let text = outstanding(&publisher);
        assert!(
            text.contains("Expires: 0\r\n") && text.contains("Content-Length: 0\r\n"),
            "{text}"
        );
    }

    #[test]
    fn an_unanswered_publish_is_repeated_and_then_given_up() {
        let mut publisher = publisher();
        let mut now = 0;
        while !publisher.is_idle() {
            now = publisher.tend(now).unwrap();
        }
        assert_eq!(now, TIMER_F_US + SECOND_US);
        assert_eq!(
            (publisher.counts.retransmitted, publisher.counts.unanswered),
            (10, 1)
        );
        assert_eq!(publisher.counts.rounds_failed, 1);
    }
}
