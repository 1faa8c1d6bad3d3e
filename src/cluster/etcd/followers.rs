//! What goes on beside the engine: following what the store has, and standing in it as a node.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::AGAIN;
use super::store::{Changes, KeyValue, Set, Store, StoreError};

/// A node whose lease was not kept alive for so long is dead; etcd takes up to a second more to say so.
const LEASE_S: u64 = 2;
/// A lease is kept alive so often.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// What is heard of the store.
pub(super) enum News {
    /// All that it has.
    All(i64, Vec<KeyValue>),
    /// The watch goes on.
    Following(Changes),
    /// Neither is to be had.
    Astray(StoreError),
    /// This node is in the store, as a node.
    Present(i64),
    Absent(StoreError),
    /// Another process has this node's name there.
    Conflict(String),
}

/// Reads everything, then what changes; after a loss from where it was, if the store still knows.
pub(super) async fn follow(store: Arc<Store>, prefix: String, news: mpsc::Sender<News>) {
    let mut revision = None;
    loop {
        let error = tokio::select! {
            error = follow_once(&store, &prefix, &mut revision, &news) => error,
            () = store.turned.notified() => continue,
        };
        let Some(error) = error else { return };
        if matches!(error, StoreError::Compacted) {
            revision = None;
            // A member that lags behind the one that was read looks the same, and catches up.
            sleep(AGAIN).await;
            continue;
        }
        if news.send(News::Astray(error)).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// `None`: nobody listens any more.
async fn follow_once(
    store: &Store,
    prefix: &str,
    revision: &mut Option<i64>,
    news: &mpsc::Sender<News>,
) -> Option<StoreError> {
    let from = match *revision {
        Some(revision) => revision,
        None => match store.range(prefix).await {
            Ok((at, all)) => {
                news.send(News::All(at, all)).await.ok()?;
                *revision.insert(at)
            }
            Err(error) => return Some(error),
        },
    };
    let mut watch = match store.watch(prefix, from + 1).await {
        Ok(watch) => watch,
        Err(error) => return Some(error),
    };
    loop {
        match watch.next().await {
            // The store was put back to what it once was: everything is to be read.
            Ok(changes) if changes.store_revision < from && changes.store_revision > 0 => {
                return Some(StoreError::Compacted);
            }
            Ok(changes) => {
                let at = changes.revision;
                news.send(News::Following(changes)).await.ok()?;
                *revision = (*revision).max(Some(at));
            }
            Err(error) => return Some(error),
        }
    }
}

/// Keeps this node's key in the store for as long as it runs.
pub(super) async fn be_present(
    store: Arc<Store>,
    key: String,
    generation: u64,
    news: mpsc::Sender<News>,
) {
    loop {
        let absent = match enter(&store, &key, generation).await {
            Ok(Ok(lease)) => {
                if news.send(News::Present(lease)).await.is_err() {
                    return;
                }
                let mut is_late = false;
                loop {
                    sleep(KEEP_ALIVE).await;
                    match store.keep_alive(lease).await {
                        Ok(true) => is_late = false,
                        // It ran out: the node enters again.
                        Ok(false) => break None,
                        // A machine may hold its breath for a moment.
                        Err(_) if !is_late => is_late = true,
                        Err(error) => break Some(News::Absent(error)),
                    }
                }
            }
            Ok(Err(other)) => Some(News::Conflict(other)),
            Err(error) => Some(News::Absent(error)),
        };
        if let Some(absent) = absent {
            if news.send(absent).await.is_err() {
                return;
            }
            sleep(AGAIN).await;
        }
    }
}

/// The lease under which this node's key stands now, or who has it.
async fn enter(
    store: &Store,
    key: &str,
    generation: u64,
) -> Result<Result<i64, String>, StoreError> {
    let value = generation.to_string();
    let mut revision = match store.get(key).await? {
        // Of this very process, under a lease that may have run out.
        Some(ours) if ours.value == value => ours.mod_revision,
        Some(other) => return Ok(Err(other.value)),
        None => 0,
    };
    let lease = store.grant(LEASE_S).await?;
    loop {
        match store.set(key, &value, revision, lease).await? {
            Set::Done(_) => return Ok(Ok(lease)),
            Set::Otherwise(Some(other)) if other.value != value => return Ok(Err(other.value)),
            Set::Otherwise(ours) => revision = ours.map_or(0, |ours| ours.mod_revision),
        }
    }
}
