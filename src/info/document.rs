//! Documents as a reader sees them: what a notifier says to a subscriber, and what a server publishes of itself.
//! Knows the meaning and the limits of the fields, not how they are written.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::server::{Address, Server, check_host, check_id};
use super::stamp::Stamp;
use super::{
    MAX_ADDRESSES, MAX_ATTRIBUTES, MAX_BODY_BYTES, MAX_DOCUMENT_BYTES, MAX_ENTRIES, MAX_HOST_BYTES,
    MAX_SERVICES, json, xml_reader,
};

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    Xml,
    Json,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Xml => "application/serverinfo+xml",
            Format::Json => "application/serverinfo+json",
        }
    }
}

/// Why a body is refused. The text is short, printable ASCII without quotes: fit for a Warning header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("{0}")]
    Syntax(&'static str),
    #[error("{0}")]
    TooLarge(&'static str),
}

impl DocumentError {
    /// The SIP status that says so.
    pub fn status(self) -> u16 {
        match self {
            DocumentError::Syntax(_) => 400,
            DocumentError::TooLarge(_) => 413,
        }
    }
}

/// Whether a document replaces the table or changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Full,
    Partial,
}

/// What one row of a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentEntry {
    Server(Server),
    Deleted {
        id: Arc<str>,
        updated: Stamp,
    },
    /// No longer matches the filter.
    Left {
        id: Arc<str>,
        updated: Stamp,
    },
}

impl DocumentEntry {
    pub fn id(&self) -> &Arc<str> {
        match self {
            DocumentEntry::Server(server) => &server.id,
            DocumentEntry::Deleted { id, .. } | DocumentEntry::Left { id, .. } => id,
        }
    }

    pub fn updated(&self) -> &Stamp {
        match self {
            DocumentEntry::Server(server) => &server.updated,
            DocumentEntry::Deleted { updated, .. } | DocumentEntry::Left { updated, .. } => updated,
        }
    }
}

/// A notifier's document as a subscriber reads it; what it left out is `None`. Each id stands once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub domain: Option<String>,
    pub notifier: Option<String>,
    /// From 1.
    pub version: Option<u32>,
    pub view: Option<u64>,
    pub state: Option<State>,
    pub base: Option<u64>,
    /// From 1; present exactly when `parts` is, and not above it.
    pub part: Option<u32>,
    pub parts: Option<u32>,
    pub stale: bool,
    pub entries: Vec<DocumentEntry>,
}

/// What a server publishes of itself. `server.updated` is a stamp of zeros: the compositor gives the real one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// As it was written; hosts are compared without regard to case.
    pub domain: String,
    pub server: Server,
}

/// Reads a notifier's document, of at most [`MAX_DOCUMENT_BYTES`] and [`MAX_ENTRIES`].
pub fn parse(bytes: &[u8], format: Format) -> Result<Document, DocumentError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge("document over 16 MiB"));
    }
    read(bytes, format)?.document()
}

/// Reads the body of a PUBLISH, of at most [`MAX_BODY_BYTES`]: exactly one server, neither deleted nor left, with at
/// least one address. Version, view, notifier, state, updated and stale are not looked at.
pub fn publication(bytes: &[u8], format: Format) -> Result<Publication, DocumentError> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(DocumentError::TooLarge("body over 65536 bytes"));
    }
    read(bytes, format)?.publication()
}

fn read(bytes: &[u8], format: Format) -> Result<Draft, DocumentError> {
    match format {
        Format::Xml => xml_reader::draft(bytes),
        Format::Json => json::read(bytes),
    }
}

/// One value as a format gave it: XML has only text, JSON has types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    /// The text of an XML attribute, whatever it stands for.
    Written(Box<str>),
    Text(Box<str>),
    Number(u64),
    Flag(bool),
    Other,
}

impl Scalar {
    fn into_text(self) -> Option<Box<str>> {
        match self {
            Scalar::Written(text) | Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Scalar::Number(number) => Some(*number),
            Scalar::Written(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok()
            }
            _ => None,
        }
    }

