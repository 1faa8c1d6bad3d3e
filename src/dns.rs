//! A domain's servers as a DNS zone: NAPTR and SRV by RFC 3263, and the addresses behind them, answered with authority from
//! the table as it is. Pure: knows no socket and no clock.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, HINFO, NAPTR, NS, SOA, SRV};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::counters::counters;
use crate::info::{Address, AddressTransport, DocumentEntry, Server, Status, Table};
use crate::subscription::shares;

/// RFC 6891 6.2.5 leaves it to us; DNS flag day 2020: what every path carries in one piece.
const DATAGRAM_MOST: u16 = 1_232;
/// RFC 1035 4.2.1: without EDNS.
const DATAGRAM_LEAST: u16 = 512;
/// RFC 1035 4.1.1.
const HEADER: usize = 12;

/// By which a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Udp,
    /// Whole messages, without their length.
    Tcp,
}

counters! {
    /// Queries that were answered with records, or that there are none.
    answered,
    /// Queries for other zones, and of kinds that we do not serve.
    refused,
    /// Messages that could not be read, and were answered so.
    malformed,
    /// What was no query.
    dropped,
    /// Answers that did not fit a datagram.
    truncated,
}

/// The transports that there are records for: the label of SRV, and what NAPTR calls it (RFC 3263 4.1).
const SERVICES: [(&str, AddressTransport, &str); 3] = [
    ("_sip._udp", AddressTransport::Udp, "SIP+D2U"),
    ("_sip._tcp", AddressTransport::Tcp, "SIP+D2T"),
    ("_sips._tcp", AddressTransport::Tls, "SIPS+D2T"),
];

/// One zone.
#[derive(Debug)]
pub struct Zone {
    origin: Name,
    /// Only servers of this service.
    service: Option<Box<str>>,
    ttl_s: u32,
    /// Where this name server is, if that is one address.
    own: Option<IpAddr>,
    pub counters: Counters,
}

/// What there is under a name.
enum Found {
    /// These records, perhaps none of the type that was asked for.
    Name(Vec<Record>),
    Nothing,
}

impl Zone {
    /// `None` where the domain is no name of DNS. `own` is what `ns.` in the zone stands for.
    pub fn new(
        domain: &str,
        service: Option<Box<str>>,
        ttl_s: u32,
        own: Option<IpAddr>,
    ) -> Option<Zone> {
        let mut origin = Name::from_ascii(domain).ok()?.to_lowercase();
        origin.set_fqdn(true);
        Some(Zone {
            origin,
            service,
            ttl_s,
            own: own.filter(|ip| !ip.is_unspecified()),
            counters: Counters::default(),
        })
    }

