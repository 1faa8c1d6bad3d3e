//! The engine by etcd: every record is a key, written by compare-and-set and heard of by a watch; every node is a key under
//! a lease. Knows no SIP and no table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use super::message::Place;
use super::{Counters, FromCluster, Queues, ToCluster};
use crate::compositor::{AHEAD_MS, Record};

mod followers;
mod store;
#[cfg(test)]
mod tests;
mod writes;

pub use store::{Access, StoreError};

use followers::{News, be_present, follow};
use store::{KeyValue, Set, Store};
use writes::{Write, Writes};

/// What was lost is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// After the store was away nobody is dead before he had time to come back.
const GRACE: Duration = Duration::from_secs(4);
/// The former process of this node's name lives on for a while in the store.
const FORMER_LIFE: Duration = Duration::from_secs(10);
/// What is still to be written at the end may take so long.
const LEAVE_WITHIN: Duration = Duration::from_millis(800);
/// What the followers of the store may say before they wait.
const NEWS: usize = 256;
/// A store that refuses what is written for so long is away, and is tried again after that.
const REFUSES_FOR: Duration = Duration::from_secs(3);
const REFUSES_UNTIL: Duration = Duration::from_secs(30);
/// The watch shows what this node has written within this, or it stands no more.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
/// What nobody remembers any more is deleted from the store so long after it was last spoken of.
const FORGOTTEN_MS: u64 = 3_600_000;

/// What a node needs to be one of a cluster by etcd.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node: Arc<str>,
    /// Keys of another id are none of ours.
    pub cluster_id: String,
    pub access: Access,
    /// Greater with every start of the process, in Unix ms.
    pub generation: u64,
}

/// What a task for one key came to.
enum Done {
    Write(Write, Result<Set, StoreError>),
    Ask(Result<Option<KeyValue>, StoreError>),
    /// A key of another cluster.
    Beside(Option<String>),
    Delete,
}

/// What all clusters' keys begin with.
const CLUSTERS: &str = "/fanfare/";

/// Where things stand in the store.
#[derive(Debug, Clone)]
struct Keys {
    /// Everything of this cluster.
    all: String,
    servers: String,
    nodes: String,
}

impl Keys {
    fn of(cluster_id: &str) -> Self {
        let all = format!("{CLUSTERS}{cluster_id}/");
        Keys {
            servers: format!("{all}servers/"),
            nodes: format!("{all}nodes/"),
            all,
        }
    }

    fn server(&self, (domain, id): &Place) -> String {
        format!("{}{domain}/{id}", self.servers)
    }

    fn place(&self, key: &str) -> Option<Place> {
        let (domain, id) = key.strip_prefix(&self.servers)?.split_once('/')?;
        Some((domain.into(), id.into()))
    }

    fn node<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.nodes)
    }
}

/// One life of the engine: until told to leave, or an error where it has to begin anew.
pub async fn live(
    settings: &Settings,
    (inbox, out): Queues<'_>,
    counters: &Arc<Mutex<Counters>>,
) -> anyhow::Result<()> {
    let store = Arc::new(Store::new(&settings.access)?);
    let keys = Keys::of(&settings.cluster_id);
    let (news_to, mut news) = mpsc::channel(NEWS);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(
        Arc::clone(&store),
        keys.all.clone(),
        news_to.clone(),
    ));
    tasks.spawn(be_present(
        Arc::clone(&store),
        format!("{}{}", keys.nodes, settings.node),
        settings.generation,
        news_to,
    ));
    let mut engine = Engine::new(settings, (store, keys), out, counters);
    loop {
        let shown_by = engine.unshown.map(|(_, by)| by);
        tokio::select! {
            told = inbox.recv() => match told {
                None | Some(ToCluster::Leave) => break,
                Some(told) => engine.take(told).await,
            },
            Some(news) = news.recv() => engine.hear(news).await,
            Some(done) = engine.work.join_next() => engine.done(done?).await,
            ended = tasks.join_next() => anyhow::bail!("a follower of the store ended: {ended:?}"),
            () = sleep_until(engine.grace_until), if Instant::now() < engine.grace_until => {
                engine.tell_live().await;
            }
            () = sleep_until(engine.write_from), if Instant::now() < engine.write_from => {
                engine.find_back().await;
            }
            () = sleep_until(shown_by.unwrap_or_else(Instant::now)), if shown_by.is_some() => {
                engine.watch_anew();
            }
        }
        engine.write().await;
    }
    engine.leave().await;
    Ok(())
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    unix.unwrap_or_default().as_millis() as u64
}

