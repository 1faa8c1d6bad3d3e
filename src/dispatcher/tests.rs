//! The plans carried out at a module of a few lines, which spreads calls as Kamailio's source says.

use proptest::prelude::*;

use super::*;
use crate::info::{Format, parse};

/// What the module keeps of a destination.
#[derive(Debug, Clone)]
struct Kept {
    uri: String,
    is_disabled: bool,
    attributes: String,
}

/// Kamailio's set.
#[derive(Debug, Clone, Default)]
struct Module(Vec<Kept>);

impl Module {
    fn rweight(kept: &Kept) -> u32 {
        let mut pairs = kept
            .attributes
            .split(';')
            .filter_map(|pair| pair.split_once('='));
        let value = pairs
            .find(|(name, _)| *name == "rweight")
            .and_then(|(_, value)| value.parse().ok());
        value.filter(|value| (1..=100).contains(value)).unwrap_or(0)
    }

    fn list(&self) -> Value {
        let targets = self.0.iter().map(|kept| {
            let flags = if kept.is_disabled { "DX" } else { "AX" };
            json!({"DEST": {"URI": kept.uri, "FLAGS": flags, "PRIORITY": 0, "ATTRS": {
                "BODY": kept.attributes, "DUID": "x", "MAXLOAD": 0, "WEIGHT": 0, "RWEIGHT": Module::rweight(kept), "SOCKET": null}}})
        });
        let targets: Vec<Value> = targets.collect();
        json!({"NRSETS": 1, "RECORDS": [{"SET": {"ID": 7, "TARGETS": []}}, {"SET": {"ID": 1, "TARGETS": targets}}]})
    }

