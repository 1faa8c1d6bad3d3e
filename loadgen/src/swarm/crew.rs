//! One thread's crew: its entities, sockets and figures, and the turns that move them through the stages. Shares
//! nothing with other crews but the board.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::board::{Attendance, Board, Stage, Standing};
use super::micros;
use super::share::Share;
use crate::dialogs::Dialogs;
use crate::document::Reader;
use crate::entity::{Entity, Faults, Phase};
use crate::plan::Plan;
use crate::publisher::id_prefix;
use crate::report::{Counts, Thread};
use crate::rounds::Rounds;
use crate::sip::{Run, Scanner, SubscribeTemplate};
use crate::socket::{Endpoint, Inbox, Origin, Poll, pin};
use crate::wheel::{TICK_MS, Wheel};

/// The board is looked at so often at least.
const IDLE_US: u64 = 20_000;

/// A crew, its entities counted from 0 (`at`); the swarm counts all entities (`index`).
#[derive(Debug)]
pub(super) struct Crew<'a> {
    pub plan: &'a Plan,
    pub board: &'a Board,
    pub standing: &'a Standing,
    pub share: Share,
    pub run: Run,
    pub start: Instant,
    pub stage: Stage,
    pub endpoints: Vec<Endpoint>,
    poll: Poll,
    pub inbox: Inbox,
    pub scanner: Scanner,
    pub template: SubscribeTemplate,
    pub entities: Vec<Entity>,
    pub dialogs: Dialogs,
    pub wheel: Wheel,
    pub due: Vec<(u32, u32)>,
    /// Entities that want to SUBSCRIBE when the window allows.
    pub backlog: VecDeque<u32>,
    /// Answers of the slow.
    pub late: VecDeque<LateAnswer>,
    pub pace: Pace,
    pub reader: Reader,
    pub rounds: Rounds,
    pub faults: Faults,
    pub counts: Counts,
    pub chance: SmallRng,
    /// Number of the batch of datagrams at hand.
    pub batch: u32,
    /// SUBSCRIBEs that wait for an answer; at most `window` but in a herd.
    pub unanswered: u32,
    pub window: u32,
    pub live: u32,
    pub away: u32,
    waited_us: u64,
    fan_out: FanOut,
    begun: Option<Begun>,
    pub thread: Thread,
}

/// An answer that is held back.
#[derive(Debug)]
pub(super) struct LateAnswer {
    pub due_us: u64,
    pub at: u32,
    pub to: Origin,
    pub bytes: Vec<u8>,
}

/// What happens by the clock: the first SUBSCRIBEs of a herd, and who leaves to come back.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub began_us: u64,
    /// The next entity that SUBSCRIBEs for the first time, or leaves.
    pub next: u32,
    pub leavers: Vec<u32>,
    pub churned: u64,
}

/// How busy the crew is from a change until nine tenths of its entities have it.
#[derive(Debug, Default)]
struct FanOut {
    /// Begin of the one under way, and the time waited until then.
    open: Option<(u64, u64)>,
    lasted_us: u64,
    waited_us: u64,
}

/// Figures at the begin of the measured stage.
#[derive(Debug, Clone, Copy)]
struct Begun {
    now_us: u64,
    waited_us: u64,
    cpu_ns: Option<u64>,
    received: u64,
}

/// What a crew brings home.
#[derive(Debug)]
pub(super) struct Yield {
    pub counts: Counts,
    pub rounds: Rounds,
    pub faults: Faults,
    pub thread: Thread,
}

/// A crew that has sockets, but does not run yet.
#[derive(Debug)]
pub(super) struct Recruits<'a> {
    pub plan: &'a Plan,
    pub board: &'a Board,
    pub crew: u32,
    pub share: Share,
    pub run: Run,
    pub start: Instant,
    pub endpoints: Vec<Endpoint>,
    pub core: Option<usize>,
    /// SUBSCRIBEs that may be unanswered at once.
    pub window: u32,
}

