//! The rounds of a run: when each change was meant to happen, whom it reached and when. Pure.

use hdrhistogram::Histogram;

use crate::document::Reached;

/// One change.
#[derive(Debug, Clone, Copy)]
struct Round {
    intended_us: u64,
    reached: u32,
    last_us: u64,
}

/// All changes so far, the latencies, and what each entity has seen of each simulated server.
#[derive(Debug)]
pub struct Rounds {
    servers: u32,
    /// Rounds up to this one warm up: they are checked, but not measured.
    warm_up: u32,
    grace_us: u64,
    rounds: Vec<Round>,
    /// Newest round seen, by entity and server.
    seen: Vec<u32>,
    latencies: Histogram<u64>,
    late: u64,
    /// Rounds, from the first on, that every live entity has.
    complete: u32,
    /// Changes that live entities never had, once that is judged: what comes later changes nothing.
    never: Option<u64>,
}

/// What the rounds came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rounds: u32,
    pub measured: u32,
    /// Changes that an entity did not have within the grace time, summed over entities.
    pub missing: u64,
    /// Those of them that came, but after the grace time.
    pub late: u64,
    /// Median over the rounds of the time to the last entity, in us.
    pub last_median_us: u64,
    pub last_worst_us: u64,
    /// Times to the last entity of the measured rounds, in us, ascending.
    pub lasts_us: Vec<u64>,
    /// From the last change to when the last entity had all changes, in us.
    pub settled_us: u64,
}

impl Rounds {
    pub fn new(entities: u32, servers: u32, grace_us: u64) -> Self {
        Rounds {
            servers,
            warm_up: 0,
            grace_us,
            rounds: Vec::new(),
            seen: vec![0; entities as usize * servers as usize],
            // Three digits, growing as needed: fixed bounds would cut what is slower than expected.
            latencies: Histogram::new(3).expect("three significant digits are allowed"),
            late: 0,
            complete: 0,
            never: None,
        }
    }

    pub fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    pub fn count(&self) -> u32 {
        self.rounds.len() as u32
    }

    /// The next round is meant for `intended_us`.
    pub fn begin(&mut self, intended_us: u64, measured: bool) {
        self.rounds.push(Round {
            intended_us,
            reached: 0,
            last_us: intended_us,
        });
        if !measured {
            self.warm_up = self.count();
        }
    }

    /// An entity's document shows how far a server has come.
    pub fn saw(&mut self, entity: u32, shown: Reached, now_us: u64) {
        self.reach(entity, shown, now_us, true);
    }

    /// The same for an entity that was away when the change was made: it has it, but that was no news.
    pub fn caught_up(&mut self, entity: u32, shown: Reached, now_us: u64) {
        self.reach(entity, shown, now_us, false);
    }

    fn reach(&mut self, entity: u32, shown: Reached, now_us: u64, is_news: bool) {
        if u32::from(shown.server) >= self.servers || self.never.is_some() {
            return;
        }
        let seen =
            &mut self.seen[entity as usize * self.servers as usize + usize::from(shown.server)];
        let newest = shown.round.min(self.rounds.len() as u32);
        if newest <= *seen {
            return;
        }
        let first = if *seen == 0 {
            u32::from(shown.server) + 1
        } else {
            *seen + self.servers
        };
        *seen = newest;
        for number in (first..=newest).step_by(self.servers as usize) {
            let round = &mut self.rounds[number as usize - 1];
            let latency = now_us.saturating_sub(round.intended_us);
            round.reached += 1;
            if !is_news {
                continue;
            }
            round.last_us = round.last_us.max(now_us);
            if latency > self.grace_us {
                self.late += 1;
            }
            if number > self.warm_up {
                self.latencies
                    .record(latency)
                    .expect("a histogram without bounds grows");
            }
        }
    }

    /// How many entities the newest round has reached.
    pub fn newest_reached(&self) -> u32 {
        self.rounds.last().map_or(0, |round| round.reached)
    }

    /// How many rounds, from the first on, have reached `live` entities.
    pub fn complete(&mut self, live: u32) -> u32 {
        let rest = self.rounds[self.complete as usize..].iter();
        self.complete += rest.take_while(|round| round.reached >= live).count() as u32;
        self.complete
    }

    /// No more will come: what the live entities have not had is missing.
    pub fn close(&mut self, live: impl Iterator<Item = u32>) {
        self.never = Some(live.map(|entity| self.missed_by(entity)).sum());
    }

    /// Adds what reached other entities in the same rounds.
    pub fn merge(&mut self, other: &Rounds) {
        for (round, other) in self.rounds.iter_mut().zip(&other.rounds) {
            round.reached += other.reached;
            round.last_us = round.last_us.max(other.last_us);
        }
        self.latencies
            .add(&other.latencies)
            .expect("a histogram without bounds grows");
        self.late += other.late;
        self.never = self.never.zip(other.never).map(|(one, other)| one + other);
    }

