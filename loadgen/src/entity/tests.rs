//! What an entity makes of NOTIFYs, right and wrong.

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
