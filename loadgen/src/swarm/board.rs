//! What the conductor and the crews tell one another: the phase, the rounds' intended times, how far each crew is. No
//! locks; a crew writes its own lines only, once a turn.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What all crews shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Stage {
    #[default]
    Wait,
    Subscribe,
    /// Changes are under way.
    Measure,
    /// No more changes, the last are awaited.
    Settle,
    Leave,
    Stop,
}

impl Stage {
    const ALL: [Stage; 6] = [
        Stage::Wait,
        Stage::Subscribe,
        Stage::Measure,
        Stage::Settle,
        Stage::Leave,
        Stage::Stop,
    ];
}

/// How far one crew is. Alone on its lines of the cache.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Standing {
    /// The stage that it has entered.
    stage: AtomicU8,
    pub subscribed: AtomicU64,
    /// Entities that had a full document.
    pub ready: AtomicU64,
    /// SUBSCRIBEs that came to nothing.
    pub given_up: AtomicU64,
    /// SUBSCRIBEs that wait for an answer, or to be sent.
    pub open: AtomicU64,
    pub leavers: AtomicU64,
    pub left: AtomicU64,
    pub live: AtomicU64,
    /// Rounds, from the first on, that all of its live entities have.
    pub complete: AtomicU32,
    ended: AtomicBool,
}

/// The whole.
#[derive(Debug)]
pub struct Board {
    stage: AtomicU8,
    crews: Box<[Standing]>,
    /// When each round was meant to be, in us.
    intended: Box<[AtomicU64]>,
    rounds: AtomicU32,
    /// Rounds up to this one are not measured.
    warm_up: AtomicU32,
}

impl Board {
    pub fn new(crews: u32, rounds: usize) -> Self {
        Board {
            stage: AtomicU8::new(Stage::Wait as u8),
            crews: (0..crews).map(|_| Standing::default()).collect(),
            intended: (0..rounds).map(|_| AtomicU64::new(0)).collect(),
            rounds: AtomicU32::new(0),
            warm_up: AtomicU32::new(0),
        }
    }

    pub fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.stage.load(Ordering::Acquire))]
    }

    pub fn begin(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    pub fn standing(&self, crew: u32) -> &Standing {
        &self.crews[crew as usize]
    }

    pub fn sum(&self, figure: impl Fn(&Standing) -> &AtomicU64) -> u64 {
        let figures = self.crews.iter().map(figure);
        figures.map(|figure| figure.load(Ordering::Relaxed)).sum()
    }

    /// Whether every crew has entered the stage.
    pub fn is_entered(&self, stage: Stage) -> bool {
        let crews = self.crews.iter();
        crews
            .map(|crew| crew.stage.load(Ordering::Acquire))
            .all(|at| at >= stage as u8)
    }

    /// Whether a crew has ended before it was told to.
    pub fn is_broken(&self) -> bool {
        self.crews
            .iter()
            .any(|crew| crew.ended.load(Ordering::Acquire))
    }

    /// Whether all entities have all rounds.
    pub fn is_complete(&self) -> bool {
        let count = self.rounds.load(Ordering::Relaxed);
        self.crews
            .iter()
            .all(|crew| crew.complete.load(Ordering::Relaxed) >= count)
    }

    /// Makes a round known before it is published; returns its number, from 1; `None` when there is no room.
    pub fn begin_round(&self, intended_us: u64, measured: bool) -> Option<u32> {
        let count = self.rounds.load(Ordering::Relaxed);
        self.intended
            .get(count as usize)?
            .store(intended_us, Ordering::Relaxed);
        if !measured {
            self.warm_up.store(count + 1, Ordering::Relaxed);
        }
        self.rounds.store(count + 1, Ordering::Release);
        Some(count + 1)
    }

    pub fn rounds(&self) -> u32 {
        self.rounds.load(Ordering::Acquire)
    }

    /// When a round was meant to be, and whether it is measured.
    pub fn round(&self, number: u32) -> (u64, bool) {
        let intended = self.intended[number as usize - 1].load(Ordering::Relaxed);
        (intended, number > self.warm_up.load(Ordering::Relaxed))
    }
}

impl Standing {
    /// What was stored before is seen by whoever sees the stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }
}

/// Says that a crew has ended, however it does.
#[derive(Debug)]
pub struct Attendance<'a>(pub &'a Standing);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_known_with_their_times() {
        let board = Board::new(1, 3);
        assert_eq!(board.begin_round(10, false), Some(1));
        assert_eq!(board.begin_round(20, true), Some(2));
        assert_eq!(board.rounds(), 2);
        assert_eq!((board.round(1), board.round(2)), ((10, false), (20, true)));
        assert_eq!(board.begin_round(30, true), Some(3));
        assert_eq!(board.begin_round(40, true), None);
    }

    #[test]
    fn all_crews_must_be_there() {
        let board = Board::new(2, 1);
        board.begin_round(1, true);
        board.standing(0).complete.store(1, Ordering::Relaxed);
        board.standing(0).enter(Stage::Measure);
        assert!(!board.is_complete() && !board.is_entered(Stage::Measure));
        board.standing(1).complete.store(1, Ordering::Relaxed);
        board.standing(1).enter(Stage::Settle);
        assert!(board.is_complete() && board.is_entered(Stage::Measure));
        assert!(!board.is_broken());
        drop(Attendance(board.standing(1)));
        assert!(board.is_broken());
    }
}
