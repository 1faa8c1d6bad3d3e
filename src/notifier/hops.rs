//! Next hops: where NOTIFYs go, shared by all subscriptions behind one flow, each with a window of its own so that no
//! peer is flooded. Knows no subscription.

use std::collections::HashMap;
use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

use super::handle::HandleKey;
use crate::wire::Flow;

/// The window of a new next hop, in NOTIFYs unanswered.
const FIRST_WINDOW: u32 = 32;
/// A window never grows beyond this: what two GSO runs of a fast peer carry.
const MOST: u32 = 8192;
/// Nor does it close further: many dialogs behind one slow peer would wait for one another for minutes.
const LEAST: u32 = 4;
/// A window is halved at most once in T1: for a loss event, not for every loss in it.
const HALVE_MS: u64 = 500;

#[derive(Debug)]
pub struct Hop {
    pub flow: Flow,
    users: u32,
    unanswered: u32,
    window: u32,
    halved_ms: u64,
    /// Somebody found the window closed and waits for it.
    starved: bool,
}

#[derive(Debug, Clone)]
struct Keyed(HandleKey);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0.0)
    }
}

/// The next hops of a shard, by number and by flow.
#[derive(Debug)]
pub struct Hops {
    hops: Vec<Hop>,
    free: Vec<u32>,
    numbers: HashMap<Flow, u32, Keyed>,
}

impl Hops {
    pub fn new(key: HandleKey) -> Self {
        Hops {
            hops: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::with_hasher(Keyed(key)),
        }
    }

    /// The number of the hop behind `flow`, with one more user.
    pub fn enter(&mut self, flow: Flow) -> u32 {
        if let Some(&number) = self.numbers.get(&flow) {
            self.hops[number as usize].users += 1;
            return number;
        }
        let hop = Hop {
            flow,
            users: 1,
            unanswered: 0,
            window: FIRST_WINDOW,
            halved_ms: 0,
            starved: false,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.hops[number as usize] = hop;
                number
            }
            None => {
                self.hops.push(hop);
                u32::try_from(self.hops.len() - 1).expect("fewer hops than subscriptions")
            }
        };
        self.numbers.insert(flow, number);
        number
    }

    pub fn leave(&mut self, number: u32) {
        let hop = &mut self.hops[number as usize];
        hop.users -= 1;
        if hop.users == 0 {
            assert_eq!(hop.unanswered, 0, "a NOTIFY ends before its subscription");
            self.numbers.remove(&hop.flow);
            self.free.push(number);
        }
    }

    /// Next hops in use.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn find(&self, flow: &Flow) -> Option<u32> {
        self.numbers.get(flow).copied()
    }

    pub fn flow(&self, number: u32) -> Flow {
        self.hops[number as usize].flow
    }

    /// Whether one more NOTIFY may go to this hop; if not, it is remembered that somebody asked.
    pub fn admits(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number as usize];
        let open = hop.unanswered < hop.window;
        hop.starved |= !open;
        open
    }

    pub fn sent(&mut self, number: u32) {
        self.hops[number as usize].unanswered += 1;
    }

    /// An answer: the window grows by one. True when somebody waited for it.
    pub fn answered(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number as usize];
        hop.window = (hop.window + 1).min(MOST);
        self.given_up(number)
    }

    /// A NOTIFY that is no longer expected to be answered soon. True when somebody waited for its place.
    pub fn given_up(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number as usize];
        hop.unanswered = hop
            .unanswered
            .checked_sub(1)
            .expect("each NOTIFY leaves its hop once");
        hop.unanswered < hop.window && std::mem::take(&mut hop.starved)
    }

    /// A loss: Timer E fired, or the kernel refused the datagram.
    pub fn lost(&mut self, number: u32, now_ms: u64) {
        let hop = &mut self.hops[number as usize];
        if now_ms >= hop.halved_ms + HALVE_MS {
            hop.window = (hop.window / 2).max(LEAST);
            hop.halved_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transport;

    fn flow(port: u16) -> Flow {
        Flow {
            transport: Transport::Udp,
            local: 0,
            peer: ([127, 0, 0, 1], port).into(),
            connection: 0,
        }
    }

    #[test]
    fn subscriptions_behind_one_flow_share_a_hop_until_the_last_leaves() {
        let mut hops = Hops::new(HandleKey([1; 16]));
        let first = hops.enter(flow(5060));
        assert_eq!(hops.enter(flow(5060)), first);
        assert_ne!(hops.enter(flow(5061)), first);
        hops.leave(first);
        assert_eq!(hops.find(&flow(5060)), Some(first));
        hops.leave(first);
        assert_eq!(hops.find(&flow(5060)), None);
    }

    #[test]
    fn a_window_opens_by_answers_and_closes_by_losses() {
        let mut hops = Hops::new(HandleKey([1; 16]));
        let hop = hops.enter(flow(5060));
        for _ in 0..FIRST_WINDOW {
            assert!(hops.admits(hop));
            hops.sent(hop);
        }
        assert!(!hops.admits(hop));
        assert!(hops.answered(hop), "somebody waited");
        assert!(hops.admits(hop));
        hops.lost(hop, 1_000);
        hops.lost(hop, 1_100);
        assert!(!hops.admits(hop));
        for _ in 0..FIRST_WINDOW / 2 {
            hops.given_up(hop);
        }
        assert!(hops.admits(hop), "two losses at once halve it once");
    }
}
