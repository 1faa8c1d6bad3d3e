//! `fanfare demo`, small: it plays its acts to the end, and nothing is left of it.

use serde_json::Value;

use crate::process::Fanfare;

#[test]
fn all_acts_are_played_and_no_table_ever_lacks_anything() {
    let demo = Fanfare::run(&["demo", "--entities", "20", "--calls", "40", "--json"]);
    let line = demo.line_where(|line| line.starts_with('{'));
    let (status, log) = demo.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let summary: Value = serde_json::from_str(&line).expect("JSON");
    let acts = summary["acts"].as_array().expect("acts");
    let names: Vec<&str> = acts.iter().filter_map(|act| act["act"].as_str()).collect();
    assert_eq!(names, ["server", "node", "drain"], "{line}");
    for act in acts {
        assert_eq!(
            (&act["gaps"], &act["refused"]),
            (&0.into(), &0.into()),
            "{line}"
        );
        assert!(act["last_ms"].as_u64() > Some(0), "{line}");
    }
    assert!(summary["calls"].as_u64() > Some(100), "{line}");
}
