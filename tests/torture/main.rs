//! RFC 4475's messages over the scanner and the parser. Knows no socket.

mod verdicts;

use std::net::SocketAddr;

use fanfare::sip::answer::answer;
use fanfare::sip::header::{NameAddr, Via};
use fanfare::sip::request::{Method, Request};
use fanfare::sip::scan::{Elements, Frame, Message, Name, Start, frame, scan};
use fanfare::sip::uri::{Host, SipUri};
use fanfare::sip::write::Responder;
use verdicts::{ANSWERED, Expected, VERDICTS};

fn read(file: &str) -> Vec<u8> {
    let path = format!("{}/tests/torture/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn answered(message: &Message<'_>, status: Option<u16>) -> Expected {
    let source: SocketAddr = "192.0.2.7:5070".parse().expect("an address");
    let mut out = Vec::new();
    let Some(status) = status else {
        return Expected::Dropped;
    };
    let Ok(mut response) = Responder::new(message, status, source)
        .to_tag(b"t1")
        .begin(&mut out)
    else {
        return Expected::Dropped;
    };
    response.finish();
    let written = scan(&out).expect("a response that is well formed");
    match written.start {
        Start::Response { status, .. } => Expected::Status(status),
        Start::Request { .. } => panic!("a request was written"),
    }
}

/// The verdict, and the reason for it where there is one.
fn judge(bytes: &[u8]) -> (Expected, String) {
    let message = match scan(bytes) {
        Ok(message) => message,
        Err(failure) => {
            let verdict = match &failure.message {
                Some(message) => answered(message, failure.error.status()),
                None => Expected::Dropped,
            };
            return (verdict, failure.error.to_string());
        }
    };
    if !message.is_request() {
        return match answer(bytes) {
            Ok(_) => (Expected::Parses, String::new()),
            Err(error) => (Expected::Dropped, error.to_string()),
        };
    }
    match Request::parse(&message) {
        Err(malformed) => (
            answered(&message, malformed.status()),
            malformed.to_string(),
        ),
        Ok(request) => match request.method {
            Method::Subscribe | Method::Publish | Method::Options => {
                (Expected::Parses, String::new())
            }
            Method::Other => (answered(&message, Some(501)), "method".into()),
            _ => (answered(&message, Some(405)), "method".into()),
        },
    }
}

#[test]
fn every_message_gets_the_verdict_of_rfc_4475() {
    let wrong: Vec<_> = VERDICTS
        .iter()
        .map(|(file, expected)| (file, expected, judge(&read(file))))
        .filter(|(_, expected, (found, _))| found != *expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_names_every_file_once_and_answers_every_request_that_parses() {
    let folder = format!("{}/tests/torture", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".dat"))
        .collect();
    files.sort();
    let mut named: Vec<&str> = VERDICTS.iter().map(|(file, _)| *file).collect();
    named.sort();
    assert_eq!(files, named);
    for (file, expected) in VERDICTS {
        let bytes = read(file);
        let request = !bytes.starts_with(b"SIP/");
        let answered = ANSWERED.iter().any(|(name, _)| *name == file);
        assert_eq!(answered, request && expected == Expected::Parses, "{file}");
    }
}

#[test]
fn each_malformed_message_fails_for_its_own_reason() {
    let reasons = [
        ("badinv01.dat", "malformed Via"),
        ("clerr.dat", "body shorter than Content-Length"),
        ("ncl.dat", "malformed or repeated Content-Length"),
        ("scalar02.dat", "malformed CSeq"),
        (
            "scalarlg.dat",
            "no Via branch or CSeq that would name a transaction",
        ),
        ("quotbal.dat", "malformed To"),
        ("ltgtruri.dat", "malformed Request-URI"),
        ("lwsruri.dat", "malformed start line"),
        ("lwsstart.dat", "malformed start line"),
        ("trws.dat", "malformed start line"),
        ("escruri.dat", "header fields in the Request-URI"),
        ("regbadct.dat", "malformed Contact"),
        ("badaspec.dat", "malformed To"),
        // The archive's file lacks the empty line; its unquoted comma is looked at below.
        ("baddn.dat", "no empty line ends the header fields"),
        ("badvers.dat", "SIP version other than 2.0"),
        ("mismatch01.dat", "CSeq method is not the request's"),
        ("bigcode.dat", "malformed start line"),
        ("badbranch.dat", "Via branch without an identifier"),
        ("insuf.dat", "no From"),
        ("unkscm.dat", "Request-URI scheme is neither sip nor sips"),
        ("novelsc.dat", "Request-URI scheme is neither sip nor sips"),
        ("mcl01.dat", "malformed or repeated Content-Length"),
        ("bcast.dat", "a response with more than one Via"),
    ];
    for (file, reason) in reasons {
        assert_eq!(judge(&read(file)).1, reason, "{file}");
    }
    assert!(judge(&read("multi01.dat")).1.starts_with("more than one "));
    let whole_baddn = [read("baddn.dat"), b"\r\n".to_vec()].concat();
    assert_eq!(judge(&whole_baddn).1, "malformed From");
}

#[test]
fn wsinv_reads_folded_spaced_and_compact_fields() {
    let bytes = read("wsinv.dat");
    let message = scan(&bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(
        request.uri,
        b"sip:vivekg@chair-dnrc.example.com;unknownparam"
    );
    assert_eq!(request.to_tag(), Some(&b"1918181833n"[..]));
    assert_eq!(request.from_tag(), Some(&b"98asjd8"[..]));
    assert_eq!(request.from.display, br#""J Rosenberg \\\"""#);
    assert_eq!(request.max_forwards, Some(68));
    assert_eq!(request.call_id, b"wsinv.ndaksdj@192.0.2.1");
    assert_eq!(
        (request.cseq.number, request.cseq.method),
        (9, &b"INVITE"[..])
    );
    let vias: Vec<Via<'_>> = message
        .elements(Name::Via)
        .map(|via| Via::parse(via).unwrap())
        .collect();
    let shown: Vec<_> = vias
        .iter()
        .map(|via| (via.transport, via.host, via.branch.unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            (&b"UDP"[..], &b"192.0.2.2"[..], &b"390skdjuw"[..]),
            (b"TCP", b"spindle.example.com", b"z9hG4bK9ikj8"),
            (b"UDP", b"192.168.255.111", b"z9hG4bK30239"),
        ]
    );
    let contact = request.contact.unwrap();
    assert_eq!(contact.uri, b"sip:jdrosen@example.com");
    assert_eq!(contact.params.get("newparam"), Some(&b"newvalue"[..]));
    assert_eq!(contact.params.get("secondparam"), Some(&b""[..]));
    assert_eq!(contact.params.get("Q"), Some(&b"0.33"[..]));
    assert_eq!(request.body.len(), 150);
}

#[test]
fn intmeth_reads_the_widest_range_of_characters() {
    let bytes = read("intmeth.dat");
    let message = scan(&bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(
        request.method_name,
        b"!interesting-Method0123456789_*+`.%indeed'~"
    );
    assert_eq!(
        request.target.user,
        Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..])
    );
    assert_eq!(request.target.host, Host::Name(b"example.com"));
    assert_eq!(request.to.display, b"\"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f\"");
    assert_eq!(request.from.display, b"token1~` token2'+_ token3*%!.-");
    assert_eq!(request.from_tag(), Some(&b"_token~1'+`*%!-."[..]));
    assert_eq!(request.via.branch, Some(&b"z9hG4bK-.!%66*_+`'~"[..]));
    assert_eq!(
        request.call_id,
        br#"intmeth.word%ZK-!.*_+'@word`~)(><:\/"][?}{"#
    );
    assert_eq!(request.max_forwards, Some(255));
}

#[test]
fn esc01_compares_parameters_unescaped_and_keeps_the_user_as_written() {
    let bytes = read("esc01.dat");
    let message = scan(&bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(request.target.user, Some(&b"sips%3Auser%40example.com"[..]));
    assert_eq!(request.target.host, Host::Name(b"example.net"));
    assert_eq!(request.from.uri, b"sip:I%20have%20spaces@example.net");
    let contact = SipUri::parse(request.contact.unwrap().uri).unwrap();
    assert!(contact.lr());
    assert_eq!(contact.params.get("name"), Some(&b"v%61lue%25%34%31"[..]));
}

#[test]
fn escnull_esc02_and_unknown_names_are_left_alone() {
    let bytes = read("escnull.dat");
    let message = scan(&bytes).unwrap();
    assert_eq!(message.elements(Name::Contact).count(), 2);
    assert_eq!(
        Request::parse(&message).unwrap().to.uri,
        b"sip:null-%00-null@example.com"
    );
    let bytes = read("esc02.dat");
    let message = scan(&bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(request.method, Method::Other);
    assert_eq!(message.elements(Name::Contact).count(), 2);
    assert_eq!(request.via.branch, Some(&b"z9hG4bK209%fzsnel234"[..]));
}

#[test]
fn longreq_and_transports_give_all_their_vias() {
    let bytes = read("longreq.dat");
    let message = scan(&bytes).unwrap();
    let vias: Vec<_> = message.elements(Name::Via).map(Via::parse).collect();
    assert_eq!(vias.len(), 34);
    assert!(vias.iter().all(Option::is_some));
    assert_eq!(vias[0].unwrap().host, b"sip33.example.com");
    assert_eq!(message.body.len(), 150);
    let bytes = read("transports.dat");
    let message = scan(&bytes).unwrap();
    let transports: Vec<_> = message
        .elements(Name::Via)
        .map(|via| Via::parse(via).unwrap().transport)
        .collect();
    assert_eq!(
        transports,
        [&b"UDP"[..], b"SCTP", b"TLS", b"UNKNOWN", b"TCP"]
    );
}

#[test]
fn dblreq_ends_where_its_content_length_says() {
    let bytes = read("dblreq.dat");
    let message = scan(&bytes).unwrap();
    assert_eq!(
        message.first(Name::CallId),
        Some(&b"dblreq.0ha0isndaksdj99sdfafnl3lk233412"[..])
    );
    assert!(message.body.is_empty());
    assert_eq!(
        frame(&bytes, 65_536, 65_536),
        Frame::Complete(message.length)
    );
    let rest = &bytes[message.length..];
    let Frame::KeepAlive(blank) = frame(rest, 65_536, 65_536) else {
        panic!("no keep-alive between the requests");
    };
    let second = scan(&rest[blank..]).unwrap();
    assert_eq!(Request::parse(&second).unwrap().method, Method::Invite);
}

#[test]
fn semiuri_and_mpart01_keep_their_parts() {
    let bytes = read("semiuri.dat");
    let message = scan(&bytes).unwrap();
    let target = Request::parse(&message).unwrap().target;
    assert_eq!(target.user, Some(&b"user;par=u%40example.net"[..]));
    assert_eq!(target.host, Host::Name(b"example.com"));
    assert_eq!(message.elements(Name::Accept).count(), 6);
    let bytes = read("mpart01.dat");
    let message = scan(&bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(request.body.len(), 553);
    assert_eq!(
        request.content_type.unwrap().params.get("boundary"),
        Some(&b"7a9cbec02ceef655"[..])
    );
    assert_eq!(
        message.elements(Name::Route).collect::<Vec<_>>(),
        [b"<sip:127.0.0.1:5080>"]
    );
}

#[test]
fn responses_may_have_any_reason_phrase_or_none() {
    let bytes = read("unreason.dat");
    let Start::Response { status, reason } = scan(&bytes).unwrap().start else {
        panic!("a response");
    };
    assert_eq!(status, 200);
    assert!(
        std::str::from_utf8(reason)
            .unwrap()
            .starts_with("= 2**3 * 5**2 но сто")
    );
    let found = answer(&bytes).unwrap();
    assert_eq!((found.branch, found.cseq), (&b"z9hG4bK1324923"[..], 35));
    let bytes = read("noreason.dat");
    assert_eq!(
        scan(&bytes).unwrap().start,
        Start::Response {
            status: 100,
            reason: b""
        }
    );
}

#[test]
fn parameters_of_a_bare_address_are_the_headers() {
    let bytes = read("cparam01.dat");
    let message = scan(&bytes).unwrap();
    let contact = NameAddr::parse(message.first(Name::Contact).unwrap()).unwrap();
    assert_eq!(contact.uri, b"sip:+19725552222@gw1.example.net");
    assert!(contact.params.get("unknownparam").is_some());
    let bytes = read("cparam02.dat");
    let message = scan(&bytes).unwrap();
    let contact = NameAddr::parse(message.first(Name::Contact).unwrap()).unwrap();
    assert!(contact.params.get("unknownparam").is_none());
    assert!(
        SipUri::parse(contact.uri)
            .unwrap()
            .params
            .get("unknownparam")
            .is_some()
    );
}

#[test]
fn lists_are_split_outside_quotes_and_brackets_only() {
    let list = br#""a,b" <sip:x@y;p="1,2">, <sip:u,v@w> ;q=1,,sip:z"#;
    let elements: Vec<&[u8]> = Elements::of(list).collect();
    assert_eq!(
        elements,
        [
            &br#""a,b" <sip:x@y;p="1,2">"#[..],
            b"<sip:u,v@w> ;q=1",
            b"sip:z"
        ]
    );
}