    /// An add makes another entry, a removal removes all that are alike, a state is that of the first.
    fn call(&mut self, call: &Call) {
        match call.json(1) {
            ("dispatcher.set_state", value) => {
                let uri = value[2].as_str().expect("a URI");
                let kept = self
                    .0
                    .iter_mut()
                    .find(|kept| kept.uri == uri)
                    .expect("State Update Failed");
                kept.is_disabled = value[0] == "d";
            }
            ("dispatcher.add", value) => {
                assert_eq!((&value[0], &value[2]), (&json!(1), &json!(4)));
                let text = |place: usize| value[place].as_str().expect("a text").to_owned();
                self.0.push(Kept {
                    uri: text(1),
                    is_disabled: true,
                    attributes: text(4),
                });
            }
            ("dispatcher.remove", value) => self
                .0
                .retain(|kept| kept.uri != value[1].as_str().expect("a URI")),
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, wanted: &[Destination]) -> bool {
        let entries = listed(self.list(), 1).expect("a list");
        let plan = plan(&entries, wanted, |_| false);
        plan.states.iter().for_each(|call| self.call(call));
        if let Some(change) = plan.changes.first() {
            self.call(change);
        }
        plan.is_done()
    }

    /// Of 100 calls in a row, how many go where: dispatch.c's dp_init_relative_weights.
    fn slots(&self) -> BTreeMap<String, u64> {
        let active: Vec<&Kept> = self.0.iter().filter(|kept| !kept.is_disabled).collect();
        let whole: u32 = active.iter().map(|kept| Module::rweight(kept)).sum();
        let mut slots: BTreeMap<String, u64> = BTreeMap::new();
        let mut last = None;
        let mut left = 100;
        for kept in active {
            let own = u64::from(Module::rweight(kept) * 100 / whole.max(1));
            if own > 0 {
                last = Some(kept.uri.clone());
                left -= own;
                *slots.entry(kept.uri.clone()).or_default() += own;
            }
        }
        if let Some(last) = last {
            *slots.entry(last).or_default() += left;
        }
        slots
    }

    fn is_active(&self, destination: &Destination) -> bool {
        let of_it = |kept: &&Kept| kept.uri.starts_with(&destination.uri);
        self.0.iter().filter(of_it).any(|kept| !kept.is_disabled)
    }
}

fn destination(number: usize, share: u64) -> Destination {
    Destination {
        id: format!("p{number}"),
        uri: format!("sip:192.0.2.{number}:5060"),
        share,
        attributes: format!("duid=p{number}"),
    }
}

fn wanted(shares: &[u64]) -> Vec<Destination> {
    shares
        .iter()
        .enumerate()
        .map(|(number, share)| destination(number + 1, *share))
        .collect()
}

/// Steps until nothing is left to do; what took work before and still shall is never without.
fn settle(module: &mut Module, wanted: &[Destination]) {
    let took: Vec<&Destination> = wanted
        .iter()
        .filter(|destination| destination.share > 0 && module.is_active(destination))
        .collect();
    for _ in 0..8 * (wanted.len() + module.0.len() + 1) {
        if module.step(wanted) {
            return;
        }
        for destination in &took {
            assert!(
                module.is_active(destination),
                "{} is missing: {module:?}",
                destination.id
            );
        }
        for destination in wanted.iter().filter(|destination| destination.share == 0) {
            assert!(
                !module.is_active(destination),
                "{} takes calls",
                destination.id
            );
        }
    }
    panic!("it does not come to an end: {wanted:?} {module:?}");
}

fn assert_right(module: &Module, wanted: &[Destination], tolerance: f64) {
    assert_eq!(module.0.len(), wanted.len(), "{module:?}");
    let slots = module.slots();
    let whole: u64 = wanted.iter().map(|destination| destination.share).sum();
    for destination in wanted {
        let of_it = |(uri, _): &(&String, &u64)| uri.starts_with(&destination.uri);
        let own = slots.iter().find(of_it).map_or(0, |(_, slots)| *slots) as f64;
        let right = destination.share as f64 * 100.0 / whole.max(1) as f64;
        assert!(
            (own - right).abs() <= (right * tolerance).max(1.0),
            "{}: {own} slots, {right} are right; {module:?}",
            destination.id
        );
    }
}

#[test]
fn an_empty_set_is_filled_by_shares_and_those_that_take_nothing_are_disabled() {
    let mut module = Module::default();
    let wanted = wanted(&[50, 30, 20, 0]);
    settle(&mut module, &wanted);
    assert_right(&module, &wanted, 0.0);
    let entries = listed(module.list(), 1).expect("a list");
    let states: Vec<bool> = entries.iter().map(|entry| entry.is_active).collect();
    assert_eq!(states, [true, true, true, false]);
    assert!(
        listed(module.list(), 2).expect("a list").is_empty(),
        "another set is not ours"
    );
}

#[test]
fn a_state_is_set_at_once_and_changes_no_list() {
    let mut module = Module::default();
    settle(&mut module, &wanted(&[50, 30, 20]));
    let entries = listed(module.list(), 1).expect("a list");
    let without = plan(&entries, &wanted(&[50, 0, 20]), |_| false);
    let disable = Call::Disable {
        uri: "sip:192.0.2.2:5060".into(),
    };
    assert_eq!(
        without,
        Plan {
            states: vec![disable],
            changes: Vec::new()
        }
    );
    settle(&mut module, &wanted(&[50, 0, 20]));
    let entries = listed(module.list(), 1).expect("a list");
    let again = plan(&entries, &wanted(&[50, 30, 20]), |_| false);
    let enable = Call::Enable {
        uri: "sip:192.0.2.2:5060".into(),
    };
    assert_eq!(
        again,
        Plan {
            states: vec![enable],
            changes: Vec::new()
        }
    );
}

#[test]
fn what_is_not_wanted_goes_and_small_changes_of_load_change_nothing() {
    let mut module = Module::default();
    for uri in ["sip:198.51.100.1:5060", "sip:192.0.2.1:5060"] {
        let attributes = "weight=50".to_owned();
        module.0.push(Kept {
            uri: uri.into(),
            is_disabled: false,
            attributes,
        });
    }
    let now = wanted(&[50, 30]);
    settle(&mut module, &now);
    assert_right(&module, &now, 0.1);
    let entries = listed(module.list(), 1).expect("a list");
    assert!(plan(&entries, &wanted(&[52, 29]), |_| false).is_done());
    assert!(!plan(&entries, &wanted(&[30, 50]), |_| false).is_done());
}

#[test]
fn attributes_that_the_module_cannot_read_are_left_out() {
    let text = r#"{"domain":"d","notifier":"n@1","version":1,"view":1,"state":"full","servers":[
        {"id":"p1","status":"up","updated":"5.0.n1","services":["proxy"],
         "addresses":[{"ip":"2001:db8::1","port":5060,"transport":"tcp"}],
         "attributes":{"region":"eu-1","note":"a, b","weight":"9"}},
        {"id":"p2","status":"draining","updated":"5.0.n1","services":["proxy"],
         "addresses":[{"ip":"192.0.2.2","port":5060,"transport":"udp"}]},
        {"id":"p3","status":"up","updated":"5.0.n1","services":["turn"],
         "addresses":[{"ip":"192.0.2.3","port":5060,"transport":"udp"}]}]}"#;
    let mut table = Table::new();
    table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
    let all = destinations(&table, Some("proxy"));
    let [second, first] = &all[..] else {
        panic!("two offer it: {all:?}");
    };
    assert_eq!(first.uri, "sip:[2001:db8::1]:5060;transport=tcp");
    assert_eq!(first.attributes, "duid=p1;region=eu-1");
    assert_eq!((first.share > 0, second.share), (true, 0));
}

