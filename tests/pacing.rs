//! A fan-out goes on whatever its peers do: in virtual time, with turns only when the notifier asked for them.

#[path = "../benches/support/cluster.rs"]
mod cluster;
#[path = "../benches/support/swarm.rs"]
mod swarm;

use swarm::{Shape, Swarm};

const SUBSCRIBERS: usize = 1_000;

fn swarm(receive_buffer: usize) -> Swarm {
    let work: swarm::Gauge = |work| {
        work();
        0
    };
    Swarm::made(Shape::OWN, 1, SUBSCRIBERS, receive_buffer, work).0
}

#[test]
fn peers_that_are_all_dead_hold_the_next_up_for_no_longer_than_the_window_says() {
    let told = swarm(16 << 20).change_amid(1, 1, 0, 60_000);
    let (_, longest_ms) = told.expect("all are told");
    // Whoever has not answered for 30 ms is waited for no more, and that is seen every 10 ms. Timer E comes after 500.
    assert!(longest_ms <= 40, "nobody was told for {longest_ms} ms");
}

#[test]
fn a_fan_out_goes_on_while_new_subscriptions_take_all_the_room_they_can() {
    // Half a default receive buffer holds 81 answers: over a path of 30 ms, 2.7 NOTIFYs a millisecond.
    for join_each_ms in [0, 2, 10] {
        let told = swarm(212_992).change_amid(30, 0, join_each_ms, 10_000);
        let (took_ms, _) = told.unwrap_or((u64::MAX, 0));
        assert!(
            took_ms < 1_500,
            "{join_each_ms} SUBSCRIBEs a millisecond: {took_ms} ms"
        );
    }
}
