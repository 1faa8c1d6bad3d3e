//! One simulated entity: its dialog, what it knows of the view, and the checks on what a notifier sends it.
//! Pure: knows no socket, no clock and no bytes of a message, and shares no logic with the notifier it judges.

mod faults;

pub use faults::{Example, Fault, Faults};

/// Where the entity's subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// No SUBSCRIBE was sent yet.
    #[default]
    Idle,
    Subscribing,
    Subscribed,
    /// SUBSCRIBE with Expires: 0 was sent, the NOTIFY `terminated` is awaited.
    Leaving,
    /// Ended by the entity's own wish.
    Left,
    /// Ended by the notifier.
    Ended,
    /// A SUBSCRIBE was refused, or not answered within Timer F.
    Refused,
}

/// What a NOTIFY's body says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// `None` in a package whose documents have none.
    pub version: Option<u32>,
    pub view: u64,
    /// The view that a partial document changes; `None` for a full one.
    pub base: Option<u64>,
    /// Number of this part and of all, for a full document in several NOTIFYs.
    pub part: Option<(u16, u16)>,
}

/// One received NOTIFY, as far as an entity judges it.
#[derive(Debug, Clone, Copy)]
pub struct Notify {
    /// A hash of the top Via's branch, which names the transaction (RFC 3261 17.2.3).
    pub branch: u32,
    pub cseq: u32,
    pub terminated: bool,
    /// `None` for a NOTIFY without body, or with one that could not be read.
    pub position: Option<Position>,
    /// The package lets a notifier send the next NOTIFY before this one is answered.
    pub may_overlap: bool,
    /// Number of the batch of answers that this NOTIFY's answer would join; those of former batches have been sent.
    pub batch: u32,
}

/// What a NOTIFY turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Seen before: it gets the same answer again.
    Retransmission,
    /// Older than what was taken already: RFC 3261 12.2.2 answers 500.
    OutOfOrder,
    /// There is no subscription that it could belong to: RFC 6665 4.1.3 answers 481.
    NoSubscription,
    New {
        /// Its document is now part of what the entity knows.
        taken: bool,
        /// Its document says no more than the one before.
        repeated: bool,
    },
}

/// One entity. 64 bytes, so that a million fit.
#[derive(Debug, Clone, Default)]
pub struct Entity {
    view: u64,
    branch: u32,
    former_branch: u32,
    cseq: u32,
    /// CSeq of the newest NOTIFY that was dropped on purpose, 0 if none.
    lost_cseq: u32,
    version: u32,
    /// CSeq of the newest SUBSCRIBE.
    subscribe_cseq: u32,
    /// The batch that the newest answer went out with.
    answered_in: u32,
    /// When the wheel shall wake this entity, in ticks.
    pub deadline: u32,
    /// Where the notifier's tag stands in the swarm's store.
    pub tag: u32,
    /// Number of the remote target in the swarm's store.
    pub remote: u32,
    part: u16,
    /// Number of its dialog, from 0.
    generation: u16,
    pub tag_len: u8,
    /// How often the outstanding SUBSCRIBE was sent; 0 when none is outstanding.
    pub tries: u8,
    phase: Phase,
    has_view: bool,
    unanswered: bool,
    /// A SUBSCRIBE was sent whose NOTIFY may supersede an outstanding one.
    may_supersede: bool,
    silent: bool,
    wants_full: bool,
    /// The newest SUBSCRIBE is one within the dialog.
    in_dialog: bool,
    /// It answers late.
    slow: bool,
    /// It leaves in order to come back.
    returns: bool,
    /// It has left, and has no view of its new subscription yet.
    away: bool,
}

impl Entity {
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it has had a full document.
    pub fn has_view(&self) -> bool {
        self.has_view
    }

