//! Mutated messages over everything in `sip`: nothing may panic or loop, what is answered must be well formed, and a
//! stream's frame must end where the scan ends. FANFARE_SEED=n replays one seed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fanfare::sip::answer::answer;
use fanfare::sip::header::{
    CSeq, Event, MediaRange, NameAddr, Params, Rate, State, Via, delta_seconds, retry_after, tokens,
};
use fanfare::sip::request::Request;
use fanfare::sip::scan::{Elements, Frame, Message, Name, ScanError, Start, frame, scan};
use fanfare::sip::uri::{Host, SipUri};
use fanfare::sip::write::{
    NO_CONTENT, Notify, Responder, SubscriptionState, Unanswerable, notify_contact, notify_via,
    push_line, push_route_set,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

const MAX: usize = 1 << 20;

const SUBSCRIBE: &str = "SUBSCRIBE sip:fanfare@example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP [2001:db8::9]:5061;rport;branch=z9hG4bKnashds7\r\n\
    Via: SIP/2.0/TCP proxy.example.com;branch=z9hG4bK1,SIP/2.0/UDP 192.0.2.9\r\n\
    Record-Route: <sip:p1.example.com;lr>,\r\n <sip:p2.example.com;lr>\r\n\
    Max-Forwards: 70\r\nFrom: \"A \\\" <b>\" <sip:a@example.org>;tag=88sja8x\r\n\
    To: <sip:fanfare@example.com>\r\nCall-ID: 987asjd97y7atg\r\nCSeq: 986759 SUBSCRIBE\r\n\
    Event: SIPserver;id=7;max-rate=0.5;min-rate=0.0166666667\r\nExpires: 1800\r\n\
    Accept: application/serverinfo+json;q=0.9, */*;q=0.1\r\nSupported: eventlist, gruu\r\n\
    Contact: <sip:a@192.0.2.1:5070;transport=tcp;ob>;+sip.instance=\"<urn:x>\"\r\n\
    Suppress-If-Match: *\r\nContent-Type: application/serverinfo\r\nContent-Length: 9\r\n\r\n<filter/>";

const PUBLISH: &str = "PUBLISH sip:example.com SIP/2.0\r\nv: SIP/2.0/TCP 192.0.2.2;branch=z9hG4bKp\r\n\
    f: sip:p1@example.com;tag=1\r\nt: sip:example.com\r\ni: p@192.0.2.2\r\nCSeq: 1 PUBLISH\r\n\
    o: SIPserver\r\nSIP-If-Match: dx200xyz\r\nExpires: 30\r\nl: 0\r\n\r\n";

const OK: &str = "SIP/2.0 200 OK\r\nvia: SIP/2.0/UDP 192.0.2.3:5060;branch=z9hG4bK0a1b2c;rport=5060\r\n\
    from: <sip:x@y.example>;tag=a\r\nto: <sip:z@y.example>;tag=b\r\ncall-id: q\r\ncseq:          7\r\n NOTIFY\r\n\
    event: SIPserver;max-rate=1\r\nRetry-After: 5 (soon);duration=3\r\ncontact: <sip:z@192.0.2.5>\r\n\
    content-length: 0\r\n\r\n";

fn seeds() -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/torture", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the message files")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dat"))
        .collect();
    files.sort();
    let files = files
        .iter()
        .map(|path| std::fs::read(path).expect("a message file"));
    files
        .chain([SUBSCRIBE, PUBLISH, OK].map(|text| text.as_bytes().to_vec()))
        .collect()
}

