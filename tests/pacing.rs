//! A fan-out goes on whatever its peers do: in virtual time, with turns only when the notifier asked for them.

#[path = "../benches/support/cluster.rs"]
mod cluster;
#[path = "../benches/support/swarm.rs"]
mod swarm;

use swarm::{Shape, Swarm};

const SUBSCRIBERS: usize = 1_000;

fn swarm() -> Swarm {
    let work: swarm::Gauge = |work| {
        work();
        0
    };
    Swarm::new(Shape::OWN, SUBSCRIBERS, work).0
}

#[test]
fn peers_that_are_all_dead_are_told_at_the_windows_pace_and_not_at_that_of_timer_e() {
    // 32 in 30 ms: a second. Did the notifier wait for Timer E (500 ms) each time, it would be 16.
    let took_ms = swarm().change_amid(1, 1, 0, 60_000);
    assert!(
        took_ms.is_some_and(|took_ms| took_ms < 3_000),
        "{took_ms:?}"
    );
}

#[test]
fn a_fan_out_goes_on_while_new_subscriptions_take_most_of_the_window() {
    // Over a path of 30 ms the window carries 68 a millisecond.
    for join_each_ms in [30, 60] {
        let took_ms = swarm().change_amid(30, 0, join_each_ms, 10_000);
        assert!(
            took_ms.is_some_and(|took_ms| took_ms < 3_000),
            "{join_each_ms} SUBSCRIBEs a millisecond: {took_ms:?}"
        );
    }
}
