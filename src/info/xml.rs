//! Writes application/serverinfo+xml, byte for byte as event-package.md lays it out. Knows no version's value.

use super::NAMESPACE;
use super::body::{Kind, Sink};
use super::projection::Change;
use super::server::{Address, Server};
use super::stamp::Stamp;
use super::view::View;

/// All up to the quote that opens the version.
pub(super) fn before_version(out: &mut impl Sink, view: &View) {
    root(out, &view.domain);
    attribute(out, "notifier", &view.notifier);
    out.put(b" version=\"");
}

/// From the space after the version's places to the end of the root's start tag.
pub(super) fn after_version(out: &mut impl Sink, view: &View, kind: Kind) {
    number(out, "view", view.revision);
    match kind {
        Kind::Full => attribute(out, "state", "full"),
        Kind::Part { part, parts } => {
            attribute(out, "state", "full");
            number(out, "part", part.into());
            number(out, "parts", parts.into());
        }
        Kind::Partial { base } => {
            attribute(out, "state", "partial");
            number(out, "base", base);
        }
    }
    if view.stale {
        attribute(out, "stale", "true");
    }
    out.put(b">\n");
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
    out.put(b"</serverinfo>");
}

pub(super) fn publication(out: &mut impl Sink, domain: &str, published: &Server) {
    root(out, domain);
    out.put(b">\n");
    server(out, published, None);
    end(out);
}

fn root(out: &mut impl Sink, domain: &str) {
    out.put(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<serverinfo");
    attribute(out, "xmlns", NAMESPACE);
    attribute(out, "domain", domain);
}

fn server(out: &mut impl Sink, server: &Server, updated: Option<&Stamp>) {
    out.put(b"  <server");
    attribute(out, "id", &server.id);
    attribute(out, "status", server.status.as_str());
    if let Some(load) = server.load {
        number(out, "load", load.into());
    }
    number(out, "priority", server.priority.into());
    number(out, "weight", server.weight.into());
    if let Some(updated) = updated {
        stamp(out, updated);
    }
    out.put(b">\n");
    server
        .addresses
        .iter()
        .for_each(|entry| address(out, entry));
    for service in &server.services {
        out.put(b"    <service");
        attribute(out, "name", service);
        out.put(b"/>\n");
    }
    for (name, value) in &server.attributes {
        out.put(b"    <attribute");
        attribute(out, "name", name);
        out.put(b">");
        escape(out, value);
        out.put(b"</attribute>\n");
    }
    out.put(b"  </server>\n");
}

fn address(out: &mut impl Sink, address: &Address) {
    out.put(b"    <address ip=\"");
    out.display(address.ip);
    out.put(b"\"");
    number(out, "port", address.port.into());
    attribute(out, "transport", address.transport.as_str());
    if let Some(host) = &address.host {
        attribute(out, "host", host);
    }
    if let Some(service) = &address.service {
        attribute(out, "service", service);
    }
    out.put(b"/>\n");
}

fn absent(out: &mut impl Sink, id: &str, state: &str, updated: &Stamp) {
    out.put(b"  <server");
    attribute(out, "id", id);
    attribute(out, "state", state);
    stamp(out, updated);
    out.put(b"/>\n");
}

fn stamp(out: &mut impl Sink, updated: &Stamp) {
    out.put(b" updated=\"");
    out.display(updated);
    out.put(b"\"");
}

fn number(out: &mut impl Sink, name: &str, value: u64) {
    open(out, name);
    out.number(value);
    out.put(b"\"");
}

pub(super) fn attribute(out: &mut impl Sink, name: &str, value: &str) {
    open(out, name);
    escape(out, value);
    out.put(b"\"");
}

fn open(out: &mut impl Sink, name: &str) {
    out.put(b" ");
    out.put(name.as_bytes());
    out.put(b"=\"");
}

/// Fit for text and for attribute values. White space other than the space goes as references: a reader would
/// normalise it (XML 1.0 2.11, 3.3.3).
pub(super) fn escape(out: &mut impl Sink, text: &str) {
    let mut rest = text.as_bytes();
    while let Some((place, reference)) = rest
        .iter()
        .enumerate()
        .find_map(|(place, byte)| Some((place, reference(*byte)?)))
    {
        out.put(&rest[..place]);
        out.put(reference);
        rest = &rest[place + 1..];
    }
    out.put(rest);
}

fn reference(byte: u8) -> Option<&'static [u8]> {
    Some(match byte {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'"' => b"&quot;",
        b'\'' => b"&apos;",
        b'\t' => b"&#9;",
        b'\n' => b"&#10;",
        b'\r' => b"&#13;",
        _ => return None,
    })
}
