//! The table of entries at one revision. Knows not who reads it.

use std::sync::Arc;

use super::server::Server;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was said last. Of a deleted entry: the last state known, with `updated` the stamp of the deletion.
    pub server: Server,
    pub deleted: bool,
}

/// The table of one domain at one revision of one notifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub domain: Arc<str>,
    /// Node id @ start in Unix ms: views of two notifiers, or of two lives of one, are not comparable.
    pub notifier: Arc<str>,
    pub revision: u64,
    /// What is not named may merely be unknown.
    pub stale: bool,
    /// Sorted by the bytes of the id, each once; deleted ones stay for a while.
    pub entries: Vec<Arc<Entry>>,
    /// The revision of the last change of a status, or of the set of servers.
    pub urgent: u64,
    /// The revision of the last change of anything else but load.
    pub notable: u64,
    /// The revision of the last change of load that counts as one.
    pub load: u64,
}

impl View {
    /// A table without entries, at revision 1.
    pub fn empty(domain: Arc<str>, notifier: Arc<str>) -> Self {
        View {
            domain,
            notifier,
            revision: 1,
            stale: false,
            entries: Vec::new(),
            urgent: 1,
            notable: 1,
            load: 1,
        }
    }

    /// The place of an id among the entries, or where it would stand.
    pub fn position(&self, id: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.server.id.as_bytes().cmp(id.as_bytes()))
    }

    pub fn find(&self, id: &str) -> Option<&Arc<Entry>> {
        self.position(id).ok().map(|place| &self.entries[place])
    }
}
