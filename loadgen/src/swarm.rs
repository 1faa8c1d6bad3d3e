//! The swarm: one thread that moves all entities through their phases over a few sockets. What an entity thinks
//! of a NOTIFY is the entity's own matter; what the kernel does is the socket's.

mod reception;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::dialogs::Dialogs;
use crate::document::Reader;
use crate::entity::{Entity, Faults, Phase};
use crate::plan::Plan;
use crate::plot;
use crate::progress::Progress;
use crate::publisher::{Publisher, TIMER_F_US, id_prefix, timer_e_us};
use crate::report::{Counts, Measured, Report};
use crate::rounds::Rounds;
use crate::sip::{Run, Scanner, Subscribe, SubscribeTemplate};
use crate::socket::{Endpoint, Inbox, Poll, pin};
use crate::wheel::{TICK_MS, Wheel};

/// SUBSCRIBEs that may be unanswered at once: a default receive buffer of 212,992 bytes holds them and the
/// answers to the NOTIFYs that they bring.
const WINDOW: u32 = 64;
/// How long the target may take to accept the first publications.
const ANSWER_WITHIN_US: u64 = 4_000_000;
/// A phase ends when nothing has moved for so long.
const STALL_US: u64 = 10_000_000;
const LEAVE_STALL_US: u64 = 5_000_000;
const SECOND_US: u64 = 1_000_000;
/// A SUBSCRIBE is sent at 0, 0.5, 1.5, 3.5 ... 31.5 s: eleven times before Timer F.
const TRIES: u8 = 11;

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
    #[error("core {0}: {1}")]
    Core(usize, io::Error),
    #[error("sockets: {0}")]
    Socket(#[from] io::Error),
    #[error("report: {0}")]
    Report(#[from] plot::Failure),
}

/// All entities of a run and what moves them.
#[derive(Debug)]
pub struct Swarm<'a> {
    plan: &'a Plan,
    run: Run,
    start: Instant,
    /// Address of the sockets where the entities have none of their own.
    local: IpAddr,
    endpoints: Vec<Endpoint>,
    poll: Poll,
    inbox: Inbox,
    scanner: Scanner,
    template: SubscribeTemplate,
    entities: Vec<Entity>,
    dialogs: Dialogs,
    wheel: Wheel,
    due: Vec<(u32, u32)>,
    publisher: Publisher,
    reader: Reader,
    rounds: Rounds,
    faults: Faults,
    counts: Counts,
    chance: SmallRng,
    /// Number of the batch of datagrams at hand.
    batch: u32,
    unanswered: u32,
    live: u32,
    waited_us: u64,
    fan_out: FanOut,
    progress: Progress,
}

/// How busy loadgen is from a change until nine tenths of the entities have it.
#[derive(Debug, Default)]
struct FanOut {
    /// Begin of the one under way, and the time waited until then.
    open: Option<(u64, u64)>,
    lasted_us: u64,
    waited_us: u64,
}

impl<'a> Swarm<'a> {
    pub fn new(plan: &'a Plan, progress: Progress) -> Result<Self, Failure> {
        if let Some(core) = plan.core {
            pin(core).map_err(|error| Failure::Core(core, error))?;
        }
        // Not from the seed: a notifier remembers the dialogs and publications of the run before.
        let run = Run(rand::random());
        let local = local_address(plan.targets[0])?;
        let bind = if plan.hops.is_some() {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            local
        };
        let endpoints: Vec<Endpoint> = (0..plan.sockets)
            .map(|_| Endpoint::bind(bind))
            .collect::<io::Result<_>>()?;
        let publishing = Endpoint::bind(local)?;
        let poll = Poll::readable(endpoints.iter().chain(std::iter::once(&publishing)));
        let publishing_from = SocketAddr::new(local, publishing.port());
        let targets = plan
            .targets
            .iter()
            .cycle()
            .copied()
            .take(usize::from(plan.servers));
        let publisher = Publisher::new(
            publishing,
            publishing_from,
            run,
            plan.domain.clone(),
            plan.change,
            targets,
        );
        Ok(Swarm {
            plan,
            run,
            start: Instant::now(),
            local,
            endpoints,
            poll,
            inbox: Inbox::new(),
            scanner: Scanner::default(),
            template: SubscribeTemplate::new(run, &plan.domain, plan.format),
            entities: vec![Entity::default(); plan.entities as usize],
            dialogs: Dialogs::new(&format!("sip:{}", plan.domain)),
            wheel: Wheel::new(),
            due: Vec::new(),
            publisher,
            reader: Reader::new(plan.format, id_prefix(run)),
            rounds: Rounds::new(plan.entities, plan.servers.into(), micros(plan.grace)),
            faults: Faults::default(),
            counts: Counts::default(),
            chance: SmallRng::seed_from_u64(plan.seed),
            batch: 0,
            unanswered: 0,
            live: 0,
            waited_us: 0,
            fan_out: FanOut::default(),
            progress,
        })
    }

