//! A view as one line of JSON: the fields of event-package.md's full document, and when it was shown. Knows no output.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::info::{Address, DocumentEntry, Server, Table};

#[derive(Serialize)]
struct View<'a> {
    domain: Option<&'a str>,
    notifier: Option<&'a str>,
    version: Option<u32>,
    view: Option<u64>,
    state: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    servers: Vec<Entry<'a>>,
    /// Unix ms.
    at: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Server(Described<'a>),
    Deleted {
        id: &'a str,
        state: &'static str,
        updated: String,
    },
}

#[derive(Serialize)]
struct Described<'a> {
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<u8>,
    priority: u16,
    weight: u16,
    updated: String,
    addresses: Vec<Place<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    services: &'a [Box<str>],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Place<'a> {
    ip: String,
    port: u16,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
}

/// The whole table on one line, its end included.
pub(super) fn line(table: &Table, now_ms: u64) -> io::Result<String> {
    let view = View {
        domain: table.domain(),
        notifier: table.notifier(),
        version: table.version(),
        view: table.view(),
        state: "full",
        stale: table.is_stale(),
        servers: table.entries().map(entry).collect(),
        at: now_ms,
    };
    Ok(serde_json::to_string(&view)? + "\n")
}

fn entry(entry: &DocumentEntry) -> Entry<'_> {
    match entry {
        DocumentEntry::Server(server) => Entry::Server(described(server)),
        DocumentEntry::Deleted { id, updated } | DocumentEntry::Left { id, updated } => {
            Entry::Deleted {
                id,
                state: "deleted",
                updated: updated.to_string(),
            }
        }
    }
}

fn described(server: &Server) -> Described<'_> {
    let attributes = server.attributes.iter();
    Described {
        id: &server.id,
        status: server.status.as_str(),
        load: server.load,
        priority: server.priority,
        weight: server.weight,
        updated: server.updated.to_string(),
        addresses: server.addresses.iter().map(place).collect(),
        services: &server.services,
        attributes: attributes
            .map(|(name, value)| (&**name, &**value))
            .collect(),
    }
}

fn place(address: &Address) -> Place<'_> {
    Place {
        ip: address.ip.to_string(),
        port: address.port,
        transport: address.transport.as_str(),
        host: address.host.as_deref(),
        service: address.service.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Format, parse};

    const DOCUMENT: &str = r#"{"domain":"example.com","notifier":"n1@1","version":7,"view":42,"state":"full","servers":[{"id":"p1","status":"up","load":37,"priority":10,"weight":60,"updated":"5.0.n1","addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp","service":"proxy"}],"services":["proxy"],"attributes":{"region":"eu-1"}},{"id":"p2","state":"deleted","updated":"4.3.n2"}]}"#;

    #[test]
    fn a_line_is_the_full_document_and_when() {
        let mut table = Table::new();
        table.apply(parse(DOCUMENT.as_bytes(), Format::Json).unwrap());
        let line = line(&table, 99).unwrap();
        assert_eq!(
            line,
            DOCUMENT.strip_suffix('}').unwrap().to_owned() + ",\"at\":99}\n"
        );
    }
}
