//! What a SIP server of the cluster says of itself, and the grammar and limits of each field. Knows no document format.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use super::document::DocumentError;
use super::stamp::Stamp;
use super::{
    MAX_ADDRESSES, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_HOST_BYTES, MAX_NAME_BYTES,
    MAX_SERVICES, NOTIFIER_SERVICE,
};

/// Whether a server takes new work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    Up,
    /// Ends its work and takes no new.
    Draining,
    Overloaded,
    Down,
    /// A status of a later version of the package: kept as it was written, and counted as no new work.
    Other(Box<str>),
}

impl Status {
    pub fn as_str(&self) -> &str {
        match self {
            Status::Up => "up",
            Status::Draining => "draining",
            Status::Overloaded => "overloaded",
            Status::Down => "down",
            Status::Other(name) => name,
        }
    }

    /// Only `up` takes new work.
    pub fn takes_work(&self) -> bool {
        *self == Status::Up
    }
}

impl FromStr for Status {
    type Err = DocumentError;

    fn from_str(text: &str) -> Result<Self, DocumentError> {
        Ok(match text {
            "up" => Status::Up,
            "draining" => Status::Draining,
            "overloaded" => Status::Overloaded,
            "down" => Status::Down,
            other if is_id(other) => Status::Other(other.into()),
            _ => return Err(DocumentError::Syntax("bad status")),
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an address of a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressTransport {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl AddressTransport {
    pub fn as_str(self) -> &'static str {
        match self {
            AddressTransport::Udp => "udp",
            AddressTransport::Tcp => "tcp",
            AddressTransport::Tls => "tls",
            AddressTransport::Ws => "ws",
            AddressTransport::Wss => "wss",
        }
    }
}

impl FromStr for AddressTransport {
    type Err = DocumentError;

    fn from_str(text: &str) -> Result<Self, DocumentError> {
        Ok(match text {
            "udp" => AddressTransport::Udp,
            "tcp" => AddressTransport::Tcp,
            "tls" => AddressTransport::Tls,
            "ws" => AddressTransport::Ws,
            "wss" => AddressTransport::Wss,
            _ => return Err(DocumentError::Syntax("bad transport")),
        })
    }
}

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
    pub transport: AddressTransport,
    /// The name for TLS and SRV targets.
    pub host: Option<Box<str>>,
    /// The one service that this address serves, where it serves one.
    pub service: Option<Box<str>>,
}

impl Address {
    /// One for every service, without a name.
    pub fn new(at: SocketAddr, transport: AddressTransport) -> Self {
        Address {
            ip: at.ip(),
            port: at.port(),
            transport,
            host: None,
            service: None,
        }
    }
}

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// 1 to 64 of letters, digits, `.`, `_`, `-`.
    pub id: Arc<str>,
    pub status: Status,
    /// Per cent of the server's capacity, 0 to 100; `None`: unknown.
    pub load: Option<u8>,
    /// As in RFC 2782: the lowest is tried first.
    pub priority: u16,
    /// As in RFC 2782: the share of the work among servers of one priority.
    pub weight: u16,
    pub updated: Stamp,
    /// 1 to 16.
    pub addresses: Vec<Address>,
    /// At most 32, each once.
    pub services: Vec<Box<str>>,
    /// At most 32, each name once, values of at most 256 bytes.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

impl Server {
    /// The priority of a server that names none.
    pub const DEFAULT_PRIORITY: u16 = 0;
    /// The weight of a server that names none.
    pub const DEFAULT_WEIGHT: u16 = 1;

    /// One that says nothing of its load, its services and its stamp, and is like any other.
    pub fn new(id: Arc<str>, status: Status, addresses: Vec<Address>) -> Self {
        let updated = Stamp {
            ms: 0,
            counter: 0,
            node: Arc::clone(&id),
        };
        Server {
            id,
            status,
            load: None,
            priority: Server::DEFAULT_PRIORITY,
            weight: Server::DEFAULT_WEIGHT,
            updated,
            addresses,
            services: Vec::new(),
            attributes: Vec::new(),
        }
    }

    pub fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|service| **service == *name)
    }

    /// A notifier passes every filter.
    pub fn is_notifier(&self) -> bool {
        self.has_service(NOTIFIER_SERVICE)
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| **key == *name);
        found.map(|(_, value)| &**value)
    }

