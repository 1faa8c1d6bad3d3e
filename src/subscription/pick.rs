//! Which server a piece of work goes to (RFC 2782's priorities and weights, loads, and what this client met itself). Pure:
//! knows no notifier and no socket, and is told the time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::Chance;
use crate::info::{
    Address, AddressTransport, DocumentEntry, NOTIFIER_SERVICE, Server, Status, Table,
};
use crate::rendezvous::weighted;

/// A server that failed is avoided for this long, after a failure in a row for twice as long, at most 32 s.
const AVOIDED_MS: u64 = 1_000;
const DOUBLINGS_MOST: u32 = 5;
/// What failed is forgotten when nothing more was heard of it for so long after it was avoided.
const FORGOTTEN_MS: u64 = 60_000;

/// What is looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work<'w> {
    /// A service that the server offers; `None`: any server that is not a notifier alone.
    pub service: Option<&'w str>,
    /// Work of one key goes to one server as long as that takes any.
    pub key: Option<&'w str>,
    /// The transport that the server must be reached by.
    pub transport: Option<AddressTransport>,
}

/// A server to give work to, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub id: Arc<str>,
    pub address: Address,
}

/// How fit a server is for new work; the lesser comes first. Nothing but a server that is `down` is never picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Up,
    /// It wants no new work: only where nobody else is left.
    Unwilling,
    /// It just failed this client.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    in_a_row: u32,
    until_ms: u64,
}

/// One server that may be picked, with its share of the work.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'t> {
    pub server: &'t Server,
    pub address: &'t Address,
    /// Of the sum of all, never 0.
    pub share: u64,
}

/// A server that offers what is looked for, whatever its status, and where.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'t> {
    pub server: &'t Server,
    pub address: &'t Address,
}

/// Picks servers, one after another.
#[derive(Debug)]
pub struct Picker {
    chance: Chance,
    failures: BTreeMap<Arc<str>, Failure>,
    /// How much each of the servers that were last picked among was given, and their shares then.
    given: Vec<(Arc<str>, u64, u64)>,
}

impl Picker {
    pub fn new(chance: Chance) -> Self {
        Picker {
            chance,
            failures: BTreeMap::new(),
            given: Vec::new(),
        }
    }

    /// A server for this work: of the lowest priority that has one that is `up` and did not just fail; in there each gets
    /// its share ([`shares`]). With a key, the share is of the keys and by weight alone, and a key stays where it is as
    /// long as that server takes work. `None`: there is none but what is `down`.
    pub fn pick(&mut self, table: &Table, work: Work<'_>, now_ms: u64) -> Option<Pick> {
        self.pick_but(table, work, now_ms, &[])
    }

    /// Several servers in the order in which they are to be tried, each once, the one that [`Picker::pick`] says first.
    pub fn several(
        &mut self,
        table: &Table,
        work: Work<'_>,
        now_ms: u64,
        most: usize,
    ) -> Vec<Pick> {
        let Some(first) = self.pick(table, work, now_ms) else {
            return Vec::new();
        };
        // What comes after the first is no work that it is given.
        let given = self.given.clone();
        let mut picks = vec![first];
        while picks.len() < most
            && let Some(next) = self.pick_but(table, work, now_ms, &picks)
        {
            picks.push(next);
        }
        self.given = given;
        picks
    }

    fn pick_but(
        &mut self,
        table: &Table,
        work: Work<'_>,
        now_ms: u64,
        but: &[Pick],
    ) -> Option<Pick> {
        let best = self.best(table, work, now_ms, but);
        let chosen = match work.key {
            Some(key) => {
                let weights = best.iter().map(|one| (&one.server.id, weight(one.server)));
                let id = weighted(weights, &[key])?;
                best.iter().find(|one| one.server.id == *id)?
            }
            None => &best[self.choose(&best)?],
        };
        Some(Pick {
            id: Arc::clone(&chosen.server.id),
            address: chosen.address.clone(),
        })
    }

    /// The server did not do its work: others are picked for a while.
    pub fn failed(&mut self, id: &str, now_ms: u64) {
        self.failures
            .retain(|_, failure| failure.until_ms + FORGOTTEN_MS > now_ms);
        let failure = self.failures.entry(id.into()).or_insert(Failure {
            in_a_row: 0,
            until_ms: now_ms,
        });
        // What was under way when it failed first says nothing new.
        if failure.in_a_row == 0 || now_ms >= failure.until_ms {
            failure.until_ms = now_ms + (AVOIDED_MS << failure.in_a_row.min(DOUBLINGS_MOST));
            failure.in_a_row += 1;
        }
    }

