//! One simulated entity: its dialog, what it knows of the view, and the checks on what a notifier sends it.
//! Pure: knows no socket, no clock and no bytes of a message, and shares no logic with the notifier it judges.

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

/// What a notifier must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A document older than the view that the entity has.
    ViewWentBack,
    /// The version did not grow by one from one NOTIFY with a body to the next (RFC 6665 5.3.2).
    VersionGap,
    /// A partial document whose base is not the entity's view.
    WrongBase,
    /// The CSeq of a new NOTIFY is not one more than that of the former (RFC 3261 12.2.1.1).
    CSeqOrder,
    /// A new NOTIFY while the former was not answered, and no SUBSCRIBE to excuse it.
    TwoOutstanding,
    /// A part of a document out of its turn.
    PartOrder,
    /// The notifier's tag or the Call-ID is not the dialog's.
    WrongDialog,
    /// A NOTIFY or its document that breaks the rules of the event package.
    Malformed,
    /// The notifier ended a subscription that nobody gave up.
    EndedByNotifier,
    /// A new NOTIFY in a subscription that had ended.
    AfterTheEnd,
    /// A NOTIFY without the route that the SUBSCRIBE recorded (RFC 3261 12.1.1).
    WrongRoute,
}

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::ViewWentBack,
        Fault::VersionGap,
        Fault::WrongBase,
        Fault::CSeqOrder,
        Fault::TwoOutstanding,
        Fault::PartOrder,
        Fault::WrongDialog,
        Fault::Malformed,
        Fault::EndedByNotifier,
        Fault::AfterTheEnd,
        Fault::WrongRoute,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::ViewWentBack => "view went back",
            Fault::VersionGap => "version gap",
            Fault::WrongBase => "wrong base",
            Fault::CSeqOrder => "cseq order",
            Fault::TwoOutstanding => "two outstanding",
            Fault::PartOrder => "part order",
            Fault::WrongDialog => "wrong dialog",
            Fault::Malformed => "malformed",
            Fault::EndedByNotifier => "ended by notifier",
            Fault::AfterTheEnd => "after the end",
            Fault::WrongRoute => "wrong route",
        }
    }
}

/// One fault with the figures that show it.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    pub entity: u32,
    pub fault: Fault,
    /// CSeq of the NOTIFY, 0 where it could not be read.
    pub cseq: u32,
    pub expected: u64,
    pub got: u64,
}

/// The faults of a run: all counted, the first few kept.
#[derive(Debug, Default)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    examples: Vec<Example>,
}

impl Faults {
    const EXAMPLES: usize = 16;

    pub fn add(&mut self, example: Example) {
        self.counts[example.fault as usize] += 1;
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(example);
        }
    }

    /// Adds those that other entities saw.
    pub fn merge(&mut self, other: &Faults) {
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count += other;
        }
        let room = Self::EXAMPLES - self.examples.len();
        self.examples.extend(other.examples.iter().take(room));
    }

    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn examples(&self) -> &[Example] {
        &self.examples
    }
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
mod tests {
    use super::*;

    struct Bench {
        entity: Entity,
        faults: Faults,
        batch: u32,
    }

    impl Bench {
        /// An entity that subscribed, was answered, and has view 10 at version 1, CSeq 1.
        fn subscribed() -> Self {
            let mut bench = Bench {
                entity: Entity::default(),
                faults: Faults::default(),
                batch: 1,
            };
            bench.entity.subscribe(false);
            bench.entity.answered(200);
            bench.new_notify(1, full(1, 10));
            assert!(bench.entity.is_live());
            assert_eq!(bench.faults.total(), 0);
            bench
        }

        fn receive(&mut self, cseq: u32, position: Option<Position>) -> Arrival {
            let notify = Notify {
                branch: 1000 + cseq,
                cseq,
                terminated: false,
                position,
                may_overlap: false,
                batch: self.batch,
            };
            self.entity.receive(7, &notify, &mut self.faults)
        }

        /// Receives, answers, and lets the answer go out.
        fn new_notify(&mut self, cseq: u32, position: Position) -> Arrival {
            let arrival = self.receive(cseq, Some(position));
            self.entity.answer(self.batch);
            self.batch += 1;
            arrival
        }

        fn only(&self, fault: Fault) {
            assert_eq!(self.faults.count(fault), 1, "{:?}", self.faults);
            assert_eq!(self.faults.total(), 1, "{:?}", self.faults);
        }
    }