struct Engine<'e> {
    settings: &'e Settings,
    store: Arc<Store>,
    keys: Keys,
    out: &'e mpsc::Sender<FromCluster>,
    counters: &'e Arc<Mutex<Counters>>,
    writes: Writes,
    work: JoinSet<Done>,
    /// The other nodes in the store.
    others: BTreeSet<Arc<str>>,
    /// Those that were last said to be alive.
    told_live: Option<BTreeSet<Arc<str>>>,
    /// This node's lease, while it is known to stand.
    lease: Option<i64>,
    follows: bool,
    was_synced: bool,
    is_away: bool,
    grace_until: Instant,
    /// A write has failed: the next is tried no sooner.
    write_from: Instant,
    /// Since when every write has failed.
    refuses_since: Option<Instant>,
    /// Another process has this node's name in the store, and that was said.
    is_twin: bool,
    /// The last revision that the watch has shown.
    followed: i64,
    /// The first revision written that the watch has not shown yet, and by when it has to.
    unshown: Option<(i64, Instant)>,
    began: Instant,
}

impl<'e> Engine<'e> {
    fn new(
        settings: &'e Settings,
        (store, keys): (Arc<Store>, Keys),
        out: &'e mpsc::Sender<FromCluster>,
        counters: &'e Arc<Mutex<Counters>>,
    ) -> Self {
        Engine {
            settings,
            store,
            keys,
            out,
            counters,
            writes: Writes::default(),
            work: JoinSet::new(),
            others: BTreeSet::new(),
            told_live: None,
            lease: None,
            follows: false,
            was_synced: false,
            is_away: false,
            grace_until: Instant::now(),
            write_from: Instant::now(),
            refuses_since: None,
            is_twin: false,
            followed: 0,
            unshown: None,
            began: Instant::now(),
        }
    }
}

