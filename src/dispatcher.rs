//! Keeps a destination set of Kamailio's dispatcher module equal to the table: what is to be called over its RPC so that what
//! is there becomes what is wanted. Pure: knows no socket, no clock and no notifier.
//!
//! Each look begins with what the module lists, so nothing is assumed of what was called before, and a Kamailio that was
//! restarted is filled again. States are set at once. What a destination is (its weight, its attributes) can be changed by no
//! call: another entry for it is added, disabled, then the two change places, then the old one is removed. So at no time a
//! server that takes work is missing. The module frees the list before the last at each of these changes, used or not, so
//! whoever drives this leaves a second between two of them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::info::{AddressTransport, Server, Table};
use crate::subscription::{Offer, Work, offers, takers};

/// The module spreads calls over so many slots, by `rweight` (its algorithm 11).
const SLOTS: u64 = 100;
/// A weight stays as long as the share that it makes is so near to what it should be, in per cent of that.
const TOLERANCE: f64 = 0.10;
/// The flags of a destination that is added: disabled, so that it takes no call before the other has gone.
const DISABLED: u32 = 4;
/// What the module reads in attributes itself.
const RESERVED: [&str; 10] = [
    "duid",
    "cc",
    "weight",
    "latency",
    "maxload",
    "socket",
    "sockname",
    "rweight",
    "ping_from",
    "obproxy",
];
/// Attributes with longer values are left out.
const VALUE_MOST: usize = 128;

/// A server as the set should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub id: String,
    /// Without what tells two entries of it apart.
    pub uri: String,
    /// Its share of new work; 0: none.
    pub share: u64,
    /// As they stand behind `rweight`.
    pub attributes: String,
}

/// The servers of a service that Kamailio can reach, with the shares of those that take new work.
pub fn destinations(table: &Table, service: Option<&str>) -> Vec<Destination> {
    let work = Work {
        service,
        ..Work::default()
    };
    let shares: BTreeMap<&str, u64> = takers(table, work)
        .into_iter()
        .map(|taker| (&*taker.server.id, taker.share))
        .collect();
    let destination = |Offer { server, address }: Offer<'_>| {
        let at = SocketAddr::new(address.ip, address.port);
        let transport = match address.transport {
            AddressTransport::Udp => "",
            AddressTransport::Tcp => ";transport=tcp",
            AddressTransport::Tls => ";transport=tls",
            AddressTransport::Ws | AddressTransport::Wss => return None,
        };
        Some(Destination {
            id: server.id.to_string(),
            uri: format!("sip:{at}{transport}"),
            share: shares.get(&*server.id).copied().unwrap_or(0),
            attributes: attributes(server),
        })
    };
    let mut at: BTreeMap<String, Destination> = BTreeMap::new();
    for one in offers(table, work).filter_map(destination) {
        // One that was started anew under another name is where the dead one is: a place is one destination.
        let known = at.get(&one.uri).map(|known| known.share);
        if known.is_none_or(|share| share < one.share) {
            at.insert(one.uri.clone(), one);
        }
    }
    at.into_values().collect()
}

/// The server's name and attributes, as far as the module can read them: a comma or a space would end what it reads.
fn attributes(server: &Server) -> String {
    let is_plain = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+".contains(&byte);
        !text.is_empty() && text.len() <= VALUE_MOST && text.bytes().all(plain)
    };
    let is_ours = |name: &str| !RESERVED.contains(&&*name.to_ascii_lowercase());
    let own = server.attributes.iter();
    let own = own.filter(|(name, value)| is_plain(name) && is_plain(value) && is_ours(name));
    let own: String = own
        .map(|(name, value)| format!(";{name}={value}"))
        .collect();
    format!("duid={}{own}", server.id)
}

/// An entry of the module's set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uri: String,
    /// Whether calls are given to it.
    pub is_active: bool,
    pub rweight: u32,
    /// Behind `rweight`.
    pub attributes: String,
}