    fn full(version: u32, view: u64) -> Position {
        Position {
            version: Some(version),
            view,
            base: None,
            part: None,
        }
    }

    fn partial(version: u32, base: u64, view: u64) -> Position {
        Position {
            version: Some(version),
            view,
            base: Some(base),
            part: None,
        }
    }

    const TAKEN: Arrival = Arrival::New {
        taken: true,
        repeated: false,
    };

    #[test]
    fn an_orderly_notifier_has_no_fault() {
        let mut bench = Bench::subscribed();
        assert_eq!(bench.new_notify(2, partial(2, 10, 11)), TAKEN);
        assert_eq!(bench.new_notify(3, partial(3, 11, 15)), TAKEN);
        assert_eq!(
            bench.new_notify(4, full(4, 15)),
            Arrival::New {
                taken: true,
                repeated: true
            }
        );
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn an_entity_stays_small() {
        assert!(size_of::<Entity>() <= 64);
    }

    #[test]
    fn a_retransmission_is_recognised_and_changes_nothing() {
        let mut bench = Bench::subscribed();
        assert_eq!(bench.new_notify(1, full(1, 10)), Arrival::Retransmission);
        assert_eq!(bench.new_notify(2, partial(2, 10, 11)), TAKEN);
        assert_eq!(bench.new_notify(1, full(1, 10)), Arrival::Retransmission);
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn a_view_that_goes_back_is_a_fault() {
        let mut bench = Bench::subscribed();
        bench.new_notify(2, full(2, 9));
        bench.only(Fault::ViewWentBack);
    }

    #[test]
    fn a_version_that_skips_or_repeats_is_a_fault() {
        let mut bench = Bench::subscribed();
        bench.new_notify(2, full(3, 11));
        bench.only(Fault::VersionGap);
        let mut bench = Bench::subscribed();
        bench.new_notify(2, full(1, 11));
        bench.only(Fault::VersionGap);
    }

    #[test]
    fn the_first_version_is_one() {
        let mut bench = Bench {
            entity: Entity::default(),
            faults: Faults::default(),
            batch: 1,
        };
        bench.entity.subscribe(false);
        bench.new_notify(1, full(2, 10));
        bench.only(Fault::VersionGap);
    }

    #[test]
    fn a_partial_after_a_version_gap_is_dropped_and_a_full_one_asked_for() {
        let mut bench = Bench::subscribed();
        let arrival = bench.new_notify(2, partial(3, 10, 11));
        assert_eq!(
            arrival,
            Arrival::New {
                taken: false,
                repeated: false
            }
        );
        assert!(bench.entity.wants_full());
        bench.only(Fault::VersionGap);
    }

    #[test]
    fn a_partial_on_another_base_is_a_fault_and_dropped() {
        let mut bench = Bench::subscribed();
        let arrival = bench.new_notify(2, partial(2, 9, 11));
        assert_eq!(
            arrival,
            Arrival::New {
                taken: false,
                repeated: false
            }
        );
        assert!(bench.entity.wants_full());
        bench.only(Fault::WrongBase);
    }

    #[test]
    fn a_cseq_that_skips_is_a_fault() {
        let mut bench = Bench::subscribed();
        bench.new_notify(3, partial(2, 10, 11));
        bench.only(Fault::CSeqOrder);
    }

    #[test]
    fn a_cseq_that_goes_back_is_a_fault_and_not_taken() {
        let mut bench = Bench::subscribed();
        bench.new_notify(2, partial(2, 10, 11));
        let notify = Notify {
            branch: 5,
            cseq: 1,
            terminated: false,
            position: Some(full(3, 12)),
            may_overlap: false,
            batch: bench.batch,
        };
        assert_eq!(
            bench.entity.receive(7, &notify, &mut bench.faults),
            Arrival::OutOfOrder
        );
        bench.only(Fault::CSeqOrder);
    }

    #[test]
    fn a_second_notify_before_the_answer_left_is_a_fault() {
        let mut bench = Bench::subscribed();
        bench.receive(2, Some(partial(2, 10, 11)));
        bench.entity.answer(bench.batch);
        bench.receive(3, Some(partial(3, 11, 12)));
        bench.only(Fault::TwoOutstanding);
    }

    #[test]
    fn a_second_notify_to_an_entity_that_never_answers_is_a_fault() {
        let mut bench = Bench::subscribed();
        bench.receive(2, Some(partial(2, 10, 11)));
        bench.batch += 9;
        bench.receive(3, Some(partial(3, 11, 12)));
        bench.only(Fault::TwoOutstanding);
    }

    #[test]
    fn a_late_repeat_in_the_same_batch_as_the_next_notify_is_no_fault() {
        let mut bench = Bench::subscribed();
        bench.receive(1, Some(full(1, 10)));
        bench.entity.answer(bench.batch);
        bench.receive(2, Some(partial(2, 10, 11)));
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn a_refresh_excuses_one_overlap_and_no_more() {
        let mut bench = Bench::subscribed();
        bench.receive(2, Some(partial(2, 10, 11)));
        bench.entity.subscribe(false);
        bench.entity.answered(200);
        bench.receive(3, Some(full(3, 11)));
        assert_eq!(bench.faults.total(), 0);
        bench.receive(4, Some(partial(4, 11, 12)));
        bench.only(Fault::TwoOutstanding);
    }

    #[test]
    fn a_lost_notify_that_comes_again_is_no_fault() {
        let mut bench = Bench::subscribed();
        let lost = Notify {
            branch: 1002,
            cseq: 2,
            terminated: false,
            position: None,
            may_overlap: false,
            batch: bench.batch,
        };
        bench.entity.lose(7, &lost, &mut bench.faults);
        bench.entity.lose(7, &lost, &mut bench.faults);
        assert_eq!(bench.new_notify(2, partial(2, 10, 11)), TAKEN);
        assert_eq!(bench.new_notify(3, partial(3, 11, 12)), TAKEN);
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn a_lost_notify_overtaken_without_subscribe_is_a_fault() {
        let mut bench = Bench::subscribed();
        let lost = Notify {
            branch: 1002,
            cseq: 2,
            terminated: false,
            position: None,
            may_overlap: false,
            batch: bench.batch,
        };
        bench.entity.lose(7, &lost, &mut bench.faults);
        bench.batch += 1;
        bench.new_notify(3, full(3, 12));
        bench.only(Fault::TwoOutstanding);
    }

    #[test]
    fn a_lost_notify_superseded_after_a_refresh_is_no_fault() {
        let mut bench = Bench::subscribed();
        let lost = Notify {
            branch: 1002,
            cseq: 2,
            terminated: false,
            position: None,
            may_overlap: false,
            batch: bench.batch,
        };
        bench.entity.lose(7, &lost, &mut bench.faults);
        bench.entity.subscribe(false);
        bench.entity.answered(200);
        assert_eq!(bench.new_notify(3, full(3, 12)), TAKEN);
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn parts_make_a_view_when_the_last_has_come() {
        let mut bench = Bench::subscribed();
        let part = |number| Position {
            part: Some((number, 3)),
            ..full(u32::from(number) + 1, 20)
        };
        bench.new_notify(2, part(1));
        bench.new_notify(3, part(2));
        assert_eq!(bench.entity.view, 10);
        bench.new_notify(4, part(3));
        assert_eq!(bench.entity.view, 20);
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn a_part_left_out_is_a_fault() {
        let mut bench = Bench::subscribed();
        let part = |version, number| Position {
            part: Some((number, 3)),
            ..full(version, 20)
        };
        bench.new_notify(2, part(2, 1));
        bench.new_notify(3, part(3, 3));
        bench.only(Fault::PartOrder);
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_a_fault() {
        let mut bench = Bench::subscribed();
        let end = Notify {
            branch: 9,
            cseq: 2,
            terminated: true,
            position: None,
            may_overlap: false,
            batch: bench.batch,
        };
        bench.entity.receive(7, &end, &mut bench.faults);
        assert_eq!(bench.entity.phase(), Phase::Ended);
        bench.only(Fault::EndedByNotifier);
    }

    #[test]
    fn an_end_after_expires_zero_is_none() {
        let mut bench = Bench::subscribed();
        bench.entity.subscribe(true);
        bench.entity.answered(200);
        let end = Notify {
            branch: 9,
            cseq: 2,
            terminated: true,
            position: None,
            may_overlap: false,
            batch: bench.batch,
        };
        bench.entity.receive(7, &end, &mut bench.faults);
        assert_eq!(bench.entity.phase(), Phase::Left);
        assert_eq!(bench.faults.total(), 0);
    }

    #[test]
    fn a_refusal_ends_the_subscription() {
        let mut entity = Entity::default();
        entity.subscribe(false);
        assert!(entity.awaits(1));
        entity.answered(489);
        assert_eq!(entity.phase(), Phase::Refused);
        assert!(!entity.awaits(1));
    }
}
