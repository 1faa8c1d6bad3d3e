//! The SUBSCRIBEs of a crew: who sends one when, within a window or by the clock, again and again until it is answered.

use std::io;
use std::net::SocketAddr;

use rand::RngExt;

use super::board::Stage;
use super::crew::Crew;
use super::micros;
use crate::entity::Phase;
use crate::publisher::{TIMER_F_US, timer_e_us};
use crate::sip::Subscribe;

/// A SUBSCRIBE is sent at 0, 0.5, 1.5, 3.5 ... 31.5 s: eleven times before Timer F.
const TRIES: u8 = 11;
/// Entities that are asked whether they can leave, before that is put off.
const PICKS: u32 = 16;

impl Crew<'_> {
    /// Sends the SUBSCRIBEs that this stage wants now, as far as the window allows.
    pub fn send_due(&mut self) -> io::Result<()> {
        match (self.stage, self.plan.within) {
            (Stage::Subscribe, Some(_)) => self.send_herd()?,
            (Stage::Subscribe, None) => {
                while self.pace.next < self.share.entities && self.unanswered < self.window {
                    self.send_new_subscribe(self.pace.next, false)?;
                    self.pace.next += 1;
                }
            }
            (Stage::Measure, _) => self.churn()?,
            (Stage::Leave, _) => {
                while self.unanswered < self.window
                    && let Some(&at) = self.pace.leavers.get(self.pace.next as usize)
                {
                    self.send_new_subscribe(at, true)?;
                    self.pace.next += 1;
                }
            }
            (Stage::Wait | Stage::Settle | Stage::Stop, _) => {}
        }
        self.send_backlog()
    }

    /// Open loop: each leaves at its instant, whatever became of those before.
    fn send_herd(&mut self) -> io::Result<()> {
        let now = self.now_us();
        while self.pace.next < self.share.entities && self.next_send_us() <= now {
            self.send_new_subscribe(self.pace.next, false)?;
            self.pace.next += 1;
        }
        Ok(())
    }

    fn churn(&mut self) -> io::Result<()> {
        let now = self.now_us();
        while self.next_send_us() <= now {
            self.pace.churned += 1;
            let pick = (0..PICKS)
                .map(|_| self.chance.random_range(0..self.share.entities))
                .find(|&at| {
                    let entity = &self.entities[at as usize];
                    entity.is_live() && entity.tries == 0 && !entity.is_away()
                });
            if let Some(at) = pick {
                self.entities[at as usize].shall_return();
                self.away += 1;
                self.counts.churned += 1;
                self.send_new_subscribe(at, true)?;
            }
        }
        Ok(())
    }

    /// When the clock wants the next SUBSCRIBE to be sent.
    pub fn next_send_us(&self) -> u64 {
        let began = self.pace.began_us;
        match (self.stage, self.plan.within) {
            (Stage::Subscribe, Some(within)) if self.pace.next < self.share.entities => {
                let spread = micros(within) as f64 / f64::from(self.share.entities);
                began + (f64::from(self.pace.next) * spread) as u64
            }
            (Stage::Measure, _) if self.plan.churn > 0.0 => {
                let share = f64::from(self.share.entities) / f64::from(self.plan.entities);
                let every = 1e6 / (self.plan.churn * share);
                began + ((self.pace.churned + 1) as f64 * every) as u64
            }
            _ => u64::MAX,
        }
    }

    /// First SUBSCRIBEs that this stage has still to send.
    pub fn still_to_send(&self) -> u64 {
        match self.stage {
            Stage::Subscribe => u64::from(self.share.entities - self.pace.next),
            _ => 0,
        }
    }

    /// Refreshes, returns and what was put off.
    fn send_backlog(&mut self) -> io::Result<()> {
        while self.unanswered < self.window
            && let Some(at) = self.backlog.pop_front()
        {
            let entity = &self.entities[at as usize];
            if entity.tries > 0 || entity.is_silent() {
                continue;
            }
            match entity.phase() {
                Phase::Idle | Phase::Subscribing => self.send_new_subscribe(at, false)?,
                Phase::Subscribed => {
                    self.counts.refreshes += 1;
                    self.send_new_subscribe(at, false)?;
                }
                Phase::Leaving => self.send_new_subscribe(at, true)?,
                Phase::Left | Phase::Ended | Phase::Refused => {}
            }
        }
        Ok(())
    }

    /// Takes those whose deadline is now.
    pub fn wake(&mut self, now: u64) -> io::Result<()> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now / 1_000, &mut due);
        for (at, tick) in due.drain(..) {
            let entity = &mut self.entities[at as usize];
            if entity.deadline != tick || (entity.is_silent() && entity.tries == 0) {
                continue;
            }
            match entity.tries {
                0 => self.backlog.push_back(at),
                TRIES => {
                    let before = self.stand(at);
                    self.entities[at as usize].gave_up();
                    self.note(at, before, now);
                    self.counts.unanswered += 1;
                    self.unanswered -= 1;
                }
                _ => {
                    entity.tries += 1;
                    self.counts.subscribes_repeated += 1;
                    self.send_subscribe(at)?;
                }
            }
        }
        self.due = due;
        Ok(())
    }

    pub fn send_new_subscribe(&mut self, at: u32, leave: bool) -> io::Result<()> {
        let entity = &mut self.entities[at as usize];
        if entity.tries == 0 {
            self.unanswered += 1;
        }
        entity.subscribe(leave);
        self.send_subscribe(at)
    }

    /// Sends the outstanding SUBSCRIBE, for the first time or again, and arms Timer E.
    fn send_subscribe(&mut self, at: u32) -> io::Result<()> {
        let contact = self.contact(at);
        let now_ms = self.now_us() / 1_000;
        let entity = &mut self.entities[at as usize];
        let timer_us = if entity.tries == TRIES {
            TIMER_F_US - 31_500_000
        } else {
            timer_e_us(entity.tries)
        };
        entity.deadline = self.wheel.arm(at, now_ms, timer_us / 1_000);
        if self.plan.loss > 0.0 && self.chance.random_bool(self.plan.loss) {
            self.counts.withheld_on_purpose += 1;
            return Ok(());
        }
        let entity = &self.entities[at as usize];
        let index = self.share.index(at);
        let message = Subscribe {
            index,
            generation: entity.generation(),
            cseq: entity.subscribe_cseq(),
            contact,
            dialog: entity
                .is_in_dialog()
                .then(|| (self.dialogs.tag(entity), self.dialogs.remote(entity))),
            expires: if entity.phase() == Phase::Leaving {
                0
            } else {
                self.plan.expires
            },
        };
        let target = self.plan.targets[index as usize % self.plan.targets.len()];
        let source = self.share.address(at);
        let template = &self.template;
        self.endpoints[self.share.socket(at)]
            .queue(target, source, |out| template.write(&message, out))
    }

    fn contact(&self, at: u32) -> SocketAddr {
        let endpoint = &self.endpoints[self.share.socket(at)];
        let own = self.share.address(at).map(Into::into);
        SocketAddr::new(own.unwrap_or(endpoint.ip()), endpoint.port())
    }
}
