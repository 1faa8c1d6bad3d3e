//! `[[adapter]]`: what a node does for equipment that knows nothing of service information. Each is checked like a file of its
//! own.

use std::net::SocketAddr;
use std::path::Path;

use reqwest::Url;

use super::layers::Layers;
use super::setting::{self, Setting};
use super::value::{Given, Value};
use super::{ConfigError, address};
use crate::info;

const ADAPTERS_MOST: usize = 16;
/// Names are looked up anew as soon as a resolver allows.
pub const TTL_S: u32 = 1;
/// The first that Kamailio's documentation uses.
pub const SET: i32 = 1;

/// One adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Whose servers.
    pub domain: Box<str>,
    /// Only those that offer it.
    pub service: Option<Box<str>>,
    pub kind: AdapterKind,
}

/// For whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterKind {
    /// Callers that follow a 302 (RFC 3261 8.3).
    Redirect { listen: SocketAddr },
    /// Resolvers (RFC 3263); the records' life in seconds.
    Dns { listen: SocketAddr, ttl_s: u32 },
    /// Kamailio, by its JSON-RPC.
    Dispatcher { rpc: Url, set: i32 },
}

/// Where Kamailio's JSON-RPC is.
pub fn rpc(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// The adapters of the file at `path`; of each its line and what is given.
pub fn adapters(path: &Path, given: &[(usize, Vec<Given>)]) -> Result<Vec<Adapter>, ConfigError> {
    let mut adapters = Vec::new();
    for (line, given) in given {
        let layers = Layers::new(&[], given);
        let table = Table {
            path,
            line: *line,
            layers,
        };
        if adapters.len() == ADAPTERS_MOST {
            return Err(ConfigError::TooManyTables {
                path: path.to_owned(),
                line: *line,
                table: "adapter",
                most: ADAPTERS_MOST,
            });
        }
        adapters.push(table.adapter()?);
    }
    Ok(adapters)
}

struct Table<'t> {
    path: &'t Path,
    line: usize,
    layers: Layers<'t>,
}

impl Table<'_> {
    fn adapter(&self) -> Result<Adapter, ConfigError> {
        let Table { layers, .. } = self;
        let service = |value: &Value| {
            value
                .text()
                .filter(|name| info::is_id(name))
                .map(Into::into)
        };
        let kind = self.needed(&setting::ADAPTER_KIND, |value| {
            setting::ADAPTER_KIND.word(value)
        })?;
        let (kind, others): (_, &[&'static Setting]) = match kind {
            0 => (
                AdapterKind::Redirect {
                    listen: self.listen()?,
                },
                &[
                    &setting::ADAPTER_TTL,
                    &setting::ADAPTER_RPC,
                    &setting::ADAPTER_SET,
                ],
            ),
            1 => (
                AdapterKind::Dns {
                    listen: self.listen()?,
                    ttl_s: layers
                        .optional_number(&setting::ADAPTER_TTL)?
                        .unwrap_or(TTL_S),
                },
                &[&setting::ADAPTER_RPC, &setting::ADAPTER_SET],
            ),
            _ => (
                AdapterKind::Dispatcher {
                    rpc: self.needed(&setting::ADAPTER_RPC, |value| rpc(value.text()?))?,
                    set: layers
                        .optional_number(&setting::ADAPTER_SET)?
                        .unwrap_or(SET),
                },
                &[&setting::ADAPTER_LISTEN, &setting::ADAPTER_TTL],
            ),
        };
        // What means nothing for this kind was meant for another.
        if let Some(given) = others.iter().find_map(|other| layers.given(other).pop()) {
            return Err(ConfigError::NotAllowed {
                given: given.into(),
                allowed: "no such key for this kind".to_owned(),
            });
        }
        Ok(Adapter {
            domain: self.needed(&setting::ADAPTER_DOMAIN, address::domain)?,
            service: layers.one(&setting::ADAPTER_SERVICE, service)?,
            kind,
        })
    }

    fn listen(&self) -> Result<SocketAddr, ConfigError> {
        self.needed(&setting::ADAPTER_LISTEN, |value| value.text()?.parse().ok())
    }

    fn needed<T>(
        &self,
        setting: &'static Setting,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let lacks = || ConfigError::Lacks {
            path: self.path.to_owned(),
            line: self.line,
            table: "adapter",
            key: setting.key,
            allowed: setting.allowed(),
        };
        self.layers.one(setting, parse)?.ok_or_else(lacks)
    }
}
