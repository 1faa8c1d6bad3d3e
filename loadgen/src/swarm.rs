//! The swarm: crews, each on a thread of its own, that move the entities, and one conductor that publishes, says which
//! stage begins and adds up what the crews bring home. What an entity thinks of a NOTIFY is the entity's own matter;
//! what the kernel does is the socket's.

mod board;
mod crew;
mod reception;
mod requests;
mod share;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

pub use share::Share;

use crate::plan::Plan;
use crate::plot;
use crate::progress::Progress;
use crate::publisher::Publisher;
use crate::report::{Measured, Report, Span};
use crate::sip::{Message, Run, Scanner};
use crate::socket::{Endpoint, Inbox, Poll, pin};
use board::{Board, Stage};
use crew::{Recruits, Yield};

/// SUBSCRIBEs that may be unanswered at once: a receive buffer of 212,992 bytes holds them and the answers to the
/// NOTIFYs that they bring, 2,304 and 1,280 bytes of kernel memory each.
const WINDOW: u32 = 56;
/// How long the target may take to accept the first publications.
const ANSWER_WITHIN_US: u64 = 4_000_000;
/// A stage ends when nothing has moved for so long.
const STALL_US: u64 = 10_000_000;
const LEAVE_STALL_US: u64 = 5_000_000;
/// The same where messages are lost on purpose: until Timer F (RFC 3261 17.1.2.2) has ended what is repeated.
const LOSSY_LEAVE_STALL_US: u64 = 33_000_000;
const SECOND_US: u64 = 1_000_000;
/// The crews are looked at so often.
const GLANCE_US: u64 = 10_000;

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the target did not answer")]
    NoAnswer,
    #[error("the target refused PUBLISH with {0}")]
    PublishRefused(u16),
    #[error("the target refused SUBSCRIBE with {0}")]
    SubscribeRefused(u16),
    #[error("no entity received a full document")]
    NoDocument,
    #[error("cores {0:?}: {1}")]
    Cores(Vec<usize>, io::Error),
    #[error("a thread ended before its time")]
    Thread,
    #[error("sockets: {0}")]
    Socket(#[from] io::Error),
    #[error("report: {0}")]
    Report(#[from] plot::Failure),
}

/// What conducts the crews of a run: publishes, and says which stage begins.
#[derive(Debug)]
struct Conductor<'a> {
    plan: &'a Plan,
    board: &'a Board,
    start: Instant,
    publisher: Publisher,
    poll: Poll,
    inbox: Inbox,
    scanner: Scanner,
    progress: Progress,
}

/// The whole run, from the first PUBLISH to the report.
pub fn run(plan: &Plan, progress: Progress) -> Result<Report, Failure> {
    if !plan.cores.is_empty() {
        pin(&plan.cores).map_err(|error| Failure::Cores(plan.cores.clone(), error))?;
    }
    // Not from the seed: a notifier remembers the dialogs and publications of the run before.
    let run = Run(rand::random());
    let local = local_address(plan.targets[0])?;
    let seconds = (plan.warmup + plan.duration).as_secs_f64();
    let board = Board::new(plan.threads, (plan.changes * seconds) as usize + 2);
    let mut conductor = Conductor::new(plan, &board, run, local, progress)?;
    let start = conductor.start;
    let recruit = |crew: u32| {
        let share = share(plan, crew);
        let endpoints = (0..share.sockets).map(|_| Endpoint::bind(share.bind(local)));
        Ok(Recruits {
            plan,
            board: &board,
            crew,
            share,
            run,
            start,
            endpoints: endpoints.collect::<io::Result<_>>()?,
            core: plan.cores.get(crew as usize).copied(),
            window: (WINDOW / plan.threads).max(1),
        })
    };
    let crews: Vec<Recruits> = (0..plan.threads).map(recruit).collect::<io::Result<_>>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = crews
            .into_iter()
            .map(|recruits| scope.spawn(|| recruits.serve()))
            .collect();
        let conducted = conductor.conduct();
        board.begin(Stage::Stop);
        let mut yields = Vec::new();
        for thread in threads {
            yields.push(thread.join().map_err(|_| Failure::Thread)??);
        }
        conductor.report(conducted?, yields)
    })
}

fn share(plan: &Plan, crew: u32) -> Share {
    Share::new(
        plan.threads,
        crew,
        plan.entities,
        plan.hops,
        plan.sockets.into(),
    )
}

