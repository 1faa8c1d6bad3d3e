//! What messages cost: an answer and a SUBSCRIBE read, a response and the head of a NOTIFY written.
//!
//! `cargo bench --bench sip`

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare::sip::answer::answer;
use fanfare::sip::request::Request;
use fanfare::sip::scan::scan;
use fanfare::sip::write::{Notify, Responder, SubscriptionState};

const SUBSCRIBE: &[u8] = b"SUBSCRIBE sip:example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 127.1.2.3:5060;rport;branch=z9hG4bKPj0000002a3c26700857a87f84\r\n\
    Max-Forwards: 70\r\n\
    From: <sip:entity0000042@example.com>;tag=ft0000002a\r\n\
    To: <sip:example.com>\r\n\
    Call-ID: 3c26700857a87f84-0000002a@entity.example.com\r\n\
    CSeq: 1 SUBSCRIBE\r\n\
    Contact: <sip:entity0000042-registered@127.1.2.3;transport=udp>\r\n\
    Event: SIPserver\r\n\
    Accept: application/serverinfo+xml\r\n\
    Expires: 3600\r\n\
    Content-Length: 0\r\n\r\n";

const OK: &[u8] = b"SIP/2.0 200 OK\r\n\
    Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK000000010000017g5o3r20000004;rport=5060;received=127.0.0.1\r\n\
    From: <sip:example.com>;tag=000000010000017g5o3r\r\n\
    To: <sip:entity0000042@example.com>;tag=ft0000002a\r\n\
    Call-ID: 3c26700857a87f84-0000002a@entity.example.com\r\n\
    CSeq:          4 NOTIFY\r\n\
    Content-Length: 0\r\n\r\n";

const NOTIFY: Notify<'static> = Notify {
    target: b"sip:entity0000042-registered@127.1.2.3;transport=udp",
    transport_name: "UDP",
    sent_by: b"127.0.0.1:5060",
    branch: b"z9hG4bK000000010000017g5o3r20000004",
    routes: b"",
    from_uri: b"sip:example.com",
    from_tag: b"000000010000017g5o3r",
    to_uri: b"sip:entity0000042@example.com",
    to_tag: b"ft0000002a",
    call_id: b"3c26700857a87f84-0000002a@entity.example.com",
    cseq: 4,
    event_id: None,
    state: SubscriptionState::Active { expires: 3_599 },
    max_rate: None,
    min_rate: None,
    etag: b"6661727331797537",
    contact: b"<sip:127.0.0.1:5060;gr=fanfare>",
    content_type: Some("application/serverinfo+xml"),
    content_length: 741,
};

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
