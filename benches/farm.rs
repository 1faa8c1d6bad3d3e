//! How far a farm of nodes carries: compositors and engines of so many nodes in one process, over loopback, without
//! subscribers. Says how long a change takes to reach all of them, and what they say to each other for it.
//!
//! `cargo bench --bench farm -- --nodes 3,10,30 --servers 1000`, or `--etcd http://127.0.0.1:2379` beside it. Recorded by
//! `scripts/bench-farm`.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use fanfare::cluster::etcd::Access;
use fanfare::cluster::member::{Member, Request};
use fanfare::cluster::{Cluster, Settings, etcd};
use fanfare::compositor::{Compositor, CompositorConfig, Now};
use fanfare::info::{Address, AddressTransport, Server, Status, View};
use fanfare::wire::{Flow, Transport};
use hdrhistogram::Histogram;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const INTERVAL: Duration = Duration::from_millis(250);
/// All nodes know each other, and all servers, within this.
const PATIENCE: Duration = Duration::from_secs(300);
/// A change that took longer is counted as lost.
const CHANGE_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
struct Cli {
    /// Sizes of farms, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "3,10,30")]
    nodes: Vec<usize>,
    /// Servers that publish.
    #[arg(long, default_value_t = 1_000)]
    servers: usize,
    /// Changes a second, spread over the nodes.
    #[arg(long, default_value_t = 10)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// By an etcd that stands here, in place of gossip.
    #[arg(long)]
    etcd: Option<String>,
    /// cargo says so when it benches.
    #[arg(long, hide = true)]
    bench: bool,
    /// Only see that it works.
    #[arg(long)]
    test: bool,
}

struct Node {
    member: Member,
    cluster: Cluster,
    view: Arc<View>,
}

struct Farm {
    nodes: Vec<Node>,
    start: Instant,
    /// Of each server: by which node it publishes, its entity-tag, its load.
    servers: Vec<Published>,
    /// Servers whose PUBLISH was answered 503.
    refused: Vec<usize>,
    sent: u32,
}

struct Published {
    node: usize,
    tag: Option<String>,
    load: u8,
    /// The change that is not everywhere yet: since when, and which nodes show it.
    change: Option<(Instant, Vec<bool>)>,
}

/// Time since a change, in microseconds: until each node showed it, and until all did.
struct Spread {
    each: Histogram<u64>,
    last: Histogram<u64>,
    lost: usize,
}

impl Farm {
    fn start(count: usize, servers: usize, etcd: Option<&str>) -> Farm {
        let start = Instant::now();
        let mut seeds: Vec<String> = Vec::new();
        // Another run's nodes are none of these.
        let cluster_id = format!("farm{}", unix_ms());
        let nodes = (0..count).map(|number| {
            let name: Arc<str> = format!("n{number}").into();
            let cluster = match etcd {
                None => {
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    let advertise = socket.local_addr().expect("bound");
                    let settings = Settings {
                        node: Arc::clone(&name),
                        cluster_id: cluster_id.clone(),
                        advertise,
                        seeds: seeds.clone(),
                        secret: None,
                        allow: vec!["127.0.0.0/8".parse().expect("a network")],
                        interval: INTERVAL,
                        first_generation: unix_ms(),
                        generation: unix_ms(),
                    };
                    if seeds.len() < 3 {
                        seeds.push(advertise.to_string());
                    }
                    Cluster::gossip(settings, socket)
                }
                Some(endpoint) => Cluster::etcd(etcd::Settings {
                    node: Arc::clone(&name),
                    cluster_id: cluster_id.clone(),
                    access: Access {
                        endpoints: vec![endpoint.to_owned()],
                        credentials: None,
                        ca: None,
                        identity: None,
                    },
                    generation: unix_ms(),
                }),
            };
            let config = CompositorConfig::new(Arc::clone(&name));
            let now = now_since(start);
            let compositor = Compositor::new(config, [7; 16], now);
            let view = Arc::clone(compositor.views().next().expect("a table"));
            Node {
                member: Member::among(now, compositor, own(&name)),
                cluster: cluster.expect("the engine starts"),
                view,
            }
        });
        let nodes = nodes.collect();
        let servers = (0..servers).map(|number| Published {
            node: number % count,
            tag: None,
            load: 0,
            change: None,
        });
        Farm {
            nodes,
            start,
            servers: servers.collect(),
            refused: Vec::new(),
            sent: 0,
        }
    }