/// An answer of the module's `dispatcher.list` that is none.
#[derive(Debug, thiserror::Error)]
#[error("not what dispatcher.list answers: {0}")]
pub struct NoList(#[from] serde_json::Error);

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Listed {
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Record {
    set: Set,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Set {
    id: i64,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Target {
    dest: Dest,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Dest {
    uri: String,
    flags: String,
    attrs: Option<Attrs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Attrs {
    body: String,
    rweight: u32,
}

/// The entries of one set, of what `dispatcher.list` answers.
pub fn listed(result: Value, set: i32) -> Result<Vec<Entry>, NoList> {
    let listed: Listed = serde_json::from_value(result)?;
    let own = listed
        .records
        .into_iter()
        .filter(|record| record.set.id == i64::from(set));
    let targets = own.flat_map(|record| record.set.targets);
    let entry = |Target { dest }: Target| {
        let attrs = dest.attrs.unwrap_or(Attrs {
            body: String::new(),
            rweight: 0,
        });
        let attributes = attrs.body.split_once(';').map_or("", |(_, rest)| rest);
        Entry {
            // Of the states it is I (inactive) and D (disabled) that take no calls; T is one that failed of late and still does.
            is_active: dest.flags.starts_with(['A', 'T']),
            uri: dest.uri,
            rweight: attrs.rweight,
            attributes: attributes.to_owned(),
        }
    };
    Ok(targets.map(entry).collect())
}

/// A call of the module's RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Enable {
        uri: String,
    },
    Disable {
        uri: String,
    },
    Add {
        uri: String,
        rweight: u32,
        attributes: String,
    },
    Remove {
        uri: String,
    },
}

impl Call {
    /// Its method and parameters.
    pub fn json(&self, set: i32) -> (&'static str, Value) {
        match self {
            Call::Enable { uri } => ("dispatcher.set_state", json!(["a", set, uri])),
            Call::Disable { uri } => ("dispatcher.set_state", json!(["d", set, uri])),
            Call::Add {
                uri,
                rweight,
                attributes,
            } => {
                let attributes = format!("rweight={rweight};{attributes}");
                ("dispatcher.add", json!([set, uri, DISABLED, 0, attributes]))
            }
            Call::Remove { uri } => ("dispatcher.remove", json!([set, uri])),
        }
    }
}

/// What is to be called next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// At once, in this order.
    pub states: Vec<Call>,
    /// Changes of the list, of which one is to be made when the one before is a second ago; then it is looked again. The most
    /// urgent first.
    pub changes: Vec<Call>,
}

impl Plan {
    pub fn is_done(&self) -> bool {
        self.states.is_empty() && self.changes.is_empty()
    }
}

/// The server that an entry of ours is of.
pub fn id_of(entry: &Entry) -> Option<&str> {
    let first = entry.attributes.split(';').next()?;
    first.strip_prefix("duid=")
}

/// What makes these entries those destinations. Those that are spared stay as they are, wanted or not.
pub fn plan(entries: &[Entry], wanted: &[Destination], is_spared: impl Fn(&Entry) -> bool) -> Plan {
    let rweights = rweights(entries, wanted);
    let mut plan = Plan::default();
    let mut additions = Vec::new();
    let mut kept = BTreeSet::new();
    for destination in wanted {
        let own = || entries.iter().filter(|entry| is_of(entry, destination));
        let is_right = |entry: &&Entry| {
            let rweight = rweights.get(&*destination.id);
            entry.attributes == destination.attributes
                && rweight.is_none_or(|rweight| entry.rweight == *rweight)
        };
        // Of two that are alike the one that is active.
        let right = own().filter(is_right).max_by_key(|entry| entry.is_active);
        let any = own().max_by_key(|entry| entry.is_active);
        if right.is_none() {
            let taken: Vec<&str> = own().map(|entry| &*entry.uri).collect();
            let mut free = uris(destination)
                .into_iter()
                .filter(|uri| !taken.contains(&&**uri));
            additions.extend(free.next().map(|uri| Call::Add {
                uri,
                rweight: rweights.get(&*destination.id).copied().unwrap_or(1),
                attributes: destination.attributes.clone(),
            }));
        }
        let Some(entry) = right.or(any) else {
            continue;
        };
        kept.insert(entry.uri.as_str());
        match (destination.share > 0, entry.is_active) {
            (true, false) => plan.states.push(Call::Enable {
                uri: entry.uri.clone(),
            }),
            (false, true) => plan.states.push(Call::Disable {
                uri: entry.uri.clone(),
            }),
            _ => {}
        }
    }
    let is_other = |entry: &&Entry| !kept.contains(&*entry.uri) && !is_spared(entry);
    let others = || entries.iter().filter(is_other);
    let disabled = others().filter(|entry| entry.is_active);
    plan.states.extend(disabled.map(|entry| Call::Disable {
        uri: entry.uri.clone(),
    }));
    // What is missing, then what is too much, then what is to be another: what is kept of a server is one entry, so a place is
    // free for that.
    let is_missing = |call: &Call| match call {
        Call::Add { uri, .. } => !entries.iter().any(|entry| same_place(&entry.uri, uri)),
        _ => false,
    };
    let removals = others().map(|entry| Call::Remove {
        uri: entry.uri.clone(),
    });
    let removals: Vec<Call> = removals.collect();
    let (missing, replacing): (Vec<Call>, Vec<Call>) = additions.into_iter().partition(is_missing);
    plan.changes = [missing, removals, replacing].concat();
    plan
}

/// The two places that a destination can have in the set.
fn uris(destination: &Destination) -> [String; 2] {
    let uri = &destination.uri;
    [uri.clone(), format!("{uri};g=1")]
}

fn is_of(entry: &Entry, destination: &Destination) -> bool {
    same_place(&entry.uri, &destination.uri)
}

/// Whether both are the one or the other place of one destination.
fn same_place(one: &str, other: &str) -> bool {
    let bare = |uri: &str| uri.strip_suffix(";g=1").unwrap_or(uri).to_owned();
    bare(one) == bare(other)
}

/// What each destination that takes work should weigh: what it does, as long as that makes shares that are near enough.
fn rweights<'w>(entries: &[Entry], wanted: &'w [Destination]) -> BTreeMap<&'w str, u32> {
    let active: Vec<&Destination> = wanted.iter().filter(|one| one.share > 0).collect();
    let present = |destination: &Destination| {
        let own = entries.iter().filter(|entry| is_of(entry, destination));
        let best =
            own.max_by_key(|entry| (entry.is_active, entry.attributes == destination.attributes));
        best.map_or(0, |entry| entry.rweight)
    };
    let weighed: Vec<u32> = active
        .iter()
        .map(|destination| present(destination))
        .collect();
    if !is_near(&active, &weighed) {
        return hundredths(&active);
    }
    active
        .iter()
        .map(|destination| &*destination.id)
        .zip(weighed)
        .collect()
}

/// Whether these weights make shares that are near enough. Of its slots the module gives each what its weight says, rounded
/// down, and what is left to one of them.
fn is_near(active: &[&Destination], rweights: &[u32]) -> bool {
    let weight: u64 = rweights.iter().copied().map(u64::from).sum();
    let whole: u64 = active.iter().map(|destination| destination.share).sum();
    let slots = |rweight: &u32| u64::from(*rweight) * SLOTS / weight.max(1);
    let left = SLOTS.saturating_sub(rweights.iter().map(slots).sum());
    active.iter().zip(rweights).all(|(destination, rweight)| {
        let right = exact_slots(destination, whole);
        let near = |slots: u64| (slots as f64 - right).abs() <= (TOLERANCE * right).max(1.0);
        *rweight > 0 && near(slots(rweight)) && near(slots(rweight) + left)
    })
}

fn exact_slots(destination: &Destination, whole: u64) -> f64 {
    destination.share as f64 * SLOTS as f64 / whole.max(1) as f64
}

/// Weights that are 100 together as far as that goes, so that each is the slots that it gets; none is 0.
fn hundredths<'w>(active: &[&'w Destination]) -> BTreeMap<&'w str, u32> {
    let whole: u64 = active.iter().map(|one| one.share).sum();
    let exact = |one: &Destination| exact_slots(one, whole);
    let mut weighed: BTreeMap<&str, u32> = active
        .iter()
        .map(|one| (&*one.id, (exact(one).round() as u32).max(1)))
        .collect();
    // What rounding made too much or too little is least seen in the greatest.
    if let Some(greatest) = active.iter().max_by_key(|one| one.share) {
        let others = weighed.iter().filter(|(id, _)| **id != greatest.id);
        let others: u32 = others.map(|(_, rweight)| *rweight).sum();
        weighed.insert(&greatest.id, (SLOTS as u32).saturating_sub(others).max(1));
    }
    weighed
}
