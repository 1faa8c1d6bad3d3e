//! SIPp as a subscriber that answers badly, or spells its answers unusually.

use std::time::Duration;

use crate::publishers::{modify, publish};
use crate::quiet_node;
use crate::sipp::{Message, Sipp, Transport, run};

#[test]
fn who_answers_481_is_told_nothing_more() {
    for transport in Transport::BOTH {
        let node = quiet_node();
        run("gone", transport, &node, &[]);
        let hear = Sipp::start("hear", Transport::Udp, node.udp, &[]);
        node.wait_for("acknowledged", 1);
        publish(&node, transport, "300");
        hear.finish(&node);
        let counters = node.counters();
        assert_eq!(counters.get("rejected"), 1, "{}", node.stderr());
        assert_eq!(counters.get("removed"), 1, "{}", node.stderr());
        // One of who is gone, two of who heard the change.
        assert_eq!(counters.get("notifies"), 3, "{}", node.stderr());
    }
}

#[test]
fn who_answers_503_is_kept_and_told_all_after_retry_after() {
    for transport in Transport::BOTH {
        let node = quiet_node();
        let busy = Sipp::start("retry_after", transport, transport.of(&node), &[]);
        node.wait_for("acknowledged", 1);
        let tag = publish(&node, transport, "300");
        node.wait_for("rejected", 1);
        modify(&node, transport, &tag);
        let messages = busy.finish(&node);
        let refused = messages
            .iter()
            .find(|message| message.is_sent && message.text.starts_with("SIP/2.0 503"))
            .expect("a 503");
        let again = messages
            .iter()
            .find(|message| message.is_notify() && message.at > refused.at)
            .expect("a NOTIFY after it");
        // Retry-After was 2 s; a tenth is left to how SIPp was late.
        let wait = again.at - refused.at;
        assert!(wait >= Duration::from_millis(1_800), "only {wait:?} later");
        assert_eq!(node.counters().get("removed"), 0, "{}", node.stderr());
    }
}

#[test]
fn who_is_silent_hears_retransmissions_by_timer_e_until_timer_f() {
    let node = quiet_node();
    let messages = run("silent", Transport::Udp, &node, &["-nr"]);
    let notifies: Vec<&Message> = messages
        .iter()
        .filter(|message| message.is_notify())
        .collect();
    let first = notifies.first().expect("a NOTIFY");
    for again in &notifies {
        assert_eq!(
            again.text.trim_end(),
            first.text.trim_end(),
            "not the same bytes"
        );
    }
    // RFC 3261 17.1.2.2: 500 ms, doubled up to T2.
    let due_ms = [
        0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
    ];
    let offsets: Vec<Duration> = notifies.iter().map(|again| again.at - first.at).collect();
    for (offset, due_ms) in offsets.iter().zip(due_ms) {
        let due = Duration::from_millis(due_ms);
        let (soonest, latest) = (
            due.saturating_sub(Duration::from_millis(400)),
            due + Duration::from_millis(1_900),
        );
        assert!((soonest..latest).contains(offset), "{due:?}: {offsets:?}");
    }
    // The last is due half a second before Timer F: on a busy machine that may come first.
    assert!((10..=11).contains(&notifies.len()), "{offsets:?}");
    let counters = node.counters();
    let again = counters.get("retransmissions");
    assert_eq!(again, notifies.len() as u64 - 1, "{}", node.stderr());
    for name in ["notifies", "timeouts", "removed"] {
        assert_eq!(counters.get(name), 1, "{name}\n{}", node.stderr());
    }
    assert_eq!(counters.get("live"), 0, "{}", node.stderr());
}

#[test]
fn an_answer_with_another_branch_is_not_taken() {
    let node = quiet_node();
    run("wrong_branch", Transport::Udp, &node, &["-nr"]);
    let counters = node.wait_for("acknowledged", 2);
    assert_eq!(counters.get("late_answers"), 1, "{}", node.stderr());
    assert!(counters.get("retransmissions") >= 1, "{}", node.stderr());
}

#[test]
fn header_names_in_lower_case_are_understood() {
    is_understood("lower_case");
}

#[test]
fn compact_forms_are_understood() {
    is_understood("compact");
}

#[test]
fn folded_lines_are_understood() {
    is_understood("folded");
}

fn is_understood(scenario: &str) {
    let node = quiet_node();
    for transport in Transport::BOTH {
        run(scenario, transport, &node, &[]);
    }
    let counters = node.wait_for("acknowledged", 6);
    assert_eq!(counters.get("abandoned"), 0, "{}", node.stderr());
    assert_eq!(counters.get("garbage"), 0, "{}", node.stderr());
}
