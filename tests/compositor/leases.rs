//! Leases and what becomes of a server without one; publishers that contend; which changes are urgent.

use fanfare::info::*;

use crate::publisher::*;

#[test]
fn a_lease_that_runs_out_shows_down_at_once_with_the_stamp_of_the_lease() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 7))).tag();
    world.advance(20_000);
    let tag = world.send(&refresh(&tag)).tag();
    world.advance(29_999);
    assert_eq!(world.entry("p1").server.status, Status::Up);
    assert_eq!(
        world.compositor.next_deadline(),
        Some(START.mono_ms + 50_000)
    );
    world.advance(1);
    let view = world.view();
    let entry = world.entry("p1");
    assert_eq!(
        (&entry.server.status, entry.server.load),
        (&Status::Down, Some(7))
    );
    assert_eq!(entry.server.updated, lease(&tag));
    assert_eq!(view.urgent, view.revision);
    assert_eq!(world.send(&refresh(&tag)).status, 412);
    assert_eq!(world.compositor.counters().lapsed, 1);
    let again = world.send(&initial(&server("p1", 8)));
    assert!(lease(&again.tag()) > lease(&tag));
    assert!(
        world.entry("p1").server.updated > lease(&tag),
        "any later word beats it"
    );
    assert_eq!(world.entry("p1").server.status, Status::Up);
    assert_eq!(
        world.compositor.counters().taken_over,
        0,
        "the lease had run out"
    );
}

#[test]
fn a_publish_that_comes_before_the_tick_finds_the_lease_run_out() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 7))).tag();
    world.now.mono_ms += 30_000;
    assert_eq!(world.send(&refresh(&tag)).status, 412);
    assert_eq!(world.entry("p1").server.status, Status::Down);
}

#[test]
fn a_refresh_without_body_changes_neither_stamp_nor_view() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 7))).tag();
    let view = world.view();
    let again = world.send(&refresh(&tag)).tag();
    assert!(lease(&again) > lease(&tag));
    let same = world.send(&modify(&again, &server("p1", 7)));
    assert_eq!(same.status, 200, "a body that says the same is a refresh");
    assert_eq!(world.view(), view);
}

#[test]
fn a_forgotten_server_is_deleted_and_at_last_gone() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 7))).tag();
    world.advance(30_000 + 3_600_000 - 1);
    assert!(!world.entry("p1").deleted);
    world.advance(1);
    let entry = world.entry("p1");
    assert!(entry.deleted && entry.server.updated > lease(&tag));
    assert_eq!(entry.server.updated.ms, world.now.unix_ms);
    let urgent = world.view().urgent;
    assert_eq!(urgent, world.view().revision);
    world.advance(7_200_000 - 1);
    assert_eq!(world.view().entries.len(), 1);
    world.advance(1);
    let view = world.view();
    assert!(view.entries.is_empty());
    assert!(
        view.revision > urgent && view.urgent == urgent,
        "nobody waits for that"
    );
    assert_eq!(world.compositor.next_deadline(), None);
    assert_eq!(world.compositor.counters().forgotten, 1);
}

#[test]
fn a_removed_server_may_come_back() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 7))).tag();
    let removed = world.send(&remove(&tag)).tag();
    let entry = world.entry("p1");
    assert!(entry.deleted);
    assert_eq!(entry.server.updated, lease(&removed));
    assert_eq!(world.send(&refresh(&removed)).status, 412);
    assert_eq!(world.send(&initial(&server("p1", 7))).status, 200);
    let back = world.entry("p1");
    assert!(!back.deleted && back.server.updated > entry.server.updated);
    assert_eq!(world.view().urgent, world.view().revision);
}

#[test]
fn the_newest_publisher_wins_until_they_contend_too_often() {
    let mut world = World::one();
    let mut tag = world.send(&initial(&server("p1", 0))).tag();
    for load in 1..=3 {
        world.advance(1_000);
        let newer = world.send(&initial(&server("p1", load))).tag();
        assert_eq!(world.send(&refresh(&tag)).status, 412);
        assert_eq!(world.entry("p1").server.load, Some(load));
        tag = newer;
    }
    let answer = world.send(&initial(&server("p1", 9)));
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.header("Warning"),
        Some("399 fanfare \"taken over too often\"")
    );
    assert_eq!(world.entry("p1").server.load, Some(3));
    tag = world.send(&refresh(&tag)).tag();
    let counters = *world.compositor.counters();
    assert_eq!((counters.taken_over, counters.contested), (3, 1));
    for _ in 0..3 {
        world.advance(19_000);
        tag = world.send(&refresh(&tag)).tag();
    }
    world.advance(999);
    assert_eq!(
        world.send(&initial(&server("p1", 9))).status,
        403,
        "60 s after the first"
    );
    world.advance(1);
    assert_eq!(world.send(&initial(&server("p1", 9))).status, 200);
    assert_eq!(
        world.send(&initial(&server("p2", 9))).status,
        200,
        "another id is free"
    );
}

