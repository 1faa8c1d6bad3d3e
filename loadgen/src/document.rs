//! Reads `serverinfo` documents and judges their form. Shares nothing with the code that writes them, knows no
//! message and no entity.
//!
//! All subscribers of one filter and format get the same bytes but for the version, so a document is parsed
//! whole once and every further copy is compared with it, byte by byte: each copy is fully checked.

mod pidf;

use std::rc::Rc;

use memchr::memmem;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use serde::Deserialize;

use crate::entity::Position;
use crate::plan;

const NAMESPACE: &str = "urn:fanfare:serverinfo:1";

/// The notation that the entities ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Xml,
    Json,
    /// Of `presence` (RFC 3863).
    #[value(skip)]
    Pidf,
}

impl Format {
    /// What the simulated servers publish.
    pub fn published(event: plan::Event) -> Self {
        match event {
            plan::Event::SipServer => Format::Xml,
            plan::Event::Presence => Format::Pidf,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Format::Xml => "application/serverinfo+xml",
            Format::Json => "application/serverinfo+json",
            Format::Pidf => "application/pidf+xml",
        }
    }

    /// What stands before the version's digits.
    fn version_mark(self) -> &'static [u8] {
        match self {
            Format::Xml => b" version=\"",
            Format::Json => b"\"version\":",
            Format::Pidf => b"",
        }
    }

    /// Bytes from the version's first digit to where the shared document goes on: ten places, and in XML the quote.
    /// PIDF has no version, so all bytes are shared.
    fn version_width(self) -> usize {
        match self {
            Format::Xml => 11,
            Format::Json => 10,
            Format::Pidf => 0,
        }
    }
}

/// Why a document is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("the syntax is wrong")]
    Syntax,
    #[error("the root element is not that of the package's namespace")]
    Root,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} has a value that is not allowed")]
    Value(&'static str),
    #[error("the servers are not in order of their id, or one stands twice")]
    Order,
    #[error("the version is not padded to ten places")]
    Padding,
}

/// A round that a document shows: which of the simulated servers, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub server: u16,
    pub round: u32,
}

/// A document as far as it is common to all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub view: u64,
    pub base: Option<u64>,
    pub part: Option<(u16, u16)>,
    pub reached: Vec<Reached>,
}

impl Document {
    /// What it says of itself, with this copy's version.
    pub fn position(&self, version: Option<u32>) -> Position {
        Position {
            version,
            view: self.view,
            base: self.base,
            part: self.part,
        }
    }
}

#[derive(Debug)]
struct Known {
    bytes: Vec<u8>,
    version_at: usize,
    document: Rc<Document>,
}

/// The documents parsed last.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    /// Prefix of the ids of this run's simulated servers.
    prefix: String,
    known: Vec<Known>,
    newest: usize,
    /// Where in `known` the last document was found.
    last: usize,
    parsed: u64,
}

impl Reader {
    const KEPT: usize = 16;

    pub fn new(format: Format, prefix: String) -> Self {
        Reader {
            format,
            prefix,
            known: Vec::new(),
            newest: 0,
            last: 0,
            parsed: 0,
        }
    }

    /// How many documents differed from those before and were parsed.
    pub fn parsed(&self) -> u64 {
        self.parsed
    }

    /// The document in `body` and the version of this copy.
    pub fn read(&mut self, body: &[u8]) -> Result<(Rc<Document>, Option<u32>), Malformed> {
        let width = self.format.version_width();
        let is_last = |known: &Known| known.is_copy(body, width);
        if !self.known.get(self.last).is_some_and(is_last) {
            let found = self
                .known
                .iter()
                .position(|known| known.is_copy(body, width));
            self.last = match found {
                Some(at) => at,
                None => self.parse(body)?,
            };
        }
        let known = &self.known[self.last];
        let version = match self.format {
            Format::Pidf => None,
            format => {
                let field = &body[known.version_at..known.version_at + width];
                Some(padded_version(format, field)?)
            }
        };
        Ok((Rc::clone(&known.document), version))
    }

    fn parse(&mut self, body: &[u8]) -> Result<usize, Malformed> {
        self.parsed += 1;
        let text = std::str::from_utf8(body).map_err(|_| Malformed::NotUtf8)?;
        let document = match self.format {
            Format::Xml => xml(text, &self.prefix)?,
            Format::Json => json(text, &self.prefix)?,
            Format::Pidf => pidf::read(text, &self.prefix)?,
        };
        let root = match self.format {
            Format::Xml => memmem::find(body, b"<serverinfo").ok_or(Malformed::Root)?,
            Format::Json | Format::Pidf => 0,
        };
        let mark = self.format.version_mark();
        let version_at =
            root + memmem::find(&body[root..], mark).ok_or(Malformed::Padding)? + mark.len();
        if body.len() < version_at + self.format.version_width() {
            return Err(Malformed::Padding);
        }
        let known = Known {
            bytes: body.to_vec(),
            version_at,
            document: Rc::new(document),
        };
        if self.known.len() < Self::KEPT {
            self.newest = self.known.len();
            self.known.push(known);
        } else {
            self.newest = (self.newest + 1) % Self::KEPT;
            self.known[self.newest] = known;
        }
        Ok(self.newest)
    }
}

