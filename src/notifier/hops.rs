//! Next hops: where NOTIFYs go, shared by all subscriptions behind one flow, each with a window of its own so that no
//! peer is flooded. Knows no subscription.

use super::chunks::Chunks;
use super::handle::HandleKey;
use super::index::Index;
use crate::wire::{Flow, Transport};

/// The window of a new next hop, in NOTIFYs unanswered.
const FIRST_WINDOW: u16 = 32;
/// A window never grows beyond this: what two GSO runs of a fast peer carry.
const MOST: u16 = 8192;
/// Nor does it close further: many dialogs behind one slow peer would wait for one another for minutes.
const LEAST: u16 = 4;
/// A window is halved at most once in T1: for a loss event, not for every loss in it.
const HALVE_MS: u32 = 500;

#[derive(Debug)]
pub struct Hop {
    pub flow: Flow,
    users: u32,
    unanswered: u16,
    window: u16,
    /// The lower half of the time; where it comes round to T1 after itself, one halving is left out.
    halved_ms: u32,
    /// Somebody found the window closed and waits for it.
    starved: bool,
    /// The round trip without waits, in ms: the least seen, a quarter more each second that all are longer. 255 stands for
    /// longer ones too, and for not known.
    path_ms: u8,
    /// The second in which it last grew; it goes round.
    grown_s: u8,
}

const _: () = assert!(size_of::<Hop>() == 64);

/// The next hops of a shard, by number and by flow.
#[derive(Debug)]
pub struct Hops {
    key: HandleKey,
    hops: Chunks<Hop>,
    free: Vec<u32>,
    numbers: Index,
}

impl Hops {
    pub fn new(key: HandleKey) -> Self {
        Hops {
            key,
            hops: Chunks::new(),
            free: Vec::new(),
            numbers: Index::new(),
        }
    }

    /// The number of the hop behind `flow`, with one more user.
    pub fn enter(&mut self, flow: Flow) -> u32 {
        let hash = self.hash(&flow);
        if let Some(number) = self.find_hashed(hash, &flow) {
            self.hops[number].users += 1;
            return number;
        }
        let hop = Hop {
            flow,
            users: 1,
            unanswered: 0,
            window: FIRST_WINDOW,
            halved_ms: 0,
            starved: false,
            path_ms: u8::MAX,
            grown_s: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.hops[number] = hop;
                number
            }
            None => self.hops.push(hop),
        };
        self.numbers.insert(hash, number);
        number
    }

    pub fn leave(&mut self, number: u32) {
        let hop = &mut self.hops[number];
        hop.users -= 1;
        if hop.users == 0 {
            assert_eq!(hop.unanswered, 0, "a NOTIFY ends before its subscription");
            self.numbers.remove(number);
            self.free.push(number);
        }
    }

    /// Next hops in use.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn find(&self, flow: &Flow) -> Option<u32> {
        self.find_hashed(self.hash(flow), flow)
    }

    fn find_hashed(&self, hash: u32, flow: &Flow) -> Option<u32> {
        let is = |number| self.hops[number].flow == *flow;
        self.numbers.find(hash, is)
    }

    fn hash(&self, flow: &Flow) -> u32 {
        self.key.digest_flow(flow) as u32
    }

    pub fn flow(&self, number: u32) -> Flow {
        self.hops[number].flow
    }

    pub fn transport(&self, number: u32) -> Transport {
        self.hops[number].flow.transport
    }

    /// Whether one more NOTIFY may go to this hop; if not, it is remembered that somebody asked.
    pub fn admits(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number];
        let open = hop.unanswered < hop.window;
        hop.starved |= !open;
        open
    }

    pub fn sent(&mut self, number: u32) {
        self.hops[number].unanswered += 1;
    }

    /// An answer: the window grows by one. True when somebody waited for it.
    pub fn answered(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number];
        hop.window = (hop.window + 1).min(MOST);
        self.given_up(number)
    }

    pub fn path_ms(&self, number: u32) -> u8 {
        self.hops[number].path_ms
    }

    /// An answer came to a NOTIFY that was sent once, at `began_ms`.
    pub fn measure(&mut self, number: u32, now_ms: u64, began_ms: u64) {
        let hop = &mut self.hops[number];
        let round_trip_ms = u8::try_from(now_ms.saturating_sub(began_ms)).unwrap_or(u8::MAX);
        let second = (now_ms / 1_000) as u8;
        if round_trip_ms > hop.path_ms && second != hop.grown_s {
            hop.path_ms = hop.path_ms.saturating_add(1 + hop.path_ms / 4);
            hop.grown_s = second;
        }
        hop.path_ms = hop.path_ms.min(round_trip_ms);
    }

    /// A NOTIFY that is no longer expected to be answered soon. True when somebody waited for its place.
    pub fn given_up(&mut self, number: u32) -> bool {
        let hop = &mut self.hops[number];
        hop.unanswered = hop
            .unanswered
            .checked_sub(1)
            .expect("each NOTIFY leaves its hop once");
        hop.unanswered < hop.window && std::mem::take(&mut hop.starved)
    }

    /// A loss: Timer E fired, or the kernel refused the datagram.
    pub fn lost(&mut self, number: u32, now_ms: u64) {
        let hop = &mut self.hops[number];
        if (now_ms as u32).wrapping_sub(hop.halved_ms) >= HALVE_MS {
            hop.window = (hop.window / 2).max(LEAST);
            hop.halved_ms = now_ms as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow::udp(0, ([127, 0, 0, 1], port).into())
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
    fn the_path_is_the_least_of_its_round_trips_and_grows_when_all_are_longer() {
        let mut hops = Hops::new(HandleKey([1; 16]));
        let hop = hops.enter(flow(5060));
        let mut path_ms = |now_ms, round_trip_ms| {
            hops.measure(hop, now_ms, now_ms - round_trip_ms);
            hops.path_ms(hop)
        };
        assert_eq!([400, 30, 0].map(|ms| path_ms(1_000, ms)), [255, 30, 0]);
        assert_eq!([90, 90, 90].map(|ms| path_ms(2_000, ms)), [1, 1, 1]);
        assert_eq!(path_ms(3_000, 1), 1);
        assert_eq!((4..24).map(|s| path_ms(s * 1_000, 100)).max(), Some(100));
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