    /// The sum.
    pub fn outcome(&self) -> Outcome {
        let newest = self.rounds.iter().map(|round| round.last_us).max();
        let settled = newest.zip(self.rounds.last());
        let mut lasts: Vec<u64> = self.rounds[self.warm_up as usize..]
            .iter()
            .map(|round| round.last_us - round.intended_us)
            .collect();
        lasts.sort_unstable();
        Outcome {
            rounds: self.count(),
            measured: lasts.len() as u32,
            missing: self.never.unwrap_or(0) + self.late,
            late: self.late,
            last_median_us: lasts.get(lasts.len() / 2).copied().unwrap_or(0),
            last_worst_us: lasts.last().copied().unwrap_or(0),
            lasts_us: lasts,
            settled_us: settled.map_or(0, |(newest, last)| newest - last.intended_us),
        }
    }

    fn missed_by(&self, entity: u32) -> u64 {
        let count = self.count();
        (0..self.servers)
            .map(|server| {
                let due = (count + self.servers - 1 - server) / self.servers;
                let seen = self.seen[entity as usize * self.servers as usize + server as usize];
                let had = (seen + self.servers - 1 - server) / self.servers;
                u64::from(due.saturating_sub(had))
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(server: u16, round: u32) -> Reached {
        Reached { server, round }
    }

    fn outcome(rounds: &mut Rounds, live: impl Iterator<Item = u32>) -> Outcome {
        rounds.close(live);
        let outcome = rounds.outcome();
        rounds.never = None;
        outcome
    }

    #[test]
    fn what_comes_after_the_judgement_changes_nothing() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.close(0..1);
        rounds.saw(0, shown(0, 1), 9_000);
        let outcome = rounds.outcome();
        assert_eq!((outcome.missing, outcome.late), (1, 0));
    }

    #[test]
    fn shares_of_a_swarm_add_up() {
        let share = || {
            let mut rounds = Rounds::new(2, 1, 1_000_000);
            rounds.begin(1_000, true);
            rounds.begin(2_000, true);
            rounds
        };
        let (mut one, mut two) = (share(), share());
        one.saw(0, shown(0, 2), 2_100);
        one.saw(1, shown(0, 1), 2_200);
        two.saw(0, shown(0, 2), 2_900);
        assert_eq!(
            (one.complete(1), one.complete(2), two.complete(1)),
            (2, 2, 2)
        );
        one.close(0..2);
        two.close(0..1);
        one.merge(&two);
        let outcome = one.outcome();
        assert_eq!((outcome.missing, outcome.last_worst_us), (1, 1_900));
        assert_eq!(outcome.settled_us, 900);
        assert_eq!(one.latencies().len(), 5);
    }

    #[test]
    fn what_an_entity_catches_up_on_is_no_latency() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.caught_up(0, shown(0, 1), 9_000);
        assert_eq!(rounds.complete(1), 1);
        assert_eq!(rounds.latencies().len(), 0);
        assert_eq!(outcome(&mut rounds, 0..1).missing, 0);
    }

    #[test]
    fn latency_runs_from_the_intended_time() {
        let mut rounds = Rounds::new(2, 2, 1_000_000);
        rounds.begin(1_000, true);
        rounds.saw(0, shown(0, 1), 1_400);
        rounds.saw(1, shown(0, 1), 1_900);
        rounds.saw(1, shown(0, 1), 9_900);
        let outcome = outcome(&mut rounds, 0..2);
        assert_eq!((outcome.missing, outcome.last_worst_us), (0, 900));
        assert_eq!(
            (rounds.latencies().len(), rounds.latencies().max()),
            (2, 900)
        );
        assert_eq!(rounds.complete(2), 1);
    }

    #[test]
    fn a_newer_round_stands_for_the_older_ones_of_its_server() {
        let mut rounds = Rounds::new(1, 2, 1_000_000);
        for at in 0..4 {
            rounds.begin(at * 100, true);
        }
        rounds.saw(0, shown(0, 3), 500);
        assert_eq!(outcome(&mut rounds, 0..1).missing, 2);
        rounds.saw(0, shown(1, 4), 500);
        assert_eq!(outcome(&mut rounds, 0..1).missing, 0);
        assert_eq!(rounds.latencies().len(), 4);
    }

    #[test]
    fn what_never_came_is_missing() {
        let mut rounds = Rounds::new(3, 4, 1_000_000);
        for at in 0..5 {
            rounds.begin(at, true);
        }
        rounds.saw(0, shown(0, 5), 10);
        assert_eq!(outcome(&mut rounds, [0].into_iter()).missing, 3);
        assert_eq!(outcome(&mut rounds, 0..3).missing, 13);
        assert_eq!(rounds.complete(3), 0);
    }

    #[test]
    fn what_came_after_the_grace_time_is_missing_and_late() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.saw(0, shown(0, 1), 1_001);
        let outcome = outcome(&mut rounds, 0..1);
        assert_eq!((outcome.missing, outcome.late), (1, 1));
    }

    #[test]
    fn warming_up_is_checked_but_not_measured() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, false);
        rounds.begin(100, true);
        rounds.saw(0, shown(0, 1), 50);
        assert_eq!(outcome(&mut rounds, 0..1).missing, 1);
        rounds.saw(0, shown(0, 2), 150);
        assert_eq!(rounds.latencies().len(), 1);
        assert_eq!(outcome(&mut rounds, 0..1).measured, 1);
    }

    #[test]
    fn rounds_that_were_never_begun_are_ignored() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.saw(0, shown(0, 9), 5);
        rounds.saw(0, shown(7, 1), 5);
        assert_eq!(outcome(&mut rounds, 0..1).missing, 0);
    }
}
