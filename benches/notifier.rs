//! What a turn of the notifier costs without any kernel: a change told to everybody, refreshes, new subscriptions. Each
//! figure is that of one exchange. Building and reading the peers' messages is left out.
//!
//! `cargo bench --bench notifier`

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/swarm.rs"]
mod swarm;

use swarm::{Round, Shape, Swarm};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn nanoseconds(work: &mut dyn FnMut()) -> u64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as u64
}

/// Whole rounds, until at least `exchanges` were made; the time that so many of them take.
fn rounds(exchanges: u64, mut round: impl FnMut() -> Round) -> Duration {
    let mut sum = Round::default();
    while sum.exchanges < exchanges {
        let next = round();
        sum.exchanges += next.exchanges;
        sum.cost += next.cost;
    }
    Duration::from_nanos(
        (u128::from(sum.cost) * u128::from(exchanges) / u128::from(sum.exchanges)) as u64,
    )
}

fn notifier(criterion: &mut Criterion) {
    // cargo passes --bench when it benches; with --test each bench is to run once.
    let arguments: Vec<String> = std::env::args().collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let (many, herd) = if given("--bench") && !given("--test") {
        (100_000, 20_000)
    } else {
        (1_000, 1_000)
    };
    let mut group = criterion.benchmark_group("notifier");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(5));
    let (mut swarm, _) = Swarm::new(Shape::OWN, many, nanoseconds);
    group.bench_function(format!("change told, of {many} subscriptions"), |bencher| {
        bencher.iter_custom(|exchanges| rounds(exchanges, || swarm.change()));
    });
    group.bench_function(format!("refresh, of {many} subscriptions"), |bencher| {
        bencher.iter_custom(|exchanges| rounds(exchanges, || swarm.refresh()));
    });
    group.bench_function(format!("refresh answered 204, of {many}"), |bencher| {
        bencher.iter_custom(|exchanges| rounds(exchanges, || swarm.refresh_unchanged()));
    });
    drop(swarm);
    group.bench_function(format!("subscribe, of {herd} in a herd"), |bencher| {
        bencher.iter_custom(|exchanges| {
            rounds(exchanges, || Swarm::new(Shape::OWN, herd, nanoseconds).1)
        });
    });
    group.finish();
}

criterion_group!(benches, notifier);
criterion_main!(benches);