    /// Holds the fields to event-package.md's grammar ([`DocumentError::Syntax`]) and limits
    /// ([`DocumentError::TooLarge`]).
    pub fn check(&self) -> Result<(), DocumentError> {
        check_id(&self.id)?;
        if self.load.is_some_and(|load| load > 100) {
            return Err(DocumentError::Syntax("load over 100"));
        }
        self.check_addresses()?;
        self.check_services()?;
        self.check_attributes()
    }

    fn check_addresses(&self) -> Result<(), DocumentError> {
        if self.addresses.is_empty() {
            return Err(DocumentError::Syntax("server without address"));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(DocumentError::TooLarge("more than 16 addresses"));
        }
        for address in &self.addresses {
            if address.port == 0 {
                return Err(DocumentError::Syntax("bad port"));
            }
            if let Some(host) = &address.host {
                check_host(host)?;
            }
            if let Some(service) = &address.service {
                check_service(service)?;
            }
        }
        Ok(())
    }

    fn check_services(&self) -> Result<(), DocumentError> {
        if self.services.len() > MAX_SERVICES {
            return Err(DocumentError::TooLarge("more than 32 services"));
        }
        for (place, service) in self.services.iter().enumerate() {
            check_service(service)?;
            if self.services[..place].contains(service) {
                return Err(DocumentError::Syntax("service named twice"));
            }
        }
        Ok(())
    }

    fn check_attributes(&self) -> Result<(), DocumentError> {
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(DocumentError::TooLarge("more than 32 attributes"));
        }
        for (place, (name, value)) in self.attributes.iter().enumerate() {
            check_attribute(name, value)?;
            if self.attributes[..place].iter().any(|(key, _)| key == name) {
                return Err(DocumentError::Syntax("attribute named twice"));
            }
        }
        Ok(())
    }
}

/// Whether a text is 1 to 64 of letters, digits, `.`, `_`, `-`: the grammar of ids, nodes, services and the names of
/// attributes.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

pub(super) fn check_id(id: &str) -> Result<(), DocumentError> {
    is_id(id)
        .then_some(())
        .ok_or(DocumentError::Syntax("bad server id"))
}

pub(super) fn check_service(name: &str) -> Result<(), DocumentError> {
    is_id(name)
        .then_some(())
        .ok_or(DocumentError::Syntax("bad service name"))
}

pub(super) fn check_attribute(name: &str, value: &str) -> Result<(), DocumentError> {
    if !is_id(name) {
        return Err(DocumentError::Syntax("bad attribute name"));
    }
    if value.len() > MAX_ATTRIBUTE_BYTES {
        return Err(DocumentError::TooLarge("attribute over 256 bytes"));
    }
    if !value.chars().all(is_text) {
        return Err(DocumentError::Syntax("control character in an attribute"));
    }
    Ok(())
}

/// A host, or the domain of a document: letters, digits and what names and IP literals are made of, or `*` for any.
pub(super) fn check_host(host: &str) -> Result<(), DocumentError> {
    if host.len() > MAX_HOST_BYTES {
        return Err(DocumentError::TooLarge("host over 255 bytes"));
    }
    let legal = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_' | b'-' | b':' | b'[' | b']' | b'*')
    };
    if host.is_empty() || !host.bytes().all(legal) {
        return Err(DocumentError::Syntax("bad host"));
    }
    Ok(())
}

/// What both XML 1.0 and JSON carry, control characters left out but for the three of white space.
fn is_text(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || !(c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}'))
}
