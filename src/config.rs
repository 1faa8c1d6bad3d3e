//! TOML file and flags -> one checked, immutable [`Config`]. Raw texts come from `arguments` and `file`, names, bounds and
//! defaults from `setting`; here they get their meaning. Opens no socket that it keeps, starts nothing.

mod adapter;
mod address;
mod arguments;
mod cluster;
mod error;
mod file;
mod layers;
mod probe;
mod setting;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::{fmt, fs, thread};

use ipnet::IpNet;

pub use adapter::{Adapter, AdapterKind, SET as ADAPTER_SET, TTL_S as ADAPTER_TTL_S, rpc};
pub use address::{domain_name, source_towards};
pub use arguments::Arguments;
pub use cluster::{ClusterConfig, EngineConfig, EtcdConfig, GossipConfig};
pub use error::ConfigError;
pub use value::{Given, Origin, Value};

use crate::info;
use crate::io;
use crate::notifier::settings::{Listener, Nat, Settings};
use crate::probe::Probed;
use layers::Layers;

/// Everything that `fanfare serve` is told, checked. Times in the unit of the name, sizes in bytes.
#[derive(Debug, Clone)]
pub struct Config {
    /// As given, so port 0 means any; 1 to 16, none covering another.
    pub listen: Vec<SocketAddr>,
    /// What stands in Via and Contact for the addresses listened at: at most one of each family.
    pub advertise: Vec<IpAddr>,
    /// 1 to 64.
    pub shards: u8,
    /// Lower case, no final dot, each once; empty: any host names the one table.
    pub domains: Vec<Box<str>>,
    /// By the grammar of ids.
    pub node: Box<str>,
    /// What makes this node one of several; `None`: it stands alone.
    pub cluster: Option<ClusterConfig>,
    /// Servers that do not publish, at most 1,024, each id once.
    pub probes: Vec<Probed>,
    /// At most 16.
    pub adapters: Vec<Adapter>,
    pub io: io::Kind,
    /// What each UDP socket's receive queue shall hold; `None`: as much as the kernel gives.
    pub rcvbuf: Option<usize>,
    /// Whether equal NOTIFYs for one next hop may go in runs.
    pub gso: bool,
    pub allow_subscribe: Vec<IpNet>,
    pub allow_publish: Vec<IpNet>,
    pub nat: Nat,
    /// Names in Contacts and routes are looked up.
    pub resolver: bool,
    /// Whom to ask for them, at most 8; none: whom the system asks.
    pub nameservers: Vec<SocketAddr>,
    pub expires_default_s: u32,
    pub expires_least_s: u32,
    pub expires_most_s: u32,
    pub min_interval_ms: u64,
    pub load_interval_ms: u64,
    pub refresh_interval_ms: u64,
    /// How long a server is shown as down after its lease ran out.
    pub forget_after_s: u32,
    /// The time over which subscriptions end where other notifiers can take them.
    pub drain_time_ms: u64,
    /// Of the whole node.
    pub subscriptions_most: usize,
    /// Of one source network, in the whole node.
    pub unproven_most: usize,
    pub datagram_most: usize,
    pub tcp: TcpBounds,
}

/// What TCP connections may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpBounds {
    pub connections_most: usize,
    /// Connections of one source address.
    pub network_most: usize,
    /// A connection that carried nothing for so long is closed.
    pub idle_ms: u64,
    /// The longest that a first or begun message may take to be whole, and that a peer may read nothing of what waits.
    pub stall_ms: u64,
    /// The empty line included.
    pub head_most: usize,
    pub body_most: usize,
    /// Bytes that may wait to be written to one connection.
    pub queue_most: usize,
}

/// Something that is allowed and yet hardly meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caution {
    /// Others reach this address, but only loopback may do what the key allows.
    WiderThanAllowed {
        listen: SocketAddr,
        key: &'static str,
    },
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caution::WiderThanAllowed { listen, key } = self;
        write!(
            f,
            "listening at {listen}, but {key} has loopback networks only: others will be answered 403"
        )
    }
}

impl Config {
    /// Reads the file that the flags name, puts the flags over it, and checks all.
    pub fn new(arguments: &Arguments) -> Result<Config, ConfigError> {
        let mut file = file::Contents::default();
        let (mut probes, mut adapters) = (Vec::new(), Vec::new());
        if let Some(path) = &arguments.file {
            file = file::read(path)?;
            probes = probe::probes(path, &file.probes)?;
            adapters = adapter::adapters(path, &file.adapters)?;
        }
        let config = Self::check(&Layers::new(&arguments.given, &file.given))?;
        Ok(Config {
            probes,
            adapters,
            ..config
        })
    }

