//! What documents cost: a table of 500 servers rendered whole and as changes, the changes found, a publication read.
//!
//! `cargo bench --bench documents`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use fanfare::info::{self, Format, Projection};

#[path = "support/cluster.rs"]
mod cluster;

const SERVERS: usize = 500;

fn documents(criterion: &mut Criterion) {
    let before = Arc::new(cluster::view(SERVERS));
    let after = Arc::new(cluster::changed(&before));
    let base = Projection::new(before.clone(), None, None);
    let now = Projection::new(after.clone(), None, Some(&base));
    let changes = info::delta(&base, &now);
    assert_eq!(changes.len(), 1);
    let server = &after.entries[7].server;

    let mut group = criterion.benchmark_group("documents");
    for (name, format) in [("XML", Format::Xml), ("JSON", Format::Json)] {
        group.bench_function(format!("full {name}, {SERVERS} servers"), |bencher| {
            let entries = || after.entries.iter().map(|entry| &**entry);
            bencher.iter(|| info::full(black_box(&after), entries(), format));
        });
        group.bench_function(format!("partial {name}, 1 server"), |bencher| {
            bencher.iter(|| info::partial(black_box(&after), 1, black_box(&changes), format));
        });
        let body = info::publication_body("example.com", server, format);
        group.bench_function(
            format!("publication {name}, {} bytes", body.len()),
            |bencher| {
                bencher.iter(|| {
                    info::publication(black_box(&body), format).expect("it is well formed")
                });
            },
        );
    }
    group.bench_function(format!("delta of {SERVERS} servers"), |bencher| {
        bencher.iter(|| info::delta(black_box(&base), black_box(&now)));
    });
    group.bench_function(format!("entity-tag of {SERVERS} servers"), |bencher| {
        bencher.iter(|| black_box(&now).tag(Format::Xml));
    });
    group.finish();
}

criterion_group!(benches, documents);
criterion_main!(benches);
