//! The whole node: binds, starts a thread for each shard and the control thread's runtime, and ends them in order.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use hmac::{Hmac, KeyInit, Mac};
use rand::RngExt;
use sha2::Sha256;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::adapt::beside::Beside;
use crate::cluster::member::Member;
use crate::cluster::{self, Cluster};
use crate::compositor::{Compositor, CompositorConfig, Now};
use crate::config::{ClusterConfig, Config, EngineConfig, EtcdConfig, GossipConfig};
use crate::control::stream::Runtime;
use crate::control::{Control, Parts};
use crate::info::{self, Address, AddressTransport, Server, Status, View};
use crate::io::sockets::{self, BindError};
use crate::io::{Engine, Kind, OpenError, Waker, pin, steering};
use crate::notifier::Notifier;
use crate::notifier::handle::HandleKey;
use crate::notifier::settings::Settings;
use crate::probe::Prober;
use crate::shard::{FromShard, INBOX, Shard, ShardHandle, ToShard};
use crate::tool::ToolError;

/// Messages that may wait for the control thread.
const CONTROL_INBOX: usize = 4_096;
/// The kernel takes a ring apart after its process has ended, and its sockets live until then: a restart waits that long
/// for its own address.
const BIND_WITHIN: Duration = Duration::from_secs(1);
const BIND_AGAIN: Duration = Duration::from_millis(20);
/// How often another port is tried when port 0 gave one that TCP does not have.
const PORT_TRIES: usize = 16;

/// Why a node could not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    #[error("listen {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: BindError,
    },
    #[error("listen {address} (TCP): {source}")]
    BindTcp {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("gossip {address}: {source}")]
    Gossip {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("etcd {0}")]
    Etcd(cluster::etcd::StoreError),
    #[error("io = {kind}: {source}")]
    Io { kind: Kind, source: OpenError },
    #[error("{operation}: {source}")]
    System {
        operation: &'static str,
        source: std::io::Error,
    },
    #[error("adapter: {0}")]
    Adapter(#[from] ToolError),
    #[error("a shard ended before it began")]
    ShardLost,
}

impl Error {
    /// Whether the configuration asked for what this machine cannot give (exit status 2).
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Error::Bind { .. }
                | Error::BindTcp { .. }
                | Error::Gossip { .. }
                | Error::Etcd(_)
                | Error::Io { .. }
                | Error::Adapter(_)
        )
    }
}