    pub fn succeeded(&mut self, id: &str) {
        self.failures.remove(id);
    }

    fn best<'t>(
        &self,
        table: &'t Table,
        work: Work<'_>,
        now_ms: u64,
        but: &[Pick],
    ) -> Vec<Taker<'t>> {
        let fit = offers(table, work)
            .filter(|offer| but.iter().all(|pick| pick.id != offer.server.id))
            .filter_map(|offer| {
                let fitness = self.fitness(offer.server, now_ms)?;
                Some(((fitness, offer.server.priority), offer))
            });
        let fit: Vec<_> = fit.collect();
        let Some(&(first, ..)) = fit.iter().min_by_key(|(rank, ..)| *rank) else {
            return Vec::new();
        };
        let best = fit.into_iter().filter(|(rank, ..)| *rank == first);
        let best: Vec<Offer<'t>> = best.map(|(_, offer)| offer).collect();
        let servers: Vec<&Server> = best.iter().map(|offer| offer.server).collect();
        let best = best.into_iter().zip(shares(&servers));
        let takers = best.map(|(Offer { server, address }, share)| Taker {
            server,
            address,
            share,
        });
        takers.collect()
    }

    fn fitness(&self, server: &Server, now_ms: u64) -> Option<Fitness> {
        let has_failed = self
            .failures
            .get(&server.id)
            .is_some_and(|failure| failure.until_ms > now_ms);
        match server.status {
            Status::Down => None,
            _ if has_failed => Some(Fitness::Failed),
            Status::Up => Some(Fitness::Up),
            Status::Draining | Status::Overloaded | Status::Other(_) => Some(Fitness::Unwilling),
        }
    }

    /// Two are drawn by their shares, and the one gets it that has had less of its share so far: so what one client gives
    /// keeps to the shares much closer than by chance alone, and clients that know the same do not all go the same way.
    fn choose(&mut self, best: &[Taker<'_>]) -> Option<usize> {
        let is_same = best.len() == self.given.len()
            && best
                .iter()
                .zip(&self.given)
                .all(|(one, (id, share, _))| one.server.id == *id && one.share == *share);
        if !is_same {
            let anew = best
                .iter()
                .map(|one| (Arc::clone(&one.server.id), one.share, 0));
            self.given = anew.collect();
        }
        let total: u64 = best.iter().map(|one| one.share).sum();
        let mut draw = || {
            let mut left = self.chance.within(0..total);
            best.iter().position(|one| {
                let is_in = left < one.share;
                left = left.saturating_sub(one.share);
                is_in
            })
        };
        let (one, other) = (draw()?, draw()?);
        // given / share, without a division.
        let (mine, its) = (&self.given[one], &self.given[other]);
        let chosen = if mine.2 * its.1 <= its.2 * mine.1 {
            one
        } else {
            other
        };
        self.given[chosen].2 += 1;
        Some(chosen)
    }
}

/// The servers that offer what is looked for, in the order of their names.
pub fn offers<'t>(table: &'t Table, work: Work<'_>) -> impl Iterator<Item = Offer<'t>> {
    table.entries().filter_map(move |entry| match entry {
        DocumentEntry::Server(server) => {
            let address = address_for(server, work)?;
            Some(Offer { server, address })
        }
        DocumentEntry::Deleted { .. } | DocumentEntry::Left { .. } => None,
    })
}

/// Those among whom new work is to be shared now, with their shares: what a client gives that met no failures.
pub fn takers<'t>(table: &'t Table, work: Work<'_>) -> Vec<Taker<'t>> {
    Picker::new(Chance::new(0)).best(table, work, 0, &[])
}

/// How the work is to be shared among servers of one priority, none of them 0: weight times free capacity. A weight of 0
/// counts as a tenth of 1 (RFC 2782 wants it to be seldom chosen), an unknown load as the mean of the others'.
pub fn shares(servers: &[&Server]) -> Vec<u64> {
    let loads = || servers.iter().filter_map(|server| server.load);
    let known = loads().count() as u64;
    let sum: u64 = loads().map(u64::from).sum();
    let mean = sum.checked_div(known).unwrap_or(0);
    let share = |server: &&Server| {
        let load = server.load.map_or(mean, u64::from);
        // A server that is full is not asked for nothing at all, or it would never be seen to have room again.
        u64::from(weight(server)) * 100u64.saturating_sub(load).max(1)
    };
    servers.iter().map(share).collect()
}

fn weight(server: &Server) -> u32 {
    (u32::from(server.weight) * 10).max(1)
}