/// What the stages showed the conductor.
#[derive(Debug, Default)]
struct Conducted {
    /// When the first SUBSCRIBE was due.
    subscribe_us: u64,
    span: Span,
}

impl<'a> Conductor<'a> {
    fn new(
        plan: &'a Plan,
        board: &'a Board,
        run: Run,
        local: IpAddr,
        progress: Progress,
    ) -> io::Result<Self> {
        let endpoint = Endpoint::bind(local)?;
        let poll = Poll::readable(std::iter::once(&endpoint));
        let from = SocketAddr::new(local, endpoint.port());
        let targets = plan.publish_to.iter().cycle().copied();
        let publisher = Publisher::new(
            endpoint,
            from,
            run,
            plan.subject.clone(),
            targets.take(usize::from(plan.servers)),
        );
        Ok(Conductor {
            plan,
            board,
            start: Instant::now(),
            publisher,
            poll,
            inbox: Inbox::new(),
            scanner: Scanner::default(),
            progress,
        })
    }

    fn conduct(&mut self) -> Result<Conducted, Failure> {
        self.publish()?;
        let subscribe_us = self.now_us();
        self.subscribe()?;
        let mut span = Span::default();
        if self.board.sum(|crew| &crew.ready) > 0 {
            span = self.measure()?;
            self.leave()?;
        }
        self.progress.finish();
        Ok(Conducted { subscribe_us, span })
    }

    fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    fn publish(&mut self) -> Result<(), Failure> {
        self.progress
            .begin("publishing", u64::from(self.plan.servers));
        self.publisher.start(self.now_us())?;
        while !self.publisher.is_published() {
            if self.now_us() >= ANSWER_WITHIN_US {
                let refusal = self.publisher.counts.refused.keys().next();
                return Err(
                    refusal.map_or(Failure::NoAnswer, |&status| Failure::PublishRefused(status))
                );
            }
            self.turn(ANSWER_WITHIN_US)?;
        }
        Ok(())
    }