impl Known {
    fn is_copy(&self, body: &[u8], width: usize) -> bool {
        let after = self.version_at + width;
        body.len() == self.bytes.len()
            && body[after..] == self.bytes[after..]
            && body[..self.version_at] == self.bytes[..self.version_at]
    }
}

/// Digits, in XML the closing quote, then spaces to the end of the field.
fn padded_version(format: Format, field: &[u8]) -> Result<u32, Malformed> {
    let mut version = 0u64;
    let mut at = 0;
    while let Some(digit) = field.get(at).map(|byte| byte.wrapping_sub(b'0'))
        && digit <= 9
    {
        // Ten digits at most, as wide as the field is.
        version = version * 10 + u64::from(digit);
        at += 1;
    }
    let rest = match format {
        Format::Xml => field[at..].strip_prefix(b"\"").ok_or(Malformed::Padding)?,
        Format::Json | Format::Pidf => &field[at..],
    };
    if rest.iter().any(|&byte| byte != b' ') {
        return Err(Malformed::Padding);
    }
    let version = u32::try_from(version).ok();
    version
        .filter(|&version| version > 0)
        .ok_or(Malformed::Value("version"))
}

/// What both notations say of the document as a whole, before it is judged.
#[derive(Debug, Default, Deserialize)]
struct Head {
    domain: Option<String>,
    notifier: Option<String>,
    version: Option<u32>,
    view: Option<u64>,
    state: Option<String>,
    base: Option<u64>,
    part: Option<u16>,
    parts: Option<u16>,
}

impl Head {
    fn document(self, reached: Vec<Reached>) -> Result<Document, Malformed> {
        self.domain
            .filter(|text| !text.is_empty())
            .ok_or(Malformed::Missing("domain"))?;
        self.notifier
            .filter(|text| !text.is_empty())
            .ok_or(Malformed::Missing("notifier"))?;
        self.version.ok_or(Malformed::Missing("version"))?;
        let view = self.view.ok_or(Malformed::Missing("view"))?;
        let state = self.state.ok_or(Malformed::Missing("state"))?;
        let base = match (state.as_str(), self.base) {
            ("full", _) => None,
            ("partial", Some(base)) => Some(base),
            ("partial", None) => return Err(Malformed::Missing("base")),
            _ => return Err(Malformed::Value("state")),
        };
        let part = match (self.part, self.parts) {
            (None, None) => None,
            (Some(part), Some(parts)) if part >= 1 && part <= parts => Some((part, parts)),
            _ => return Err(Malformed::Value("part")),
        };
        Ok(Document {
            view,
            base,
            part,
            reached,
        })
    }
}

/// What both notations say of one server.
#[derive(Debug, Default, Deserialize)]
struct Server {
    id: Option<String>,
    state: Option<String>,
    status: Option<String>,
    updated: Option<String>,
    load: Option<u8>,
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    attributes: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Address {
    ip: Option<String>,
    port: Option<u16>,
    transport: Option<String>,
}

impl Server {
    fn check(&self) -> Result<&str, Malformed> {
        let id = self.id.as_deref().ok_or(Malformed::Missing("id"))?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(allowed) {
            return Err(Malformed::Value("id"));
        }
        self.updated.as_ref().ok_or(Malformed::Missing("updated"))?;
        match self.state.as_deref() {
            Some("deleted" | "left") => return Ok(id),
            Some(_) => return Err(Malformed::Value("state of a server")),
            None => {}
        }
        self.status.as_ref().ok_or(Malformed::Missing("status"))?;
        if self.load.is_some_and(|load| load > 100) {
            return Err(Malformed::Value("load"));
        }
        if self.addresses.is_empty() {
            return Err(Malformed::Missing("address"));
        }
        self.addresses.iter().try_for_each(Address::check)?;
        Ok(id)
    }

    fn reached(&self, prefix: &str) -> Option<Reached> {
        let server = self.id.as_deref()?.strip_prefix(prefix)?.parse().ok()?;
        let round = self.attributes.get("round")?.parse().ok()?;
        Some(Reached { server, round })
    }
}

impl Address {
    fn check(&self) -> Result<(), Malformed> {
        let ip = self.ip.as_deref().ok_or(Malformed::Missing("ip"))?;
        ip.parse::<std::net::IpAddr>()
            .map_err(|_| Malformed::Value("ip"))?;
        self.port.ok_or(Malformed::Missing("port"))?;
        match self.transport.as_deref() {
            Some("udp" | "tcp" | "tls" | "ws" | "wss") => Ok(()),
            Some(_) => Err(Malformed::Value("transport")),
            None => Err(Malformed::Missing("transport")),
        }
    }
}

/// The servers in the order of the document, checked, turned into what they show of this run.
fn reached(servers: &[Server], prefix: &str) -> Result<Vec<Reached>, Malformed> {
    let mut last = "";
    for server in servers {
        let id = server.check()?;
        if id.as_bytes() <= last.as_bytes() {
            return Err(Malformed::Order);
        }
        last = id;
    }
    Ok(servers
        .iter()
        .filter_map(|server| server.reached(prefix))
        .collect())
}

fn json(text: &str, prefix: &str) -> Result<Document, Malformed> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(flatten)]
        head: Head,
        servers: Vec<Server>,
    }
    let whole: Whole = serde_json::from_str(text).map_err(|_| Malformed::Syntax)?;
    whole.head.document(reached(&whole.servers, prefix)?)
}

