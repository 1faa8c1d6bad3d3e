//! Each operation alone, a given number of times, so that callgrind can count its instructions: of the pure functions, and
//! of the notifier's side of whole exchanges, the peers' side left out. Knows no clock.
//!
//! `scripts/instructions`; without arguments each operation runs once.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::info::{self, Format, Projection};
use fanfare::sip::answer::answer;
use fanfare::sip::request::Request;
use fanfare::sip::scan::scan;
use fanfare::sip::write::Responder;

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/messages.rs"]
mod messages;
#[path = "support/swarm.rs"]
mod swarm;

use messages::{NOTIFY, OK, SUBSCRIBE};
use swarm::{Round, Shape, Swarm};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Subscriptions that are there before anything is counted.
const MEMBERS: usize = 2_000;
/// Of the documents alone.
const SERVERS: usize = 4;
/// What is idle: so many more subscriptions that a slot of the wheel holds several.
const IDLE_MEMBERS: usize = 20_000;
const IDLE_MS: u64 = 60_000;

/// Runs an operation at least so many times inside `counted`; tells how many times it was.
type Operation = fn(u64) -> u64;

/// Each with how often it runs under callgrind.
const OPERATIONS: &[(&str, u64, Operation)] = &[
    ("answer-read", 1_000, |times| {
        repeat(times, || answer(black_box(OK)).is_ok())
    }),
    ("response-scan", 1_000, |times| {
        repeat(times, || scan(black_box(OK)).is_ok())
    }),
    ("subscribe-scan", 1_000, |times| {
        repeat(times, || scan(black_box(SUBSCRIBE)).is_ok())
    }),
    ("subscribe-parse", 1_000, subscribe_parse),
    ("subscribe-answer", 1_000, subscribe_answer),
    ("notify-head", 1_000, notify_head),
    ("delta-4-servers", 1_000, |times| delta(times, 4)),
    ("delta-500-servers", 100, |times| delta(times, 500)),
    ("partial-document", 1_000, partial_document),
    ("full-document", 1_000, full_document),
    ("change-told", 10_000, |times| {
        rounds(times, MEMBERS, Swarm::change)
    }),
    ("subscribe-new", 10_000, |times| {
        rounds(times, MEMBERS, |swarm| swarm.join(MEMBERS))
    }),
    ("refresh-204", 10_000, |times| {
        rounds(times, MEMBERS, Swarm::refresh_unchanged)
    }),
    ("refresh-notify", 10_000, |times| {
        rounds(times, MEMBERS, Swarm::refresh)
    }),
    ("periodic-notify", 1, |times| {
        rounds(times, IDLE_MEMBERS, |swarm| swarm.idle(IDLE_MS))
    }),
];

/// What callgrind counts is what happens in here.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) -> u64 {
    work();
    black_box(0)
}

fn uncounted(work: &mut dyn FnMut()) -> u64 {
    work();
    0
}

fn repeat<T>(times: u64, mut once: impl FnMut() -> T) -> u64 {
    black_box(once());
    counted(&mut || {
        for _ in 0..times {
            black_box(once());
        }
    });
    times
}

fn rounds(times: u64, members: usize, mut round: impl FnMut(&mut Swarm) -> Round) -> u64 {
    let (mut swarm, _) = Swarm::new(Shape::OWN, members, uncounted);
    // What a first round allocates is no part of the next ones.
    round(&mut swarm);
    swarm.measure_by(counted);
    let mut done = 0;
    while done < times {
        done += round(&mut swarm).exchanges;
    }
    done
}

fn subscribe_parse(times: u64) -> u64 {
    let message = scan(SUBSCRIBE).expect("it is well formed");
    repeat(times, || Request::parse(black_box(&message)).is_ok())
}

fn subscribe_answer(times: u64) -> u64 {
    let message = scan(SUBSCRIBE).expect("it is well formed");
    let request = Request::parse(&message).expect("it is well formed");
    let source = SocketAddr::from(([127, 1, 2, 3], 5060));
    let mut out = Vec::with_capacity(1_400);
    repeat(times, || {
        out.clear();
        let mut response = Responder::to_request(black_box(&request), 200, source)
            .to_tag(b"000000010000017g5o3r")
            .record_route()
            .begin(&mut out)
            .expect("a SUBSCRIBE is answered");
        response.number("Expires", 3_600).finish();
    })
}

fn notify_head(times: u64) -> u64 {
    let mut out = Vec::with_capacity(1_400);
    repeat(times, || {
        out.clear();
        black_box(NOTIFY).write(&mut out);
    })
}

/// A view and the next one, seen without a filter.
fn change(servers: usize) -> (Projection, Projection) {
    let before = Arc::new(cluster::view(servers));
    let after = Arc::new(cluster::changed(&before));
    let base = Projection::new(before, None, None);
    let now = Projection::new(after, None, Some(&base));
    (base, now)
}

fn delta(times: u64, servers: usize) -> u64 {
    let (base, now) = change(servers);
    repeat(times, || {
        info::delta(black_box(&base), black_box(&now)).len()
    })
}

fn partial_document(times: u64) -> u64 {
    let (base, now) = change(SERVERS);
    let changes = info::delta(&base, &now);
    repeat(times, || {
        info::partial(black_box(now.view()), 1, &changes, Format::Xml).len()
    })
}

fn full_document(times: u64) -> u64 {
    let (_, now) = change(SERVERS);
    repeat(times, || {
        let entries = now.entries().map(|entry| &**entry);
        info::full(black_box(now.view()), entries, Format::Xml).len()
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("list") => {
            for (name, times, _) in OPERATIONS {
                println!("{name} {times}");
            }
        }
        Some(name) if !name.starts_with('-') => {
            let known = OPERATIONS.iter().find(|(other, _, _)| *other == name);
            let &(_, times, run) = known.expect("an operation of the list");
            println!("{}", run(times));
        }
        // As `cargo bench` calls it.
        _ => {
            for (name, _, run) in OPERATIONS {
                println!("{name}: ran {} times", run(1));
            }
            println!("scripts/instructions counts them");
        }
    }
}
