//! Several nodes in virtual time, with a model of the gossip between them: messages are late and lost, nodes die and come back,
//! the farm falls apart and heals. The members are the real ones; what they must come to is judged by what publishers were
//! told.

mod engine;
mod member;
mod world;

use world::{Plan, World};

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    match number("FANFARE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FANFARE_SEEDS").unwrap_or(60)).collect(),
    }
}

fn run(plan: impl Fn(u64) -> Plan) {
    for seed in seeds() {
        println!("FANFARE_SEED={seed}");
        World::new(plan(seed)).run();
    }
}

/// Nothing is lost, nobody dies.
#[test]
fn a_quiet_farm_agrees_and_says_what_publishers_said() {
    run(|seed| Plan {
        nodes: 3,
        ..Plan::quiet(seed)
    });
}

#[test]
fn nodes_that_die_take_nothing_with_them_that_was_answered_200() {
    run(|seed| Plan {
        nodes: 3 + (seed % 3) as usize,
        kills: true,
        ..Plan::quiet(seed)
    });
}

#[test]
fn a_farm_that_fell_apart_is_one_again() {
    run(|seed| Plan {
        nodes: 4,
        partitions: true,
        ..Plan::quiet(seed)
    });
}

#[test]
fn everything_at_once() {
    run(|seed| Plan {
        nodes: 5,
        kills: true,
        partitions: true,
        loss: 0.1,
        skew_ms: 4_000,
        ..Plan::quiet(seed)
    });
}