    /// The whole run, from the first PUBLISH to the report.
    pub fn run(mut self) -> Result<Report, Failure> {
        self.publish()?;
        let mut measured = Measured::default();
        self.subscribe(&mut measured)?;
        self.measure(&mut measured)?;
        self.leave()?;
        for endpoint in self
            .endpoints
            .iter()
            .chain(std::iter::once(self.publisher.endpoint()))
        {
            self.counts.socket_drops += endpoint.drops()?;
            self.counts.send_refused += endpoint.refused;
        }
        self.counts.documents_parsed = self.reader.parsed();
        self.counts.heads_parsed = self.scanner.learnt();
        self.progress.finish();
        let publications = self.publisher.counts.clone();
        Ok(Report::new(
            self.plan,
            self.counts,
            measured,
            &self.rounds,
            &self.faults,
            publications,
        ))
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

    fn subscribe(&mut self, measured: &mut Measured) -> Result<(), Failure> {
        let count = self.plan.entities;
        self.progress.begin("subscribing", u64::from(count));
        let began = self.now_us();
        let mut next = 0;
        let mut moved = (began, (0, 0));
        loop {
            while next < count && self.unanswered < WINDOW {
                self.send_new_subscribe(next, false)?;
                next += 1;
            }
            let stands = (self.counts.subscribed, self.counts.ready);
            let is_settled = next == count && self.unanswered == 0;
            let given_up = self.counts.refused.values().sum::<u64>() + self.counts.unanswered;
            if is_settled && stands.1 + given_up >= u64::from(count) {
                break;
            }
            let now = self.now_us();
            if stands != moved.1 {
                moved = (now, stands);
            } else if now - moved.0 >= STALL_US {
                break;
            }
            self.turn(moved.0 + STALL_US)?;
            self.progress.at(self.counts.ready);
        }
        measured.subscribe_us = self.counts.last_subscribed_us.saturating_sub(began);
        measured.all_ready_us = self.counts.last_ready_us.saturating_sub(began);
        if self.counts.ready > 0 {
            return Ok(());
        }
        match self.counts.refused.keys().next() {
            Some(&status) => Err(Failure::SubscribeRefused(status)),
            None if self.counts.subscribed > 0 => Err(Failure::NoDocument),
            None => Err(Failure::NoAnswer),
        }
    }

    fn measure(&mut self, measured: &mut Measured) -> Result<(), Failure> {
        for entity in &mut self.entities {
            if self.plan.dead > 0.0 && self.chance.random_bool(self.plan.dead) {
                entity.fall_silent();
                self.counts.dead += 1;
            }
        }
        self.live = self
            .entities
            .iter()
            .filter(|entity| entity.is_live())
            .count() as u32;
        let began = self.now_us();
        let (cpu_ns, received, waited) = (cpu_ns(), self.counts.received, self.waited_us);
        let warm = began + micros(self.plan.warmup);
        let end = warm + micros(self.plan.duration);
        self.progress.begin("measuring", (end - began) / SECOND_US);
        measured.began_us = warm;
        measured.began_at = Some(SystemTime::now() + self.plan.warmup);
        self.keep_changing(began, warm, end)?;
        let grace_end = self.now_us() + micros(self.plan.grace);
        while !self.rounds.complete(self.live) && self.now_us() < grace_end {
            self.turn(grace_end)?;
        }
        measured.ended_us = self.now_us().max(end);
        self.close_fan_out(0);
        measured.lasted_us = self.now_us() - began;
        measured.waited_us = self.waited_us - waited;
        measured.cpu_ns = self::cpu_ns()
            .zip(cpu_ns)
            .map(|(after, before)| after - before);
        measured.received = self.counts.received - received;
        measured.fan_out_us = self.fan_out.lasted_us;
        measured.fan_out_waited_us = self.fan_out.waited_us;
        measured.live = self.live;
        let live = (0..self.plan.entities).filter(|&at| self.entities[at as usize].is_live());
        measured.outcome = self.rounds.outcome(live);
        Ok(())
    }

    /// Open loop: a round begins at its instant, whatever became of those before.
    fn keep_changing(&mut self, began: u64, warm: u64, end: u64) -> Result<(), Failure> {
        loop {
            let now = self.now_us();
            let ahead = f64::from(self.rounds.count()) / self.plan.changes * SECOND_US as f64;
            let next = if self.plan.changes > 0.0 {
                began + ahead as u64
            } else {
                u64::MAX
            };
            if now >= end && next >= end {
                return Ok(());
            }
            if next <= now && next < end {
                let (round, server) = self.rounds.begin(next, next >= warm);
                self.publisher.change(server, round, now)?;
                self.fan_out.open.get_or_insert((now, self.waited_us));
                continue;
            }
            self.turn(next.min(end))?;
            self.close_fan_out(self.live / 10 * 9);
            self.progress.at((self.now_us() - began) / SECOND_US);
        }
    }

    fn close_fan_out(&mut self, enough: u32) {
        if self.rounds.newest_reached() < enough {
            return;
        }
        if let Some((began, waited)) = self.fan_out.open.take() {
            self.fan_out.lasted_us += self.now_us() - began;
            self.fan_out.waited_us += self.waited_us - waited;
        }
    }

    fn leave(&mut self) -> Result<(), Failure> {
        let leavers: Vec<u32> = (0..self.plan.entities)
            .filter(|&at| {
                let entity = &self.entities[at as usize];
                entity.phase() == Phase::Subscribed && !entity.is_silent()
            })
            .collect();
        self.progress.begin("leaving", leavers.len() as u64);
        let mut waiting = leavers.iter();
        let mut moved = (self.now_us(), 0);
        loop {
            while self.unanswered < WINDOW {
                let Some(&index) = waiting.next() else { break };
                self.send_new_subscribe(index, true)?;
            }
            if self.counts.left >= leavers.len() as u64 {
                break;
            }
            let now = self.now_us();
            if self.counts.left != moved.1 {
                moved = (now, self.counts.left);
            } else if now - moved.0 >= LEAVE_STALL_US {
                break;
            }
            self.turn(moved.0 + LEAVE_STALL_US)?;
            self.progress.at(self.counts.left);
        }
        self.counts.not_left = leavers.len() as u64 - self.counts.left;
        let until = self.now_us() + ANSWER_WITHIN_US;
        self.publisher.withdraw(self.now_us())?;
        while !self.publisher.is_idle() && self.now_us() < until {
            self.turn(until)?;
        }
        Ok(())
    }

    /// Does what is due, waits for datagrams until `until_us` at most, and takes what has come.
    fn turn(&mut self, until_us: u64) -> io::Result<()> {
        let now = self.now_us();
        self.wake(now)?;
        let tend = self.publisher.tend(now)?;
        for endpoint in &mut self.endpoints {
            endpoint.flush()?;
        }
        let tick = (now / 1_000 / TICK_MS + 1) * TICK_MS * 1_000;
        let before = self.now_us();
        let timeout = until_us.min(tend).min(tick).saturating_sub(before);
        self.poll.wait(Duration::from_micros(timeout))?;
        self.waited_us += self.now_us() - before;
        for socket in 0..self.endpoints.len() {
            if self.poll.is_ready(socket) {
                self.drain(socket)?;
            }
        }
        if self.poll.is_ready(self.endpoints.len()) {
            self.drain_publisher()?;
        }
        Ok(())
    }

    fn wake(&mut self, now: u64) -> io::Result<()> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now / 1_000, &mut due);
        for (index, tick) in due.drain(..) {
            let entity = &mut self.entities[index as usize];
            if entity.deadline != tick || (entity.is_silent() && entity.tries == 0) {
                continue;
            }
            match (entity.tries, entity.phase()) {
                (0, Phase::Subscribed) => {
                    self.counts.refreshes += 1;
                    self.send_new_subscribe(index, false)?;
                }
                (0, _) => {}
                (TRIES, _) => {
                    let before = self.standing(index);
                    self.entities[index as usize].gave_up();
                    self.note(index, before, now);
                    self.counts.unanswered += 1;
                    self.unanswered -= 1;
                }
                _ => {
                    entity.tries += 1;
                    self.counts.subscribes_repeated += 1;
                    self.send_subscribe(index)?;
                }
            }
        }
        self.due = due;
        Ok(())
    }

    fn send_new_subscribe(&mut self, index: u32, leave: bool) -> io::Result<()> {
        let entity = &mut self.entities[index as usize];
        if entity.tries == 0 {
            self.unanswered += 1;
        }
        entity.subscribe(leave);
        self.send_subscribe(index)
    }

    /// Sends the outstanding SUBSCRIBE, for the first time or again, and arms Timer E.
    fn send_subscribe(&mut self, index: u32) -> io::Result<()> {
        let contact = self.contact(index);
        let now_ms = self.now_us() / 1_000;
        let entity = &mut self.entities[index as usize];
        let timer_us = if entity.tries == TRIES {
            TIMER_F_US - 31_500_000
        } else {
            timer_e_us(entity.tries)
        };
        entity.deadline = self.wheel.arm(index, now_ms, timer_us / 1_000);
        let in_dialog = entity.subscribe_cseq() > 1;
        let message = Subscribe {
            index,
            cseq: entity.subscribe_cseq(),
            contact,
            dialog: in_dialog.then(|| (self.dialogs.tag(entity), self.dialogs.remote(entity))),
            expires: if entity.phase() == Phase::Leaving {
                0
            } else {
                self.plan.expires
            },
        };
        let target = self.plan.targets[index as usize % self.plan.targets.len()];
        let source = own_address(self.plan, contact);
        let at = self.socket_of(index);
        let template = &self.template;
        self.endpoints[at].queue(target, source, |out| template.write(&message, out))
    }

    fn socket_of(&self, index: u32) -> usize {
        (self.plan.hops.map_or(index, |hops| index % hops) % u32::from(self.plan.sockets)) as usize
    }

    fn contact(&self, index: u32) -> SocketAddr {
        let port = self.endpoints[self.socket_of(index)].port();
        let ip = match self.plan.hops {
            // From 127.1.0.1 on, clear of the addresses that servers listen on.
            Some(hops) => Ipv4Addr::from(0x7f01_0001 + index % hops).into(),
            None => self.local,
        };
        SocketAddr::new(ip, port)
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Where an entity's datagrams leave from, when that is not its socket's own address.
fn own_address(plan: &Plan, contact: SocketAddr) -> Option<Ipv4Addr> {
    match contact.ip() {
        IpAddr::V4(ip) if plan.hops.is_some() => Some(ip),
        _ => None,
    }
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

/// CPU time of all threads of this process, in nanoseconds; `None` where the kernel does not say.
pub fn cpu_ns() -> Option<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}