fn mutate(random: &mut impl Rng, bytes: &mut Vec<u8>) {
    let spots = [
        &b"\0"[..],
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\"",
        b"<",
        b">",
        b",",
        b";",
        b"=",
        b":",
        b"@",
        b"[",
        b"]",
        b"%",
        b"%4",
        b"\xe2\x82",
        b"\xff",
        b"\r\n ",
        b"\r\n\r\n",
        b"?",
        b"\\",
        b"99999999999999999999999",
        b"-1",
        b"4294967296",
        b"18446744073709551616",
        b";branch=",
        b";tag=",
        b";rport",
        b";received=[::1]",
        b"SIP/2.0",
        b"Content-Length: 7\r\n",
        b"l: 0\r\n",
        b"Via: SIP/2.0/UDP [::1]:1;rport;received=9\r\n",
        b"Contact: *\r\n",
        b"\t\r\n\t",
        b";tag=\"a\r\n X: y\"",
        b";id=\"a\r\n b\"",
    ];
    let length = bytes.len();
    let at = random.random_range(0..=length);
    match random.random_range(0..9) {
        0 if at < length => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < length => bytes[at] = random.random(),
        2 => bytes.truncate(at),
        3 => {
            let end = random.random_range(at..=length.min(at + 30));
            bytes.drain(at..end);
        }
        4 | 5 => {
            let spot = spots.choose(random).expect("not empty");
            bytes.splice(at..at, spot.iter().copied());
        }
        6 | 7 => {
            let mut lines: Vec<Vec<u8>> = bytes
                .split_inclusive(|byte| *byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect();
            if lines.is_empty() {
                return;
            }
            let (from, to) = (
                random.random_range(0..lines.len()),
                random.random_range(0..lines.len()),
            );
            match random.random_range(0..3) {
                0 => lines.swap(from, to),
                1 => lines.insert(to, lines[from].clone()),
                _ => drop(lines.remove(from)),
            }
            *bytes = lines.concat();
        }
        _ => {
            let end = random.random_range(at..=length.min(at + 60));
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

fn every_grammar(value: &[u8]) {
    let mut line = Vec::new();
    push_line(&mut line, value);
    assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
    if let Some(params) = Params::parse(value) {
        assert!(params.iter().all(|param| !param.name.is_empty()));
    }
    if let Some(via) = Via::parse(value) {
        assert!(Host::parse(via.host).is_some());
    }
    if let Some(address) = NameAddr::parse(value) {
        assert!(!address.uri.iter().any(|byte| *byte <= b' '));
    }
    if let Some(rate) = Rate::parse(value) {
        let written = rate.to_string();
        assert_eq!(Rate::parse(written.as_bytes()), Some(rate));
        assert!(rate.interval_ms() > 0);
    }
    assert!(CSeq::parse(value).is_none_or(|cseq| cseq.number < 1 << 31));
    assert!(MediaRange::parse(value).is_none_or(|range| range.q <= 1000));
    if let Ok(uri) = SipUri::parse(value) {
        assert!(uri.raw.iter().all(u8::is_ascii_graphic));
        let _ = (uri.transport(), uri.lr(), uri.maddr());
    }
    let _ = (
        Event::parse(value),
        delta_seconds(value),
        retry_after(value),
    );
    assert!(State::parse(value).is_none_or(|state| !state.state.is_empty()));
    assert!(tokens(value).count() <= value.len());
}

fn every_value(message: &Message<'_>) {
    let mut routes = Vec::new();
    push_route_set(&mut routes, message);
    assert!(!routes.contains(&b'\n'));
    for field in &message.fields {
        assert_eq!(Name::of(field.raw_name), field.name);
        every_grammar(field.value);
        Elements::of(field.value).for_each(every_grammar);
    }
    if let Start::Request { uri, .. } = message.start {
        every_grammar(uri);
    }
}

fn respond(message: &Message<'_>, source: SocketAddr) {
    let mut out = Vec::new();
    let responder = Responder::new(message, 400, source)
        .to_tag(b"our-tag")
        .record_route();
    match responder.begin(&mut out) {
        Ok(mut response) => {
            response
                .warning("fanfare", "a \"text\"")
                .number("Min-Expires", 60);
            response.finish_with("text/plain", b"body");
        }
        Err(Unanswerable::NoTransaction) => {
            assert!(
                message
                    .first(Name::Via)
                    .is_none_or(|via| Elements::of(via).next().is_none())
                    || message.first(Name::CSeq).is_none()
            );
            return;
        }
        Err(Unanswerable::Response) => return assert!(!message.is_request()),
        Err(Unanswerable::Ack) => return,
    }
    let written = match scan(&out) {
        Ok(written) => written,
        Err(failure) if failure.error == ScanError::TooManyFields => return,
        Err(failure) => panic!("{failure}: {}", out.escape_ascii()),
    };
    assert_eq!(written.body, b"body");
    assert!(matches!(written.start, Start::Response { status: 400, .. }));
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
        let copies = written.all(name).count();
        assert_eq!(copies, message.first(name).iter().count(), "{name}");
    }
    assert_eq!(
        written.all(Name::Via).count(),
        message.elements(Name::Via).count()
    );
    assert_eq!(
        out.windows(2).filter(|two| two == b"\r\n").count(),
        written.fields.len() + 2
    );
}

/// What a peer wrote into its request must not add to the head of the NOTIFYs it gets.
fn notify(request: &Request<'_, '_>) {
    let mut routes = Vec::new();
    push_route_set(&mut routes, request.message);
    let event_id = request.event.and_then(|event| event.id);
    let target = request.contact.map_or(request.uri, |contact| contact.uri);
    let notify = Notify {
        target,
        via: &notify_via("UDP", "192.0.2.1"),
        branch: b"z9hG4bK1",
        routes: &routes,
        from_uri: request.to.uri,
        from_tag: b"ours",
        to_uri: request.from.uri,
        to_tag: request.from_tag().unwrap_or_default(),
        call_id: request.call_id,
        cseq: request.cseq.number,
        event_id,
        state: SubscriptionState::Active { expires: 60 },
        max_rate: request.event.and_then(|event| event.max_rate),
        min_rate: request.event.and_then(|event| event.min_rate),
        etag: b"e",
        contact: &notify_contact("<sip:192.0.2.1>"),
        content: NO_CONTENT,
    };
    let mut out = Vec::new();
    notify.write(&mut out);
    let written = scan(&out).expect("a NOTIFY that is well formed");
    assert_eq!(written.fields.len(), 11 + usize::from(!routes.is_empty()));
    let sip_target = SipUri::parse(target).is_ok_and(|uri| uri.headers.is_none());
    if sip_target {
        let read = Request::parse(&written).expect("a NOTIFY that parses");
        assert_eq!(read.to_tag(), request.from_tag());
        assert_eq!(read.call_id, request.call_id);
        assert_eq!(read.event.and_then(|event| event.id), event_id);
    }
}

fn check(bytes: &[u8], source: SocketAddr) {
    let _ = answer(bytes);
    every_grammar(bytes);
    let framed = frame(bytes, MAX, MAX);
    match scan(bytes) {
        Ok(message) => {
            every_value(&message);
            respond(&message, source);
            if let Ok(request) = Request::parse(&message) {
                assert_eq!(request.body, message.body);
                assert!(request.target.headers.is_none());
                notify(&request);
            }
            let lengths = message.all(Name::ContentLength).count();
            match framed {
                Frame::Complete(length) => assert_eq!(length, message.length),
                Frame::KeepAlive(blank) => assert!(blank > 0),
                Frame::Bad(ScanError::NoContentLength) => assert_eq!(lengths, 0),
                // A lone CR or LF before the start line: a datagram's is forgiven, a stream's is not.
                Frame::Bad(ScanError::NotSip) => assert!(matches!(bytes[0], b'\r' | b'\n')),
                other => panic!("{other:?} but it scans: {}", bytes.escape_ascii()),
            }
        }
        Err(failure) => {
            if let Some(message) = &failure.message {
                every_value(message);
                respond(message, source);
                if let Frame::Complete(length) = framed
                    && failure.error != ScanError::TooManyFields
                {
                    assert_eq!(length, message.length);
                }
            }
        }
    }
}

fn run(seed: u64, corpus: &[Vec<u8>]) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bytes = corpus.choose(&mut random).expect("not empty").clone();
    for _ in 0..random.random_range(0..6) {
        mutate(&mut random, &mut bytes);
    }
    let sources = [
        "192.0.2.1:5060",
        "[2001:db8::1]:65535",
        "[::ffff:192.0.2.9]:7",
    ];
    check(
        &bytes,
        sources[random.random_range(0..sources.len())]
            .parse()
            .expect("an address"),
    );
}

#[test]
fn mutated_messages_break_nothing() {
    let corpus = seeds();
    if let Ok(seed) = std::env::var("FANFARE_SEED") {
        return run(seed.parse().unwrap(), &corpus);
    }
    let first: u64 = rand::random::<u32>().into();
    println!("seeds from {first}");
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut seed = first;
    while seed < first + 20_000 && (seed < first + 500 || Instant::now() < deadline) {
        let outcome = std::panic::catch_unwind(|| run(seed, &corpus));
        if let Err(panic) = outcome {
            println!("replay with FANFARE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
    println!("{} seeds", seed - first);
}

#[test]
fn ten_thousand_header_fields_are_refused_at_once() {
    let source = "192.0.2.1:5060".parse().unwrap();
    let (head, _) = SUBSCRIBE.split_once("Content-Type").unwrap();
    let many = format!("{head}{}\r\n", "X-Filler: 1\r\n".repeat(10_000));
    let failure = scan(many.as_bytes()).unwrap_err();
    assert_eq!(failure.error, ScanError::TooManyFields);
    assert_eq!(failure.message.as_ref().unwrap().fields.len(), 256);
    check(many.as_bytes(), source);
    let one_line = format!("{head}X: {}\r\n\r\n", ",;\"<".repeat(15_000));
    check(one_line.as_bytes(), source);
    let folds = format!("{head}X: {}\r\n\r\n", "\r\n ".repeat(20_000));
    check(folds.as_bytes(), source);
    let digits = format!("{head}l: {}\r\n\r\n", "9".repeat(60_000));
    assert_eq!(
        scan(digits.as_bytes()).unwrap_err().error,
        ScanError::ShortBody
    );
    check(digits.as_bytes(), source);
}

#[test]
fn every_prefix_of_a_message_is_partial_on_a_stream_until_it_is_complete() {
    for text in [SUBSCRIBE, PUBLISH, OK] {
        for end in 0..text.len() {
            assert_eq!(
                frame(&text.as_bytes()[..end], MAX, MAX),
                Frame::Partial,
                "{end}"
            );
            check(&text.as_bytes()[..end], "192.0.2.1:5060".parse().unwrap());
        }
        let two = text.repeat(2);
        assert_eq!(frame(two.as_bytes(), MAX, MAX), Frame::Complete(text.len()));
    }
}
