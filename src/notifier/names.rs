//! Names in Contacts and routes, and what they resolved to. The lookup itself happens elsewhere: a SUBSCRIBE whose target
//! is unknown is parked with the resolver and comes back with its result, so the notifier never waits.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::wire::Transport;

/// At most this many names are kept.
const MOST: usize = 4096;
/// A failed lookup is believed for this long.
const FAILED_MS: u64 = 10_000;

/// A target to be located by RFC 3263: a host name with what the URI says of port and transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Box<str>,
    /// With a port, only addresses are looked up (RFC 3263 4.2).
    pub port: Option<u16>,
    /// Without a transport in the URI, NAPTR and SRV choose (RFC 3263 4.1).
    pub transport: Option<Transport>,
}

/// Where a target was found, for how long to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// In order of preference; empty when the name leads nowhere.
    pub addresses: Vec<(Transport, SocketAddr)>,
    pub ttl_ms: u64,
}

#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Target, (Location, u64)>,
}

impl Names {
    pub fn find(&self, now_ms: u64, target: &Target) -> Option<&Location> {
        self.known
            .get(target)
            .filter(|(_, until_ms)| *until_ms > now_ms)
            .map(|(location, _)| location)
    }

    pub fn learn(&mut self, now_ms: u64, target: Target, location: Location) {
        if self.known.len() >= MOST {
            self.known.retain(|_, (_, until_ms)| *until_ms > now_ms);
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let ttl_ms = if location.addresses.is_empty() {
            FAILED_MS
        } else {
            location.ttl_ms.clamp(1_000, 3_600_000)
        };
        self.known.insert(target, (location, now_ms + ttl_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(number: usize) -> Target {
        Target {
            host: format!("h{number}.example.com").into(),
            port: None,
            transport: None,
        }
    }

    #[test]
    fn a_name_is_forgotten_after_its_time_to_live() {
        let mut names = Names::default();
        let location = Location {
            addresses: vec![(Transport::Udp, ([192, 0, 2, 1], 5060).into())],
            ttl_ms: 5_000,
        };
        names.learn(0, target(1), location.clone());
        assert_eq!(names.find(4_999, &target(1)), Some(&location));
        assert_eq!(names.find(5_000, &target(1)), None);
    }

    #[test]
    fn the_table_of_names_is_bounded() {
        let mut names = Names::default();
        for number in 0..3 * MOST {
            names.learn(
                0,
                target(number),
                Location {
                    addresses: Vec::new(),
                    ttl_ms: 0,
                },
            );
            assert!(names.known.len() <= MOST);
        }
    }
}
