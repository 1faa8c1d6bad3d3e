//! What a PUBLISH costs the compositor of a table of 500 servers: one that only prolongs its lease, and one that says
//! something new, the new view included.
//!
//! `cargo bench --bench compositor`

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fanfare::compositor::{Compositor, CompositorConfig, Now};
use fanfare::info::{self, Format, View};

#[path = "support/cluster.rs"]
mod cluster;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVERS: usize = 500;

/// The compositor and its publishers.
struct World {
    compositor: Compositor,
    now: Now,
    view: View,
    /// The entity-tag of each server's publication.
    tags: Vec<String>,
    sent: usize,
}

impl World {
    fn new() -> Self {
        let now = Now {
            mono_ms: 0,
            unix_ms: 1_795_379_461_000,
        };
        let config = CompositorConfig::new("n1".into());
        let mut world = World {
            compositor: Compositor::new(config, [7; 16], now),
            now,
            view: cluster::view(SERVERS),
            tags: vec![String::new(); SERVERS],
            sent: 0,
        };
        for _ in 0..SERVERS {
            world.publish(true);
        }
        world
    }

    /// One server publishes; the time that the compositor took.
    fn publish(&mut self, modify: bool) -> Duration {
        let is_first = self.sent < SERVERS;
        let place = if modify && !is_first {
            self.view = cluster::changed(&self.view);
            self.view.revision as usize % SERVERS
        } else {
            self.sent % SERVERS
        };
        self.sent += 1;
        self.now.mono_ms += 1;
        self.now.unix_ms += 1;
        let request = self.request(place, modify);
        let source = SocketAddr::from(([127, 0, 0, 1], 5070));
        let mut response = Vec::with_capacity(1_400);
        let start = Instant::now();
        self.compositor
            .publish(self.now, source, &request, &mut response);
        let changed = self.compositor.take_changed();
        let took = start.elapsed();
        assert_eq!(!changed.is_empty(), modify);
        self.tags[place] = entity_tag(&response);
        took
    }

    fn request(&self, place: usize, modify: bool) -> Vec<u8> {
        let body = if modify {
            let server = &self.view.entries[place].server;
            info::publication_body("example.com", server, Format::Xml)
        } else {
            Vec::new()
        };
        let condition = match self.tags[place].as_str() {
            "" => String::new(),
            tag => format!("SIP-If-Match: {tag}\r\n"),
        };
        let content_type = if modify {
            "Content-Type: application/serverinfo+xml\r\n"
        } else {
            ""
        };
        let sent = self.sent;
        let mut request = format!(
            "PUBLISH sip:example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:5070;rport;branch=z9hG4bK{sent:x}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:p{place}@example.com>;tag=p{place}\r\n\
             To: <sip:example.com>\r\nCall-ID: p{place}@127.0.0.1\r\nCSeq: {sent} PUBLISH\r\n\
             Event: SIPserver\r\nExpires: 3600\r\n{condition}{content_type}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        request
    }
}

fn entity_tag(response: &[u8]) -> String {
    let text = String::from_utf8_lossy(response);
    let (_, rest) = text
        .split_once("SIP-ETag: ")
        .unwrap_or_else(|| panic!("a publication was refused:\n{text}"));
    let tag = rest.split("\r\n").next().unwrap_or_default();
    tag.to_owned()
}

fn compositor(criterion: &mut Criterion) {
    let mut world = World::new();
    let mut group = criterion.benchmark_group("compositor");
    for (name, modify) in [
        ("PUBLISH that refreshes", false),
        ("PUBLISH that changes", true),
    ] {
        group.bench_function(format!("{name}, of {SERVERS} servers"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| world.publish(modify)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, compositor);
criterion_main!(benches);
