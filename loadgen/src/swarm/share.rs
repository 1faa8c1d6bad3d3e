//! Which entities, next hops and sockets belong to which crew: entities by turns, and all that stand behind one next hop
//! together. Pure arithmetic.

use std::net::{IpAddr, Ipv4Addr};

/// One crew's share of a swarm.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    crews: u32,
    crew: u32,
    pub entities: u32,
    /// How many next hops of 127.0.0.0/8; `None`: the sockets are the next hops.
    hops: Option<u32>,
    pub sockets: u32,
}

/// How many of `count` go to the crew when all go by turns.
fn part(count: u32, crews: u32, crew: u32) -> u32 {
    (count + crews - 1 - crew) / crews
}

impl Share {
    /// No more crews than there are entities, next hops or sockets, so that none is without.
    pub fn crews(wanted: u32, entities: u32, hops: Option<u32>, sockets: u32) -> u32 {
        let most = entities.min(sockets).min(hops.unwrap_or(u32::MAX));
        wanted.clamp(1, most)
    }

    pub fn new(crews: u32, crew: u32, entities: u32, hops: Option<u32>, sockets: u32) -> Self {
        Share {
            crews,
            crew,
            entities: part(entities, crews, crew),
            hops: hops.map(|hops| part(hops, crews, crew)),
            sockets: part(sockets, crews, crew),
        }
    }

    /// Number of an entity in the whole swarm.
    pub fn index(&self, at: u32) -> u32 {
        at * self.crews + self.crew
    }

    /// Number in this crew of the entity `index`; `None` for another crew's.
    pub fn at(&self, index: u32) -> Option<u32> {
        let at = index / self.crews;
        (at < self.entities && index == self.index(at)).then_some(at)
    }

    /// Number in this crew of an entity's socket.
    pub fn socket(&self, at: u32) -> usize {
        (self.hops.map_or(at, |hops| at % hops) % self.sockets) as usize
    }

    /// Where an entity's datagrams leave from, when that is not its socket's own address.
    pub fn address(&self, at: u32) -> Option<Ipv4Addr> {
        // From 127.1.0.1 on, clear of the addresses that servers listen on.
        let address = |hops| Ipv4Addr::from(0x7f01_0001 + self.index(at % hops));
        self.hops.map(address)
    }

    /// What the crew's sockets are bound to.
    pub fn bind(&self, local: IpAddr) -> IpAddr {
        if self.hops.is_some() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            local
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn every_entity_is_in_one_crew_and_every_hop_too() {
        for (entities, hops, sockets) in [
            (10, None, 3),
            (100, Some(8), 4),
            (100, Some(7), 7),
            (50, Some(50), 16),
        ] {
            for wanted in 1..6 {
                let crews = Share::crews(wanted, entities, hops, sockets);
                let mut seen = BTreeSet::new();
                let mut crew_of = BTreeMap::new();
                let mut sockets_used = BTreeSet::new();
                for crew in 0..crews {
                    let share = Share::new(crews, crew, entities, hops, sockets);
                    for at in 0..share.entities {
                        let index = share.index(at);
                        assert!(index < entities && seen.insert(index));
                        assert_eq!(share.at(index), Some(at));
                        assert_eq!(
                            Share::new(crews, (crew + 1) % crews, entities, hops, sockets)
                                .at(index)
                                .is_some(),
                            crews == 1
                        );
                        sockets_used.insert((crew, share.socket(at)));
                        let other = share
                            .address(at)
                            .and_then(|address| crew_of.insert(address, (crew, share.socket(at))));
                        assert!(other.is_none_or(|other| other == (crew, share.socket(at))));
                    }
                    assert_eq!(share.at(entities), None);
                }
                assert_eq!(seen.len(), entities as usize);
                assert_eq!(sockets_used.len(), sockets as usize);
                assert!(hops.is_none_or(|hops| crew_of.len() == hops as usize));
            }
        }
    }

    #[test]
    fn one_crew_has_all_in_order() {
        let share = Share::new(1, 0, 100, Some(100), 16);
        assert_eq!((share.at(99), share.at(100)), (Some(99), None));
        assert_eq!(share.address(99), Some(Ipv4Addr::new(127, 1, 0, 100)));
        assert_eq!(share.socket(17), 1);
    }
}
