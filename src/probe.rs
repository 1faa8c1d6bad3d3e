//! Probing: servers that do not publish are asked by OPTIONS whether they live (RFC 3261 11), each by one node of the
//! cluster. Pure: the time and the seed are given, datagrams go in and out. Knows no table and no way to other nodes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use rsip::Method;

use crate::client::{Chance, Draft, Due, Local, Response, Transaction};
use crate::counters::counters;
use crate::info::{Address, AddressTransport, Server, Status};
use crate::rendezvous::rendezvous;
use crate::wire::Transport;

/// What is said of a server holds for so many probes that could change it, and no shorter than this, in seconds: another
/// node has taken over by then.
const HOLDS_PROBES: u64 = 4;
const HOLDS_LEAST_S: u64 = 60;
/// No lease is longer.
const HOLDS_MOST_S: u64 = 3_600;

counters! {
    /// OPTIONS sent, those repeated not counted.
    probes,
    /// OPTIONS without an answer that means life.
    probes_failed,
}

/// One server to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub id: Arc<str>,
    /// Asked over UDP.
    pub address: SocketAddr,
    pub services: Vec<Box<str>>,
    pub priority: u16,
    pub weight: u16,
    pub interval_ms: u64,
    /// Down after so many probes in a row that failed, up after so many that did not.
    pub down_after: u32,
    pub up_after: u32,
}

impl Probed {
    fn server(&self, status: Status) -> Server {
        let address = Address::new(self.address, AddressTransport::Udp);
        Server {
            priority: self.priority,
            weight: self.weight,
            services: self.services.clone(),
            ..Server::new(Arc::clone(&self.id), status, vec![address])
        }
    }

    /// How long it holds what is said of it, in seconds.
    fn holds_s(&self) -> u32 {
        let probes = HOLDS_PROBES * u64::from(self.down_after.max(self.up_after));
        let holds_s = (probes * self.interval_ms).div_ceil(1_000);
        holds_s.clamp(HOLDS_LEAST_S, HOLDS_MOST_S) as u32
    }
}

/// What was found, to be shown for so many seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub server: Server,
    pub holds_s: u32,
}

/// How one server is probed.
#[derive(Debug)]
struct Watched {
    probed: Probed,
    is_ours: bool,
    under_way: Option<Transaction>,
    next_ms: u64,
    /// Probes in a row that ended alike, and how.
    alike: u32,
    lives: bool,
    status: Option<Status>,
    /// When it was last said.
    said_ms: u64,
}

/// All servers to be probed.
#[derive(Debug)]
pub struct Prober {
    node: Arc<str>,
    /// The nodes that are to probe, as they were last said; `None`: nobody said.
    nodes: Option<Vec<Arc<str>>>,
    watched: Vec<Watched>,
    chance: Chance,
    outgoing: VecDeque<(SocketAddr, Vec<u8>)>,
    findings: Vec<Finding>,
    counters: Counters,
}

