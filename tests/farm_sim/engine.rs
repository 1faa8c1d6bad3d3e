//! A model of the engine by gossip: what each node tells, who hears it, who is thought alive. Shares nothing with the engine
//! but its messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare::cluster::FromCluster;
use fanfare::cluster::message::{Message, Place};
use fanfare::compositor::Record;

/// One life of one node.
pub type Life = (usize, u64);

/// What one node has heard that another tells.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub heartbeat: u64,
    /// When a newer heartbeat came last.
    pub heard_ms: u64,
    version: u64,
    values: BTreeMap<Place, (u64, Option<Record>)>,
}

#[derive(Debug, Clone)]
pub struct Telling {
    pub ticket: u64,
    pub since_ms: u64,
    pub repeated: bool,
    pub message: Message,
}

#[derive(Debug, Clone)]
pub enum Sync {
    Asking {
        number: u32,
        after: Option<Place>,
        whom: Option<usize>,
        tries: u32,
        until_ms: u64,
    },
    Done,
}

/// One node's engine.
#[derive(Debug)]
pub struct Engine {
    pub life: Life,
    pub states: BTreeMap<Life, State>,
    pub peers: Vec<usize>,
    pub tellings: BTreeMap<u32, Telling>,
    pub next: u32,
    pub sync: Sync,
}

/// A node is dead when nothing was heard of it for so long.
const DEAD_MS: u64 = 2_000;

impl Engine {
    pub fn new(life: Life, is_first: bool, now_ms: u64) -> Self {
        // The first looks whether anybody is there, and does not wait for long.
        let sync = Sync::Asking {
            number: (life.1 as u32) << 8,
            after: None,
            whom: None,
            tries: 0,
            until_ms: now_ms + if is_first { 2_000 } else { 10_000 },
        };
        Engine {
            life,
            states: BTreeMap::from([(life, State::default())]),
            peers: Vec::new(),
            tellings: BTreeMap::new(),
            next: 0,
            sync,
        }
    }

    fn own(&mut self) -> &mut State {
        self.states.get_mut(&self.life).expect("it knows itself")
    }

    pub fn beat(&mut self) {
        self.own().heartbeat += 1;
    }

    pub fn set(&mut self, record: &Record) {
        let state = self.own();
        state.version += 1;
        let place = (Arc::clone(&record.domain), Arc::clone(record.id()));
        let value = (state.version, Some(record.clone()));
        state.values.insert(place, value);
    }

    pub fn forget(&mut self, place: &Place) {
        let state = self.own();
        if state.values.contains_key(place) {
            state.version += 1;
            let value = (state.version, None);
            state.values.insert(place.clone(), value);
        }
    }

    /// Takes what is newer in another's states; what of it is news to this node.
    pub fn learn(&mut self, others: &BTreeMap<Life, State>, now_ms: u64) -> Vec<Record> {
        let mut news = Vec::new();
        for (life, theirs) in others.iter().filter(|(life, _)| **life != self.life) {
            let is_new = !self.states.contains_key(life);
            let ours = self.states.entry(*life).or_default();
            if theirs.heartbeat > ours.heartbeat {
                ours.heartbeat = theirs.heartbeat;
                // Of one never heard of before it is not known how old that is.
                if !is_new {
                    ours.heard_ms = now_ms;
                }
            }
            for (place, value) in &theirs.values {
                if ours.values.get(place).is_none_or(|known| known.0 < value.0) {
                    news.extend(value.1.clone());
                    ours.values.insert(place.clone(), value.clone());
                }
            }
            ours.version = ours.version.max(theirs.version);
        }
        news
    }

    /// Who is alive now, if that changed.
    pub fn look(&mut self, now_ms: u64, names: &[Arc<str>]) -> Option<FromCluster> {
        let is_alive = |(life, state): &(&Life, &State)| {
            **life != self.life && state.heard_ms > 0 && now_ms < state.heard_ms + DEAD_MS
        };
        let mut peers: Vec<usize> = self
            .states
            .iter()
            .filter(is_alive)
            .map(|(life, _)| life.0)
            .filter(|node| *node != self.life.0)
            .collect();
        peers.dedup();
        if peers == self.peers {
            return None;
        }
        self.peers = peers;
        let live = self.peers.iter().chain([&self.life.0]);
        Some(FromCluster::Live(
            live.map(|node| Arc::clone(&names[*node])).collect(),
        ))
    }
}