    /// One look at every node.
    fn turn(&mut self, spread: &mut Spread) {
        let now = now_since(self.start);
        for (place, node) in self.nodes.iter_mut().enumerate() {
            while let Ok(told) = node.cluster.from.try_recv() {
                node.member.hear(now, told);
            }
            node.member.tick(now, || None);
            node.member.say(|message| node.cluster.tell(message));
            let changed = node.member.compositor.take_changed();
            if let Some((_, view)) = changed.into_iter().next_back() {
                node.view = view;
                for (number, server) in self.servers.iter_mut().enumerate() {
                    let Some((since, shown)) = &mut server.change else {
                        continue;
                    };
                    if !shown[place] && shows(&node.view, number, server.load) {
                        shown[place] = true;
                        record(&mut spread.each, *since);
                        if shown.iter().all(|shown| *shown) {
                            record(&mut spread.last, *since);
                            server.change = None;
                        }
                    }
                }
            }
            for answer in node.member.take_answers() {
                let text = String::from_utf8_lossy(&answer.bytes);
                let number = text
                    .lines()
                    .find_map(|line| line.strip_prefix("Call-ID: s")?.parse::<usize>().ok());
                let number = number.expect("it is of one of ours");
                if text.starts_with("SIP/2.0 503 ") {
                    self.servers[number].change = None;
                    self.refused.push(number);
                    continue;
                }
                assert!(text.starts_with("SIP/2.0 200 "), "{text}");
                let tag = text
                    .lines()
                    .find_map(|line| line.strip_prefix("SIP-ETag: "));
                self.servers[number].tag = tag.map(str::to_owned);
            }
        }
        let is_late = |server: &Published| {
            let since = server.change.as_ref().map(|(since, _)| *since);
            since.is_some_and(|since| since.elapsed() > CHANGE_WITHIN)
        };
        for server in self.servers.iter_mut().filter(|server| is_late(server)) {
            server.change = None;
            spread.lost += 1;
        }
        thread::sleep(Duration::from_micros(500));
    }

    fn publish(&mut self, number: usize) {
        self.sent += 1;
        let server = &mut self.servers[number];
        server.load = server.load % 100 + 1;
        server.change = Some((Instant::now(), vec![false; self.nodes.len()]));
        let tag = server.tag.take();
        let tag = tag.map_or_else(String::new, |tag| format!("SIP-If-Match: {tag}\r\n"));
        let body = format!(
            "{{\"domain\":\"example.com\",\"servers\":[{{\"id\":\"p{number}\",\"status\":\"up\",\"load\":{},\"addresses\":\
             [{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}],\"services\":[\"proxy\"]}}]}}",
            server.load
        );
        let request = format!(
            "PUBLISH sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{}\r\nMax-Forwards: 70\r\n\
             From: <sip:p@example.com>;tag=f\r\nTo: <sip:example.com>\r\nCall-ID: s{number}\r\nCSeq: {} PUBLISH\r\n\
             Event: SIPserver\r\nExpires: 3600\r\n{tag}Content-Type: application/serverinfo+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.sent,
            self.sent,
            body.len()
        );
        let peer = SocketAddr::from(([127, 0, 0, 1], 5070));
        let request = Request {
            shard: 0,
            flow: Flow {
                local: 0,
                peer,
                transport: Transport::Udp,
                connection: 0,
            },
            bytes: request.into_bytes(),
        };
        let now = now_since(self.start);
        self.nodes[server.node].member.publish(now, request);
    }

    /// Until every node shows every node and every server.
    fn settle(&mut self, spread: &mut Spread) {
        let until = Instant::now() + PATIENCE;
        let all = self.nodes.len() + self.servers.len();
        let mut next = 0;
        loop {
            self.turn(spread);
            // Not all at once: a farm's servers come one after the other.
            for _ in 0..10 {
                if next < self.servers.len() {
                    self.publish(next);
                    next += 1;
                }
            }
            if let Some(number) = self.refused.pop() {
                self.publish(number);
            }
            let complete = |node: &Node| {
                let up = node.view.entries.iter().filter(|entry| !entry.deleted);
                !node.view.stale && up.count() == all
            };
            let is_still = self.servers.iter().all(|server| server.change.is_none());
            if next == self.servers.len() && is_still && self.nodes.iter().all(complete) {
                return;
            }
            assert!(Instant::now() < until, "the farm does not settle");
        }
    }

    /// Bytes of gossip received by all, and CPU time of their engines in ns.
    fn reading(&self) -> (u64, u64) {
        let counters = self.nodes.iter().map(|node| node.cluster.counters());
        (
            counters.map(|counters| counters.cluster_bytes).sum(),
            cpu_ns(),
        )
    }
}

impl Spread {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits");
        Spread {
            each: histogram(),
            last: histogram(),
            lost: 0,
        }
    }
}

fn record(histogram: &mut Histogram<u64>, since: Instant) {
    let us = since.elapsed().as_micros() as u64;
    histogram.record(us).expect("it resizes itself");
}

