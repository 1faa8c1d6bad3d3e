//! When subscribers are told: a fan-out goes on whatever its peers do, and an end is no herd. In virtual time, with turns only
//! when the notifier asked for them.

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

#[test]
fn a_drain_spreads_the_ends_of_its_subscriptions_over_its_time() {
    const DRAIN_MS: u64 = 4_000;
    let work: swarm::Gauge = |work| {
        work();
        0
    };
    let (mut swarm, _) = Swarm::new(Shape::OWN, 100, work);
    let ends_ms = swarm.drain(DRAIN_MS);
    assert_eq!(ends_ms.len(), 100, "each is told once");
    let (first_ms, last_ms) = (ends_ms[0], ends_ms[99]);
    assert!(last_ms <= DRAIN_MS, "the last after {last_ms} ms");
    assert!(last_ms - first_ms >= 2_000, "{ends_ms:?}");
    // Whoever follows the table leaves by itself before.
    assert!(first_ms >= DRAIN_MS / 4, "the first after {first_ms} ms");
    for begin_ms in &ends_ms {
        let within = |end_ms: &&u64| (*begin_ms..begin_ms + 500).contains(*end_ms);
        let count = ends_ms.iter().filter(within).count();
        assert!(
            count <= 33,
            "{count} in half a second from {begin_ms}: {ends_ms:?}"
        );
    }
}
