//! What a subscription holds of resident memory: a notifier full of subscriptions with identifiers as long as those seen
//! in the field, in three shapes. With `--bench` each must stay within its bound.
//!
//! `cargo bench --bench memory`

use std::process::ExitCode;

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/swarm.rs"]
mod swarm;

use swarm::{Shape, Swarm};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn unmeasured(work: &mut dyn FnMut()) -> u64 {
    work();
    0
}

/// Bytes of this process in memory, by the kernel's count of pages.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    kilobytes
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .unwrap_or_default()
        * 1024
}

/// Fills a notifier, tells everybody two changes and refreshes everybody, so that queues and tables are as large as they
/// get; bytes a subscription.
fn measure(shape: Shape, count: usize) -> u64 {
    let before = resident();
    let (mut swarm, _) = Swarm::new(shape, count, unmeasured);
    for round in [swarm.change(), swarm.change(), swarm.refresh()] {
        assert!(round.exchanges >= count as u64, "everybody was told");
    }
    let grown = resident().saturating_sub(before);
    // What the peers' side of the swarm holds is not the notifier's.
    grown.saturating_sub(size_of_val(&*swarm.tags) as u64) / count as u64
}

fn main() -> ExitCode {
    // cargo passes --bench when it benches; with --test each bench is to run once.
    let arguments: Vec<String> = std::env::args().collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let full = given("--bench") && !given("--test");
    let count = if full { 1_000_000 } else { 2_000 };
    let shared = Shape {
        hops: Some(8),
        ..Shape::OWN
    };
    let routes = Shape {
        routes: true,
        ..shared
    };
    let shapes = [
        ("8 next hops shared", shared, Some(400)),
        (
            "the same, each dialog with a Record-Route of 70 bytes",
            routes,
            Some(550),
        ),
        ("each its own next hop", Shape::OWN, None),
    ];
    // One shape a process: what an allocator keeps of the last would hide what the next one takes.
    let chosen = arguments
        .iter()
        .filter_map(|argument| argument.parse::<usize>().ok())
        .find_map(|number| shapes.get(number));
    if let Some(&(name, shape, bound)) = chosen {
        let bytes = measure(shape, count);
        let bound_text = bound.map_or(String::new(), |most| format!(" (at most {most})"));
        println!("{count} subscriptions, {name}: {bytes} bytes each{bound_text}");
        let kept = !full || bound.is_none_or(|most| bytes <= most);
        return if kept {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let mut kept = true;
    for number in 0..shapes.len() {
        let child = std::env::current_exe().and_then(|program| {
            std::process::Command::new(program)
                .args(&arguments[1..])
                .arg(number.to_string())
                .status()
        });
        kept &= child.is_ok_and(|status| status.success());
    }
    if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