impl<'a> Recruits<'a> {
    /// Runs to the last stage, on the thread that calls.
    pub fn serve(self) -> io::Result<Yield> {
        let _attendance = Attendance(self.board.standing(self.crew));
        if let Some(core) = self.core {
            pin(&[core])?;
        }
        Crew::new(self).serve()
    }
}

impl<'a> Crew<'a> {
    fn new(recruits: Recruits<'a>) -> Self {
        let Recruits {
            plan, share, run, ..
        } = recruits;
        Crew {
            plan,
            board: recruits.board,
            standing: recruits.board.standing(recruits.crew),
            share,
            run,
            start: recruits.start,
            stage: Stage::Wait,
            poll: Poll::readable(recruits.endpoints.iter()),
            endpoints: recruits.endpoints,
            inbox: Inbox::new(),
            scanner: Scanner::default(),
            template: SubscribeTemplate::new(run, plan),
            entities: vec![Entity::default(); share.entities as usize],
            dialogs: Dialogs::new(&plan.subject.uri()),
            wheel: Wheel::new(),
            due: Vec::new(),
            backlog: VecDeque::new(),
            late: VecDeque::new(),
            pace: Pace::default(),
            reader: Reader::new(plan.format, id_prefix(run)),
            rounds: Rounds::new(share.entities, plan.servers.into(), micros(plan.grace)),
            faults: Faults::default(),
            counts: Counts::default(),
            chance: SmallRng::seed_from_u64(plan.seed.wrapping_add(recruits.crew.into())),
            batch: 0,
            unanswered: 0,
            window: recruits.window,
            live: 0,
            away: 0,
            waited_us: 0,
            fan_out: FanOut::default(),
            begun: None,
            thread: Thread {
                core: recruits.core,
                ..Thread::default()
            },
        }
    }

    fn serve(mut self) -> io::Result<Yield> {
        loop {
            let stage = self.board.stage();
            if stage != self.stage {
                self.enter(stage)?;
            }
            if stage == Stage::Stop {
                break;
            }
            self.send_due()?;
            self.turn()?;
            self.close_fan_out(self.live / 10 * 9);
            self.report();
        }
        for endpoint in &self.endpoints {
            self.counts.socket_drops += endpoint.drops()?;
            self.counts.send_refused += endpoint.refused;
        }
        self.thread.socket_drops = self.counts.socket_drops;
        self.counts.documents_parsed = self.reader.parsed();
        self.counts.heads_parsed = self.scanner.learnt();
        Ok(Yield {
            counts: self.counts,
            rounds: self.rounds,
            faults: self.faults,
            thread: self.thread,
        })
    }

    fn enter(&mut self, stage: Stage) -> io::Result<()> {
        self.stage = stage;
        self.pace = Pace {
            began_us: self.now_us(),
            ..Pace::default()
        };
        match stage {
            Stage::Measure => self.begin_measuring(),
            Stage::Leave => {
                self.end_measuring();
                self.choose_leavers();
            }
            Stage::Wait | Stage::Subscribe | Stage::Settle | Stage::Stop => {}
        }
        self.report();
        self.standing.enter(stage);
        Ok(())
    }

    fn begin_measuring(&mut self) {
        for entity in &mut self.entities {
            if self.plan.dead > 0.0 && self.chance.random_bool(self.plan.dead) {
                entity.fall_silent();
                self.counts.dead += 1;
            } else if self.plan.slow > 0.0 && self.chance.random_bool(self.plan.slow) {
                entity.slow_down();
                self.counts.slow += 1;
            }
        }
        let live = self.entities.iter().filter(|entity| entity.is_live());
        self.live = live.count() as u32;
        self.thread.live = self.live;
        self.begun = Some(Begun {
            now_us: self.now_us(),
            waited_us: self.waited_us,
            cpu_ns: cpu_ns(),
            received: self.counts.received,
        });
    }