    fn check(layers: &Layers<'_>) -> Result<Config, ConfigError> {
        let listen = address::listen(layers)?;
        let config = Config {
            advertise: address::advertise(layers, &listen)?,
            listen,
            shards: shards(layers)?,
            domains: layers.list(&setting::DOMAIN, 256, address::domain)?,
            node: node(layers)?,
            cluster: cluster::cluster(layers)?,
            probes: Vec::new(),
            adapters: Vec::new(),
            io: match layers.word(&setting::IO)? {
                0 => io::Kind::Auto,
                1 => io::Kind::Uring,
                _ => io::Kind::Mmsg,
            },
            rcvbuf: layers.optional_number(&setting::RCVBUF)?,
            gso: layers.switch(&setting::GSO)?,
            allow_subscribe: layers.list(&setting::ALLOW_SUBSCRIBE, 256, address::network)?,
            allow_publish: layers.list(&setting::ALLOW_PUBLISH, 256, address::network)?,
            nat: match layers.word(&setting::NAT)? {
                0 => Nat::Off,
                _ => Nat::Source,
            },
            resolver: layers.switch(&setting::RESOLVER)?,
            nameservers: layers.list(&setting::NAMESERVER, 8, address::nameserver)?,
            expires_default_s: layers.number(&setting::EXPIRES_DEFAULT)?,
            expires_least_s: layers.number(&setting::EXPIRES_LEAST)?,
            expires_most_s: layers.number(&setting::EXPIRES_MOST)?,
            min_interval_ms: layers.number(&setting::MIN_INTERVAL)?,
            load_interval_ms: layers.number(&setting::LOAD_INTERVAL)?,
            refresh_interval_ms: layers.number(&setting::REFRESH_INTERVAL)?,
            forget_after_s: layers.number(&setting::FORGET_AFTER)?,
            drain_time_ms: layers.number(&setting::DRAIN_TIME)?,
            subscriptions_most: layers.number(&setting::SUBSCRIPTIONS_MOST)?,
            unproven_most: layers.number(&setting::UNPROVEN_MOST)?,
            datagram_most: layers.number(&setting::DATAGRAM_MOST)?,
            tcp: tcp(layers)?,
        };
        let lives = [
            &setting::EXPIRES_LEAST,
            &setting::EXPIRES_DEFAULT,
            &setting::EXPIRES_MOST,
        ];
        layers.ascending(lives)?;
        layers.ascending([&setting::MIN_INTERVAL, &setting::LOAD_INTERVAL])?;
        Ok(config)
    }

    /// What every shard is told. `bound`: where the sockets came to listen, in the order of `listen`; `instance` makes
    /// Contacts name this very process.
    pub fn settings(&self, bound: &[SocketAddr], instance: &str) -> Settings {
        let listeners = bound
            .iter()
            .map(|address| Listener::new(self.advertised(*address), instance))
            .collect();
        let shards = usize::from(self.shards);
        let unproven = self.unproven_most.div_ceil(shards);
        Settings {
            shards: self.shards,
            listeners,
            domains: self.domains.clone(),
            allow_subscribe: self.allow_subscribe.clone(),
            allow_publish: self.allow_publish.clone(),
            nat: self.nat,
            expires_default_s: self.expires_default_s,
            expires_most_s: self.expires_most_s,
            expires_least_s: self.expires_least_s,
            min_interval_ms: self.min_interval_ms,
            load_interval_ms: self.load_interval_ms,
            refresh_interval_ms: self.refresh_interval_ms,
            datagram_most: self.datagram_most,
            subscriptions_most: self.subscriptions_most.div_ceil(shards),
            unproven_most: u32::try_from(unproven).unwrap_or(u32::MAX),
            ..Settings::for_address(self.listen[0])
        }
    }

    /// The address that peers are told for one that a socket listens at. Loopback speaks for itself.
    pub fn advertised(&self, bound: SocketAddr) -> SocketAddr {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == bound.is_ipv4();
        match self.advertise.iter().find(same_family) {
            Some(ip) if !bound.ip().is_loopback() => SocketAddr::new(*ip, bound.port()),
            _ => bound,
        }
    }

    /// What the user should hear of before traffic comes.
    pub fn cautions(&self) -> Vec<Caution> {
        let wide = self.listen.iter().find(|at| !at.ip().is_loopback());
        let lists = [
            (setting::ALLOW_SUBSCRIBE.key, &self.allow_subscribe),
            (setting::ALLOW_PUBLISH.key, &self.allow_publish),
        ];
        let narrow = lists
            .into_iter()
            .filter(|(_, networks)| networks.iter().all(|net| net.network().is_loopback()));
        wide.into_iter()
            .flat_map(|listen| {
                narrow.clone().map(|(key, _)| Caution::WiderThanAllowed {
                    listen: *listen,
                    key,
                })
            })
            .collect()
    }
}

fn shards(layers: &Layers<'_>) -> Result<u8, ConfigError> {
    if let Some(shards) = layers.optional_number(&setting::SHARDS)? {
        return Ok(shards);
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Ok(u8::try_from(cores.min(64)).unwrap_or(64))
}

fn node(layers: &Layers<'_>) -> Result<Box<str>, ConfigError> {
    let given = layers.one(&setting::NODE, |value| {
        let id = value.text().filter(|id| info::is_id(id))?;
        Some(id.into())
    })?;
    Ok(given.unwrap_or_else(|| node_of(&fs::read_to_string(HOST_NAME).unwrap_or_default())))
}

/// Where Linux tells the host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// A host's first label as an id.
fn node_of(host: &str) -> Box<str> {
    let label = host.trim().split('.').next().unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let id: String = label
        .chars()
        .map(|c| if legal(c) { c } else { '-' })
        .take(info::MAX_NAME_BYTES)
        .collect();
    if id.is_empty() {
        "fanfare".into()
    } else {
        id.into()
    }
}

fn tcp(layers: &Layers<'_>) -> Result<TcpBounds, ConfigError> {
    Ok(TcpBounds {
        connections_most: layers.number(&setting::TCP_CONNECTIONS_MOST)?,
        network_most: layers.number(&setting::TCP_NETWORK_MOST)?,
        idle_ms: layers.number(&setting::TCP_IDLE)?,
        stall_ms: layers.number(&setting::TCP_STALL)?,
        head_most: layers.number(&setting::TCP_HEAD_MOST)?,
        body_most: layers.number(&setting::TCP_BODY_MOST)?,
        queue_most: layers.number(&setting::TCP_QUEUE_MOST)?,
    })
}
