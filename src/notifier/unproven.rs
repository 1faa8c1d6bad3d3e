//! How many subscriptions never answered a NOTIFY, by the network of their next hop: what a stranger can make us send to
//! somebody else is bounded by it. Knows no subscription.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::handle::HandleKey;

/// Contacts name the addresses, so strangers choose the keys.
#[derive(Debug, Clone)]
struct Keyed(HandleKey);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0.0)
    }
}

#[derive(Debug)]
pub struct Unproven {
    /// Never 0.
    counts: HashMap<u64, u32, Keyed>,
}

impl Unproven {
    pub fn new(key: HandleKey) -> Self {
        Unproven {
            counts: HashMap::with_hasher(Keyed(key)),
        }
    }

    /// Those in the network of this address.
    pub fn of(&self, address: IpAddr) -> u32 {
        self.counts
            .get(&network(address))
            .copied()
            .unwrap_or_default()
    }

    pub fn enter(&mut self, address: IpAddr) {
        *self.counts.entry(network(address)).or_default() += 1;
    }

    pub fn leave(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.counts.entry(network(address)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Networks with any.
    pub fn len(&self) -> usize {
        self.counts.len()
    }
}

/// An IPv4 /24 or an IPv6 /64; the former where IPv6 has multicast groups, which are no next hops.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::MAX << 32 | u64::from(u32::from(address) & 0xffff_ff00),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_counted_together_and_forgotten_with_the_last() {
        let mut unproven = Unproven::new(HandleKey([1; 16]));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        unproven.enter(address("192.0.2.1"));
        unproven.enter(address("192.0.2.200"));
        unproven.enter(address("192.0.3.1"));
        unproven.enter(address("2001:db8::1"));
        assert_eq!(unproven.of(address("192.0.2.77")), 2);
        assert_eq!(unproven.of(address("2001:db8::ffff:0:0:1")), 1);
        assert_eq!(unproven.of(address("2001:db8:0:1::1")), 0);
        for gone in ["192.0.2.1", "192.0.2.200", "192.0.3.1", "2001:db8::2"] {
            unproven.leave(address(gone));
        }
        assert_eq!(unproven.len(), 0);
    }
}