fn xml(text: &str, prefix: &str) -> Result<Document, Malformed> {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut walk = Walk::default();
    loop {
        match reader.read_event().map_err(|_| Malformed::Syntax)? {
            Event::Start(element) => walk.open(&element)?,
            Event::Empty(element) => {
                walk.open(&element)?;
                walk.close();
            }
            Event::End(_) => walk.close(),
            Event::Text(text) => walk.text(text.into_inner().as_ref()),
            // The package allows no document types, and nothing that loadgen publishes needs a reference.
            Event::DocType(_) => return Err(Malformed::Syntax),
            Event::Eof => break,
            _ => {}
        }
    }
    if !walk.path.is_empty() {
        return Err(Malformed::Syntax);
    }
    let head = walk.head.ok_or(Malformed::Root)?;
    head.document(reached(&walk.servers, prefix)?)
}

/// Where in an XML document the reader stands, and what it has gathered.
#[derive(Debug, Default)]
struct Walk {
    path: Vec<String>,
    head: Option<Head>,
    servers: Vec<Server>,
    /// Name of the `attribute` element that is open.
    attribute: Option<String>,
}

impl Walk {
    fn open(&mut self, element: &BytesStart) -> Result<(), Malformed> {
        let name = element.name().into_inner().to_owned();
        match (self.path.len(), name.as_str()) {
            (0, "serverinfo") if self.head.is_none() => self.head = Some(head(element)?),
            (0, _) => return Err(Malformed::Root),
            (1, "server") => self.servers.push(server(element)?),
            (2, "address") => {
                let address = address(element)?;
                self.servers
                    .last_mut()
                    .ok_or(Malformed::Root)?
                    .addresses
                    .push(address);
            }
            (2, "attribute") => {
                each(element, |key, value| {
                    if key == "name" {
                        self.attribute = Some(value.to_owned());
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        self.path.push(name);
        Ok(())
    }

    fn close(&mut self) {
        self.path.pop();
        self.attribute = None;
    }

    fn text(&mut self, text: &str) {
        if let (Some(name), Some(server)) = (&self.attribute, self.servers.last_mut()) {
            server.attributes.insert(name.clone(), text.to_owned());
        }
    }
}

/// Calls `visit` with each attribute of an element; a repeated or broken one is an error of syntax.
fn each(
    element: &BytesStart,
    mut visit: impl FnMut(&str, &str) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|_| Malformed::Syntax)?;
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|_| Malformed::Syntax)?;
        visit(attribute.key.into_inner(), &value)?;
    }
    Ok(())
}

fn number<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<Option<T>, Malformed> {
    value.parse().map(Some).map_err(|_| Malformed::Value(name))
}

fn head(element: &BytesStart) -> Result<Head, Malformed> {
    let mut head = Head::default();
    let mut namespace = false;
    each(element, |key, value| {
        match key {
            "xmlns" => namespace = value == NAMESPACE,
            "domain" => head.domain = Some(value.to_owned()),
            "notifier" => head.notifier = Some(value.to_owned()),
            "version" => head.version = number("version", value)?,
            "view" => head.view = number("view", value)?,
            "state" => head.state = Some(value.to_owned()),
            "base" => head.base = number("base", value)?,
            "part" => head.part = number("part", value)?,
            "parts" => head.parts = number("parts", value)?,
            _ => {}
        }
        Ok(())
    })?;
    if namespace {
        Ok(head)
    } else {
        Err(Malformed::Root)
    }
}

fn server(element: &BytesStart) -> Result<Server, Malformed> {
    let mut server = Server::default();
    each(element, |key, value| {
        match key {
            "id" => server.id = Some(value.to_owned()),
            "state" => server.state = Some(value.to_owned()),
            "status" => server.status = Some(value.to_owned()),
            "updated" => server.updated = Some(value.to_owned()),
            "load" => server.load = number("load", value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(server)
}

fn address(element: &BytesStart) -> Result<Address, Malformed> {
    let mut address = Address::default();
    each(element, |key, value| {
        match key {
            "ip" => address.ip = Some(value.to_owned()),
            "port" => address.port = number("port", value)?,
            "transport" => address.transport = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(address)
}

#[cfg(test)]
mod tests;
