//! What the entities of the demonstration have seen and done: kept by those who play them, added up by who shows it. Knows no
//! process and no socket. Times are milliseconds since 1970, for several processes speak of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::info::{DocumentEntry, Table};

/// What is known of a server that takes no work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How many entities know it now.
    pub entities: u32,
    /// When the first of them learned it, and when the last.
    pub first_ms: u64,
    pub last_ms: u64,
}

/// Calls to one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    pub begun: u64,
    pub served: u64,
    pub lost: u64,
    /// When the last that was lost had begun.
    pub lost_ms: u64,
}

/// Everything that was seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub entities: u32,
    /// Entities whose table lacks nothing.
    pub whole: u32,
    /// How often an entity's table came to lack something after it had lacked nothing.
    pub gaps: u32,
    /// Subscriptions that a notifier refused.
    pub refused: u32,
    /// Entities that are subscribed at as many notifiers as they want to be, and when the last of them came to be so.
    pub settled: u32,
    pub settled_ms: u64,
    /// The longest that an entity was without any subscription after its first, in milliseconds.
    pub longest_alone_ms: u64,
    /// How many entities rely on a notifier.
    pub relying: BTreeMap<SocketAddr, u32>,
    /// Servers that take no work, as far as entities know.
    pub avoided: BTreeMap<Arc<str>, Known>,
    pub calls: BTreeMap<Arc<str>, Calls>,
    /// Calls for which there was no server.
    pub unplaced: u64,
}

impl Report {
    /// What two groups have seen.
    #[must_use]
    pub fn and(mut self, other: &Report) -> Report {
        self.entities += other.entities;
        self.whole += other.whole;
        self.gaps += other.gaps;
        self.refused += other.refused;
        self.settled += other.settled;
        self.settled_ms = self.settled_ms.max(other.settled_ms);
        self.longest_alone_ms = self.longest_alone_ms.max(other.longest_alone_ms);
        self.unplaced += other.unplaced;
        for (at, entities) in &other.relying {
            *self.relying.entry(*at).or_default() += entities;
        }
        for (id, known) in other.avoided.iter().filter(|(_, known)| known.entities > 0) {
            let mine = self.avoided.entry(Arc::clone(id)).or_default();
            mine.first_ms = match mine.entities {
                0 => known.first_ms,
                _ => mine.first_ms.min(known.first_ms),
            };
            mine.last_ms = mine.last_ms.max(known.last_ms);
            mine.entities += known.entities;
        }
        for (id, calls) in &other.calls {
            let mine = self.calls.entry(Arc::clone(id)).or_default();
            mine.begun += calls.begun;
            mine.served += calls.served;
            mine.lost += calls.lost;
            mine.lost_ms = mine.lost_ms.max(calls.lost_ms);
        }
        self
    }

    pub fn lost(&self) -> u64 {
        self.calls.values().map(|calls| calls.lost).sum()
    }

    pub fn lost_ms(&self) -> u64 {
        let times = self.calls.values().map(|calls| calls.lost_ms);
        times.max().unwrap_or_default()
    }
}

/// What one entity has seen last.
#[derive(Debug, Default)]
pub struct Seen {
    avoided: Vec<Arc<str>>,
    relying: Vec<SocketAddr>,
    is_whole: bool,
    is_settled: bool,
    was_heard: bool,
    alone_since_ms: Option<u64>,
}

impl Report {
    /// An entity has this table now.
    pub fn shown(&mut self, seen: &mut Seen, table: &Table, now_ms: u64) {
        let is_whole = table.view().is_some() && !table.is_stale();
        self.whole = self.whole + u32::from(is_whole) - u32::from(seen.is_whole);
        self.gaps += u32::from(seen.is_whole && !is_whole);
        seen.is_whole = is_whole;
        let avoided = table.entries().filter_map(|entry| match entry {
            DocumentEntry::Server(server) => {
                (!server.status.takes_work()).then(|| Arc::clone(&server.id))
            }
            DocumentEntry::Deleted { id, .. } | DocumentEntry::Left { id, .. } => {
                Some(Arc::clone(id))
            }
        });
        let avoided: Vec<Arc<str>> = avoided.collect();
        for id in seen.avoided.iter().filter(|id| !avoided.contains(id)) {
            if let Some(known) = self.avoided.get_mut(id) {
                known.entities -= 1;
            }
        }
        for id in avoided.iter().filter(|id| !seen.avoided.contains(id)) {
            let known = self.avoided.entry(Arc::clone(id)).or_default();
            if known.entities == 0 {
                known.first_ms = now_ms;
            }
            known.entities += 1;
            known.last_ms = now_ms;
        }
        seen.avoided = avoided;
    }