    /// The answer to a message; `None` where there is to be none.
    pub fn answer(&mut self, table: &Table, bytes: &[u8], by: Carrier) -> Option<Vec<u8>> {
        let Ok(query) = Message::from_vec(bytes) else {
            return self.answer_malformed(bytes);
        };
        // RFC 1035 7.3: a response is none of ours.
        if query.metadata.message_type != MessageType::Query {
            self.counters.dropped += 1;
            return None;
        }
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.add_queries(query.queries.iter().cloned());
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_MOST);
            answer.edns = Some(edns);
        }
        let code = self.fill(table, &query, &mut answer);
        answer.metadata.response_code = code;
        match code {
            ResponseCode::NoError | ResponseCode::NXDomain => self.counters.answered += 1,
            _ => self.counters.refused += 1,
        }
        let room = match by {
            Carrier::Udp => usize::from(query.max_payload().clamp(DATAGRAM_LEAST, DATAGRAM_MOST)),
            Carrier::Tcp => usize::from(u16::MAX),
        };
        self.write(answer, room)
    }

    /// RFC 1035 4.1.1: a format error is said where at least the header can be read.
    fn answer_malformed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let is_query = bytes.get(2).is_some_and(|flags| flags & 0x80 == 0);
        if bytes.len() < HEADER || !is_query {
            self.counters.dropped += 1;
            return None;
        }
        self.counters.malformed += 1;
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
            .to_vec()
            .ok()
    }

    fn fill(&self, table: &Table, query: &Message, answer: &mut Message) -> ResponseCode {
        // RFC 6891 6.1.3.
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return ResponseCode::BADVERS;
        }
        if query.metadata.op_code != OpCode::Query {
            return ResponseCode::NotImp;
        }
        // RFC 9619: one question, no more.
        let [question] = &query.queries[..] else {
            return ResponseCode::FormErr;
        };
        let is_transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
        if !self.origin.zone_of(question.name())
            || question.query_class() != DNSClass::IN
            || is_transfer
        {
            return ResponseCode::Refused;
        }
        // Who has not heard of anybody yet cannot say that there is nobody.
        if table.view().is_none() {
            return ResponseCode::ServFail;
        }
        answer.metadata.authoritative = true;
        let serial = table.view().unwrap_or_default() as u32;
        match self.find(table, question, serial) {
            Found::Nothing => {
                answer.add_authority(self.soa(serial));
                ResponseCode::NXDomain
            }
            // RFC 8482 4.2: a name that exists is all that ANY is told.
            Found::Name(_) if question.query_type() == RecordType::ANY => {
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                answer.add_answer(self.record(question.name(), RData::HINFO(hinfo)));
                ResponseCode::NoError
            }
            Found::Name(records) => {
                let kind = question.query_type();
                let (asked, others): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| {
                    record.record_type() == kind && record.name == *question.name()
                });
                if asked.is_empty() {
                    // RFC 2308 2.2: no data.
                    answer.add_authority(self.soa(serial));
                } else if kind == RecordType::SRV {
                    answer.add_additionals(others);
                }
                answer.add_answers(asked);
                ResponseCode::NoError
            }
        }
    }

    fn find(&self, table: &Table, question: &Query, serial: u32) -> Found {
        let name = question.name();
        if *name == self.origin {
            let mut records = vec![self.soa(serial), self.ns()];
            records.extend(self.naptrs(table));
            return Found::Name(records);
        }
        for (label, transport, _) in SERVICES {
            if self.under(label).is_some_and(|service| service == *name) {
                let records = self.srvs(table, name, transport);
                return match records[..] {
                    [] => Found::Nothing,
                    _ => Found::Name(records),
                };
            }
        }
        if self.under("ns").is_some_and(|ns| ns == *name) {
            return Found::Name(self.own.into_iter().map(|ip| self.at(name, ip)).collect());
        }
        // RFC 8020: what stands above names that exist, exists.
        let is_above = ["_udp", "_tcp"]
            .iter()
            .any(|label| self.under(label).is_some_and(|above| above == *name));
        let addresses = self.hosts(table, name);
        match addresses[..] {
            [] if is_above => Found::Name(Vec::new()),
            [] => Found::Nothing,
            _ => Found::Name(addresses),
        }
    }

    /// Servers that are not deleted, of the service that the zone is of.
    fn servers<'t>(&self, table: &'t Table) -> Vec<&'t Server> {
        let servers = table.entries().filter_map(|entry| match entry {
            DocumentEntry::Server(server) => Some(server),
            DocumentEntry::Deleted { .. } | DocumentEntry::Left { .. } => None,
        });
        let offers = |server: &&Server| {
            let service = self.service.as_deref();
            match service {
                Some(service) => server.has_service(service),
                // Notifiers take no other work.
                None => !server.is_notifier() || server.services.len() > 1,
            }
        };
        servers.filter(offers).collect()
    }

    /// Those that take new work; where there are none, those that would rather not; never one that is `down`.
    fn serving<'t>(&self, table: &'t Table) -> Vec<&'t Server> {
        let all = self.servers(table);
        let up: Vec<&Server> = all
            .iter()
            .copied()
            .filter(|server| server.status.takes_work())
            .collect();
        match up[..] {
            [] => all
                .into_iter()
                .filter(|server| server.status != Status::Down)
                .collect(),
            _ => up,
        }
    }

    fn places<'t>(
        &self,
        server: &'t Server,
        transport: AddressTransport,
    ) -> impl Iterator<Item = &'t Address> {
        let fits = move |address: &&Address| {
            let service = match (&address.service, &self.service) {
                (Some(own), Some(wanted)) => own == wanted,
                (Some(_), None) => false,
                (None, _) => true,
            };
            address.transport == transport && service
        };
        server.addresses.iter().filter(fits)
    }

    /// RFC 2782, with the addresses of the targets as far as they are in the zone. Empty where nobody has ever spoken this
    /// transport.
    fn srvs(&self, table: &Table, name: &Name, transport: AddressTransport) -> Vec<Record> {
        let speaks = |server: &&Server| self.places(server, transport).next().is_some();
        let serving: Vec<&Server> = self.serving(table).into_iter().filter(speaks).collect();
        if serving.is_empty() {
            if !self.servers(table).iter().any(speaks) {
                return Vec::new();
            }
            // "A Target of \".\" means that the service is decidedly not available at this domain."
            return vec![self.record(name, RData::SRV(SRV::new(0, 0, 0, Name::root())))];
        }
        let shares = shares(&serving);
        let field_most = u64::from(u16::MAX);
        let greatest = shares.iter().copied().fold(field_most, u64::max);
        let (mut records, mut additional) = (Vec::new(), BTreeSet::new());
        for (server, share) in serving.iter().zip(shares) {
            // To the range of the field, and never to 0, which would mean seldom.
            let weight = (share * field_most / greatest).max(1) as u16;
            for address in self.places(server, transport) {
                let Some(target) = self.target(address) else {
                    continue;
                };
                if self.origin.zone_of(&target) {
                    additional.insert((target.clone(), address.ip));
                }
                let srv = SRV::new(server.priority, weight, address.port, target);
                records.push(self.record(name, RData::SRV(srv)));
            }
        }
        records.extend(additional.iter().map(|(target, ip)| self.at(target, *ip)));
        records
    }

    /// RFC 3263 4.1: which transports there are, those that most phones have first.
    fn naptrs(&self, table: &Table) -> Vec<Record> {
        let serving = self.serving(table);
        let is_spoken = |transport| {
            let mut servers = serving.iter();
            servers.any(|server| self.places(server, transport).next().is_some())
        };
        let mut records = Vec::new();
        for (place, (label, transport, service)) in SERVICES.into_iter().enumerate() {
            if !is_spoken(transport) {
                continue;
            }
            let text = |text: &str| text.as_bytes().into();
            let preference = 10 * (place as u16 + 1);
            let naptr = self.under(label).map(|replacement| {
                NAPTR::new(
                    50,
                    preference,
                    text("s"),
                    text(service),
                    text(""),
                    replacement,
                )
            });
            records.extend(naptr.map(|naptr| self.record(&self.origin, RData::NAPTR(naptr))));
        }
        records
    }

    /// The name of an address: its own, or one that says it.
    fn target(&self, address: &Address) -> Option<Name> {
        if let Some(host) = &address.host {
            let mut name = Name::from_ascii(&**host).ok()?;
            name.set_fqdn(true);
            return Some(name);
        }
        self.under(&label_of(address.ip))
    }

    /// The addresses of the servers that have this name.
    fn hosts(&self, table: &Table, name: &Name) -> Vec<Record> {
        let is_short = name.num_labels() == self.origin.num_labels() + 1;
        let label = name.iter().next().filter(|_| is_short);
        let said = label.and_then(|label| ip_of(str::from_utf8(label).ok()?));
        let text = name.to_ascii();
        let text = text.trim_end_matches('.');
        let is_it = |address: &&Address| match &address.host {
            Some(host) => host.trim_end_matches('.').eq_ignore_ascii_case(text),
            None => said == Some(address.ip),
        };
        let servers = self.servers(table);
        let addresses = servers.iter().flat_map(|server| &server.addresses);
        let ips: BTreeSet<IpAddr> = addresses.filter(is_it).map(|address| address.ip).collect();
        ips.into_iter().map(|ip| self.at(name, ip)).collect()
    }

    fn under(&self, labels: &str) -> Option<Name> {
        Name::from_ascii(labels)
            .ok()?
            .append_domain(&self.origin)
            .ok()
    }

    fn at(&self, name: &Name, ip: IpAddr) -> Record {
        match ip {
            IpAddr::V4(ip) => self.record(name, RData::A(A(ip))),
            IpAddr::V6(ip) => self.record(name, RData::AAAA(AAAA(ip))),
        }
    }

    fn soa(&self, serial: u32) -> Record {
        let within = |label| self.under(label).unwrap_or_else(|| self.origin.clone());
        let ttl_s = self.ttl_s.min(86_400) as i32;
        let soa = SOA::new(
            within("ns"),
            within("hostmaster"),
            serial,
            ttl_s,
            ttl_s,
            ttl_s,
            self.ttl_s,
        );
        self.record(&self.origin, RData::SOA(soa))
    }

    fn ns(&self) -> Record {
        let ns = self.under("ns").unwrap_or_else(|| self.origin.clone());
        self.record(&self.origin, RData::NS(NS(ns)))
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_s, data)
    }

    /// What does not fit is left out from the end: first what nobody asked for, then all (RFC 2181 9).
    fn write(&mut self, mut answer: Message, room: usize) -> Option<Vec<u8>> {
        let bytes = answer.to_vec().ok()?;
        if bytes.len() <= room {
            return Some(bytes);
        }
        answer.additionals.clear();
        let bytes = answer.to_vec().ok()?;
        if bytes.len() <= room {
            return Some(bytes);
        }
        self.counters.truncated += 1;
        answer.truncate().to_vec().ok()
    }
}

/// `192-0-2-1`, or `2001-db8-0-0-0-0-0-1`.
fn label_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.octets().map(|part| part.to_string()).join("-"),
        IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:x}")).join("-"),
    }
}

/// The address that such a label says.
fn ip_of(label: &str) -> Option<IpAddr> {
    let with = |sign: &str| label.replace('-', sign).parse().ok();
    with(".").or_else(|| with(":"))
}

#[cfg(test)]
mod tests;
