//! A warm notifier allocates nothing for a NOTIFY or its answer: what a change allocates does not grow with those who
//! hear of it. Nor does a refresh allocate.

#[path = "../benches/support/cluster.rs"]
mod cluster;
#[path = "../benches/support/swarm.rs"]
mod swarm;

use swarm::{Shape, Swarm};

/// Queues, buffers and tables have grown to what they need after so many rounds.
const WARM_UP: usize = 10;
const ROUNDS: usize = 10;
/// Allocations of a round: bodies are rendered once, whoever gets them.
const MOST: u64 = 64;

fn allocations(work: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn a_change_allocates_no_more_for_many_subscribers_than_for_few() {
    for subscribers in [500, 2_000] {
        let (mut swarm, _) = Swarm::new(Shape::OWN, subscribers, allocations);
        for _ in 0..WARM_UP {
            swarm.change();
        }
        for round in 0..ROUNDS {
            let told = swarm.change();
            assert!(told.exchanges >= subscribers as u64);
            assert!(
                told.cost <= MOST,
                "{} allocations to tell {subscribers} subscribers, round {round}",
                told.cost
            );
        }
    }
}

#[test]
fn refreshes_allocate_nothing_of_their_own() {
    const SUBSCRIBERS: usize = 500;
    // A document of one datagram, and one of several parts.
    for servers in [1, 4] {
        let (mut swarm, _) = Swarm::watching(Shape::OWN, servers, SUBSCRIBERS, allocations);
        for _ in 0..WARM_UP {
            swarm.refresh();
            swarm.refresh_unchanged();
        }
        for round in 0..ROUNDS {
            for (status, told) in [(200, swarm.refresh()), (204, swarm.refresh_unchanged())] {
                assert_eq!(told.exchanges, SUBSCRIBERS as u64);
                assert!(
                    told.cost <= MOST,
                    "{} allocations for {SUBSCRIBERS} refreshes answered {status}, round {round}",
                    told.cost
                );
            }
        }
    }
}