    /// An entity hears so many notifiers, and relies on these, of so many that it wants.
    pub fn follows(
        &mut self,
        seen: &mut Seen,
        heard: usize,
        relying: Vec<SocketAddr>,
        want: usize,
        now_ms: u64,
    ) {
        for at in &seen.relying {
            *self.relying.entry(*at).or_default() -= 1;
        }
        for at in &relying {
            *self.relying.entry(*at).or_default() += 1;
        }
        let is_settled = relying.len() >= want;
        self.settled = self.settled + u32::from(is_settled) - u32::from(seen.is_settled);
        if is_settled && relying != seen.relying {
            self.settled_ms = now_ms;
        }
        seen.is_settled = is_settled;
        seen.relying = relying;
        if heard > 0 {
            seen.was_heard = true;
            let alone = seen.alone_since_ms.take();
            let alone_ms = alone.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            self.longest_alone_ms = self.longest_alone_ms.max(alone_ms);
        } else if seen.was_heard {
            seen.alone_since_ms.get_or_insert(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Format, parse};

    fn table(statuses: &[(&str, &str)], state: &str) -> Table {
        let one = |(id, status): &(&str, &str)| {
            format!(
                "{{\"id\":\"{id}\",\"status\":\"{status}\",\"updated\":\"5.0.n1\",\
                 \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}]}}"
            )
        };
        let servers: Vec<String> = statuses.iter().map(one).collect();
        let text = format!(
            "{{\"domain\":\"d\",\"notifier\":\"n@1\",\"version\":1,\"view\":1,\"state\":\"{state}\",\"servers\":[{}]}}",
            servers.join(",")
        );
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        table
    }

    #[test]
    fn who_learned_of_a_death_is_counted_with_the_first_and_the_last() {
        let mut report = Report::default();
        let mut two = [Seen::default(), Seen::default()];
        let [up, down] =
            ["up", "down"].map(|status| table(&[("p1", status), ("p2", "up")], "full"));
        for seen in &mut two {
            report.shown(seen, &up, 1);
        }
        assert_eq!((report.whole, report.avoided.len()), (2, 0));
        for (seen, now_ms) in two.iter_mut().zip([5, 9]) {
            report.shown(seen, &down, now_ms);
            report.shown(seen, &down, now_ms + 100);
        }
        let known = |entities, first_ms, last_ms| Known {
            entities,
            first_ms,
            last_ms,
        };
        assert_eq!(report.avoided["p1"], known(2, 5, 9));
        report.shown(&mut two[0], &up, 20);
        assert_eq!(report.avoided["p1"].entities, 1);
        // Nobody of the second group knows anything.
        let both = report.clone().and(&Report::default()).and(&report);
        assert_eq!(both.avoided["p1"], known(2, 5, 9));
    }

    #[test]
    fn who_is_without_a_subscription_is_so_from_the_last_to_the_next() {
        let mut report = Report::default();
        let mut seen = Seen::default();
        let [one, other] = [1, 2].map(|node| SocketAddr::from(([192, 0, 2, node], 5060)));
        // Before the first there is nothing to miss.
        report.follows(&mut seen, 0, vec![], 1, 1);
        report.follows(&mut seen, 1, vec![one], 1, 50);
        assert_eq!((report.settled, report.settled_ms), (1, 50));
        // It drains: it is heard, and not relied on.
        report.follows(&mut seen, 1, vec![], 1, 60);
        assert_eq!((report.settled, report.longest_alone_ms), (0, 0));
        report.follows(&mut seen, 0, vec![], 1, 70);
        report.follows(&mut seen, 0, vec![], 1, 75);
        report.follows(&mut seen, 1, vec![other], 1, 90);
        assert_eq!((report.settled, report.settled_ms), (1, 90));
        assert_eq!(report.longest_alone_ms, 20);
        assert_eq!((report.relying[&one], report.relying[&other]), (0, 1));
    }
}