    fn end_measuring(&mut self) {
        self.learn_rounds();
        self.close_fan_out(0);
        if let Some(begun) = self.begun.take() {
            let cpu = cpu_ns().zip(begun.cpu_ns);
            self.thread.cpu_ns = cpu.map(|(after, before)| after - before);
            self.thread.lasted_us = self.now_us() - begun.now_us;
            self.thread.waited_us = self.waited_us - begun.waited_us;
            self.thread.received = self.counts.received - begun.received;
            self.thread.fan_out_us = self.fan_out.lasted_us;
            self.thread.fan_out_waited_us = self.fan_out.waited_us;
        }
        let away = self.entities.iter().filter(|entity| entity.is_away());
        self.counts.not_returned = away.count() as u64;
        let live = (0..self.share.entities).filter(|&at| self.entities[at as usize].is_live());
        self.rounds.close(live);
    }

    fn choose_leavers(&mut self) {
        self.pace.leavers = (0..self.share.entities)
            .filter(|&at| {
                let entity = &self.entities[at as usize];
                entity.phase() == Phase::Subscribed && !entity.is_silent()
            })
            .collect();
        let count = self.pace.leavers.len() as u64;
        self.standing.leavers.store(count, Ordering::Relaxed);
        self.counts.leavers = count;
        self.counts.left = 0;
    }

    pub fn is_measuring(&self) -> bool {
        matches!(self.stage, Stage::Measure | Stage::Settle)
    }

    pub fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    /// The rounds that were begun since.
    pub fn learn_rounds(&mut self) {
        while self.rounds.count() < self.board.rounds() {
            let (intended_us, measured) = self.board.round(self.rounds.count() + 1);
            self.rounds.begin(intended_us, measured);
            let now = self.now_us();
            self.fan_out.open.get_or_insert((now, self.waited_us));
        }
    }

    fn close_fan_out(&mut self, enough: u32) {
        if self.fan_out.open.is_none() || self.rounds.newest_reached() < enough {
            return;
        }
        if let Some((began, waited)) = self.fan_out.open.take() {
            self.fan_out.lasted_us += self.now_us() - began;
            self.fan_out.waited_us += self.waited_us - waited;
        }
    }

    /// Does what is due, waits for datagrams, and takes what has come.
    fn turn(&mut self) -> io::Result<()> {
        let now = self.now_us();
        self.wake(now)?;
        self.send_late(now)?;
        for endpoint in &mut self.endpoints {
            endpoint.flush()?;
        }
        let tick = (now / 1_000 / TICK_MS + 1) * TICK_MS * 1_000;
        let late = self.late.front().map_or(u64::MAX, |answer| answer.due_us);
        let until = tick.min(late).min(self.next_send_us()).min(now + IDLE_US);
        let before = self.now_us();
        let timeout = until.saturating_sub(before);
        self.poll.wait(Duration::from_micros(timeout))?;
        self.waited_us += self.now_us() - before;
        self.learn_rounds();
        for socket in 0..self.endpoints.len() {
            if self.poll.is_ready(socket) {
                self.drain(socket)?;
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        let say = |figure: &std::sync::atomic::AtomicU64, value: u64| {
            figure.store(value, Ordering::Relaxed);
        };
        let standing = self.standing;
        let open = u64::from(self.unanswered)
            + self.backlog.len() as u64
            + u64::from(self.away)
            + self.late.len() as u64;
        let refused: u64 = self.counts.refused.values().sum();
        say(&standing.subscribed, self.counts.subscribed);
        say(&standing.ready, self.counts.ready);
        say(&standing.given_up, refused + self.counts.unanswered);
        say(&standing.left, self.counts.left);
        say(&standing.live, self.live.into());
        say(&standing.open, open + self.still_to_send());
        let complete = self.rounds.complete(self.live);
        standing.complete.store(complete, Ordering::Relaxed);
    }
}

/// CPU time of this thread, in nanoseconds; `None` where the kernel does not say.
pub(super) fn cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