#[test]
fn stamps_grow_though_the_time_of_day_goes_back() {
    let mut world = World::one();
    let mut tag = world.send(&initial(&server("p1", 0))).tag();
    let mut updated = world.entry("p1").server.updated.clone();
    for load in 1..20 {
        world.now.unix_ms -= 1_000;
        let newer = world.send(&modify(&tag, &server("p1", load))).tag();
        assert!(lease(&newer) > lease(&tag));
        assert!(world.entry("p1").server.updated > updated);
        assert!(lease(&newer) > world.entry("p1").server.updated);
        (tag, updated) = (newer, world.entry("p1").server.updated.clone());
    }
}

#[test]
fn changes_move_the_revision_of_their_class_alone() {
    let mut world = World::one();
    let mut now = server("p1", 10);
    let mut tag = world.send(&initial(&now)).tag();
    let mut change = |what: &str, alter: &mut dyn FnMut(&mut Server), moved: [bool; 3]| {
        let before = world.view();
        alter(&mut now);
        tag = world.send(&modify(&tag, &now)).tag();
        let after = world.view();
        assert_eq!(after.revision, before.revision + 1, "{what}");
        let marks = |view: &View| [view.urgent, view.notable, view.load];
        for ((old, new), moved) in marks(&before).into_iter().zip(marks(&after)).zip(moved) {
            assert_eq!(new, if moved { after.revision } else { old }, "{what}");
        }
        assert_eq!(
            after.entries[0].server.load, now.load,
            "{what}: stored all the same"
        );
    };
    let mut load = |load: u8, moved: bool| {
        change(
            &format!("load {load}"),
            &mut |now| now.load = Some(load),
            [false, false, moved],
        );
    };
    for (value, moved) in [
        (14, false),
        (8, false),
        (15, true),
        (18, false),
        (20, true),
        (16, false),
    ] {
        load(value, moved);
    }
    change(
        "status",
        &mut |now| now.status = Status::Draining,
        [true, false, false],
    );
    // The change of status carried the load 16.
    change(
        "load",
        &mut |now| now.load = Some(20),
        [false, false, false],
    );
    change("weight", &mut |now| now.weight = 9, [false, true, false]);
    change(
        "load",
        &mut |now| now.load = Some(16),
        [false, false, false],
    );
    change(
        "load unknown",
        &mut |now| now.load = None,
        [false, false, true],
    );
    change(
        "load known",
        &mut |now| now.load = Some(0),
        [false, false, true],
    );
    change(
        "load over 0",
        &mut |now| now.load = Some(1),
        [false, false, true],
    );
    change(
        "services",
        &mut |now| now.services = vec!["turn".into()],
        [false, true, false],
    );
    change(
        "attributes",
        &mut |now| now.attributes = vec![("a".into(), "b".into())],
        [false, true, false],
    );
    change(
        "addresses",
        &mut |now| now.addresses[0].port = 5070,
        [false, true, false],
    );
    change(
        "priority and load",
        &mut |now| (now.priority, now.load) = (1, Some(60)),
        [false, true, true],
    );
    change(
        "status and load",
        &mut |now| (now.status, now.load) = (Status::Up, Some(100)),
        [true, false, true],
    );
}

#[test]
fn a_server_found_dead_after_what_was_shown_of_it_ran_out_stays_down() {
    let mut world = World::one();
    let alive = server("p1", 7);
    let dead = Server {
        status: Status::Down,
        ..alive.clone()
    };
    world.compositor.show(world.now, &alive, 60);
    assert_eq!(world.entry("p1").server.status, Status::Up);
    world.advance(60_000);
    assert_eq!(world.entry("p1").server.status, Status::Down);
    world.compositor.show(world.now, &dead, 60);
    assert_eq!(world.entry("p1").server.status, Status::Down);
    world.compositor.show(world.now, &alive, 60);
    assert_eq!(world.entry("p1").server.status, Status::Up);
}

#[test]
fn while_it_is_frozen_no_lease_runs_out_and_after_a_while_they_do() {
    let mut world = World::one();
    world.send(&initial(&server("p1", 7)));
    world.compositor.freeze();
    world.advance(100_000);
    assert_eq!(world.entry("p1").server.status, Status::Up);
    world.compositor.thaw(world.now);
    world.advance(4_999);
    assert_eq!(world.entry("p1").server.status, Status::Up);
    world.advance(1);
    assert_eq!(world.entry("p1").server.status, Status::Down);
}