    /// Subscribed, and with a view: what the measured phase counts on.
    pub fn is_live(&self) -> bool {
        self.has_view && self.phase == Phase::Subscribed && !self.silent
    }

    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// From now on this entity answers nothing and refreshes nothing.
    pub fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// From now on this entity takes its time to answer.
    pub fn slow_down(&mut self) {
        self.slow = true;
    }

    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// A NOTIFY has not been answered yet.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    pub fn generation(&self) -> u16 {
        self.generation
    }

    pub fn is_in_dialog(&self) -> bool {
        self.in_dialog
    }

    /// It is about to leave, and will come back.
    pub fn shall_return(&mut self) {
        self.returns = true;
    }

    /// Between an old subscription that it gave up and the full state of a new one.
    pub fn is_away(&self) -> bool {
        self.away || self.returns
    }

    /// Has left for good or for a new start, and nothing is outstanding.
    pub fn may_return(&self) -> bool {
        self.returns && self.phase == Phase::Left && self.tries == 0
    }

    /// Forgets its dialog, so that the next SUBSCRIBE makes a new one.
    pub fn renew(&mut self) {
        *self = Entity {
            generation: self.generation.wrapping_add(1),
            subscribe_cseq: self.subscribe_cseq,
            tag: self.tag,
            slow: self.slow,
            silent: self.silent,
            away: true,
            ..Entity::default()
        };
    }

    /// The first full state after a return is there; false if there was none to wait for.
    pub fn is_back(&mut self) -> bool {
        std::mem::take(&mut self.away)
    }

    pub fn subscribe_cseq(&self) -> u32 {
        self.subscribe_cseq
    }

    /// A new SUBSCRIBE transaction begins: the first one, a refresh, or with `leave` the last.
    pub fn subscribe(&mut self, leave: bool) {
        self.subscribe_cseq += 1;
        self.tries = 1;
        self.in_dialog = self.tag_len > 0;
        self.may_supersede = true;
        self.wants_full = false;
        match self.phase {
            Phase::Idle => self.phase = Phase::Subscribing,
            Phase::Subscribed if leave => self.phase = Phase::Leaving,
            _ => {}
        }
    }

    /// Whether `cseq` names the SUBSCRIBE that is still unanswered.
    pub fn awaits(&self, cseq: u32) -> bool {
        self.tries > 0 && self.subscribe_cseq == cseq
    }

    /// The final answer to the outstanding SUBSCRIBE.
    pub fn answered(&mut self, status: u16) {
        self.tries = 0;
        match (status, self.phase) {
            (200..=299, Phase::Subscribing) => self.phase = Phase::Subscribed,
            (200..=299, _) | (_, Phase::Left | Phase::Ended) => {}
            // RFC 6665 4.1.2.3: a 481 says that the subscription is already gone.
            (481, Phase::Leaving) => self.phase = Phase::Left,
            _ => self.phase = Phase::Refused,
        }
    }

    /// The notifier asked for the SUBSCRIBE to come again later.
    pub fn put_off(&mut self) {
        self.tries = 0;
    }

    /// Timer F fired: nobody answered the SUBSCRIBE.
    pub fn gave_up(&mut self) {
        self.tries = 0;
        self.phase = Phase::Refused;
    }

    /// A document did not fit what the entity had, so it must SUBSCRIBE anew to hear everything.
    pub fn wants_full(&self) -> bool {
        self.wants_full && self.tries == 0 && self.phase == Phase::Subscribed && !self.silent
    }

    /// A NOTIFY that is treated as if it had never arrived.
    pub fn lose(&mut self, index: u32, notify: &Notify, faults: &mut Faults) {
        if self.knows(notify.branch) || notify.cseq <= self.cseq {
            return;
        }
        self.check_outstanding(index, notify, faults);
        if self.cseq == 0 {
            self.cseq = notify.cseq - 1;
        }
        self.lost_cseq = self.lost_cseq.max(notify.cseq);
        self.unanswered = true;
    }

    /// Judges a NOTIFY and learns from it. The caller reports by `answer` that it answers.
    pub fn receive(&mut self, index: u32, notify: &Notify, faults: &mut Faults) -> Arrival {
        if self.knows(notify.branch) {
            return Arrival::Retransmission;
        }
        let mut note = |fault, expected, got| {
            faults.add(Example {
                entity: index,
                fault,
                cseq: notify.cseq,
                expected,
                got,
            });
        };
        match self.phase {
            Phase::Subscribing | Phase::Subscribed | Phase::Leaving => {}
            Phase::Left | Phase::Ended => {
                note(
                    Fault::AfterTheEnd,
                    u64::from(self.cseq),
                    u64::from(notify.cseq),
                );
                return Arrival::NoSubscription;
            }
            Phase::Idle | Phase::Refused => return Arrival::NoSubscription,
        }
        if self.cseq != 0 && notify.cseq <= self.cseq {
            note(
                Fault::CSeqOrder,
                u64::from(self.cseq) + 1,
                u64::from(notify.cseq),
            );
            return Arrival::OutOfOrder;
        }
        let newest = self.cseq.max(self.lost_cseq);
        if newest != 0 && notify.cseq > newest.saturating_add(1) {
            note(
                Fault::CSeqOrder,
                u64::from(newest) + 1,
                u64::from(notify.cseq),
            );
        }
        self.check_outstanding(index, notify, faults);
        let overlooked = if self.lost_cseq > self.cseq {
            notify.cseq - self.cseq - 1
        } else {
            0
        };
        self.former_branch = self.branch;
        self.branch = notify.branch;
        self.cseq = notify.cseq;
        self.unanswered = true;
        let before = (self.has_view, self.view);
        let taken = notify
            .position
            .is_some_and(|position| self.take(index, notify.cseq, position, overlooked, faults));
        if notify.terminated {
            self.terminated(index, notify.cseq, faults);
        }
        let repeated = taken && before == (true, self.view);
        Arrival::New { taken, repeated }
    }

    /// What was received is answered with the batch of this number. The repeat of an answer opens nothing: the
    /// notifier may have had the first.
    pub fn answer(&mut self, batch: u32) {
        if self.unanswered {
            self.unanswered = false;
            self.answered_in = batch;
        }
    }

    fn knows(&self, branch: u32) -> bool {
        self.cseq != 0 && (branch == self.branch || branch == self.former_branch)
    }

    /// Only the first sight of a CSeq can overlap; a repeat of a lost one is the same transaction.
    fn check_outstanding(&mut self, index: u32, notify: &Notify, faults: &mut Faults) {
        let first_sight = notify.cseq > self.cseq.max(self.lost_cseq);
        if first_sight && (self.unanswered || self.answered_in == notify.batch) {
            if !self.may_supersede && !notify.may_overlap {
                faults.add(Example {
                    entity: index,
                    fault: Fault::TwoOutstanding,
                    cseq: notify.cseq,
                    expected: u64::from(self.cseq.max(self.lost_cseq)),
                    got: u64::from(notify.cseq),
                });
            }
            self.may_supersede = false;
        }
    }

    fn take(
        &mut self,
        index: u32,
        cseq: u32,
        position: Position,
        overlooked: u32,
        faults: &mut Faults,
    ) -> bool {
        let mut note = |fault, expected, got| {
            faults.add(Example {
                entity: index,
                fault,
                cseq,
                expected,
                got,
            })
        };
        let mut in_turn = true;
        if let Some(version) = position.version {
            let next = self.version.saturating_add(1);
            in_turn = version >= next && version - next <= overlooked;
            if !in_turn {
                note(Fault::VersionGap, u64::from(next), u64::from(version));
            }
            self.version = version;
        }
        if let Some(base) = position.base {
            let fits = self.has_view && base == self.view;
            if !fits {
                note(Fault::WrongBase, self.view, base);
            }
            if !fits || !in_turn {
                self.wants_full = true;
                return false;
            }
        }
        if self.has_view && position.view < self.view {
            note(Fault::ViewWentBack, self.view, position.view);
        }
        if let Some((part, parts)) = position.part {
            let expected = if part == 1 {
                1
            } else {
                self.part.saturating_add(1)
            };
            if part != expected || part > parts {
                note(Fault::PartOrder, u64::from(expected), u64::from(part));
                self.wants_full = true;
                return false;
            }
            self.part = if part == parts { 0 } else { part };
            if part < parts {
                return true;
            }
        }
        // The NOTIFY that a SUBSCRIBE asked for comes after its 2xx, and it is full.
        if position.base.is_none() && self.tries == 0 {
            self.may_supersede = false;
        }
        self.view = position.view;
        self.has_view = true;
        true
    }

    fn terminated(&mut self, index: u32, cseq: u32, faults: &mut Faults) {
        match self.phase {
            Phase::Leaving => self.phase = Phase::Left,
            Phase::Subscribing | Phase::Subscribed => {
                self.phase = Phase::Ended;
                if !self.silent {
                    faults.add(Example {
                        entity: index,
                        fault: Fault::EndedByNotifier,
                        cseq,
                        expected: 0,
                        got: 0,
                    });
                }
            }
            Phase::Idle | Phase::Left | Phase::Ended | Phase::Refused => {}
        }
    }
}

#[cfg(test)]
mod tests;
