//! Entities that act: the cores of the library (subscriptions, roster, picker) against the cores of several nodes, over a
//! network that loses, doubles and delays, while servers change and nodes die, drain and start, on a virtual clock. Judged by
//! what the nodes know, with no logic in common with the entities.

mod entity;
mod node;
mod world;

use world::{Tally, World};

/// The seeds of every run of the tests; others by FANFARE_SEED and FANFARE_SEEDS.
const FIRST: u64 = 1;
const SEEDS: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// FANFARE_SEED is the first seed, FANFARE_SEEDS how many; `FANFARE_SEED=7 FANFARE_SEEDS=1` replays one that failed.
#[test]
fn no_entity_keeps_to_a_server_that_its_notifiers_have_long_known_to_be_down() {
    let first = number("FANFARE_SEED").unwrap_or(FIRST);
    let seeds = number("FANFARE_SEEDS").unwrap_or(SEEDS);
    let mut all = Tally::default();
    for seed in first..first + seeds {
        all = all.and(World::new(seed).run());
    }
    println!("{seeds} seeds from {first}: {all:?}");
    // The oracles had something to judge.
    assert!(
        all.judged >= 1_000 * seeds,
        "picks while a server was known to be down"
    );
    assert!(all.replaced >= seeds, "notifiers that were replaced");
}
