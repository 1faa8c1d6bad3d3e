//! Writes and reads application/serverinfo+json: the same fields as the XML, in the same order. Knows no version's value.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::body::{Kind, Sink};
use super::document::{AddressDraft, DocumentError, Draft, Scalar, ServerDraft};
use super::projection::Change;
use super::server::{Address, Server};
use super::stamp::Stamp;
use super::view::View;

/// All up to the first digit of the version.
pub(super) fn before_version(out: &mut impl Sink, view: &View) {
    out.put(b"{");
    text(out, "domain", &view.domain);
    out.put(b",");
    text(out, "notifier", &view.notifier);
    out.put(b",\"version\":");
}

/// From the comma after the version's places to the start of the first server.
pub(super) fn after_version(out: &mut impl Sink, view: &View, kind: Kind) {
    number(out, ",\"view\":", view.revision);
    match kind {
        Kind::Full => out.put(b",\"state\":\"full\""),
        Kind::Part { part, parts } => {
            out.put(b",\"state\":\"full\"");
            number(out, ",\"part\":", part.into());
            number(out, ",\"parts\":", parts.into());
        }
        Kind::Partial { base } => {
            out.put(b",\"state\":\"partial\"");
            number(out, ",\"base\":", base);
        }
    }
    if view.stale {
        out.put(b",\"stale\":true");
    }
    out.put(b",\"servers\":[");
}

pub(super) fn change(out: &mut impl Sink, change: Change<'_>) {
    match change {
        Change::Put(entry) => server(out, &entry.server, Some(&entry.server.updated)),
        Change::Deleted(entry) => {
            absent(out, &entry.server.id, "deleted", &entry.server.updated);
        }
        Change::Left { id, updated } => absent(out, id, "left", updated),
    }
}

pub(super) fn end(out: &mut impl Sink) {
    out.put(b"]}");
}

pub(super) fn publication(out: &mut impl Sink, domain: &str, published: &Server) {
    out.put(b"{");
    text(out, "domain", domain);
    out.put(b",\"servers\":[");
    server(out, published, None);
    end(out);
}

fn server(out: &mut impl Sink, server: &Server, updated: Option<&Stamp>) {
    out.put(b"{");
    text(out, "id", &server.id);
    out.put(b",");
    text(out, "status", server.status.as_str());
    if let Some(load) = server.load {
        number(out, ",\"load\":", load.into());
    }
    number(out, ",\"priority\":", server.priority.into());
    number(out, ",\"weight\":", server.weight.into());
    if let Some(updated) = updated {
        stamp(out, updated);
    }
    out.put(b",\"addresses\":[");
    list(out, &server.addresses, address);
    out.put(b"]");
    if !server.services.is_empty() {
        out.put(b",\"services\":[");
        list(out, &server.services, |out, name| string(out, name));
        out.put(b"]");
    }
    if !server.attributes.is_empty() {
        out.put(b",\"attributes\":{");
        list(out, &server.attributes, |out, (name, value)| {
            text(out, name, value);
        });
        out.put(b"}");
    }
    out.put(b"}");
}

fn address<S: Sink>(out: &mut S, address: &Address) {
    out.put(b"{\"ip\":\"");
    out.display(address.ip);
    number(out, "\",\"port\":", address.port.into());
    out.put(b",");
    text(out, "transport", address.transport.as_str());
    if let Some(host) = &address.host {
        out.put(b",");
        text(out, "host", host);
    }
    if let Some(service) = &address.service {
        out.put(b",");
        text(out, "service", service);
    }
    out.put(b"}");
}

fn absent(out: &mut impl Sink, id: &str, state: &str, updated: &Stamp) {
    out.put(b"{");
    text(out, "id", id);
    out.put(b",");
    text(out, "state", state);
    stamp(out, updated);
    out.put(b"}");
}

fn stamp(out: &mut impl Sink, updated: &Stamp) {
    out.put(b",\"updated\":\"");
    out.display(updated);
    out.put(b"\"");
}

fn list<S: Sink, T>(out: &mut S, items: &[T], mut write: impl FnMut(&mut S, &T)) {
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.put(b",");
        }
        write(out, item);
    }
}

fn number(out: &mut impl Sink, name: &str, value: u64) {
    out.put(name.as_bytes());
    out.number(value);
}

fn text(out: &mut impl Sink, name: &str, value: &str) {
    string(out, name);
    out.put(b":");
    string(out, value);
}

/// RFC 8259 7: the quotation mark, the reverse solidus and control characters must be escaped.
fn string(out: &mut impl Sink, text: &str) {
    out.put(b"\"");
    let mut rest = text.as_bytes();
    while let Some(place) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..0x20 | 0x7f))
    {
        out.put(&rest[..place]);
        match rest[place] {
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            control => out.display(format_args!("\\u{control:04x}")),
        }
        rest = &rest[place + 1..];
    }
    out.put(rest);
    out.put(b"\"");
}

/// Reads a document or a publication; unknown members are dropped, known ones may stand once.
pub(super) fn read(bytes: &[u8]) -> Result<Draft, DocumentError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| DocumentError::Syntax("body is not UTF-8"))?;
    let read: Root = serde_json::from_str(text).map_err(|error| {
        DocumentError::Syntax(match error.classify() {
            serde_json::error::Category::Data => "JSON is not of the form of serverinfo",
            _ => "JSON is not well-formed",
        })
    })?;
    Ok(read.into())
}

#[derive(Deserialize)]
struct Root {
    domain: Option<Scalar>,
    notifier: Option<Scalar>,
    version: Option<Scalar>,
    view: Option<Scalar>,
    state: Option<Scalar>,
    base: Option<Scalar>,
    part: Option<Scalar>,
    parts: Option<Scalar>,
    stale: Option<Scalar>,
    #[serde(default)]
    servers: Vec<ServerMembers>,
}

#[derive(Deserialize)]
struct ServerMembers {
    id: Option<Scalar>,
    state: Option<Scalar>,
    status: Option<Scalar>,
    load: Option<Scalar>,
    priority: Option<Scalar>,
    weight: Option<Scalar>,
    updated: Option<Scalar>,
    #[serde(default)]
    addresses: Vec<AddressMembers>,
    #[serde(default)]
    services: Vec<Box<str>>,
    #[serde(default)]
    attributes: Members,
}

#[derive(Deserialize)]
struct AddressMembers {
    ip: Option<Scalar>,
    port: Option<Scalar>,
    transport: Option<Scalar>,
    host: Option<Scalar>,
    service: Option<Scalar>,
}

/// An object whose members are the sender's, in their order.
#[derive(Default)]
struct Members(Vec<(Box<str>, Box<str>)>);

impl From<Root> for Draft {
    fn from(root: Root) -> Self {
        Draft {
            domain: root.domain,
            notifier: root.notifier,
            version: root.version,
            view: root.view,
            state: root.state,
            base: root.base,
            part: root.part,
            parts: root.parts,
            stale: root.stale,
            servers: root.servers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ServerMembers> for ServerDraft {
    fn from(server: ServerMembers) -> Self {
        ServerDraft {
            id: server.id,
            state: server.state,
            status: server.status,
            load: server.load,
            priority: server.priority,
            weight: server.weight,
            updated: server.updated,
            addresses: server.addresses.into_iter().map(Into::into).collect(),
            services: server.services,
            attributes: server.attributes.0,
        }
    }
}

impl From<AddressMembers> for AddressDraft {
    fn from(address: AddressMembers) -> Self {
        AddressDraft {
            ip: address.ip,
            port: address.port,
            transport: address.transport,
            host: address.host,
            service: address.service,
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar::Flag(flag))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.into()))
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
