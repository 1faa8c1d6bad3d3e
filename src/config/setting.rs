//! The settings of `fanfare serve`: each one's name, what it allows and its default, with the reason. The flags, the keys
//! of the file and the help are made from this one table. Knows no values.

use std::ops::RangeInclusive;

use super::value::Value;

/// One setting: `--key` on the command line, `key` in the file.
#[derive(Debug)]
pub struct Setting {
    pub key: &'static str,
    /// What stands for the value in the help.
    pub value_name: &'static str,
    pub help: &'static str,
    pub default: Preset,
    pub allowed: Allowed,
    /// Takes several values.
    pub is_list: bool,
}

/// What holds where nothing is given.
#[derive(Debug)]
pub enum Preset {
    /// This text, read as a flag's value; a list's elements stand between commas.
    Text(&'static str),
    /// What the machine or another setting says, in words for the help.
    Found(&'static str),
}

/// Which values a setting takes.
#[derive(Debug)]
pub enum Allowed {
    Count(RangeInclusive<u64>),
    /// In milliseconds.
    Time(RangeInclusive<u64>),
    /// Whole seconds.
    Seconds(RangeInclusive<u64>),
    Words(&'static [&'static str]),
    Switch,
    /// What a parser of its own accepts, in words.
    Text(&'static str),
    /// The same, and no message repeats it.
    Secret(&'static str),
}

impl Setting {
    /// The number that a value stands for, in the unit of `allowed`; `None` where it is not allowed.
    pub fn number(&self, value: &Value) -> Option<u64> {
        let (number, range) = match &self.allowed {
            Allowed::Count(range) => (value.count()?, range),
            Allowed::Time(range) => (value.time_ms()?, range),
            Allowed::Seconds(range) => {
                let ms = value.time_ms().filter(|ms| ms % 1_000 == 0)?;
                (ms / 1_000, range)
            }
            Allowed::Words(_) | Allowed::Switch | Allowed::Text(_) | Allowed::Secret(_) => {
                return None;
            }
        };
        range.contains(&number).then_some(number)
    }

    /// The allowed word that a value is, by its place.
    pub fn word(&self, value: &Value) -> Option<usize> {
        match &self.allowed {
            Allowed::Words(words) => words.iter().position(|word| Some(*word) == value.text()),
            _ => None,
        }
    }

    /// What is allowed, for messages and the help.
    pub fn allowed(&self) -> String {
        match &self.allowed {
            Allowed::Count(range) => {
                format!("a whole number from {} to {}", range.start(), range.end())
            }
            Allowed::Time(range) => format!(
                "a time such as 100ms, 2s, 5m or plain seconds, from {} to {}",
                time(*range.start()),
                time(*range.end())
            ),
            Allowed::Seconds(range) => format!(
                "whole seconds such as 60, 60s or 5m, from {} to {}",
                range.start(),
                range.end()
            ),
            Allowed::Words(words) => format!("one of {}", words.join(", ")),
            Allowed::Switch => "true or false".to_owned(),
            Allowed::Text(words) | Allowed::Secret(words) => (*words).to_owned(),
        }
    }
}

fn time(ms: u64) -> String {
    if ms.is_multiple_of(1_000) {
        format!("{}s", ms / 1_000)
    } else {
        format!("{ms}ms")
    }
}

/// Every setting, in the order of the help.
pub const SETTINGS: [&Setting; 37] = [
    &LISTEN,
    &ADVERTISE,
    &DOMAIN,
    &NODE,
    &GOSSIP,
    &JOIN,
    &CLUSTER_ID,
    &GOSSIP_ALLOW,
    &GOSSIP_INTERVAL,
    &ETCD,
    &SHARDS,
    &IO,
    &RCVBUF,
    &GSO,
    &ALLOW_SUBSCRIBE,
    &ALLOW_PUBLISH,
    &NAT,
    &RESOLVER,
    &NAMESERVER,
    &EXPIRES_DEFAULT,
    &EXPIRES_LEAST,
    &EXPIRES_MOST,
    &MIN_INTERVAL,
    &LOAD_INTERVAL,
    &REFRESH_INTERVAL,
    &FORGET_AFTER,
    &DRAIN_TIME,
    &SUBSCRIPTIONS_MOST,
    &UNPROVEN_MOST,
    &DATAGRAM_MOST,
    &TCP_CONNECTIONS_MOST,
    &TCP_NETWORK_MOST,
    &TCP_IDLE,
    &TCP_STALL,
    &TCP_HEAD_MOST,
    &TCP_BODY_MOST,
    &TCP_QUEUE_MOST,
];

/// Loopback: a node that was told nothing serves nobody else.
pub const LISTEN: Setting = Setting {
    key: "listen",
    value_name: "ADDRESS:PORT",
    help: "Address and port to listen at, over UDP and TCP; port 0 takes a free one",
    default: Preset::Text("127.0.0.1:5060"),
    allowed: Allowed::Text(
        "at most 16 addresses with port, as 192.0.2.1:5060 or [2001:db8::1]:5060, none covered twice",
    ),
    is_list: true,
};

/// What a wildcard address is reached at cannot be known from it.
pub const ADVERTISE: Setting = Setting {
    key: "advertise",
    value_name: "IP",
    help: "Address to put into Via and Contact instead of the one listened at, one of each family",
    default: Preset::Found(
        "the address listened at; of 0.0.0.0 and [::], the source address of the default route",
    ),
    allowed: Allowed::Text("an IP address that others can send to, one of each family"),
    is_list: true,
};

/// Without domains one table serves whatever host a request names.
pub const DOMAIN: Setting = Setting {
    key: "domain",
    value_name: "NAME",
    help: "Domain to serve; requests for another are answered 404",
    default: Preset::Found("any"),
    allowed: Allowed::Text(
        "at most 256 host names such as example.com, or IP addresses, each once",
    ),
    is_list: true,
};

pub const NODE: Setting = Setting {
    key: "node",
    value_name: "ID",
    help: "Name of this node among the notifiers",
    default: Preset::Found("the host's name"),
    allowed: Allowed::Text("1 to 64 of letters, digits, '.', '_', '-'"),
    is_list: false,
};

/// Without it a node stands alone. Others are told this address, so it cannot be a wildcard.
pub const GOSSIP: Setting = Setting {
    key: "gossip",
    value_name: "ADDRESS:PORT",
    help: "Address and UDP port for other nodes: makes this node one of a cluster",
    default: Preset::Found("none: this node stands alone"),
    allowed: Allowed::Text("an address that other nodes reach, with port, as 192.0.2.1:7946"),
    is_list: false,
};

pub const JOIN: Setting = Setting {
    key: "join",
    value_name: "HOST:PORT",
    help: "Gossip address of a node to begin with; one that answers is enough",
    default: Preset::Found("none: this is the first node"),
    allowed: Allowed::Text("at most 64 hosts or addresses with port, as node1.example.com:7946"),
    is_list: true,
};

/// Two clusters that know each other's addresses by mistake stay two.
pub const CLUSTER_ID: Setting = Setting {
    key: "cluster-id",
    value_name: "NAME",
    help: "Name of the cluster: nodes of another are not listened to",
    default: Preset::Text("fanfare"),
    allowed: Allowed::Text("1 to 64 of letters, digits, '.', '_', '-'"),
    is_list: false,
};

/// Gossip carries no secret, and whoever can speak to a node can say what servers there are.
pub const GOSSIP_ALLOW: Setting = Setting {
    key: "gossip-allow",
    value_name: "NETWORK",
    help: "Network that other nodes may speak from",
    default: Preset::Text("127.0.0.0/8,::1/128"),
    allowed: NETWORKS,
    is_list: true,
};

/// A node is taken for dead after eight silent intervals: two seconds.
pub const GOSSIP_INTERVAL: Setting = Setting {
    key: "gossip-interval",
    value_name: "TIME",
    help: "Time between rounds of gossip; a node silent for eight of them is dead",
    default: Preset::Text("250ms"),
    allowed: Allowed::Time(50..=10_000),
    is_list: false,
};

/// For those who run it, and for farms larger than gossip is good for.
pub const ETCD: Setting = Setting {
    key: "etcd",
    value_name: "URL",
    help: "Endpoint of etcd 3.4 or later: makes this node one of a cluster by it, in place of gossip",
    default: Preset::Found("none"),
    allowed: Allowed::Text(
        "at most 16 of http://HOST:PORT or https://HOST:PORT, and not together with gossip",
    ),
    is_list: true,
};

const ETCD_FILE: Allowed = Allowed::Text("the path of a file in PEM form, beside etcd");

pub const ETCD_USER: Setting = Setting {
    key: "etcd-user",
    value_name: "NAME",
    help: "User of etcd",
    default: Preset::Found("none: etcd asks for none"),
    allowed: Allowed::Text("a text, beside etcd and etcd-password"),
    is_list: false,
};

pub const ETCD_PASSWORD: Setting = Setting {
    key: "etcd-password",
    value_name: "TEXT",
    help: "Its password",
    default: Preset::Found("none"),
    allowed: Allowed::Secret("a text, beside etcd-user"),
    is_list: false,
};

pub const ETCD_CA: Setting = Setting {
    key: "etcd-ca",
    value_name: "FILE",
    help: "Certificates to believe etcd's by",
    default: Preset::Found("those of the system"),
    allowed: ETCD_FILE,
    is_list: false,
};

pub const ETCD_CERT: Setting = Setting {
    key: "etcd-cert",
    value_name: "FILE",
    help: "This node's certificate and its key, for an etcd that asks for one",
    default: Preset::Found("none"),
    allowed: ETCD_FILE,
    is_list: false,
};

/// What a command line says can be read by every user of the machine: only in the file.
pub const CLUSTER_SECRET: Setting = Setting {
    key: "cluster-secret",
    value_name: "TEXT",
    help: "What nodes prove to each other that they know",
    default: Preset::Found("none: every datagram from an allowed network is believed"),
    allowed: Allowed::Secret("a text of 8 to 256 bytes"),
    is_list: false,
};

/// Settings that only the file may have.
pub const FILE_SETTINGS: [&Setting; 5] = [
    &CLUSTER_SECRET,
    &ETCD_USER,
    &ETCD_PASSWORD,
    &ETCD_CA,
    &ETCD_CERT,
];

/// What stands in each `[[probe]]`.
pub const PROBE_SETTINGS: [&Setting; 8] = [
    &PROBE_ID,
    &PROBE_ADDRESS,
    &PROBE_SERVICES,
    &PROBE_PRIORITY,
    &PROBE_WEIGHT,
    &PROBE_INTERVAL,
    &PROBE_DOWN_AFTER,
    &PROBE_UP_AFTER,
];

/// What stands in each `[[adapter]]`.
pub const ADAPTER_SETTINGS: [&Setting; 7] = [
    &ADAPTER_KIND,
    &ADAPTER_DOMAIN,
    &ADAPTER_SERVICE,
    &ADAPTER_LISTEN,
    &ADAPTER_TTL,
    &ADAPTER_RPC,
    &ADAPTER_SET,
];

pub const ADAPTER_KIND: Setting = Setting {
    key: "adapter-kind",
    value_name: "KIND",
    help: "For whom it is",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Words(&["redirect", "dns", "dispatcher"]),
    is_list: false,
};

pub const ADAPTER_DOMAIN: Setting = Setting {
    key: "adapter-domain",
    value_name: "NAME",
    help: "Domain whose servers it names",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Text("a host name such as example.com"),
    is_list: false,
};

pub const ADAPTER_SERVICE: Setting = Setting {
    key: "adapter-service",
    value_name: "NAME",
    help: "Service that the servers must offer",
    default: Preset::Found("any"),
    allowed: Allowed::Text("1 to 64 of letters, digits, '.', '_', '-'"),
    is_list: false,
};

pub const ADAPTER_LISTEN: Setting = Setting {
    key: "adapter-listen",
    value_name: "ADDRESS:PORT",
    help: "Where it is asked, redirect and dns",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Text("an address of this machine with port, as 192.0.2.1:5060"),
    is_list: false,
};

pub const ADAPTER_TTL: Setting = Setting {
    key: "adapter-ttl",
    value_name: "TIME",
    help: "Life of the records of dns",
    default: Preset::Found("1s"),
    allowed: Allowed::Seconds(0..=86_400),
    is_list: false,
};

pub const ADAPTER_RPC: Setting = Setting {
    key: "adapter-rpc",
    value_name: "URL",
    help: "Kamailio's JSON-RPC, dispatcher",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Text("http://HOST[:PORT]/RPC, or https"),
    is_list: false,
};

pub const ADAPTER_SET: Setting = Setting {
    key: "adapter-set",
    value_name: "NUMBER",
    help: "Destination set of dispatcher, which shall have nothing but these servers",
    default: Preset::Found("1"),
    allowed: Allowed::Count(0..=1_000_000_000),
    is_list: false,
};

pub const PROBE_ID: Setting = Setting {
    key: "probe-id",
    value_name: "ID",
    help: "The server's id",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Text("1 to 64 of letters, digits, '.', '_', '-', of no other server"),
    is_list: false,
};

pub const PROBE_ADDRESS: Setting = Setting {
    key: "probe-address",
    value_name: "ADDRESS:PORT",
    help: "Where it takes OPTIONS over UDP, and work",
    default: Preset::Found("none: it must be said"),
    allowed: Allowed::Text("an address that the nodes reach, with port, as 192.0.2.1:5060"),
    is_list: false,
};

pub const PROBE_SERVICES: Setting = Setting {
    key: "probe-services",
    value_name: "NAME",
    help: "What it serves",
    default: Preset::Found("none"),
    allowed: Allowed::Text("at most 32 names of letters, digits, '.', '_', '-', each once"),
    is_list: true,
};

pub const PROBE_PRIORITY: Setting = Setting {
    key: "probe-priority",
    value_name: "N",
    help: "The lowest is tried first",
    default: Preset::Text("0"),
    allowed: Allowed::Count(0..=65_535),
    is_list: false,
};

pub const PROBE_WEIGHT: Setting = Setting {
    key: "probe-weight",
    value_name: "N",
    help: "Its share of the work among servers of one priority",
    default: Preset::Text("1"),
    allowed: Allowed::Count(0..=65_535),
    is_list: false,
};

/// A probe is given up when the next one is due, which is no later than Timer F.
pub const PROBE_INTERVAL: Setting = Setting {
    key: "probe-interval",
    value_name: "TIME",
    help: "Time between two OPTIONS",
    default: Preset::Text("2s"),
    allowed: Allowed::Time(500..=32_000),
    is_list: false,
};

/// One lost datagram is sent again within a probe; three silent ones are no accident.
pub const PROBE_DOWN_AFTER: Setting = Setting {
    key: "probe-down-after",
    value_name: "N",
    help: "Probes in a row that must fail before it is down",
    default: Preset::Text("3"),
    allowed: Allowed::Count(1..=100),
    is_list: false,
};

pub const PROBE_UP_AFTER: Setting = Setting {
    key: "probe-up-after",
    value_name: "N",
    help: "Probes in a row that must be answered before it is up",
    default: Preset::Text("2"),
    allowed: Allowed::Count(1..=100),
    is_list: false,
};

/// A shard more than there are cores costs hand-overs and wins nothing; 64 is what one node's tags were measured for.
pub const SHARDS: Setting = Setting {
    key: "shards",
    value_name: "N",
    help: "Threads that serve subscriptions",
    default: Preset::Found("one a core"),
    allowed: Allowed::Count(1..=64),
    is_list: false,
};

pub const IO: Setting = Setting {
    key: "io",
    value_name: "KIND",
    help: "How datagrams travel: by io_uring, by sendmmsg and recvmmsg, or by io_uring where it is allowed",
    default: Preset::Text("auto"),
    allowed: Allowed::Words(&["auto", "uring", "mmsg"]),
    is_list: false,
};

/// A page is the least the kernel keeps; a GiB is more than any `rmem_max` seen.
pub const RCVBUF: Setting = Setting {
    key: "rcvbuf",
    value_name: "BYTES",
    help: "Receive buffer to ask the kernel for, each socket",
    default: Preset::Found("as large as the kernel gives, up to 16 MiB"),
    allowed: Allowed::Count(4_096..=1 << 30),
    is_list: false,
};

/// A network card or a tunnel that cannot segment is found out and left alone; one that segments wrongly is not.
pub const GSO: Setting = Setting {
    key: "gso",
    value_name: "BOOL",
    help: "Hand equal NOTIFYs for one next hop to the kernel as one (UDP_SEGMENT), where it can",
    default: Preset::Text("true"),
    allowed: Allowed::Switch,
    is_list: false,
};

/// A SUBSCRIBE with a forged source makes a node send to a victim: strangers may only be let in on purpose.
pub const ALLOW_SUBSCRIBE: Setting = Setting {
    key: "allow-subscribe",
    value_name: "NETWORK",
    help: "Network that may subscribe; others are answered 403",
    default: Preset::Text("127.0.0.0/8,::1/128"),
    allowed: NETWORKS,
    is_list: true,
};

pub const ALLOW_PUBLISH: Setting = Setting {
    key: "allow-publish",
    value_name: "NETWORK",
    help: "Network that may publish; others are answered 403",
    default: Preset::Text("127.0.0.0/8,::1/128"),
    allowed: NETWORKS,
    is_list: true,
};

const NETWORKS: Allowed = Allowed::Text(
    "at most 256 networks such as 192.0.2.0/24, 2001:db8::/32 or one address, each once",
);

/// RFC 3261 12.2.1.1 sends to the Contact; only whoever has subscribers behind address translation knows better.
pub const NAT: Setting = Setting {
    key: "nat",
    value_name: "MODE",
    help: "Where NOTIFYs go: to the Contact (off), or to where the SUBSCRIBE came from (source)",
    default: Preset::Text("off"),
    allowed: Allowed::Words(&["off", "source"]),
    is_list: false,
};

pub const RESOLVER: Setting = Setting {
    key: "resolver",
    value_name: "BOOL",
    help: "Look up names in Contacts and routes; without it they are refused",
    default: Preset::Text("true"),
    allowed: Allowed::Switch,
    is_list: false,
};

/// Where SIP's names live in a zone of their own, the system's resolver may not know it.
pub const NAMESERVER: Setting = Setting {
    key: "nameserver",
    value_name: "ADDRESS:PORT",
    help: "Name server to ask for names in Contacts and routes",
    default: Preset::Found("the system's"),
    allowed: Allowed::Text("at most 8 addresses with port, as 192.0.2.53:53, each once"),
    is_list: true,
};

/// draft-ma-sipping-server-event-package 3.4: 30 minutes.
pub const EXPIRES_DEFAULT: Setting = Setting {
    key: "expires-default",
    value_name: "SECONDS",
    help: "Life of a subscription that asks for none",
    default: Preset::Text("30m"),
    allowed: Allowed::Seconds(1..=86_400),
    is_list: false,
};

/// Shorter lives cost a refresh each; RFC 6665 4.2.1.1 allows a 423 only below an hour.
pub const EXPIRES_LEAST: Setting = Setting {
    key: "expires-least",
    value_name: "SECONDS",
    help: "Shortest life of a subscription; a shorter one is answered 423",
    default: Preset::Text("60s"),
    allowed: Allowed::Seconds(1..=3_600),
    is_list: false,
};

/// A subscriber that vanished is kept no longer than this.
pub const EXPIRES_MOST: Setting = Setting {
    key: "expires-most",
    value_name: "SECONDS",
    help: "Longest life granted to a subscription",
    default: Preset::Text("1h"),
    allowed: Allowed::Seconds(1..=86_400),
    is_list: false,
};

/// Ten NOTIFYs a second are more than a balancer acts on; a change of status passes it.
pub const MIN_INTERVAL: Setting = Setting {
    key: "min-interval",
    value_name: "TIME",
    help: "Least time between two NOTIFYs of one subscription",
    default: Preset::Text("100ms"),
    allowed: Allowed::Time(0..=60_000),
    is_list: false,
};

/// Load moves all the time: it alone is worth less traffic.
pub const LOAD_INTERVAL: Setting = Setting {
    key: "load-interval",
    value_name: "TIME",
    help: "The same where nothing but load changed",
    default: Preset::Text("1s"),
    allowed: Allowed::Time(0..=3_600_000),
    is_list: false,
};

/// The periodic NOTIFY of the patent's second step. Below a second it would be the fan-out itself.
pub const REFRESH_INTERVAL: Setting = Setting {
    key: "refresh-interval",
    value_name: "TIME",
    help: "Time between NOTIFYs of a subscription where nothing changes",
    default: Preset::Text("60s"),
    allowed: Allowed::Time(1_000..=3_600_000),
    is_list: false,
};

/// Long enough to see afterwards what went down, short enough to forget what will not come back.
pub const FORGET_AFTER: Setting = Setting {
    key: "forget-after",
    value_name: "SECONDS",
    help: "How long a server that stopped publishing is shown as down",
    default: Preset::Text("1h"),
    allowed: Allowed::Seconds(1..=604_800),
    is_list: false,
};

/// Ten seconds let a neighbour of 100,000 subscriptions take 10,000 a second.
pub const DRAIN_TIME: Setting = Setting {
    key: "drain-time",
    value_name: "TIME",
    help: "Time over which an ending node lets its subscriptions go, where other notifiers can take them",
    default: Preset::Text("10s"),
    allowed: Allowed::Time(0..=600_000),
    is_list: false,
};

/// About 4 GB at 1,000 bytes each; the table itself is made as it fills.
pub const SUBSCRIPTIONS_MOST: Setting = Setting {
    key: "subscriptions-most",
    value_name: "N",
    help: "Most subscriptions of this node; more are answered 503",
    default: Preset::Text("4194304"),
    allowed: Allowed::Count(1..=1 << 28),
    is_list: false,
};

/// Whoever forges sources gets at most so many first NOTIFYs sent; a network behind one proxy proves itself at once.
pub const UNPROVEN_MOST: Setting = Setting {
    key: "unproven-most",
    value_name: "N",
    help: "Most subscriptions of one source network that never answered a NOTIFY",
    default: Preset::Text("65536"),
    allowed: Allowed::Count(1..=1 << 28),
    is_list: false,
};

/// RFC 3261 18.1.1: 1,300 where the path MTU is not known. More is for networks known to carry it; less than 1,000 leaves
/// no room for an entry after the head.
pub const DATAGRAM_MOST: Setting = Setting {
    key: "datagram-most",
    value_name: "BYTES",
    help: "Largest NOTIFY sent over UDP",
    default: Preset::Text("1300"),
    allowed: Allowed::Count(1_000..=65_507),
    is_list: false,
};

/// Below the 20,000 file descriptors that a service usually has.
pub const TCP_CONNECTIONS_MOST: Setting = Setting {
    key: "tcp-connections-most",
    value_name: "N",
    help: "Most TCP connections; a further one is closed at once",
    default: Preset::Text("16384"),
    allowed: Allowed::Count(1..=1 << 20),
    is_list: false,
};

/// One host cannot take them all; a proxy needs few.
pub const TCP_NETWORK_MOST: Setting = Setting {
    key: "tcp-network-most",
    value_name: "N",
    help: "Most TCP connections of one source address",
    default: Preset::Text("4096"),
    allowed: Allowed::Count(1..=1 << 20),
    is_list: false,
};

/// RFC 3261 18 keeps a connection at least 64*T1, 32 s, after its last message; the default outlives two periodic NOTIFYs.
pub const TCP_IDLE: Setting = Setting {
    key: "tcp-idle",
    value_name: "TIME",
    help: "A connection that carried nothing for so long is closed",
    default: Preset::Text("3m"),
    allowed: Allowed::Time(32_000..=86_400_000),
    is_list: false,
};

/// As long as a transaction may take (Timer F).
pub const TCP_STALL: Setting = Setting {
    key: "tcp-stall",
    value_name: "TIME",
    help: "A connection is closed whose first or begun message takes longer, or that reads nothing for so long",
    default: Preset::Text("32s"),
    allowed: Allowed::Time(100..=3_600_000),
    is_list: false,
};

/// Twice what fits a datagram of 65,535 bytes would be endless; real heads are below 4 KiB.
pub const TCP_HEAD_MOST: Setting = Setting {
    key: "tcp-head-most",
    value_name: "BYTES",
    help: "Longest head of a message over TCP",
    default: Preset::Text("65536"),
    allowed: Allowed::Count(1_024..=1 << 20),
    is_list: false,
};

/// Twice the 64 KiB of a publication, so that one too large is answered 413 and not cut.
pub const TCP_BODY_MOST: Setting = Setting {
    key: "tcp-body-most",
    value_name: "BYTES",
    help: "Longest body of a message over TCP",
    default: Preset::Text("131072"),
    allowed: Allowed::Count(65_536..=16 << 20),
    is_list: false,
};

/// Holds one full document of the largest table.
pub const TCP_QUEUE_MOST: Setting = Setting {
    key: "tcp-queue-most",
    value_name: "BYTES",
    help: "Bytes that may wait to be written to one connection; a slower reader is cut",
    default: Preset::Text("16777216"),
    allowed: Allowed::Count(65_536..=1 << 30),
    is_list: false,
};