impl Engine<'_> {
    async fn give(&self, told: FromCluster) {
        // The control thread has ended: so does this one, soon.
        let _ = self.out.send(told).await;
    }

    async fn take(&mut self, told: ToCluster) {
        match told {
            ToCluster::Keep { ticket, .. } if self.is_away => {
                self.give(FromCluster::Unkept { ticket }).await;
            }
            ToCluster::Keep { ticket, record, .. } => self.writes.keep(ticket, *record),
            ToCluster::Tell(records) | ToCluster::Hold(records) => {
                records
                    .into_iter()
                    .for_each(|record| self.writes.tell(record));
            }
            ToCluster::Ask { place, .. } => {
                let (store, key) = (Arc::clone(&self.store), self.keys.server(&place));
                self.work
                    .spawn(async move { Done::Ask(store.get(&key).await) });
            }
            ToCluster::Forget(places) => {
                for place in places {
                    self.forget(&place);
                }
            }
            // Everybody reads the store: nobody need be told by name, nobody asks, and what it has is nobody's alone.
            ToCluster::Accuse(_)
            | ToCluster::Answer { .. }
            | ToCluster::Release(_)
            | ToCluster::Leave => {}
        }
    }

    /// Deletes what nobody remembers: its end is long past.
    fn forget(&mut self, place: &Place) {
        let Some((record, revision)) = self.writes.known(place) else {
            return;
        };
        let has_ended = record.said.deleted
            || record
                .lease
                .as_ref()
                .is_some_and(|lease| lease.ended.is_some());
        if has_ended && record.stamp().ms + FORGOTTEN_MS < unix_ms() {
            let (store, key) = (Arc::clone(&self.store), self.keys.server(place));
            self.work.spawn(async move {
                // What is not deleted now is harmless, and another node may have done it.
                let _ = store.delete(&key, revision).await;
                Done::Delete
            });
        }
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::All(revision, all) => {
                let nodes = all.iter().filter_map(|one| self.keys.node(&one.key));
                self.others = nodes.map(Arc::from).collect();
                self.others.remove(&self.settings.node);
                self.writes.forget();
                self.followed = revision;
                self.unshown = None;
                self.read(all).await;
                info!(revision, others = self.others.len(), "etcd is read");
                self.follows = true;
                if !self.was_synced && self.others.is_empty() {
                    self.look_beside();
                }
                self.find_back().await;
            }
            News::Following(changes) => {
                for key in &changes.deleted {
                    if let Some(node) = self.keys.node(key) {
                        self.others.remove(node);
                    } else if let Some(place) = self.keys.place(key) {
                        self.writes.deleted(&place);
                    }
                }
                let entered = changes
                    .set
                    .iter()
                    .filter_map(|one| self.keys.node(&one.key))
                    .filter(|node| **node != *self.settings.node);
                self.others.extend(entered.map(Arc::from));
                self.followed = self.followed.max(changes.revision);
                self.unshown = self
                    .unshown
                    .filter(|(revision, _)| *revision > self.followed);
                self.read(changes.set).await;
                self.follows = true;
                self.find_back().await;
                self.tell_live().await;
            }
            News::Astray(error) => {
                self.follows = false;
                self.unshown = None;
                self.lose(&error).await;
            }
            News::Present(lease) => {
                if std::mem::take(&mut self.is_twin) {
                    self.give(FromCluster::Twin(false)).await;
                }
                if self.lease.replace(lease).is_none() && self.is_away {
                    self.follows = false;
                    self.store.turned.notify_one();
                }
                self.find_back().await;
            }
            News::Absent(error) => {
                self.lease = None;
                self.lose(&error).await;
            }
            News::Conflict(other) => {
                if self.began.elapsed() > FORMER_LIFE && !std::mem::replace(&mut self.is_twin, true)
                {
                    self.counters.lock().cluster_name_conflicts += 1;
                    error!(node = %self.settings.node, other, "another node of this name is alive: give each its own");
                    // Who has the key is shown: else each would correct the other without end.
                    self.give(FromCluster::Twin(true)).await;
                    self.find_back().await;
                }
            }
        }
    }

    /// A node that finds nobody may have been given the id of another cluster than was meant.
    fn look_beside(&mut self) {
        let (store, ours) = (Arc::clone(&self.store), self.keys.all.clone());
        self.work.spawn(async move {
            // Who may not read other clusters' keys is told nothing of them.
            let found = store.beside(CLUSTERS, &ours).await;
            Done::Beside(found.ok().flatten())
        });
    }

    async fn lose(&mut self, error: &StoreError) {
        self.counters.lock().cluster_store_failures += 1;
        if self.is_away {
            return;
        }
        self.is_away = true;
        self.counters.lock().cluster_store_losses += 1;
        error!(%error, "etcd is away: this node goes on with what it knows");
        self.give(FromCluster::Away).await;
        self.take_back().await;
    }

    async fn take_back(&mut self) {
        for ticket in self.writes.take_back() {
            self.give(FromCluster::Unkept { ticket }).await;
        }
    }

    /// The store is there once it is followed and this node stands in it, or another of its name does.
    async fn find_back(&mut self) {
        let is_in = self.lease.is_some() || self.is_twin;
        let is_refused = Instant::now() < self.write_from;
        if !self.follows || (self.is_away && (!is_in || is_refused)) {
            return;
        }
        if std::mem::replace(&mut self.is_away, false) {
            info!("etcd is back");
            self.grace_until = Instant::now() + GRACE;
        } else if self.was_synced {
            return;
        }
        self.was_synced = true;
        self.tell_live().await;
        self.give(FromCluster::Synced).await;
    }

    /// Says who is alive, if that is news. Who is missing since the store was away may yet come back.
    async fn tell_live(&mut self) {
        let mut live = self.others.clone();
        live.insert(Arc::clone(&self.settings.node));
        if self.is_away || Instant::now() < self.grace_until {
            live.extend(self.told_live.iter().flatten().cloned());
        }
        if self.told_live.as_ref() != Some(&live) {
            let gone = self.told_live.iter().flatten();
            gone.filter(|node| !live.contains(*node))
                .for_each(|node| warn!(%node, "node is dead"));
            self.told_live = Some(live.clone());
            self.give(FromCluster::Live(live.into_iter().collect()))
                .await;
        }
    }

    /// The member that the watch stands at has fallen silent: another may have taken the write.
    fn watch_anew(&mut self) {
        warn!("etcd's watch does not show what this node wrote: it is begun anew");
        self.counters.lock().cluster_store_failures += 1;
        self.unshown = None;
        self.store.turned.notify_one();
    }

    /// Values of servers: of those that are new here the node hears.
    async fn read(&mut self, values: Vec<KeyValue>) {
        let seen = values.iter().filter_map(|value| self.see(value));
        let new = seen.filter(|(_, is_new)| *is_new);
        let records = new.map(|(record, _)| record).collect();
        self.learn(records).await;
    }

    async fn learn(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            self.give(FromCluster::Records(records)).await;
        }
    }

    /// The record in a value of a server, and whether it is new.
    fn see(&mut self, value: &KeyValue) -> Option<(Record, bool)> {
        let place = self.keys.place(&value.key)?;
        let record: Option<Record> = value.value.parse().ok();
        let record = record.filter(|record| record.place() == place);
        if record.is_none() {
            self.counters.lock().cluster_malformed += 1;
            warn!(key = value.key, "value in etcd refused");
        }
        // What waits until the time of day comes near its stamp is not in the view, so it is written over.
        let is_due = |record: &&Record| record.stamp().ms <= unix_ms() + AHEAD_MS;
        let known = record.as_ref().filter(is_due);
        let is_new = self.writes.saw(&place, value.mod_revision, known);
        Some((record?, is_new))
    }

    /// Begins what there is to be written.
    async fn write(&mut self) {
        while !self.is_away
            && self.was_synced
            && Instant::now() >= self.write_from
            && let Some(write) = self.writes.next()
        {
            let (store, key) = (Arc::clone(&self.store), self.keys.server(&write.place));
            self.work.spawn(async move {
                let value = write.record.to_string();
                let done = store.set(&key, &value, write.revision, 0).await;
                Done::Write(write, done)
            });
        }
        for ticket in self.writes.take_done() {
            self.give(FromCluster::Kept { ticket }).await;
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Write(write, Ok(Set::Done(revision))) => {
                self.refuses_since = None;
                // The watch may have been faster than the answer.
                if revision > self.followed {
                    self.unshown
                        .get_or_insert((revision, Instant::now() + SHOWN_WITHIN));
                }
                self.writes.written(&write, revision);
            }
            Done::Write(write, Ok(Set::Otherwise(there))) => {
                self.writes.superseded(&write);
                // It is so, whatever was seen before.
                self.writes.deleted(&write.place);
                self.read(there.into_iter().collect()).await;
                if self.is_away {
                    self.take_back().await;
                }
            }
            Done::Write(write, Err(error)) => {
                self.counters.lock().cluster_store_failures += 1;
                let since = *self.refuses_since.get_or_insert_with(|| {
                    warn!(%error, key = ?write.place, "cannot be written to etcd");
                    Instant::now()
                });
                for ticket in self.writes.failed(&write) {
                    self.give(FromCluster::Unkept { ticket }).await;
                }
                // Others of its time may fail after the one that found the store away.
                self.write_from = self.write_from.max(Instant::now() + AGAIN);
                if since.elapsed() > REFUSES_FOR {
                    self.refuses_since = None;
                    self.write_from = Instant::now() + REFUSES_UNTIL;
                    self.lose(&error).await;
                }
            }
            // The node may not have taken it when it came.
            Done::Ask(Ok(Some(there))) => {
                let records = self.see(&there).map(|(record, _)| record);
                self.learn(records.into_iter().collect()).await;
            }
            Done::Beside(Some(key)) => {
                let other = key
                    .strip_prefix(CLUSTERS)
                    .and_then(|key| key.split('/').next());
                self.counters.lock().cluster_wrong_id += 1;
                warn!(
                    cluster_id = self.settings.cluster_id,
                    other,
                    "no other node in etcd has this node's cluster id, and there are keys of another's"
                );
            }
            // Who asked does not wait for long.
            Done::Ask(Ok(None) | Err(_)) | Done::Beside(None) | Done::Delete => {}
        }
    }

    /// Writes what is left, then takes this node out of the store.
    async fn leave(&mut self) {
        let write_all = async {
            while !self.writes.is_empty() && !self.is_away && Instant::now() >= self.write_from {
                self.write().await;
                match self.work.join_next().await {
                    Some(Ok(done)) => self.done(done).await,
                    _ => break,
                }
            }
            if let Some(lease) = self.lease {
                // It runs out by itself.
                let _ = self.store.revoke(lease).await;
            }
        };
        let _ = timeout(LEAVE_WITHIN, write_all).await;
    }
}