    fn flag(&self) -> Option<bool> {
        match self {
            Scalar::Flag(flag) => Some(*flag),
            Scalar::Written(text) => match &**text {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A document as it was written, before its fields are understood.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) domain: Option<Scalar>,
    pub(super) notifier: Option<Scalar>,
    pub(super) version: Option<Scalar>,
    pub(super) view: Option<Scalar>,
    pub(super) state: Option<Scalar>,
    pub(super) base: Option<Scalar>,
    pub(super) part: Option<Scalar>,
    pub(super) parts: Option<Scalar>,
    pub(super) stale: Option<Scalar>,
    pub(super) servers: Vec<ServerDraft>,
}

#[derive(Debug, Default)]
pub(super) struct ServerDraft {
    pub(super) id: Option<Scalar>,
    pub(super) state: Option<Scalar>,
    pub(super) status: Option<Scalar>,
    pub(super) load: Option<Scalar>,
    pub(super) priority: Option<Scalar>,
    pub(super) weight: Option<Scalar>,
    pub(super) updated: Option<Scalar>,
    pub(super) addresses: Vec<AddressDraft>,
    pub(super) services: Vec<Box<str>>,
    pub(super) attributes: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug, Default)]
pub(super) struct AddressDraft {
    pub(super) ip: Option<Scalar>,
    pub(super) port: Option<Scalar>,
    pub(super) transport: Option<Scalar>,
    pub(super) host: Option<Scalar>,
    pub(super) service: Option<Scalar>,
}

impl Draft {
    fn document(self) -> Result<Document, DocumentError> {
        if self.servers.len() > MAX_ENTRIES {
            return Err(DocumentError::TooLarge("more than 8192 entries"));
        }
        let version = within(self.version, 1, u32::MAX.into(), "bad version")?;
        let (part, parts) = parts_of(self.part, self.parts)?;
        let document = Document {
            domain: domain_of(self.domain)?,
            notifier: self.notifier.map(notifier_of).transpose()?,
            version: version.map(|version| version as u32),
            view: within(self.view, 0, u64::MAX, "bad view")?,
            state: self.state.map(state_of).transpose()?,
            base: within(self.base, 0, u64::MAX, "bad base")?,
            part,
            parts,
            stale: self.stale.map(stale_of).transpose()?.unwrap_or(false),
            entries: entries_of(self.servers)?,
        };
        Ok(document)
    }

    fn publication(mut self) -> Result<Publication, DocumentError> {
        let domain =
            domain_of(self.domain)?.ok_or(DocumentError::Syntax("publication without domain"))?;
        let (Some(mut server), true) = (self.servers.pop(), self.servers.is_empty()) else {
            return Err(DocumentError::Syntax("publication is not of one server"));
        };
        if server.state.is_some() {
            return Err(DocumentError::Syntax("publication of a deleted server"));
        }
        server.updated = None;
        let unstamped = Stamp {
            ms: 0,
            counter: 0,
            node: "-".into(),
        };
        let server = server.server(unstamped)?;
        Ok(Publication { domain, server })
    }
}

impl ServerDraft {
    fn entry(mut self) -> Result<DocumentEntry, DocumentError> {
        let updated = self.updated.take().and_then(Scalar::into_text);
        let updated = updated
            .ok_or(DocumentError::Syntax("server without updated"))?
            .parse()
            .map_err(|_| DocumentError::Syntax("bad updated"))?;
        let Some(state) = self.state.take() else {
            return self.server(updated).map(DocumentEntry::Server);
        };
        let id = id_of(self.id)?;
        match state.into_text().as_deref() {
            Some("deleted") => Ok(DocumentEntry::Deleted { id, updated }),
            Some("left") => Ok(DocumentEntry::Left { id, updated }),
            _ => Err(DocumentError::Syntax("bad state of a server")),
        }
    }