/// Where a server takes this work: an address of the service alone before one of all services, and then UDP before TCP
/// before the others. A notifier takes work of its own alone.
fn address_for<'t>(server: &'t Server, work: Work<'_>) -> Option<&'t Address> {
    let offers = match work.service {
        Some(service) => server.has_service(service),
        None => {
            server.services.iter().any(|one| **one != *NOTIFIER_SERVICE) || !server.is_notifier()
        }
    };
    if !offers {
        return None;
    }
    let fits = |address: &&Address| {
        let transport = work
            .transport
            .is_none_or(|transport| address.transport == transport);
        let service = match (&address.service, work.service) {
            (Some(own), Some(wanted)) => **own == *wanted,
            (Some(_), None) => false,
            (None, _) => true,
        };
        transport && service
    };
    // Of several alike the first.
    let fitting = server.addresses.iter().filter(fits);
    let best = fitting.min_by_key(|address| (address.service.is_none(), address.transport));
    let any = || {
        server
            .addresses
            .iter()
            .find(|_| work.service.is_none() && work.transport.is_none())
    };
    best.or_else(any)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::info::{Format, parse};
    use proptest::prelude::*;

    /// Servers `(id, status, load, priority, weight)` of the service `proxy`.
    fn table(servers: &[(&str, &str, Option<u8>, u16, u16)]) -> Table {
        let one = |(id, status, load, priority, weight): &(&str, &str, Option<u8>, u16, u16)| {
            let load = load
                .map(|load| format!("\"load\":{load},"))
                .unwrap_or_default();
            format!(
                "{{\"id\":\"{id}\",\"status\":\"{status}\",{load}\"priority\":{priority},\"weight\":{weight},\
                 \"updated\":\"5.0.n1\",\"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}],\
                 \"services\":[\"proxy\"]}}"
            )
        };
        let servers: Vec<String> = servers.iter().map(one).collect();
        let text = format!(
            "{{\"domain\":\"d\",\"notifier\":\"n@1\",\"version\":1,\"view\":1,\"state\":\"full\",\"servers\":[{}]}}",
            servers.join(",")
        );
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        table
    }

    fn picker() -> Picker {
        Picker::new(Chance::new(7))
    }

    fn picked(picker: &mut Picker, table: &Table, now_ms: u64) -> Option<String> {
        let pick = picker.pick(table, Work::default(), now_ms)?;
        Some(pick.id.to_string())
    }

    #[test]
    fn the_lowest_priority_with_one_that_is_up_gets_it_all() {
        let up = |status| table(&[("a", status, None, 1, 1), ("b", "up", None, 2, 1)]);
        for (status, expected) in [
            ("up", "a"),
            ("draining", "b"),
            ("overloaded", "b"),
            ("down", "b"),
            ("odd", "b"),
        ] {
            let picked = picked(&mut picker(), &up(status), 0);
            assert_eq!(picked.as_deref(), Some(expected), "{status}");
        }
        let unwilling = table(&[
            ("a", "overloaded", None, 2, 1),
            ("b", "draining", None, 1, 1),
            ("c", "down", None, 0, 1),
        ]);
        assert_eq!(picked(&mut picker(), &unwilling, 0).as_deref(), Some("b"));
        let down = table(&[("a", "down", None, 0, 1)]);
        assert_eq!(picked(&mut picker(), &down, 0), None);
        assert_eq!(picked(&mut picker(), &Table::new(), 0), None);
    }

    #[test]
    fn who_failed_is_avoided_for_longer_each_time_until_it_succeeds() {
        let table = table(&[("a", "up", None, 1, 1), ("b", "up", None, 2, 1)]);
        let mut picker = picker();
        let mut now_ms = 0;
        for avoided_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 32_000] {
            picker.failed("a", now_ms);
            // It is still the same failure.
            picker.failed("a", now_ms + 1);
            assert_eq!(picked(&mut picker, &table, now_ms).as_deref(), Some("b"));
            assert_eq!(
                picked(&mut picker, &table, now_ms + avoided_ms - 1).as_deref(),
                Some("b")
            );
            now_ms += avoided_ms;
            assert_eq!(picked(&mut picker, &table, now_ms).as_deref(), Some("a"));
        }
        picker.succeeded("a");
        picker.failed("a", now_ms);
        assert_eq!(
            picked(&mut picker, &table, now_ms + 1_000).as_deref(),
            Some("a")
        );
        // Who failed comes last, and before nobody.
        picker.failed("a", now_ms + 1_000);
        picker.failed("b", now_ms + 1_000);
        assert_eq!(
            picked(&mut picker, &table, now_ms + 1_000).as_deref(),
            Some("a")
        );
    }

    #[test]
    fn several_are_in_the_order_in_which_they_are_to_be_tried() {
        let table = table(&[
            ("a", "draining", None, 1, 1),
            ("b", "up", None, 2, 1),
            ("c", "up", None, 1, 0),
            ("d", "down", None, 0, 1),
            ("e", "up", None, 2, 1),
        ]);
        let mut picker = picker();
        let mut firsts = BTreeMap::new();
        for _ in 0..100 {
            let picks = picker.several(&table, Work::default(), 0, 8);
            let ids: Vec<&str> = picks.iter().map(|pick| &*pick.id).collect();
            assert!(["c b e a", "c e b a"].contains(&&*ids.join(" ")), "{ids:?}");
            *firsts.entry(ids[1].to_owned()).or_insert(0) += 1;
        }
        assert!(
            firsts.values().all(|count| (25..=75).contains(count)),
            "{firsts:?}"
        );
        assert_eq!(picker.several(&table, Work::default(), 0, 2).len(), 2);
        assert!(
            picker
                .several(&Table::new(), Work::default(), 0, 2)
                .is_empty()
        );
    }

    #[test]
    fn the_address_of_the_service_goes_before_one_of_all() {
        let text = r#"{"domain":"d","notifier":"n@1","version":1,"view":1,"state":"full","servers":[{"id":"a","status":"up","updated":"5.0.n1",
            "addresses":[{"ip":"192.0.2.1","port":1,"transport":"udp"},{"ip":"192.0.2.1","port":2,"transport":"tcp","service":"turn"},
            {"ip":"192.0.2.1","port":3,"transport":"udp","service":"proxy"}],"services":["proxy","turn"]}]}"#;
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        let port = |service, transport| {
            let work = Work {
                service,
                key: None,
                transport,
            };
            picker().pick(&table, work, 0).map(|pick| pick.address.port)
        };
        assert_eq!(port(Some("turn"), None), Some(2));
        assert_eq!(port(Some("proxy"), None), Some(3));
        assert_eq!(port(Some("turn"), Some(AddressTransport::Udp)), Some(1));
        assert_eq!(port(Some("turn"), Some(AddressTransport::Tls)), None);
        assert_eq!(port(Some("other"), None), None);
        assert_eq!(port(None, None), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// What each should get is worked out here by itself: weight times what is free of 100.
        #[test]
        fn shares_are_as_weights_and_loads_say(
            servers in prop::collection::vec((1u16..20, 0u8..95), 1..8),
            seed: u64,
        ) {
            let ids: Vec<String> = (0..servers.len()).map(|number| format!("s{number}")).collect();
            let rows = servers.iter().zip(&ids);
            let rows: Vec<_> = rows.map(|((weight, load), id)| (&**id, "up", Some(*load), 0, *weight)).collect();
            let table = table(&rows);
            let mut picker = Picker::new(Chance::new(seed));
            let mut got: BTreeMap<String, f64> = BTreeMap::new();
            let picks = 5_000;
            for _ in 0..picks {
                *got.entry(picked(&mut picker, &table, 0).expect("all are up")).or_default() += 1.0;
            }
            let wanted = |(weight, load): &(u16, u8)| f64::from(*weight) * (100.0 - f64::from(*load));
            let total: f64 = servers.iter().map(wanted).sum();
            for (server, id) in servers.iter().zip(&ids) {
                let (share, due) = (got.get(id).unwrap_or(&0.0) / f64::from(picks), wanted(server) / total);
                prop_assert!((share - due).abs() <= 0.05 * due + 0.001, "{id}: {share} instead of {due}");
            }
        }

        #[test]
        fn when_a_server_dies_only_its_keys_move(
            servers in prop::collection::vec((0u16..20, prop::option::of(0u8..=100)), 2..8),
            seed: u64,
        ) {
            let ids: Vec<String> = (0..servers.len()).map(|number| format!("s{number}")).collect();
            let with = |dead: Option<usize>| {
                let rows = servers.iter().zip(&ids).enumerate();
                let rows: Vec<_> = rows.map(|(at, ((weight, load), id))| {
                    (&**id, if dead == Some(at) { "down" } else { "up" }, *load, 0, *weight)
                }).collect();
                table(&rows)
            };
            let (before, after) = (with(None), with(Some(0)));
            let mut picker = Picker::new(Chance::new(seed));
            let mut at = |table: &Table, key: &str| {
                let work = Work { key: Some(key), ..Work::default() };
                picker.pick(table, work, 0).expect("one is up").id
            };
            for number in 0..200 {
                let key = format!("k{number}");
                let (first, then) = (at(&before, &key), at(&after, &key));
                prop_assert!(first == then || *first == *"s0");
                prop_assert_ne!(&*then, "s0");
            }
        }
    }
}
