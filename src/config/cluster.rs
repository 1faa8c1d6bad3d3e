//! What makes a node one of several: the cluster's name and secret, and gossip or etcd.

use std::fs;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::layers::Layers;
use super::setting::{self, Setting};
use super::value::Value;
use super::{ConfigError, address};
use crate::info;

/// What a node needs to be one of several.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// By the grammar of ids.
    pub id: Box<str>,
    pub secret: Option<Box<str>>,
    pub engine: EngineConfig,
}

/// How nodes hear of each other.
#[derive(Debug, Clone)]
pub enum EngineConfig {
    Gossip(GossipConfig),
    Etcd(EtcdConfig),
}

#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// As given, so port 0 means any; no wildcard.
    pub address: SocketAddr,
    /// At most 64, each host:port.
    pub join: Vec<String>,
    pub allow: Vec<IpNet>,
    pub interval_ms: u64,
}

#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// URLs without a path, 1 to 16.
    pub endpoints: Vec<String>,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Certificates to believe, as PEM.
    pub ca: Option<Vec<u8>>,
    /// This node's certificate and key, as PEM.
    pub identity: Option<Vec<u8>>,
}

pub fn cluster(layers: &Layers<'_>) -> Result<Option<ClusterConfig>, ConfigError> {
    let secret = layers.one(&setting::CLUSTER_SECRET, |value| {
        let text = value
            .text()
            .filter(|text| (8..=256).contains(&text.len()))?;
        Some(text.into())
    })?;
    let id = layers.one(&setting::CLUSTER_ID, |value| {
        let id = value.text().filter(|id| info::is_id(id))?;
        Some(id.into())
    })?;
    let engine = match (gossip(layers)?, etcd(layers)?) {
        (Some(gossip), None) => EngineConfig::Gossip(gossip),
        (None, Some(etcd)) => EngineConfig::Etcd(etcd),
        (Some(_), Some(_)) => {
            return Err(ConfigError::Either {
                given: layers.given(&setting::ETCD).remove(0).into(),
                other: setting::GOSSIP.key,
            });
        }
        (None, None) => {
            needs(layers, &[&setting::CLUSTER_SECRET], "gossip or etcd")?;
            return Ok(None);
        }
    };
    Ok(Some(ClusterConfig {
        id: id.expect("it has a default"),
        secret,
        engine,
    }))
}

/// Refuses settings that mean nothing without another.
fn needs(
    layers: &Layers<'_>,
    settings: &[&'static Setting],
    other: &'static str,
) -> Result<(), ConfigError> {
    let given = settings
        .iter()
        .find_map(|setting| layers.given(setting).pop());
    match given.map(Box::new) {
        Some(given) => Err(ConfigError::Needs { given, other }),
        None => Ok(()),
    }
}

fn gossip(layers: &Layers<'_>) -> Result<Option<GossipConfig>, ConfigError> {
    let join = layers.list(&setting::JOIN, 64, address::seed)?;
    let allow = layers.list(&setting::GOSSIP_ALLOW, 256, address::network)?;
    let interval_ms = layers.number(&setting::GOSSIP_INTERVAL)?;
    let Some(address) = layers.one(&setting::GOSSIP, address::gossip)? else {
        needs(layers, &[&setting::JOIN], setting::GOSSIP.key)?;
        return Ok(None);
    };
    Ok(Some(GossipConfig {
        address,
        join,
        allow,
        interval_ms,
    }))
}

fn etcd(layers: &Layers<'_>) -> Result<Option<EtcdConfig>, ConfigError> {
    let endpoints = layers.list(&setting::ETCD, 16, address::endpoint)?;
    let text = |value: &Value| value.text().map(str::to_owned);
    let user = layers.one(&setting::ETCD_USER, text)?;
    let password = layers.one(&setting::ETCD_PASSWORD, text)?;
    let [ca, identity] = [&setting::ETCD_CA, &setting::ETCD_CERT].map(|setting| {
        let Some(path) = layers.one(setting, text)? else {
            return Ok(None);
        };
        fs::read(path)
            .map(Some)
            .map_err(|source| ConfigError::NoFile {
                given: layers.given(setting).remove(0).into(),
                source,
            })
    });
    let (ca, identity) = (ca?, identity?);
    if endpoints.is_empty() {
        let of_etcd = [
            &setting::ETCD_USER,
            &setting::ETCD_PASSWORD,
            &setting::ETCD_CA,
            &setting::ETCD_CERT,
        ];
        needs(layers, &of_etcd, setting::ETCD.key)?;
        return Ok(None);
    }
    let credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        _ => {
            needs(layers, &[&setting::ETCD_USER], setting::ETCD_PASSWORD.key)?;
            needs(layers, &[&setting::ETCD_PASSWORD], setting::ETCD_USER.key)?;
            None
        }
    };
    Ok(Some(EtcdConfig {
        endpoints,
        credentials,
        ca,
        identity,
    }))
}