fn shows(view: &View, number: usize, load: u8) -> bool {
    let id = format!("p{number}");
    let at = view
        .entries
        .binary_search_by(|entry| entry.server.id.as_bytes().cmp(id.as_bytes()));
    at.is_ok_and(|at| view.entries[at].server.load == Some(load))
}

/// Of the engines' threads: what looks at all nodes every half millisecond is this bench's alone.
fn cpu_ns() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("this is Linux");
    let each = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        let ns = text.split(' ').next()?.parse::<u64>().ok()?;
        (name.trim() == fanfare::cluster::THREAD).then_some(ns)
    });
    each.sum()
}

fn own(name: &Arc<str>) -> Server {
    let at = SocketAddr::from(([192, 0, 2, 1], 5060));
    let addresses = vec![Address::new(at, AddressTransport::Udp)];
    Server {
        services: vec!["notifier".into()],
        ..Server::new(Arc::clone(name), Status::Up, addresses)
    }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    unix.expect("after 1970").as_millis() as u64
}

fn now_since(start: Instant) -> Now {
    Now {
        mono_ms: start.elapsed().as_millis() as u64,
        unix_ms: unix_ms(),
    }
}

fn main() {
    let mut cli = Cli::parse();
    if cli.test || !cli.bench {
        (cli.nodes, cli.servers, cli.seconds) = (vec![3], 10, 1);
    }
    let engine = cli.etcd.as_deref().map_or("gossip", |_| "etcd");
    println!(
        "engine\tnodes\tservers\tchanges a second\tp50 ms\tp99 ms\tmost ms\tlast node p50 ms\tlast node p99 ms\tlost\t\
         bytes a node a second idle\tbytes a node a second changing\tCPU % a node idle\tCPU % a node changing\t\
         settled after s"
    );
    for &count in &cli.nodes {
        let began = Instant::now();
        let mut farm = Farm::start(count, cli.servers, cli.etcd.as_deref());
        farm.settle(&mut Spread::new());
        let settled = began.elapsed().as_secs_f64();
        let mut spread = Spread::new();
        // What the beginning brought is over by then.
        run(
            &mut farm,
            &mut spread,
            Duration::from_secs(cli.seconds.min(5)),
            0,
        );
        let idle = run(&mut farm, &mut spread, Duration::from_secs(cli.seconds), 0);
        let mut spread = Spread::new();
        let busy = run(
            &mut farm,
            &mut spread,
            Duration::from_secs(cli.seconds),
            cli.rate,
        );
        let until = Instant::now() + CHANGE_WITHIN;
        while farm.servers.iter().any(|server| server.change.is_some()) && Instant::now() < until {
            farm.turn(&mut spread);
        }
        let ms = |histogram: &Histogram<u64>, quantile: f64| {
            histogram.value_at_quantile(quantile) as f64 / 1e3
        };
        let per_node = |per_second: f64| per_second / count as f64;
        // What nodes and etcd say to each other is not counted.
        let bytes = |per_second: f64| match cli.etcd {
            Some(_) => "-".to_owned(),
            None => format!("{:.0}", per_node(per_second)),
        };
        println!(
            "{engine}\t{count}\t{}\t{}\t{:.1}\t{:.1}\t{:.1}\t{:.1}\t{:.1}\t{}\t{}\t{}\t{:.2}\t{:.2}\t{settled:.1}",
            cli.servers,
            cli.rate,
            ms(&spread.each, 0.5),
            ms(&spread.each, 0.99),
            ms(&spread.each, 1.0),
            ms(&spread.last, 0.5),
            ms(&spread.last, 0.99),
            spread.lost,
            bytes(idle.0),
            bytes(busy.0),
            per_node(idle.1),
            per_node(busy.1),
        );
    }
}

/// Goes on for so long with so many changes a second; bytes a second and per cent of a core, of all nodes.
fn run(farm: &mut Farm, spread: &mut Spread, lasts: Duration, rate: u32) -> (f64, f64) {
    let (bytes, cpu) = farm.reading();
    let began = Instant::now();
    let mut changes = 0;
    while began.elapsed() < lasts {
        farm.turn(spread);
        if began.elapsed().as_secs_f64() * f64::from(rate) >= f64::from(changes + 1) {
            // Each server in its turn, and only when its last change is everywhere.
            let number = changes as usize % farm.servers.len();
            let server = &farm.servers[number];
            if server.change.is_none() && server.tag.is_some() {
                farm.publish(number);
            }
            changes += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let (bytes_after, cpu_after) = farm.reading();
    (
        (bytes_after - bytes) as f64 / seconds,
        (cpu_after - cpu) as f64 / 1e7 / seconds,
    )
}