impl Prober {
    pub fn new(node: Arc<str>, seed: u64, probed: Vec<Probed>) -> Self {
        let watched = probed.into_iter().map(|probed| Watched {
            probed,
            is_ours: false,
            under_way: None,
            next_ms: 0,
            alike: 0,
            lives: false,
            status: None,
            said_ms: 0,
        });
        Prober {
            node,
            nodes: None,
            watched: watched.collect(),
            chance: Chance::new(seed),
            outgoing: VecDeque::new(),
            findings: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Where the servers are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.watched.iter().map(|watched| watched.probed.address)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Which nodes are to probe; none: this one stands alone. Each server is probed by one of them; one that comes to this node
    /// is judged anew.
    pub fn share(&mut self, now_ms: u64, nodes: &[Arc<str>]) {
        if self.nodes.as_deref() == Some(nodes) {
            return;
        }
        self.nodes = Some(nodes.to_vec());
        for watched in &mut self.watched {
            let owner = rendezvous(nodes, &["probe", &*watched.probed.id]);
            let is_ours = owner.is_none_or(|owner| *owner == self.node);
            if std::mem::replace(&mut watched.is_ours, is_ours) == is_ours {
                continue;
            }
            (watched.under_way, watched.status, watched.alike) = (None, None, 0);
            // Not all at once.
            watched.next_ms = now_ms + self.chance.within(0..watched.probed.interval_ms);
        }
    }

    /// Does what the time demands. `local`: where answers to a server of this family come, if there is such a place.
    pub fn tick(&mut self, now_ms: u64, local: impl Fn(SocketAddr) -> Option<SocketAddr>) {
        for watched in self.watched.iter_mut().filter(|watched| watched.is_ours) {
            let to = watched.probed.address;
            if let Some(transaction) = &mut watched.under_way {
                while let Some(due) = transaction.due(now_ms) {
                    match due {
                        Due::Resend(bytes) => self.outgoing.push_back((to, bytes)),
                        Due::TimedOut => break,
                    }
                }
            }
            if now_ms < watched.next_ms {
                continue;
            }
            if watched.under_way.take().is_some() {
                self.counters.probes_failed += 1;
                watched.ended(now_ms, false, &mut self.findings);
            }
            let interval_ms = watched.probed.interval_ms;
            watched.next_ms = (watched.next_ms + interval_ms).max(now_ms + interval_ms / 2);
            let Some(local) = local(to) else { continue };
            let local = Local {
                transport: Transport::Udp,
                address: local,
            };
            let draft = options(&local, to, &self.node, &mut self.chance);
            let transaction = Transaction::begin(now_ms, &local, &mut self.chance, draft);
            self.outgoing.push_back((to, transaction.bytes().to_vec()));
            self.counters.probes += 1;
            watched.under_way = Some(transaction);
        }
    }

    /// When `tick` has something to do next, in ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let ours = self.watched.iter().filter(|watched| watched.is_ours);
        ours.map(|watched| {
            let resend = watched.under_way.as_ref().map(Transaction::deadline_ms);
            resend.map_or(watched.next_ms, |resend_ms| resend_ms.min(watched.next_ms))
        })
        .min()
    }

    /// Takes a datagram that came back.
    pub fn receive(&mut self, now_ms: u64, source: SocketAddr, bytes: &[u8]) {
        let Some(response) = Response::parse(bytes) else {
            return;
        };
        let is_asked = |watched: &&mut Watched| {
            let matches = |transaction: &Transaction| transaction.matches(&response);
            watched.probed.address == source && watched.under_way.as_ref().is_some_and(matches)
        };
        let Some(watched) = self.watched.iter_mut().find(is_asked) else {
            return;
        };
        if response.status < 200 {
            if let Some(transaction) = &mut watched.under_way {
                transaction.provisional(now_ms);
            }
            return;
        }
        watched.under_way = None;
        // A server that knows no OPTIONS lives (RFC 3261 21.4.6, 21.5.2), and so does one that takes it for a lost dialog's
        // (21.4.19).
        let lives = matches!(response.status, 200..=299 | 405 | 481 | 501);
        if !lives {
            self.counters.probes_failed += 1;
        }
        watched.ended(now_ms, lives, &mut self.findings);
    }

    /// The next datagram, and to whom.
    pub fn next_message(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.outgoing.pop_front()
    }

    /// What is to be shown, since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }
}

impl Watched {
    fn ended(&mut self, now_ms: u64, lives: bool, findings: &mut Vec<Finding>) {
        if std::mem::replace(&mut self.lives, lives) != lives {
            self.alike = 0;
        }
        self.alike = self.alike.saturating_add(1);
        let (enough, status) = match lives {
            true => (self.probed.up_after, Status::Up),
            false => (self.probed.down_after, Status::Down),
        };
        let holds_s = self.probed.holds_s();
        let is_news = self.alike >= enough && self.status.as_ref() != Some(&status);
        if is_news {
            self.status = Some(status);
        }
        // What is shown ends by itself if nobody says it again.
        let is_old = now_ms >= self.said_ms + u64::from(holds_s) * 500;
        if let Some(status) = self.status.clone().filter(|_| is_news || is_old) {
            self.said_ms = now_ms;
            let server = self.probed.server(status);
            findings.push(Finding { server, holds_s });
        }
    }
}

fn options(local: &Local, to: SocketAddr, node: &str, chance: &mut Chance) -> Draft {
    Draft {
        method: Method::Options,
        uri: format!("sip:{to}"),
        from: format!(
            "<sip:{node}@{}>;tag={}",
            host(local.address),
            chance.token()
        ),
        to: format!("<sip:{to}>"),
        call_id: chance.token(),
        cseq: 1,
        headers: Vec::new(),
        body: None,
    }
}

/// The host of an address as a URI has it (RFC 3261 25.1, `IPv6reference`).
fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(id: &str) -> Probed {
        Probed {
            id: id.into(),
            address: SocketAddr::from(([192, 0, 2, 1], 5060)),
            services: vec!["proxy".into()],
            priority: 1,
            weight: 2,
            interval_ms: 2_000,
            down_after: 3,
            up_after: 2,
        }
    }

