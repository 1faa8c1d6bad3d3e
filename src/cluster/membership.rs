//! Who is alive, from what the failure detector sees round by round. Pure: knows no clock, no socket and no chitchat.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Dead nodes whose addresses are remembered.
const FORMER_MOST: usize = 1_024;

/// One life of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// Greater with every start of its process.
    pub generation: u64,
}

/// The other nodes, over all lives of the engine.
#[derive(Debug, Default)]
pub struct Membership {
    /// Those alive.
    peers: BTreeMap<Arc<str>, Peer>,
    /// Where nodes were that are not.
    former: BTreeMap<Arc<str>, SocketAddr>,
    /// Peers that are not heard of, and since when.
    suspects: BTreeMap<Arc<str>, Instant>,
}

/// What a look at the others has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub ended: Vec<Arc<str>>,
    pub begun: Vec<Arc<str>>,
}

impl Change {
    pub fn is_nothing(&self) -> bool {
        self.ended.is_empty() && self.begun.is_empty()
    }

    /// Those that died and are back: what such a node said is to be kept by those who stayed before it is heard again.
    pub fn reborn(&self) -> BTreeSet<&Arc<str>> {
        let ended: BTreeSet<_> = self.ended.iter().collect();
        self.begun
            .iter()
            .filter(|node| ended.contains(node))
            .collect()
    }
}

impl Membership {
    pub fn peers(&self) -> &BTreeMap<Arc<str>, Peer> {
        &self.peers
    }

    pub fn former(&self) -> &BTreeMap<Arc<str>, SocketAddr> {
        &self.former
    }

    /// Where a node is, or was.
    pub fn address(&self, node: &str) -> Option<SocketAddr> {
        let peer = self.peers.get(node).map(|peer| peer.address);
        peer.or_else(|| self.former.get(node).copied())
    }

    /// In a new life of the engine nobody has been silent yet.
    pub fn begin_again(&mut self) {
        self.suspects.clear();
    }

    /// Takes what the detector sees; of several lives of a node the newest. A peer that is missing for `patience` is dead.
    pub fn see(
        &mut self,
        now: Instant,
        seen: impl IntoIterator<Item = (Arc<str>, Peer)>,
        patience: Duration,
    ) -> Change {
        let mut peers: BTreeMap<Arc<str>, Peer> = BTreeMap::new();
        for (node, peer) in seen {
            let newest = peers.entry(node).or_insert(peer);
            if peer.generation > newest.generation {
                *newest = peer;
            }
        }
        self.suspects.retain(|node, _| !peers.contains_key(node));
        for (node, peer) in &self.peers {
            if peers.contains_key(node) {
                continue;
            }
            let since = *self.suspects.entry(Arc::clone(node)).or_insert(now);
            if now < since + patience {
                peers.insert(Arc::clone(node), *peer);
            }
        }
        let mut change = Change::default();
        for (node, peer) in &self.peers {
            let next = peers.get(node);
            if next.is_none_or(|next| next.generation != peer.generation) {
                self.suspects.remove(node);
                self.former.insert(Arc::clone(node), peer.address);
                change.ended.push(Arc::clone(node));
            }
        }
        let former = std::mem::replace(&mut self.peers, peers);
        for node in self.peers.keys() {
            if !former.contains_key(node) || change.ended.contains(node) {
                self.former.remove(node);
                change.begun.push(Arc::clone(node));
            }
        }
        while self.former.len() > FORMER_MOST {
            self.former.pop_first();
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(750);

    fn peer(port: u16, generation: u64) -> Peer {
        Peer {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            generation,
        }
    }

    fn names(nodes: &[&str]) -> Vec<Arc<str>> {
        nodes.iter().map(|node| Arc::from(*node)).collect()
    }

    #[test]
    fn one_that_holds_its_breath_lives_and_one_that_is_silent_for_long_is_dead() {
        let start = Instant::now();
        let mut membership = Membership::default();
        let here = || [("n2".into(), peer(2, 1)), ("n3".into(), peer(3, 1))];
        let change = membership.see(start, here(), PATIENCE);
        assert_eq!(change.begun, names(&["n2", "n3"]));
        assert!(
            membership
                .see(start, [here()[0].clone()], PATIENCE)
                .is_nothing()
        );
        let later = start + PATIENCE / 2;
        assert!(membership.see(later, here(), PATIENCE).is_nothing());
        // It was heard of meanwhile: the time begins anew.
        let later = start + PATIENCE;
        assert!(
            membership
                .see(later, [here()[0].clone()], PATIENCE)
                .is_nothing()
        );
        let change = membership.see(later + PATIENCE, [here()[0].clone()], PATIENCE);
        assert_eq!(change.ended, names(&["n3"]));
        assert_eq!(membership.address("n3"), Some(peer(3, 1).address));
        assert_eq!(membership.former().len(), 1);
        let change = membership.see(later + PATIENCE, here(), PATIENCE);
        assert_eq!(change.begun, names(&["n3"]));
        assert!(change.reborn().is_empty() && membership.former().is_empty());
    }

    #[test]
    fn one_that_is_back_before_it_was_missed_has_died_all_the_same() {
        let start = Instant::now();
        let mut membership = Membership::default();
        membership.see(start, [("n2".into(), peer(2, 1))], PATIENCE);
        // For a while both of its lives are seen.
        let both = [("n2".into(), peer(2, 1)), ("n2".into(), peer(9, 2))];
        let change = membership.see(start, both, PATIENCE);
        assert_eq!(change.ended, names(&["n2"]));
        assert_eq!(change.reborn(), BTreeSet::from([&"n2".into()]));
        assert_eq!(membership.address("n2"), Some(peer(9, 2).address));
        assert!(membership.former().is_empty());
    }
}
