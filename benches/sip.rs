//! What messages cost: an answer and a SUBSCRIBE read, a response and the head of a NOTIFY written.
//!
//! `cargo bench --bench sip`

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare::sip::answer::answer;
use fanfare::sip::request::Request;
use fanfare::sip::scan::scan;
use fanfare::sip::write::Responder;

#[path = "support/messages.rs"]
mod messages;

use messages::{NOTIFY, OK, SUBSCRIBE};

fn sip(criterion: &mut Criterion) {
    let source = SocketAddr::from(([127, 1, 2, 3], 5060));
    let message = scan(SUBSCRIBE).expect("it is well formed");
    let mut out = Vec::with_capacity(1_400);
    let mut group = criterion.benchmark_group("sip");

    group.throughput(Throughput::Bytes(OK.len() as u64));
    group.bench_function("answer", |bencher| {
        bencher.iter(|| answer(black_box(OK)).expect("it is well formed").cseq);
    });
    group.throughput(Throughput::Bytes(SUBSCRIBE.len() as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            scan(black_box(SUBSCRIBE))
                .expect("it is well formed")
                .is_request()
        });
    });
    group.bench_function("Request::parse", |bencher| {
        bencher.iter(|| {
            Request::parse(black_box(&message))
                .expect("it is well formed")
                .expires
        });
    });
    group.bench_function("Responder", |bencher| {
        bencher.iter(|| {
            out.clear();
            let responder = Responder::new(black_box(&message), 200, source);
            let mut response = responder
                .to_tag(b"000000010000017g5o3r")
                .record_route()
                .begin(&mut out)
                .expect("a SUBSCRIBE is answered");
            response.number("Expires", 3_600).finish();
            out.len()
        });
    });
    NOTIFY.write(&mut out);
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function("Notify::write", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(NOTIFY).write(&mut out);
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, sip);
criterion_main!(benches);