#[test]
fn what_is_spared_stays_as_it_is() {
    let mut module = Module::default();
    settle(&mut module, &wanted(&[50, 30]));
    let entries = listed(module.list(), 1).expect("a list");
    let first = |entry: &Entry| id_of(entry) == Some("p1");
    assert!(plan(&entries, &wanted(&[0, 30])[1..], first).is_done());
    assert!(!plan(&entries, &wanted(&[0, 30])[1..], |_| false).is_done());
}

#[test]
fn of_two_servers_at_one_place_it_is_the_one_that_takes_work() {
    let text = r#"{"domain":"d","notifier":"n@1","version":1,"view":1,"state":"full","servers":[
        {"id":"pod-1","status":"down","updated":"5.0.n1","services":["proxy"],
         "addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"}]},
        {"id":"pod-2","status":"up","updated":"6.0.n1","services":["proxy"],
         "addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"}]},
        {"id":"pod-3","status":"down","updated":"5.0.n1","services":["proxy"],
         "addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"}]}]}"#;
    let mut table = Table::new();
    table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
    let all = destinations(&table, Some("proxy"));
    let ids: Vec<&str> = all.iter().map(|one| &*one.id).collect();
    assert_eq!(ids, ["pod-2"]);
}

#[test]
fn what_is_no_list_is_refused() {
    for text in ["{}", "[]", r#"{"NRSETS":1,"RECORDS":[{"SET":{"ID":"x"}}]}"#] {
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert!(listed(value, 1).is_err(), "{text}");
    }
}

proptest! {
    /// Whatever is wanted, one after the other, is reached; nobody who takes work is missing on the way.
    #[test]
    fn any_set_becomes_any_other(steps in prop::collection::vec(prop::collection::vec(0_u64..1_000, 0..7), 1..6)) {
        let mut module = Module::default();
        for shares in &steps {
            let wanted = wanted(shares);
            settle(&mut module, &wanted);
            // Where one weighs little among many, a hundredth is much of it.
            let whole: u64 = shares.iter().sum();
            let is_fine = shares.iter().all(|share| *share == 0 || share * 10 >= whole);
            if is_fine {
                assert_right(&module, &wanted, 0.11);
            }
        }
    }
}
