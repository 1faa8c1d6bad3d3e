//! What publishers were promised, and what a view may therefore say: a model of a few lines that knows neither how nodes tell
//! each other nor when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::farm::View;

/// What one PUBLISH asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Publish { load: u8, expires_s: u32 },
    Refresh { expires_s: u32 },
    Remove,
}

/// How a server stands, as far as its publisher can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Its lease runs out after the test.
    Up {
        load: u8,
    },
    /// Its lease does not run out before this, but soon after.
    Brief {
        load: u8,
        from: Instant,
    },
    Gone,
}

/// A lease that runs out within the test is shorter than this.
pub const BRIEF_S: u32 = 60;

/// A lease begins at a whole millisecond of the time of day, which may have begun before it was asked for.
const STAMP: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
pub struct Promise {
    /// The last entity-tag that was answered.
    pub tag: Option<String>,
    /// One of these is true: what was answered 200 last, and what was asked after it and may have been done or not.
    stands: Vec<Stand>,
    acknowledged: bool,
}

impl Promise {
    fn after(&self, act: Act, sent: Instant) -> Vec<Stand> {
        let up = |load, expires_s: u32| match expires_s < BRIEF_S {
            true => Stand::Brief {
                load,
                from: sent + Duration::from_secs(expires_s.into()) - STAMP,
            },
            false => Stand::Up { load },
        };
        match act {
            Act::Publish { load, expires_s } => vec![up(load, expires_s)],
            Act::Refresh { expires_s } => {
                let refreshed = self.stands.iter().map(|stand| match *stand {
                    Stand::Up { load } | Stand::Brief { load, .. } => up(load, expires_s),
                    Stand::Gone => Stand::Gone,
                });
                refreshed.collect()
            }
            Act::Remove => vec![Stand::Gone],
        }
    }

    /// It was answered 200.
    pub fn done(&mut self, act: Act, sent: Instant, tag: Option<String>) {
        self.stands = self.after(act, sent);
        self.tag = tag;
        self.acknowledged = true;
    }

    /// It was not answered, or with what does not say that it was not done.
    pub fn unknown(&mut self, act: Act, sent: Instant) {
        let more = self.after(act, sent);
        self.stands.extend(more);
    }

    /// Whether its tag may be one that no node takes any more: the lease may have run out, or a newer tag was not answered.
    pub fn may_be_mismatched(&self) -> bool {
        let may_have_ended = |stand: &Stand| match stand {
            Stand::Up { .. } => false,
            Stand::Brief { from, .. } => Instant::now() >= *from,
            Stand::Gone => true,
        };
        self.stands.len() > 1 || self.stands.iter().any(may_have_ended)
    }

    /// Whether its lease stands for another second: a publisher refreshes no later.
    pub fn is_fresh(&self) -> bool {
        let soon = Instant::now() + Duration::from_secs(1);
        let is_fresh = |stand: &Stand| !matches!(stand, Stand::Brief { from, .. } if *from <= soon);
        self.stands.iter().all(is_fresh)
    }
}

/// What was promised of each server.
#[derive(Debug, Default)]
pub struct Promises(pub BTreeMap<String, Promise>);

impl Promises {
    /// A server that does not stand in a view that is read now as it was promised to: there, or expired by its own time.
    pub fn broken_in(&self, view: &View) -> Option<(&String, &Promise)> {
        let now = Instant::now();
        self.other_than(|id, stand| match stand {
            Stand::Up { load } => view.load(id) == Some((*load).into()),
            Stand::Brief { load, from } => {
                let is_over = now >= *from && view.status(id) == Some("down");
                is_over || view.load(id) == Some((*load).into())
            }
            Stand::Gone => view.status(id).is_none_or(|state| state == "deleted"),
        })
    }

    /// Whether it is so with each of them, and the brief leases have run out in it.
    pub fn are_over_in(&self, view: &View) -> bool {
        let left = self.other_than(|id, stand| match stand {
            Stand::Up { .. } | Stand::Gone => true,
            Stand::Brief { .. } => view.status(id) == Some("down"),
        });
        self.broken_in(view).or(left).is_none()
    }

    fn other_than(&self, is: impl Fn(&str, &Stand) -> bool) -> Option<(&String, &Promise)> {
        let mut promises = self.0.iter().filter(|(_, one)| one.acknowledged);
        promises.find(|(id, one)| !one.stands.iter().any(|stand| is(id, stand)))
    }
}