    fn here(_: SocketAddr) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, 2, 9], 5070)))
    }

    fn answer(bytes: &[u8], status: u16) -> Vec<u8> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let echoed = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
        let lines = text
            .lines()
            .filter(|line| echoed.iter().any(|name| line.starts_with(name)));
        let lines: String = lines.map(|line| format!("{line}\r\n")).collect();
        format!("SIP/2.0 {status} X\r\n{lines}Content-Length: 0\r\n\r\n").into_bytes()
    }

    /// Runs for so long; each OPTIONS is answered as told, `None`: not at all. What was found, and when.
    fn run(
        prober: &mut Prober,
        (from_ms, to_ms): (u64, u64),
        status: impl Fn(u64) -> Option<u16>,
    ) -> Vec<(u64, Finding)> {
        let mut found = Vec::new();
        for now_ms in from_ms..to_ms {
            if prober.next_deadline().is_none_or(|due_ms| due_ms > now_ms) {
                continue;
            }
            prober.tick(now_ms, here);
            while let Some((to, bytes)) = prober.next_message() {
                if let Some(status) = status(now_ms) {
                    prober.receive(now_ms, to, &answer(&bytes, status));
                }
            }
            found.extend(
                prober
                    .take_findings()
                    .into_iter()
                    .map(|found| (now_ms, found)),
            );
        }
        found
    }

    #[test]
    fn a_server_is_up_after_two_answers_and_down_after_three_silences() {
        let mut prober = Prober::new("n1".into(), 7, vec![probed("p1")]);
        prober.share(0, &[]);
        let lives = |now_ms| (now_ms < 10_000).then_some(200);
        let found = run(&mut prober, (0, 30_000), lives);
        let statuses: Vec<_> = found
            .iter()
            .map(|(_, found)| found.server.status.clone())
            .collect();
        assert_eq!(statuses, [Status::Up, Status::Down]);
        assert!((2_000..4_100).contains(&found[0].0), "{found:?}");
        assert!((14_000..18_100).contains(&found[1].0), "{found:?}");
        let server = &found[0].1.server;
        assert!(server.check().is_ok());
        assert_eq!((server.priority, server.weight), (1, 2));
    }

    #[test]
    fn any_answer_that_only_a_server_gives_means_life_and_a_refusal_does_not() {
        for (status, expected) in [
            (299, Status::Up),
            (405, Status::Up),
            (481, Status::Up),
            (501, Status::Up),
            (500, Status::Down),
            (503, Status::Down),
            (404, Status::Down),
        ] {
            let mut prober = Prober::new("n1".into(), 7, vec![probed("p1")]);
            prober.share(0, &[]);
            let found = run(&mut prober, (0, 10_000), |_| Some(status));
            assert_eq!(found[0].1.server.status, expected, "{status}");
        }
    }

    #[test]
    fn what_is_shown_is_said_again_before_it_ends() {
        let mut prober = Prober::new("n1".into(), 7, vec![probed("p1")]);
        prober.share(0, &[]);
        let found = run(&mut prober, (0, 200_000), |_| Some(200));
        let apart = found.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let holds_ms = u64::from(found[0].1.holds_s) * 1_000;
        assert!(found.len() > 4);
        assert!(
            apart
                .into_iter()
                .all(|apart_ms| apart_ms < holds_ms - 20_000)
        );
    }

    #[test]
    fn each_server_is_probed_by_one_node_and_another_takes_over() {
        let names: Vec<Arc<str>> = vec!["n1".into(), "n2".into(), "n3".into()];
        let all: Vec<Probed> = (0..60)
            .map(|number| probed(&format!("p{number}")))
            .collect();
        let prober = |name: &Arc<str>| Prober::new(Arc::clone(name), 7, all.clone());
        let mut probers: Vec<Prober> = names.iter().map(prober).collect();
        let ours = |prober: &Prober| -> Vec<Arc<str>> {
            let ours = prober.watched.iter().filter(|watched| watched.is_ours);
            ours.map(|watched| Arc::clone(&watched.probed.id)).collect()
        };
        for prober in &mut probers {
            prober.share(0, &names);
        }
        let shares: Vec<usize> = probers.iter().map(|prober| ours(prober).len()).collect();
        assert_eq!(shares.iter().sum::<usize>(), 60);
        assert!(shares.iter().all(|share| *share > 8), "{shares:?}");
        let before = ours(&probers[0]);
        for prober in &mut probers[..2] {
            prober.share(1_000, &names[..2]);
        }
        let after: Vec<_> = probers[..2].iter().flat_map(ours).collect();
        assert_eq!(after.len(), 60);
        assert!(before.iter().all(|id| ours(&probers[0]).contains(id)));
    }

    #[test]
    fn an_answer_from_elsewhere_says_nothing() {
        let mut prober = Prober::new("n1".into(), 7, vec![probed("p1")]);
        prober.share(0, &[]);
        for now_ms in 0..9_000 {
            prober.tick(now_ms, here);
            while let Some((to, bytes)) = prober.next_message() {
                let elsewhere = SocketAddr::from(([192, 0, 2, 2], 5060));
                prober.receive(now_ms, elsewhere, &answer(&bytes, 200));
                prober.receive(now_ms, to, b"nonsense");
            }
        }
        let found = prober.take_findings();
        let statuses: Vec<_> = found
            .iter()
            .map(|found| found.server.status.clone())
            .collect();
        assert_eq!(statuses, [Status::Down]);
    }
}
