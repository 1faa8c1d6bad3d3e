//! What a seed chooses: the faults, the population, the table, and how long it all lasts.

use fanfare::notifier::drain::Other;
use fanfare::wire::Transport;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// One run, decided before it starts.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub shards: u8,
    pub subscribers: usize,
    pub publishers: usize,
    /// Servers in the table from the start.
    pub servers: usize,
    /// How long faults and changes last.
    pub duration_ms: u64,
    /// Mean time between changes.
    pub change_ms: u64,
    pub delay_most_ms: u64,
    /// Shares of 1,000 datagrams.
    pub lost: u32,
    pub doubled: u32,
    pub flipped: u32,
    pub stray: u32,
    /// Old answers are played again.
    pub replayed: u32,
    pub garbage: u32,
    /// Subscribers that answer badly, of 100.
    pub bad: u32,
    /// NOTIFYs begun in one fill.
    pub batch: usize,
    /// Datagrams arrive at multiples of this.
    pub burst_ms: u64,
    /// Messages for connections that may wait.
    pub effects_most: usize,
    /// All subscribers behind one address.
    pub one_hop: bool,
    pub receive_buffer: usize,
    pub ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No fault at all: not one retransmission.
    Clean,
    /// Loss, duplication, reordering.
    Lossy,
    /// And corruption, garbage, replays, bad subscribers.
    Hostile,
    /// Hundreds of servers.
    Large,
    /// Hundreds of subscribers.
    Crowd,
    /// Subscribers come and go fast, so that slots are used again.
    Churn,
}

/// How the subscriptions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Unsubscribe,
    Vanish,
    Drain,
}

impl Plan {
    /// Notifiers that an ending node knows: of half the worlds none.
    pub fn others(&self) -> Vec<Other> {
        let others = [Transport::Udp, Transport::Tcp].map(|transport| Other {
            address: ([127, 0, 0, 2], 5060).into(),
            transport,
        });
        others
            .into_iter()
            .filter(|_| self.seed.is_multiple_of(2))
            .collect()
    }

    pub fn new(seed: u64) -> Plan {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x9e37_79b9);
        let kind = match random.random_range(0..20) {
            0..4 => Kind::Clean,
            4..10 => Kind::Lossy,
            10..14 => Kind::Hostile,
            14..16 => Kind::Large,
            16..17 => Kind::Crowd,
            _ => Kind::Churn,
        };
        let faulty = kind != Kind::Clean;
        let hostile = matches!(kind, Kind::Hostile | Kind::Churn);
        let mut share = |on: bool, most: u32| if on { random.random_range(0..=most) } else { 0 };
        let (lost, doubled) = (share(faulty, 200), share(faulty, 100));
        let (flipped, garbage) = (share(kind == Kind::Hostile, 30), share(hostile, 50));
        let (replayed, stray) = (share(hostile, 300), share(true, 1000));
        let bad = if kind == Kind::Crowd {
            // Enough of them silent to fill a window of 32, were it not let go at Timer E.
            90
        } else {
            share(faulty && kind != Kind::Large, 50)
        };
        Plan {
            seed,
            kind,
            shards: random.random_range(1..=4),
            subscribers: match kind {
                Kind::Large => random.random_range(2..5),
                Kind::Crowd => random.random_range(60..120),
                Kind::Churn => random.random_range(5..15),
                _ => random.random_range(1..12),
            },
            publishers: random.random_range(1..5),
            servers: match kind {
                Kind::Large => random.random_range(60..200),
                _ => random.random_range(0..6),
            },
            duration_ms: match kind {
                Kind::Crowd => 20_000,
                Kind::Large => random.random_range(60_000..120_000),
                _ if random.random_range(0..400) == 0 => 3_600_000,
                _ => random.random_range(30_000..200_000),
            },
            change_ms: [300, 2_000, 10_000, 40_000][random.random_range(0..4)],
            delay_most_ms: if faulty {
                [5, 50, 400, 2_000][random.random_range(0..4)]
            } else {
                [1, 20, 100][random.random_range(0..3)]
            },
            lost,
            doubled,
            flipped,
            stray,
            replayed,
            garbage,
            bad,
            batch: [4, 8, 64, 256][random.random_range(0..4)],
            burst_ms: if faulty {
                [1, 1, 50, 200][random.random_range(0..4)]
            } else {
                1
            },
            effects_most: [1, 2, 1_024][random.random_range(0..3)],
            one_hop: random.random_range(0..6) == 0,
            receive_buffer: [1, 212_992, 4 << 20][random.random_range(0..3)],
            ending: [Ending::Unsubscribe, Ending::Vanish, Ending::Drain][random.random_range(0..3)],
        }
    }
}

/// Who fails, and how to fail again.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub seed: u64,
}

impl Case {
    pub fn fail(self, rule: &str, at_ms: u64, detail: &str) -> ! {
        panic!(
            "\nrule broken: {rule}\nat {at_ms} ms: {detail}\nreplay: FANFARE_SEED={} cargo test --test sim -- replay --nocapture\n",
            self.seed
        )
    }
}
