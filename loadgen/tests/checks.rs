//! loadgen as its users run it, against a notifier that is right, and against ones that are wrong in one way each.

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::{Running, Wrong};

/// Exit status and report of a run against `notifier`.
fn run(notifier: &Running, arguments: &str) -> (i32, Value) {
    let output = loadgen(&format!(
        "--target {} {arguments} --json - --seed 7",
        notifier.address
    ));
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {shown}"));
    eprintln!("{shown}");
    (
        output.status.code().expect("loadgen ended by itself"),
        report,
    )
}

fn loadgen(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("run")
        .args(arguments.split_whitespace())
        .output()
        .expect("loadgen starts")
}

fn right(ip: &str, arguments: &str) -> Value {
    let (status, report) = run(&Running::start(ip, Wrong::Nothing), arguments);
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["right"], true);
    report
}

fn number(report: &Value, path: &str) -> u64 {
    let value = report.pointer(path).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no {path} in {report:#}"))
}

/// The notifier is wrong, loadgen says so by its status, and names the fault.
fn caught(wrong: Wrong, fault: &str) -> Value {
    let notifier = Running::start("127.0.0.1", wrong);
    let (status, report) = run(
        &notifier,
        "--entities 40 --duration 1.5 --changes 4 --grace 1",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(report["right"], false);
    assert_ne!(
        number(&report, &format!("/faults/{fault}")),
        0,
        "{report:#}"
    );
    report
}

#[test]
fn a_right_notifier_has_no_fault() {
    let report = right(
        "127.0.0.1",
        "--entities 300 --duration 2 --changes 5 --warmup 0.4",
    );
    assert_eq!(number(&report, "/subscribing/subscribed"), 300);
    assert_eq!(number(&report, "/changing/rounds"), 12);
    assert_eq!(number(&report, "/changing/measured"), 10);
    assert_eq!(number(&report, "/latency_us/count"), 3_000);
    assert_eq!(number(&report, "/notifying/not_terminated"), 0);
    assert!(number(&report, "/latency_us/p50") <= number(&report, "/latency_us/max"));
}

#[test]
fn ipv6_works_like_ipv4() {
    let report = right(
        "[::1]",
        "--entities 50 --duration 1 --changes 4 --sockets 3",
    );
    assert_eq!(number(&report, "/latency_us/count"), 200);
}

#[test]
fn entities_have_addresses_of_their_own() {
    let report = right(
        "127.0.0.1",
        "--entities 100 --duration 1 --changes 4 --own-address --sockets 2",
    );
    assert_eq!(number(&report, "/latency_us/count"), 400);
    right(
        "127.0.0.1",
        "--entities 100 --duration 1 --changes 4 --hops 8 --sockets 2",
    );
}

#[test]
fn json_documents_are_read() {
    let report = right(
        "127.0.0.1",
        "--entities 50 --duration 1 --changes 4 --format json",
    );
    assert_eq!(number(&report, "/latency_us/count"), 200);
}

#[test]
fn presence_is_driven_and_judged_alike() {
    let arguments = "--entities 50 --duration 1 --changes 4 --event presence --body 700 --grace 1";
    let report = right("127.0.0.1", arguments);
    assert_eq!(number(&report, "/latency_us/count"), 200);
    assert_eq!(number(&report, "/notifying/body_bytes_mean"), 700);
    let notifier = Running::start("127.0.0.1", Wrong::RepeatsAView);
    let (status, report) = run(
        &notifier,
        "--entities 50 --duration 0.1 --changes 10 --event presence --grace 1",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(number(&report, "/changing/missing"), 50, "{report:#}");
}

#[test]
fn several_targets_share_the_entities() {
    let (one, two) = (
        Running::start("127.0.0.1", Wrong::Nothing),
        Running::start("127.0.0.1", Wrong::Nothing),
    );
    let arguments = format!("{} --entities 41 --duration 0.5 --changes 0", two.address);
    let (status, report) = run(&one, &arguments);
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(number(&report, "/subscribing/subscribed"), 41);
}

#[test]
fn servers_publish_elsewhere_if_told_so() {
    let (one, two) = (
        Running::start("127.0.0.1", Wrong::Nothing),
        Running::start("127.0.0.1", Wrong::Nothing),
    );
    // They are no cluster: what the other takes nobody here hears of.
    let arguments = format!(
        "--publish-to {} --entities 5 --duration 0.5 --changes 5 --grace 1",
        two.address
    );
    let (status, report) = run(&one, &arguments);
    assert_ne!(status, 0, "{report:#}");
    assert_eq!(number(&report, "/subscribing/subscribed"), 5);
    assert_eq!(number(&report, "/changing/failed"), 0, "they are published");
    assert!(number(&report, "/changing/missing") > 0, "{report:#}");
}

#[test]
fn no_changes_is_a_quiet_run() {
    let report = right("127.0.0.1", "--entities 20 --duration 0.5 --changes 0");
    assert_eq!(number(&report, "/changing/rounds"), 0);
    assert_eq!(number(&report, "/latency_us/count"), 0);
}

#[test]
fn subscriptions_are_refreshed() {
    let report = right(
        "127.0.0.1",
        "--entities 60 --duration 4 --changes 5 --expires 2",
    );
    assert!(
        number(&report, "/subscribing/refreshes") >= 60,
        "{report:#}"
    );
}

#[test]
fn lost_notifys_come_again_and_nothing_is_missing() {
    let report = right(
        "127.0.0.1",
        "--entities 100 --duration 2 --changes 4 --loss 0.1 --grace 12",
    );
    assert_ne!(number(&report, "/notifying/lost_on_purpose"), 0);
    assert_ne!(number(&report, "/notifying/withheld_on_purpose"), 0);
    assert!(number(&report, "/latency_us/max") >= 400_000, "{report:#}");
}

#[test]
fn the_dead_are_not_missed() {
    let report = right(
        "127.0.0.1",
        "--entities 100 --duration 2 --changes 4 --dead 0.2",
    );
    let dead = number(&report, "/notifying/dead");
    assert!((5..50).contains(&dead), "{report:#}");
    assert_eq!(number(&report, "/changing/live_entities"), 100 - dead);
    assert_ne!(number(&report, "/notifying/retransmissions"), 0);
}

#[test]
fn the_slow_are_slow_and_miss_nothing() {
    let report = right(
        "127.0.0.1",
        "--entities 100 --duration 2 --changes 5 --slow 0.3 --slow-by 0.3",
    );
    assert!((10..60).contains(&number(&report, "/notifying/slow")));
    assert!(number(&report, "/latency_us/max") >= 50_000, "{report:#}");
}

#[test]
fn several_threads_share_the_entities() {
    for hops in ["", "--own-address", "--hops 3"] {
        let report = right(
            "127.0.0.1",
            &format!("--entities 100 --duration 1 --changes 5 --cores 0,0-1 {hops}"),
        );
        assert_eq!(number(&report, "/latency_us/count"), 500);
        let threads = report["loadgen"]["threads"].as_array().unwrap();
        assert_eq!(threads.len(), 2, "{report:#}");
    }
}

#[test]
fn a_herd_comes_within_its_time() {
    let report = right(
        "127.0.0.1",
        "--entities 200 --duration 0.5 --changes 4 --within 0.8",
    );
    let seconds = report["subscribing"]["seconds"].as_f64().unwrap();
    assert!((0.7..5.0).contains(&seconds), "{report:#}");
}

#[test]
fn a_subscribe_that_is_put_off_comes_again() {
    let notifier = Running::start("127.0.0.1", Wrong::PutsOff);
    let (status, report) = run(&notifier, "--entities 50 --duration 0.5 --changes 4");
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(number(&report, "/subscribing/put_off"), 50, "{report:#}");
}

#[test]
fn who_leaves_and_comes_back_has_everything() {
    for more in ["", "--loss 0.05 --grace 12"] {
        let report = right(
            "127.0.0.1",
            &format!("--entities 50 --duration 2 --changes 5 --churn 100 {more}"),
        );
        assert!(number(&report, "/notifying/churned") >= 50, "{report:#}");
        assert_eq!(
            number(&report, "/notifying/churned"),
            number(&report, "/notifying/returned")
        );
    }
}

#[test]
fn a_notify_after_the_end_is_caught() {
    let notifier = Running::start("127.0.0.1", Wrong::GoesOnAfterTheEnd);
    let (status, report) = run(
        &notifier,
        "--entities 20 --duration 1 --changes 4 --churn 20",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_ne!(number(&report, "/faults/after the end"), 0, "{report:#}");
}

#[test]
fn recorded_routes_are_asked_for() {
    let arguments = "--entities 20 --duration 0.5 --changes 4 --record-route --own-address";
    right("127.0.0.1", arguments);
    let notifier = Running::start("127.0.0.1", Wrong::ForgetsTheRoute);
    let (status, report) = run(&notifier, arguments);
    assert_eq!(status, 1, "{report:#}");
    assert_ne!(number(&report, "/faults/wrong route"), 0, "{report:#}");
}

#[test]
fn a_notify_before_the_200_is_no_fault() {
    let notifier = Running::start("127.0.0.1", Wrong::NotifiesFirst);
    let (status, report) = run(
        &notifier,
        "--entities 100 --duration 3 --changes 4 --expires 2",
    );
    assert_eq!(status, 0, "{report:#}");
    assert_ne!(number(&report, "/subscribing/refreshes"), 0, "{report:#}");
}

#[test]
fn a_lost_subscribe_is_sent_again() {
    let notifier = Running::start("127.0.0.1", Wrong::LosesTheFirstSubscribe);
    let (status, report) = run(&notifier, "--entities 100 --duration 0.5 --changes 4");
    assert_eq!(status, 0, "{report:#}");
    assert!(
        number(&report, "/subscribing/repeated") >= 100,
        "{report:#}"
    );
}

#[test]
fn a_forgotten_subscription_is_wrong() {
    let notifier = Running::start("127.0.0.1", Wrong::ForgetsSubscriptions);
    let (status, report) = run(
        &notifier,
        "--entities 40 --duration 3 --changes 1 --expires 2",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(
        number(&report, "/subscribing/refused/481"),
        40,
        "{report:#}"
    );
}

#[test]
fn an_unsubscription_without_its_notify_is_wrong() {
    let notifier = Running::start("127.0.0.1", Wrong::NeverTerminates);
    let (status, report) = run(&notifier, "--entities 40 --duration 0.5 --changes 4");
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(
        number(&report, "/notifying/not_terminated"),
        40,
        "{report:#}"
    );
}

#[test]
fn a_withheld_change_is_missing() {
    let notifier = Running::start("127.0.0.1", Wrong::Withholds);
    let (status, report) = run(
        &notifier,
        "--entities 40 --duration 0.1 --changes 10 --grace 1",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(number(&report, "/changing/missing"), 4, "{report:#}");
}

#[test]
fn a_change_with_the_old_content_is_missing() {
    let notifier = Running::start("127.0.0.1", Wrong::RepeatsAView);
    let (status, report) = run(
        &notifier,
        "--entities 40 --duration 0.1 --changes 10 --grace 1",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(number(&report, "/changing/missing"), 40, "{report:#}");
}

#[test]
fn a_change_after_the_grace_time_is_missing() {
    let notifier = Running::start("127.0.0.1", Wrong::IsLate);
    let (status, report) = run(
        &notifier,
        "--entities 40 --duration 1.5 --changes 0.5 --grace 0.3",
    );
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(number(&report, "/changing/missing"), 40, "{report:#}");
    assert_eq!(number(&report, "/changing/late"), 40, "{report:#}");
}

#[test]
fn a_dropped_notify_is_a_gap() {
    let report = caught(Wrong::DropsANotify, "cseq order");
    assert_ne!(number(&report, "/faults/version gap"), 0, "{report:#}");
    assert_ne!(number(&report, "/notifying/gaps"), 0, "{report:#}");
}

#[test]
fn a_view_that_goes_back_is_caught() {
    caught(Wrong::GoesBack, "view went back");
}

#[test]
fn a_skipped_version_is_caught() {
    caught(Wrong::SkipsAVersion, "version gap");
}

#[test]
fn a_repeated_version_is_caught() {
    caught(Wrong::RepeatsAVersion, "version gap");
}

#[test]
fn a_wrong_base_is_caught() {
    caught(Wrong::LiesAboutTheBase, "wrong base");
}

#[test]
fn a_skipped_cseq_is_caught() {
    caught(Wrong::SkipsACSeq, "cseq order");
}

#[test]
fn two_notifys_at_once_are_caught() {
    caught(Wrong::DoesNotWait, "two outstanding");
}

#[test]
fn another_tag_is_caught() {
    caught(Wrong::ChangesItsTag, "wrong dialog");
}

#[test]
fn a_version_without_padding_is_caught() {
    let report = caught(Wrong::ForgetsThePadding, "malformed");
    assert_eq!(
        report["malformed"],
        "the version is not padded to ten places"
    );
}

#[test]
fn broken_xml_is_caught() {
    caught(Wrong::BreaksTheXml, "malformed");
}

#[test]
fn an_end_that_nobody_asked_for_is_caught() {
    caught(Wrong::EndsASubscription, "ended by notifier");
}

#[test]
fn a_target_that_says_nothing_is_status_three() {
    let notifier = Running::start("127.0.0.1", Wrong::SaysNothing);
    let output = loadgen(&format!(
        "--target {} --entities 3 --duration 1",
        notifier.address
    ));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the target did not answer"));
}

#[test]
fn a_target_that_refuses_is_status_three_and_named() {
    for (wrong, message) in [
        (Wrong::RefusesPublish, "the target refused PUBLISH with 403"),
        (
            Wrong::RefusesSubscribe,
            "the target refused SUBSCRIBE with 403",
        ),
    ] {
        let notifier = Running::start("127.0.0.1", wrong);
        let output = loadgen(&format!(
            "--target {} --entities 3 --duration 1",
            notifier.address
        ));
        assert_eq!(output.status.code(), Some(3));
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(shown.contains(message), "{shown}");
    }
}

#[test]
fn wrong_usage_is_status_two() {
    for arguments in [
        "--entities 3 --duration 1",
        "--target 127.0.0.1:5060 --entities 3 --duration 1 --loss 2",
        "--target [::1]:5060 --entities 3 --duration 1 --own-address",
    ] {
        let output = loadgen(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_plan_of_a_file_is_run_and_kept() {
    let notifier = Running::start("127.0.0.1", Wrong::Nothing);
    let folder = std::env::temp_dir().join(format!("loadgen-kept-{}", std::process::id()));
    let plan = folder.with_extension("toml");
    std::fs::write(&plan, "entities = 5\nduration = 0.3\nchanges = 2\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("plan")
        .arg(&plan)
        .args(["--target", &notifier.address.to_string(), "--changes", "10"])
        .arg("--report")
        .arg(&folder)
        .output()
        .expect("loadgen starts");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (picture, last) = (read("plot.svg"), read("last.hlog"));
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    std::fs::remove_file(&plan).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(number(&report, "/changing/rounds"), 3);
    assert!(picture.contains("NOTIFYs a second") && last.contains("HISTF"));
}

#[test]
fn the_report_goes_to_a_file_and_the_table_to_standard_output() {
    let notifier = Running::start("127.0.0.1", Wrong::Nothing);
    let file = std::env::temp_dir().join(format!("loadgen-report-{}.json", std::process::id()));
    let arguments = format!(
        "--target {} --entities 5 --duration 0.3 --changes 5 --json {}",
        notifier.address,
        file.display()
    );
    let output = loadgen(&arguments);
    let written = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(number(&report, "/subscribing/entities"), 5);
    assert!(String::from_utf8_lossy(&output.stdout).contains("verdict         right"));
}
