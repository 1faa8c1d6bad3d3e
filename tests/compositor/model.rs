//! The whole life of publications against a model that shares nothing with the compositor but the words.

use std::collections::BTreeMap;

use fanfare::compositor::CompositorConfig;
use fanfare::info::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::publisher::*;

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const MOST: usize = 3;
const FORGET_S: u64 = 10;
const TOMBSTONES_S: u64 = 25;

#[derive(Debug, Clone)]
enum Action {
    Advance {
        ms: u64,
        back_ms: u64,
    },
    Initial {
        id: usize,
        load: u8,
        is_up: bool,
        expires: Option<u32>,
    },
    /// By the tag of any answer so far, counted from the newest.
    Tagged {
        tag: usize,
        load: Option<u8>,
        expires: Option<u32>,
    },
    Repeat,
}

fn action() -> impl Strategy<Value = Action> {
    let expires = || option::of(prop_oneof![4 => 2u32..8, 1 => 0u32..2]);
    let initial = (0..IDS.len(), 0u8..=100, any::<bool>(), expires());
    let newest = prop_oneof![4 => Just(0usize), 1 => 0usize..6];
    prop_oneof![
        4 => (0u64..6_000, 0u64..3_000).prop_map(|(ms, back_ms)| Action::Advance { ms, back_ms }),
        1 => (6_000u64..40_000).prop_map(|ms| Action::Advance { ms, back_ms: 0 }),
        4 => initial.prop_map(|(id, load, is_up, expires)| Action::Initial { id, load, is_up, expires }),
        6 => (newest, option::of(0u8..=100), expires())
            .prop_map(|(tag, load, expires)| Action::Tagged { tag, load, expires }),
        2 => Just(Action::Repeat),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum Life {
    Lease { tag: String, until: u64 },
    Down { until: u64 },
    Deleted { until: u64 },
}

#[derive(Debug, Clone)]
struct Row {
    life: Life,
    status: &'static str,
    load: u8,
    take_overs: Vec<u64>,
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<&'static str, Row>,
}

impl Model {
    fn pass(&mut self, now: u64) {
        while let Some((until, id)) = self.next_end().filter(|(until, _)| *until <= now) {
            match self.rows[id].life {
                Life::Lease { .. } => {
                    let row = self.rows.get_mut(id).unwrap();
                    row.status = "down";
                    row.life = Life::Down {
                        until: until + FORGET_S * 1000,
                    };
                }
                Life::Down { .. } => self.delete(id, until),
                Life::Deleted { .. } => drop(self.rows.remove(id)),
            }
        }
    }

    fn next_end(&self) -> Option<(u64, &'static str)> {
        let until = |row: &Row| match row.life {
            Life::Lease { until, .. } | Life::Down { until } | Life::Deleted { until } => until,
        };
        self.rows.iter().map(|(id, row)| (until(row), *id)).min()
    }

    /// No more deleted ones are kept than there may be servers: the oldest goes.
    fn delete(&mut self, id: &'static str, now: u64) {
        let until = now + TOMBSTONES_S * 1000;
        self.rows.get_mut(id).unwrap().life = Life::Deleted { until };
        if self.rows.len() - self.servers() > MOST {
            let deleted = self.rows.iter().filter_map(|(id, row)| match row.life {
                Life::Deleted { until } => Some((until, *id)),
                _ => None,
            });
            let (_, oldest) = deleted.min().unwrap();
            self.rows.remove(oldest);
        }
    }

    fn servers(&self) -> usize {
        let is_server = |row: &&Row| !matches!(row.life, Life::Deleted { .. });
        self.rows.values().filter(is_server).count()
    }

    fn initial(&mut self, id: &'static str, now: u64, expires: Option<u32>) -> u16 {
        match expires {
            Some(0) => return 400,
            Some(1) => return 423,
            _ => {}
        }
        let servers = self.servers();
        let is_new = |row: &&mut Row| matches!(row.life, Life::Deleted { .. });
        match self.rows.get_mut(id) {
            None if servers == MOST => 503,
            Some(row) if servers == MOST && is_new(&row) => 503,
            Some(row) if matches!(row.life, Life::Lease { .. }) => {
                let recent = row
                    .take_overs
                    .iter()
                    .filter(|at| now - **at < 60_000)
                    .count();
                if recent >= 3 {
                    return 403;
                }
                row.take_overs.push(now);
                200
            }
            _ => 200,
        }
    }

    fn tagged(&self, tag: &str, expires: Option<u32>) -> (u16, Option<&'static str>) {
        let holds =
            |row: &Row| matches!(&row.life, Life::Lease { tag: current, .. } if current == tag);
        match (self.rows.iter().find(|(_, row)| holds(row)), expires) {
            (None, _) => (412, None),
            (Some(_), Some(1)) => (423, None),
            (Some((id, _)), _) => (200, Some(id)),
        }
    }

    fn shown(&self) -> Vec<(String, bool, String, u8)> {
        let shown = |(id, row): (&&str, &Row)| {
            let is_deleted = matches!(row.life, Life::Deleted { .. });
            (id.to_string(), is_deleted, row.status.to_string(), row.load)
        };
        self.rows.iter().map(shown).collect()
    }
}

fn shown(view: &View) -> Vec<(String, bool, String, u8)> {
    let entries = view.entries.iter().map(|entry| {
        let server = &entry.server;
        (
            server.id.to_string(),
            entry.deleted,
            server.status.to_string(),
            server.load.unwrap(),
        )
    });
    entries.collect()
}

/// What must hold between one view and the next, whatever happened.
fn check_step(before: &View, after: &View) -> Result<(), TestCaseError> {
    prop_assert_eq!(before.revision == after.revision, before == after);
    prop_assert!(after.revision >= before.revision);
    let mark = after.urgent.max(after.notable).max(after.load);
    prop_assert!(
        mark <= after.revision && after.urgent >= before.urgent && after.load >= before.load
    );
    prop_assert_eq!(
        after.notable,
        before.notable,
        "nothing else is ever published here"
    );
    let same_set = |view: &View| -> Vec<_> {
        let entries = view.entries.iter().filter(|entry| !entry.deleted);
        entries
            .map(|entry| (entry.server.id.clone(), entry.server.status.clone()))
            .collect()
    };
    if same_set(before) != same_set(after) {
        prop_assert!(after.urgent > before.revision);
    }
    for entry in &after.entries {
        let Some(old) = before.find(&entry.server.id) else {
            continue;
        };
        let grows = entry.server.updated > old.server.updated;
        prop_assert!(
            if entry == old { !grows } else { grows },
            "{:?} after {:?}",
            entry,
            old
        );
    }
    Ok(())
}

struct Run {
    world: World,
    model: Model,
    tags: Vec<String>,
    /// The last request that succeeded: its bytes, id, answer, time.
    last: Option<(Vec<u8>, &'static str, Answer, u64)>,
}

impl Run {
    fn new() -> Self {
        let config = CompositorConfig {
            default_expires_s: 6,
            min_expires_s: 2,
            max_expires_s: 7,
            forget_after_s: FORGET_S as u32,
            tombstones_s: TOMBSTONES_S as u32,
            max_servers: MOST,
            ..config(&["example.com"])
        };
        Run {
            world: World::new(config),
            model: Model::default(),
            tags: Vec::new(),
            last: None,
        }
    }

    fn step(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Advance { ms, back_ms } => {
                self.world.advance(*ms);
                self.world.now.unix_ms -= back_ms;
                self.model.pass(self.world.now.mono_ms);
            }
            Action::Initial {
                id,
                load,
                is_up,
                expires,
            } => {
                let id = IDS[*id];
                let mut said = server(id, *load);
                said.status = if *is_up { Status::Up } else { Status::Draining };
                let status = self.model.initial(id, self.world.now.mono_ms, *expires);
                let publish = Publish {
                    expires: *expires,
                    ..initial(&said)
                };
                self.expect(&publish, status, id, Some(&said))?;
            }
            Action::Tagged { tag, load, expires } => {
                let Some(tag) = self.tags.iter().rev().nth(*tag).cloned() else {
                    return Ok(());
                };
                let (status, id) = self.model.tagged(&tag, *expires);
                let id = id.unwrap_or("a");
                let said = load.map(|load| server(id, load));
                let publish = match &said {
                    Some(said) => modify(&tag, said),
                    None => refresh(&tag),
                };
                let publish = Publish {
                    expires: *expires,
                    ..publish
                };
                self.expect(&publish, status, id, said.as_ref())?;
            }
            Action::Repeat => self.repeat()?,
        }
        prop_assert_eq!(shown(&self.world.view()), self.model.shown());
        Ok(())
    }

    fn expect(
        &mut self,
        publish: &Publish,
        status: u16,
        id: &'static str,
        said: Option<&Server>,
    ) -> Result<(), TestCaseError> {
        let answer = self.world.send(publish);
        prop_assert_eq!(answer.status, status, "{}", answer.text);
        if status != 200 {
            return Ok(());
        }
        let now = self.world.now.mono_ms;
        let expires = publish.expires.unwrap_or(6).min(7);
        prop_assert_eq!(answer.header("Expires"), Some(&*expires.to_string()));
        let tag = answer.tag();
        prop_assert!(!self.tags.contains(&tag), "a tag given twice");
        let row = self.model.rows.entry(id).or_insert(Row {
            life: Life::Down { until: 0 },
            status: "",
            load: 0,
            take_overs: Vec::new(),
        });
        if expires == 0 {
            self.model.delete(id, now);
        } else {
            let until = now + u64::from(expires) * 1000;
            row.life = Life::Lease {
                tag: tag.clone(),
                until,
            };
            if let Some(said) = said {
                row.status = if said.status == Status::Up {
                    "up"
                } else {
                    "draining"
                };
                row.load = said.load.unwrap();
            }
            let entry = self.world.entry(id);
            prop_assert!(lease(&tag) > entry.server.updated);
        }
        self.tags.push(tag);
        self.last = Some((self.world.last.clone(), id, answer, now));
        Ok(())
    }

    fn repeat(&mut self) -> Result<(), TestCaseError> {
        let Some((bytes, id, answer, at)) = self.last.clone() else {
            return Ok(());
        };
        if self.world.now.mono_ms - at < 32_000 && self.model.rows.contains_key(id) {
            let before = self.world.view();
            prop_assert_eq!(self.world.send_bytes(&bytes), answer);
            prop_assert_eq!(self.world.view(), before);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn publications_live_as_the_model_says(actions in vec(action(), 1..60)) {
        let mut run = Run::new();
        for action in &actions {
            let before = run.world.view();
            run.step(action)?;
            check_step(&before, &run.world.view())?;
            let changed = run.world.compositor.take_changed();
            prop_assert_eq!(changed.len(), usize::from(run.world.view().revision != before.revision));
        }
    }
}