/// One listening address: a UDP socket for each shard and a TCP listener, on one port.
struct Bound {
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

/// What a shard's thread needs to begin.
struct Seat {
    number: u8,
    core: Option<usize>,
    sockets: Vec<UdpSocket>,
    inbox: Receiver<ToShard>,
    control: mpsc::Sender<FromShard>,
    settings: Arc<Settings>,
    views: Vec<Arc<View>>,
    key: HandleKey,
    seed: u64,
    kind: Kind,
    gso: bool,
    start: Instant,
    /// The waker goes out when the engine is open, all handles come back.
    opened: Sender<(u8, Result<Opened, OpenError>)>,
    others: Receiver<Vec<ShardHandle>>,
}

struct Opened {
    waker: Waker,
    kind: Kind,
    fallback: Option<String>,
}

/// Runs a node until it is told to end; prints `fanfare ready ...` when it accepts traffic.
pub fn run(config: Config) -> Result<(), Error> {
    abort_on_panic();
    let start = Instant::now();
    let mut random = rand::rng();
    let bound = config
        .listen
        .iter()
        .map(|&address| bind(address, config.shards, config.rcvbuf))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<SocketAddr> = bound.iter().map(|bound| bound.address).collect();
    let unix_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64;
    let settings = Arc::new(config.settings(&addresses, &format!("{}-{unix_ms}", config.node)));
    for (place, bound) in bound.iter().enumerate() {
        let sent_by = String::from_utf8_lossy(&settings.listeners[place].sent_by).into_owned();
        steering::attach(&bound.udp, &[&sent_by]).map_err(|source| Error::System {
            operation: "SO_ATTACH_REUSEPORT_CBPF",
            source,
        })?;
    }
    let now = Now {
        mono_ms: 0,
        unix_ms,
    };
    // Nodes of one cluster take each other's entity-tags.
    let key = match &config.cluster {
        Some(cluster) => tag_key(cluster),
        None => random.random(),
    };
    let compositor = Compositor::new(compositor_config(&config), key, now);
    let engine = config.cluster.as_ref().map(|cluster| &cluster.engine);
    let gossip = match engine {
        Some(EngineConfig::Gossip(gossip)) => Some(bind_gossip(gossip)?),
        _ => None,
    };
    let member = match &config.cluster {
        Some(_) => {
            let own = own_entry(&config, &addresses);
            Member::among(now, compositor, own)
        }
        None => Member::alone(compositor),
    };
    let (to_control, from_shards) = mpsc::channel(CONTROL_INBOX);
    let (opened_to, opened) = bounded(usize::from(config.shards));
    let key = HandleKey(random.random());
    let cores = pin::cores().unwrap_or_default();
    let mut listeners = Vec::new();
    let mut udp: Vec<Vec<UdpSocket>> = (0..config.shards).map(|_| Vec::new()).collect();
    for bound in bound {
        listeners.push(bound.tcp);
        for (sockets, socket) in udp.iter_mut().zip(bound.udp) {
            sockets.push(socket);
        }
    }
    let (mut threads, mut inboxes, mut handles_to) = (Vec::new(), Vec::new(), Vec::new());
    for (number, sockets) in (0..config.shards).zip(udp) {
        let (inbox_to, inbox) = bounded(INBOX);
        let (others_to, others) = bounded(1);
        let seat = Seat {
            number,
            // More shards than cores, or one shard on a machine shared with others: the scheduler knows better.
            core: cores
                .get(usize::from(number))
                .copied()
                .filter(|_| usize::from(config.shards) == cores.len()),
            sockets,
            inbox,
            control: to_control.clone(),
            settings: settings.clone(),
            views: member.compositor.views().cloned().collect(),
            key,
            seed: random.random(),
            kind: config.io,
            gso: config.gso,
            start,
            opened: opened_to.clone(),
            others,
        };
        threads.push(spawn(seat)?);
        inboxes.push(inbox_to);
        handles_to.push(others_to);
    }
    drop((to_control, opened_to));
    let (wakers, kind) = wait_for_engines(&opened, config.io, usize::from(config.shards))?;
    let shards: Vec<ShardHandle> = inboxes
        .into_iter()
        .zip(wakers)
        .map(|(inbox, waker)| ShardHandle { inbox, waker })
        .collect();
    for handles_to in handles_to {
        handles_to
            .send(shards.clone())
            .map_err(|_| Error::ShardLost)?;
    }
    let gossip_address = gossip.as_ref().map(|(_, address)| *address);
    let among = match &config.cluster {
        Some(cluster) => Some(join(&config, cluster, gossip, unix_ms)?),
        None => None,
    };
    let prober = (!config.probes.is_empty()).then(|| {
        let node = config.node.as_ref().into();
        Prober::new(node, random.random(), config.probes.clone())
    });
    let parts = Parts {
        member,
        shards,
        from_shards,
        listeners,
        tcp: config.tcp,
        resolve: config.resolver,
        nameservers: config.nameservers.clone(),
        cluster: among,
        prober,
        drain_over: Duration::from_millis(config.drain_time_ms),
        start,
    };
    let adapters = match addresses.first().filter(|_| !config.adapters.is_empty()) {
        Some(first) => Some(Beside::start(*first, config.adapters.clone())?),
        None => None,
    };
    serve(parts, &config, kind, &addresses, gossip_address)?;
    if let Some(adapters) = adapters {
        adapters.end();
    }
    for thread in threads {
        // A shard that panicked has aborted the process.
        let _ = thread.join();
    }
    Ok(())
}

/// The control thread is this one.
fn serve(
    parts: Parts,
    config: &Config,
    kind: Kind,
    addresses: &[SocketAddr],
    gossip: Option<SocketAddr>,
) -> Result<(), Error> {
    let runtime = match Runtime::new(kind == Kind::Uring) {
        Ok(runtime) => runtime,
        Err(source) if config.io == Kind::Uring => {
            return Err(Error::System {
                operation: "io_uring",
                source,
            });
        }
        Err(error) => {
            warn!(%error, "connections go by epoll: no ring for the control thread");
            Runtime::new(false).map_err(|source| Error::System {
                operation: "epoll",
                source,
            })?
        }
    };
    let uring = runtime.is_uring();
    let ready = || {
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let addresses = addresses.join(",");
        let gossip = gossip.map_or_else(String::new, |address| format!(" gossip={address}"));
        println!(
            "fanfare ready udp={addresses} tcp={addresses} node={} shards={} io={kind}{gossip}",
            config.node, config.shards
        );
    };
    let ended = runtime.block_on(async { Control::begin(parts, uring).await?.run(ready).await });
    ended.map_err(|source| Error::System {
        operation: "control thread",
        source,
    })
}

fn compositor_config(config: &Config) -> CompositorConfig {
    let mut compositor = CompositorConfig::new(config.node.as_ref().into());
    compositor.domains = config
        .domains
        .iter()
        .map(|domain| domain.as_ref().into())
        .collect();
    compositor.forget_after_s = config.forget_after_s;
    let engine = config.cluster.as_ref().map(|cluster| &cluster.engine);
    if let Some(EngineConfig::Gossip(gossip)) = engine {
        let rounds_ms = NEW_NODE_ROUNDS * gossip.interval_ms;
        compositor.new_node_ms = compositor.new_node_ms.max(rounds_ms);
    }
    compositor
}

/// What entity-tags are checked with: the same in all nodes of a cluster, and another in every other.
fn tag_key(cluster: &ClusterConfig) -> [u8; 16] {
    let secret = cluster.secret.as_deref().unwrap_or_default();
    let digest = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .expect("HMAC takes keys of any length")
        .chain_update(b"entity-tags of ")
        .chain_update(cluster.id.as_bytes())
        .finalize()
        .into_bytes();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

/// After so many rounds of gossip a node that is there is known to be alive.
const NEW_NODE_ROUNDS: u64 = 20;
/// Gossip comes in bursts of large datagrams.
const GOSSIP_BUFFER: usize = 4 << 20;

fn bind_gossip(gossip: &GossipConfig) -> Result<(UdpSocket, SocketAddr), Error> {
    let address = gossip.address;
    let bind = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        // The kernel gives what it may.
        let _ = socket.set_recv_buffer_size(GOSSIP_BUFFER);
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    bind().map_err(|source| Error::Gossip { address, source })
}

/// Starts the engine by which this node is one of several; `gossip`: its socket, where it is by gossip.
fn join(
    config: &Config,
    cluster: &ClusterConfig,
    gossip: Option<(UdpSocket, SocketAddr)>,
    generation: u64,
) -> Result<Cluster, Error> {
    let node: Arc<str> = config.node.as_ref().into();
    let cluster_id = cluster.id.to_string();
    let started = match (&cluster.engine, gossip) {
        (EngineConfig::Gossip(gossip), Some((socket, advertise))) => {
            let settings = cluster::Settings {
                node,
                cluster_id,
                advertise,
                seeds: gossip.join.clone(),
                secret: cluster.secret.as_deref().map(|secret| secret.into()),
                allow: gossip.allow.clone(),
                interval: Duration::from_millis(gossip.interval_ms),
                first_generation: generation,
                generation,
            };
            Cluster::gossip(settings, socket)
        }
        (EngineConfig::Gossip(_), None) => unreachable!("gossip has a socket"),
        (EngineConfig::Etcd(etcd), _) => {
            let EtcdConfig {
                endpoints,
                credentials,
                ca,
                identity,
            } = etcd.clone();
            let access = cluster::etcd::Access {
                endpoints,
                credentials,
                ca,
                identity,
            };
            // What is wrong with certificates is better said now.
            access.check().map_err(Error::Etcd)?;
            Cluster::etcd(cluster::etcd::Settings {
                node,
                cluster_id,
                access,
                generation,
            })
        }
    };
    started.map_err(|source| Error::System {
        operation: "starting the cluster's thread",
        source,
    })
}

/// What this node is to entities: a notifier among others.
fn own_entry(config: &Config, bound: &[SocketAddr]) -> Server {
    let addresses = bound.iter().flat_map(|bound| {
        let at = config.advertised(*bound);
        [AddressTransport::Udp, AddressTransport::Tcp].map(|transport| Address::new(at, transport))
    });
    let addresses = addresses.take(info::MAX_ADDRESSES).collect();
    Server {
        services: vec![info::NOTIFIER_SERVICE.into()],
        ..Server::new(config.node.as_ref().into(), Status::Up, addresses)
    }
}

/// UDP and TCP on one port; with port 0, one that both can have.
fn bind(address: SocketAddr, shards: u8, rcvbuf: Option<usize>) -> Result<Bound, Error> {
    let patience = Instant::now() + BIND_WITHIN;
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match try_bind(address, shards, rcvbuf) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let again = match &error {
            Error::BindTcp { .. } if address.port() == 0 => tries < PORT_TRIES,
            Error::Bind {
                source: BindError::InUse { .. },
                ..
            } => Instant::now() < patience,
            Error::BindTcp { source, .. } => {
                source.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < patience
            }
            _ => false,
        };
        if !again {
            return Err(error);
        }
        std::thread::sleep(BIND_AGAIN);
    }
}

fn try_bind(address: SocketAddr, shards: u8, rcvbuf: Option<usize>) -> Result<Bound, Error> {
    let udp = sockets::bind_shards(address, usize::from(shards), rcvbuf)
        .map_err(|source| Error::Bind { address, source })?;
    let bound = udp[0].local_addr().map_err(|source| Error::System {
        operation: "getsockname",
        source,
    })?;
    let tcp = listen(bound).map_err(|source| Error::BindTcp {
        address: bound,
        source,
    })?;
    Ok(Bound {
        address: bound,
        udp,
        tcp,
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the former process's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn spawn(seat: Seat) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(format!("shard-{}", seat.number))
        .spawn(move || sit(seat))
        .map_err(|source| Error::System {
            operation: "starting a thread",
            source,
        })
}

/// A shard's thread, from its first moment to its last.
fn sit(seat: Seat) {
    if let Some(core) = seat.core
        && let Err(error) = pin::pin(core)
    {
        warn!(shard = seat.number, core, %error, "cannot pin the shard to its core");
    }
    // The smallest of the shard's receive queues bounds what may be unanswered.
    let receive_buffer = seat
        .sockets
        .iter()
        .filter_map(|socket| sockets::receive_buffer(socket).ok())
        .min();
    let engine = match Engine::open(seat.kind, seat.sockets, seat.gso) {
        Ok((engine, waker)) => {
            let fallback = engine.fallback_reason().map(ToString::to_string);
            let opened = Opened {
                waker,
                kind: engine.kind(),
                fallback,
            };
            let told = seat.opened.send((seat.number, Ok(opened)));
            if told.is_err() {
                return;
            }
            engine
        }
        Err(error) => {
            // Nobody listens any more only where another shard failed before.
            let _ = seat.opened.send((seat.number, Err(error)));
            return;
        }
    };
    let Ok(others) = seat.others.recv() else {
        return;
    };
    let now_ms = seat.start.elapsed().as_millis() as u64;
    let buffer = receive_buffer.unwrap_or_default();
    let notifier = Notifier::new(
        seat.settings,
        seat.number,
        seat.key,
        seat.seed,
        buffer,
        seat.views,
        now_ms,
    );
    let shard = Shard::new(
        seat.number,
        engine,
        notifier,
        seat.inbox,
        others,
        seat.control,
        seat.start,
    );
    if let Err(error) = shard.run() {
        // Without its ring a shard serves nobody; a supervisor restarts the whole.
        tracing::error!(shard = seat.number, %error, "shard ended");
        std::process::abort();
    }
}

fn wait_for_engines(
    opened: &Receiver<(u8, Result<Opened, OpenError>)>,
    asked: Kind,
    shards: usize,
) -> Result<(Vec<Waker>, Kind), Error> {
    let mut wakers: Vec<Option<Waker>> = vec![None; shards];
    let mut kind = asked;
    let mut warned = false;
    for _ in 0..shards {
        let (number, engine) = opened.recv().map_err(|_| Error::ShardLost)?;
        let engine = engine.map_err(|source| Error::Io {
            kind: asked,
            source,
        })?;
        kind = engine.kind;
        if let Some(reason) = engine.fallback.filter(|_| !warned) {
            warned = true;
            warn!("io_uring cannot be had, using sendmmsg and recvmmsg: {reason}");
        }
        wakers[usize::from(number)] = Some(engine.waker);
    }
    let wakers = wakers
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or(Error::ShardLost)?;
    info!(shards, io = %kind, "engines open");
    Ok((wakers, kind))
}

/// A panic anywhere ends the process with its reason: half a node is worse than a restart. But for the thread that speaks to
/// other nodes, which begins anew: what it holds is elsewhere, too.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if std::thread::current().name() != Some(cluster::THREAD) {
            std::process::abort();
        }
    }));
}
