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
        }
    }

    pub fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    pub fn count(&self) -> u32 {
        self.rounds.len() as u32
    }

    /// Begins the next round, meant for `intended_us`; returns its number, from 1, and the server that changes.
    pub fn begin(&mut self, intended_us: u64, measured: bool) -> (u32, u16) {
        self.rounds.push(Round {
            intended_us,
            reached: 0,
            last_us: intended_us,
        });
        let number = self.count();
        if !measured {
            self.warm_up = number;
        }
        (number, ((number - 1) % self.servers) as u16)
    }

    /// An entity's document shows how far a server has come.
    pub fn saw(&mut self, entity: u32, shown: Reached, now_us: u64) {
        if u32::from(shown.server) >= self.servers {
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

    /// Whether every round has reached `live` entities.
    pub fn complete(&self, live: u32) -> bool {
        self.rounds.iter().rev().all(|round| round.reached >= live)
    }

    /// The sum, for the entities that are live.
    pub fn outcome(&self, live: impl Iterator<Item = u32>) -> Outcome {
        let never: u64 = live.map(|entity| self.missed_by(entity)).sum();
        let mut lasts: Vec<u64> = self.rounds[self.warm_up as usize..]
            .iter()
            .map(|round| round.last_us - round.intended_us)
            .collect();
        lasts.sort_unstable();
        Outcome {
            rounds: self.count(),
            measured: lasts.len() as u32,
            missing: never + self.late,
            late: self.late,
            last_median_us: lasts.get(lasts.len() / 2).copied().unwrap_or(0),
            last_worst_us: lasts.last().copied().unwrap_or(0),
            lasts_us: lasts,
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

    #[test]
    fn rounds_go_round_the_servers() {
        let mut rounds = Rounds::new(1, 3, 1_000);
        let begun: Vec<_> = (0..4).map(|at| rounds.begin(at, true)).collect();
        assert_eq!(begun, [(1, 0), (2, 1), (3, 2), (4, 0)]);
    }

    #[test]
    fn latency_runs_from_the_intended_time() {
        let mut rounds = Rounds::new(2, 2, 1_000_000);
        rounds.begin(1_000, true);
        rounds.saw(0, shown(0, 1), 1_400);
        rounds.saw(1, shown(0, 1), 1_900);
        rounds.saw(1, shown(0, 1), 9_900);
        let outcome = rounds.outcome(0..2);
        assert_eq!((outcome.missing, outcome.last_worst_us), (0, 900));
        assert_eq!(
            (rounds.latencies().len(), rounds.latencies().max()),
            (2, 900)
        );
        assert!(rounds.complete(2));
    }

    #[test]
    fn a_newer_round_stands_for_the_older_ones_of_its_server() {
        let mut rounds = Rounds::new(1, 2, 1_000_000);
        for at in 0..4 {
            rounds.begin(at * 100, true);
        }
        rounds.saw(0, shown(0, 3), 500);
        assert_eq!(rounds.outcome(0..1).missing, 2);
        rounds.saw(0, shown(1, 4), 500);
        assert_eq!(rounds.outcome(0..1).missing, 0);
        assert_eq!(rounds.latencies().len(), 4);
    }

    #[test]
    fn what_never_came_is_missing() {
        let mut rounds = Rounds::new(3, 4, 1_000_000);
        for at in 0..5 {
            rounds.begin(at, true);
        }
        rounds.saw(0, shown(0, 5), 10);
        assert_eq!(rounds.outcome([0].into_iter()).missing, 3);
        assert_eq!(rounds.outcome(0..3).missing, 13);
        assert!(!rounds.complete(3));
    }

    #[test]
    fn what_came_after_the_grace_time_is_missing_and_late() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.saw(0, shown(0, 1), 1_001);
        let outcome = rounds.outcome(0..1);
        assert_eq!((outcome.missing, outcome.late), (1, 1));
    }

    #[test]
    fn warming_up_is_checked_but_not_measured() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, false);
        rounds.begin(100, true);
        rounds.saw(0, shown(0, 1), 50);
        assert_eq!(rounds.outcome(0..1).missing, 1);
        rounds.saw(0, shown(0, 2), 150);
        assert_eq!(rounds.latencies().len(), 1);
        assert_eq!(rounds.outcome(0..1).measured, 1);
    }

    #[test]
    fn rounds_that_were_never_begun_are_ignored() {
        let mut rounds = Rounds::new(1, 1, 1_000);
        rounds.begin(0, true);
        rounds.saw(0, shown(0, 9), 5);
        rounds.saw(0, shown(7, 1), 5);
        assert_eq!(rounds.outcome(0..1).missing, 0);
    }
}