    fn server(self, updated: Stamp) -> Result<Server, DocumentError> {
        // Before anything is built: the lists are as long as the sender made them.
        let counts = [
            (
                self.addresses.len(),
                MAX_ADDRESSES,
                "more than 16 addresses",
            ),
            (self.services.len(), MAX_SERVICES, "more than 32 services"),
            (
                self.attributes.len(),
                MAX_ATTRIBUTES,
                "more than 32 attributes",
            ),
        ];
        if let Some((_, _, what)) = counts.iter().find(|(count, most, _)| count > most) {
            return Err(DocumentError::TooLarge(what));
        }
        let load = within(self.load, 0, 100, "bad load")?;
        let priority = within(self.priority, 0, u16::MAX.into(), "bad priority")?;
        let weight = within(self.weight, 0, u16::MAX.into(), "bad weight")?;
        let server = Server {
            id: id_of(self.id)?,
            status: required(self.status, "server without status")?,
            load: load.map(|load| load as u8),
            priority: priority.map_or(Server::DEFAULT_PRIORITY, |priority| priority as u16),
            weight: weight.map_or(Server::DEFAULT_WEIGHT, |weight| weight as u16),
            updated,
            addresses: self
                .addresses
                .into_iter()
                .map(AddressDraft::address)
                .collect::<Result<_, _>>()?,
            services: self.services,
            attributes: self.attributes,
        };
        server.check()?;
        Ok(server)
    }
}

impl AddressDraft {
    fn address(self) -> Result<Address, DocumentError> {
        let ip = text_of(self.ip, "address without ip")?;
        let port = within(self.port, 1, u16::MAX.into(), "bad port")?;
        let optional = |value: Option<Scalar>, what| value.map(|value| text_of(Some(value), what));
        Ok(Address {
            ip: IpAddr::from_str(&ip).map_err(|_| DocumentError::Syntax("bad ip"))?,
            port: port.ok_or(DocumentError::Syntax("address without port"))? as u16,
            transport: required(self.transport, "address without transport")?,
            host: optional(self.host, "bad host").transpose()?,
            service: optional(self.service, "bad service name").transpose()?,
        })
    }
}

fn text_of(value: Option<Scalar>, what: &'static str) -> Result<Box<str>, DocumentError> {
    value
        .and_then(Scalar::into_text)
        .ok_or(DocumentError::Syntax(what))
}

fn required<T: FromStr<Err = DocumentError>>(
    value: Option<Scalar>,
    what: &'static str,
) -> Result<T, DocumentError> {
    text_of(value, what)?.parse()
}

fn within(
    value: Option<Scalar>,
    least: u64,
    most: u64,
    what: &'static str,
) -> Result<Option<u64>, DocumentError> {
    let Some(value) = value else { return Ok(None) };
    match value.number() {
        Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(DocumentError::Syntax(what)),
    }
}

fn parts_of(
    part: Option<Scalar>,
    parts: Option<Scalar>,
) -> Result<(Option<u32>, Option<u32>), DocumentError> {
    let bad = "bad part";
    let part = within(part, 1, MAX_ENTRIES as u64, bad)?.map(|part| part as u32);
    let parts = within(parts, 1, MAX_ENTRIES as u64, bad)?.map(|parts| parts as u32);
    match (part, parts) {
        (None, None) => Ok((None, None)),
        (Some(part), Some(parts)) if part <= parts => Ok((Some(part), Some(parts))),
        _ => Err(DocumentError::Syntax(bad)),
    }
}

fn domain_of(value: Option<Scalar>) -> Result<Option<String>, DocumentError> {
    let Some(value) = value else { return Ok(None) };
    let domain = text_of(Some(value), "bad domain")?;
    check_host(&domain)?;
    Ok(Some(domain.into()))
}

fn notifier_of(value: Scalar) -> Result<String, DocumentError> {
    let notifier = text_of(Some(value), "bad notifier")?;
    let legal = |byte: u8| byte.is_ascii_graphic();
    if notifier.is_empty() || notifier.len() > MAX_HOST_BYTES || !notifier.bytes().all(legal) {
        return Err(DocumentError::Syntax("bad notifier"));
    }
    Ok(notifier.into())
}

fn state_of(value: Scalar) -> Result<State, DocumentError> {
    match value.into_text().as_deref() {
        Some("full") => Ok(State::Full),
        Some("partial") => Ok(State::Partial),
        _ => Err(DocumentError::Syntax("bad state")),
    }
}

fn stale_of(value: Scalar) -> Result<bool, DocumentError> {
    value.flag().ok_or(DocumentError::Syntax("bad stale"))
}

fn id_of(value: Option<Scalar>) -> Result<Arc<str>, DocumentError> {
    let id = text_of(value, "server without id")?;
    check_id(&id)?;
    Ok(id.into())
}

fn entries_of(servers: Vec<ServerDraft>) -> Result<Vec<DocumentEntry>, DocumentError> {
    let mut seen = HashSet::with_capacity(servers.len());
    let mut entries = Vec::with_capacity(servers.len());
    for server in servers {
        let entry = server.entry()?;
        if !seen.insert(Arc::clone(entry.id())) {
            return Err(DocumentError::Syntax("server named twice"));
        }
        entries.push(entry);
    }
    Ok(entries)
}
