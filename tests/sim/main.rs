//! The simulator: the notifier's shards and the compositor in a world of model peers, on a virtual clock, with faults
//! chosen by a seed. What must never happen is judged by oracles that share no logic with what they judge.

mod judge;
mod net;
mod plan;
mod publisher;
mod reader;
mod subscriber;
mod text;
mod truth;
mod world;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plan::Plan;
use world::World;

/// The seeds of every run of the tests; others by FANFARE_SEED and FANFARE_SEEDS.
const FIRST: u64 = 1;
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn torture() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("the torture messages")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.is_file())
        .collect();
    names.sort();
    names
        .iter()
        .map(|path| std::fs::read(path).expect("a file"))
        .collect()
}

/// FANFARE_SEED is the first seed, FANFARE_SEEDS how many.
#[test]
fn whatever_the_network_does_nothing_that_must_never_happen_happens() {
    let first = number("FANFARE_SEED").unwrap_or(FIRST);
    let seeds = number("FANFARE_SEEDS").unwrap_or(SEEDS);
    let torture = torture();
    let loud = number("FANFARE_SEEDS").is_some();
    let (next, notifies) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let plan = Plan::new(seed);
                    if loud {
                        println!("seed {seed} {:?}", plan.kind);
                    }
                    let tally = World::new(plan, &torture).run();
                    notifies.fetch_add(tally.notifies, Relaxed);
                }
            });
        }
    });
    let notifies = notifies.into_inner();
    println!("{seeds} seeds from {first}, {notifies} NOTIFYs");
    assert!(notifies >= seeds, "the worlds were alive");
}

/// One seed again: FANFARE_SEED=... cargo test --test sim -- replay --nocapture
#[test]
fn replay() {
    let seed = number("FANFARE_SEED").unwrap_or(FIRST);
    let plan = Plan::new(seed);
    println!("{plan:?}");
    let tally = World::new(plan, &torture()).run();
    println!("{tally:?}");
}