    fn subscribe(&mut self) -> Result<(), Failure> {
        let count = u64::from(self.plan.entities);
        self.progress.begin("subscribing", count);
        self.board.begin(Stage::Subscribe);
        let mut moved = (self.now_us(), (0, 0, 0));
        loop {
            self.glance(u64::MAX)?;
            let board = self.board;
            let ready = board.sum(|crew| &crew.ready);
            let given_up = board.sum(|crew| &crew.given_up);
            let open = board.sum(|crew| &crew.open);
            self.progress.at(ready);
            if board.is_entered(Stage::Subscribe) && open == 0 && ready + given_up >= count {
                break;
            }
            let stands = (board.sum(|crew| &crew.subscribed), ready, open);
            let now = self.now_us();
            if stands != moved.1 {
                moved = (now, stands);
            } else if now - moved.0 >= STALL_US {
                break;
            }
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<Span, Failure> {
        self.board.begin(Stage::Measure);
        while !self.board.is_entered(Stage::Measure) {
            self.glance(u64::MAX)?;
        }
        let began = self.now_us();
        let warm = began + micros(self.plan.warmup);
        let end = warm + micros(self.plan.duration);
        self.progress.begin("measuring", (end - began) / SECOND_US);
        let began_at = SystemTime::now() + self.plan.warmup;
        self.keep_changing(began, warm, end)?;
        self.board.begin(Stage::Settle);
        let grace_end = self.now_us() + micros(self.plan.grace);
        while self.now_us() < grace_end {
            let is_settled = self.board.is_entered(Stage::Settle)
                && self.board.is_complete()
                && (self.plan.churn == 0.0 || self.board.sum(|crew| &crew.open) == 0);
            if is_settled {
                break;
            }
            self.glance(grace_end)?;
        }
        Ok(Span {
            began_at: Some(began_at),
            began_us: warm,
            ended_us: self.now_us().max(end),
        })
    }

    /// Open loop: a round begins at its instant, whatever became of those before.
    fn keep_changing(&mut self, began: u64, warm: u64, end: u64) -> Result<(), Failure> {
        loop {
            let now = self.now_us();
            let ahead = f64::from(self.board.rounds()) / self.plan.changes * SECOND_US as f64;
            let next = if self.plan.changes > 0.0 {
                began + ahead as u64
            } else {
                u64::MAX
            };
            if now >= end && next >= end {
                return Ok(());
            }
            if next <= now
                && next < end
                && let Some(round) = self.board.begin_round(next, next >= warm)
            {
                let server = (round - 1) % u32::from(self.plan.servers);
                self.publisher.change(server as u16, round, now)?;
                continue;
            }
            self.glance(next.min(end))?;
            self.progress.at((self.now_us() - began) / SECOND_US);
        }
    }

    fn leave(&mut self) -> Result<(), Failure> {
        self.board.begin(Stage::Leave);
        while !self.board.is_entered(Stage::Leave) {
            self.glance(u64::MAX)?;
        }
        let leavers = self.board.sum(|crew| &crew.leavers);
        self.progress.begin("leaving", leavers);
        let stall_us = if self.plan.loss > 0.0 {
            LOSSY_LEAVE_STALL_US
        } else {
            LEAVE_STALL_US
        };
        let mut moved = (self.now_us(), (0, 0));
        loop {
            let left = self.board.sum(|crew| &crew.left);
            self.progress.at(left);
            let open = self.board.sum(|crew| &crew.open);
            if left >= leavers && open == 0 {
                break;
            }
            let now = self.now_us();
            if (left, open) != moved.1 {
                moved = (now, (left, open));
            } else if now - moved.0 >= stall_us {
                break;
            }
            self.glance(u64::MAX)?;
        }
        let until = self.now_us() + ANSWER_WITHIN_US;
        self.publisher.withdraw(self.now_us())?;
        while !self.publisher.is_idle() && self.now_us() < until {
            self.turn(until)?;
        }
        Ok(())
    }

    /// A turn that ends soon, to look at the crews.
    fn glance(&mut self, until_us: u64) -> Result<(), Failure> {
        if self.board.is_broken() {
            return Err(Failure::Thread);
        }
        self.turn(until_us.min(self.now_us() + GLANCE_US))?;
        Ok(())
    }

    /// Publishes what is due, and waits for answers until `until_us` at most.
    fn turn(&mut self, until_us: u64) -> io::Result<()> {
        let now = self.now_us();
        let tend = self.publisher.tend(now)?;
        let timeout = until_us.min(tend).saturating_sub(self.now_us());
        self.poll.wait(Duration::from_micros(timeout))?;
        if !self.poll.is_ready(0) {
            return Ok(());
        }
        let count = self.publisher.endpoint().receive(&mut self.inbox)?;
        let now = self.now_us();
        for at in 0..count {
            if let Ok(Message::Response(response)) = self.scanner.scan(self.inbox.get(at).bytes) {
                self.publisher.receive(&response, now)?;
            }
        }
        Ok(())
    }

    fn report(self, conducted: Conducted, yields: Vec<Yield>) -> Result<Report, Failure> {
        let mut yields = yields.into_iter();
        let Yield {
            mut counts,
            mut rounds,
            mut faults,
            thread,
        } = yields.next().ok_or(Failure::Thread)?;
        let mut threads = vec![thread];
        for other in yields {
            counts.add(other.counts);
            rounds.merge(&other.rounds);
            faults.merge(&other.faults);
            threads.push(other.thread);
        }
        if counts.ready == 0 {
            return Err(match counts.refused.keys().next() {
                Some(&status) => Failure::SubscribeRefused(status),
                None if counts.subscribed > 0 => Failure::NoDocument,
                None => Failure::NoAnswer,
            });
        }
        counts.not_left = counts.leavers - counts.left;
        let endpoint = self.publisher.endpoint();
        counts.socket_drops += endpoint.drops()?;
        counts.send_refused += endpoint.refused;
        let measured = Measured {
            subscribe_us: counts
                .last_subscribed_us
                .saturating_sub(conducted.subscribe_us),
            all_ready_us: counts.last_ready_us.saturating_sub(conducted.subscribe_us),
            live: threads.iter().map(|thread| thread.live).sum(),
            span: conducted.span,
            threads,
            outcome: rounds.outcome(),
        };
        let publications = self.publisher.counts.clone();
        Ok(Report::new(
            self.plan,
            counts,
            measured,
            &rounds,
            &faults,
            publications,
        ))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// The address that the kernel would send from.
fn local_address(target: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}
