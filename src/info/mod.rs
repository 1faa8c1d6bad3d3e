//! Service information as pure data: servers, views of them, what changed between two views, filters, and the
//! XML and JSON documents of event-package.md. Knows no socket, clock, subscription or publication.

mod body;
mod document;
mod filter;
mod json;
mod projection;
mod server;
mod stamp;
mod table;
mod view;
mod xml;
mod xml_reader;

pub use body::{
    Body, Kind, Split, entry_len, envelope_len, full, part, partial, publication_body, split,
};
pub use document::{
    Document, DocumentEntry, DocumentError, Format, Publication, State, parse, publication,
};
pub use filter::Filter;
pub use projection::{Change, Projection, delta};
pub use server::{Address, AddressTransport, Server, Status, is_id};
pub use stamp::{Stamp, StampError};
pub use table::{Applied, Table};
pub use view::{Entry, View};

/// The namespace of the XML documents.
pub const NAMESPACE: &str = "urn:fanfare:serverinfo:1";
/// The service whose servers pass every filter: they are where a subscriber goes when this node ends.
pub const NOTIFIER_SERVICE: &str = "notifier";

/// The most live servers of one domain.
pub const MAX_SERVERS: usize = 4096;
/// The most entries of a document, deleted ones included.
pub const MAX_ENTRIES: usize = 2 * MAX_SERVERS;
/// The most addresses of a server.
pub const MAX_ADDRESSES: usize = 16;
/// The most services of a server.
pub const MAX_SERVICES: usize = 32;
/// The most attributes of a server.
pub const MAX_ATTRIBUTES: usize = 32;
/// The most bytes of an attribute's value.
pub const MAX_ATTRIBUTE_BYTES: usize = 256;
/// The most bytes of an id, a service, a status and the name of an attribute.
pub const MAX_NAME_BYTES: usize = 64;
/// The most bytes of a host name (RFC 1035 2.3.4) and of a domain.
pub const MAX_HOST_BYTES: usize = 255;
/// The most bytes of a publication or a filter.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The most bytes of a document that a subscriber reads: a full table over TCP.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
/// The most elements, or JSON values, within one another.
pub const MAX_DEPTH: usize = 32;
