//! Two other SIP parsers as oracles: on generated messages that all three take, they must read the same.
//! Of rsip and ezk-sip-types only what they do right is asked: long names, no folding, no IPv6 in Via and URIs, no
//! quoted parameter values.

use ezk_sip_types::header::typed;
use ezk_sip_types::msg::{MessageLine, PullParser};
use ezk_sip_types::print::AppendCtx;
use ezk_sip_types::{Headers, Name};
use fanfare::sip::answer::answer;
use fanfare::sip::header::{CSeq, NameAddr, Via};
use fanfare::sip::request::Request;
use fanfare::sip::scan::{self, Start, scan};
use fanfare::sip::uri::Host;
use proptest::prelude::*;
use rsip::SipMessage;
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::HeadersExt;

#[derive(Debug, PartialEq, Eq)]
enum First {
    Request {
        method: String,
        user: Option<String>,
        host: String,
        port: Option<u16>,
    },
    Response(u16),
}

/// What is compared.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    first: First,
    call_id: String,
    cseq: (u32, String),
    from_tag: Option<String>,
    to_tag: Option<String>,
    branch: Option<String>,
    body: Vec<u8>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn ours(bytes: &[u8]) -> Reading {
    let message = scan(bytes).expect("we take it");
    let value = |name| message.first(name).expect("we take it");
    let cseq = CSeq::parse(value(scan::Name::CSeq)).expect("we take it");
    let tag = |name| {
        NameAddr::parse(value(name))
            .expect("we take it")
            .tag()
            .map(text)
    };
    let via = Via::parse(
        message
            .elements(scan::Name::Via)
            .next()
            .expect("we take it"),
    )
    .expect("we take it");
    let first = match message.start {
        Start::Request { method, .. } => {
            let target = Request::parse(&message).expect("we take it").target;
            First::Request {
                method: text(method),
                user: target.user.map(text),
                host: match target.host {
                    Host::Ip(address) => address.to_string(),
                    Host::Name(name) => text(name),
                },
                port: target.port,
            }
        }
        Start::Response { status, .. } => First::Response(status),
    };
    Reading {
        first,
        call_id: text(value(scan::Name::CallId)),
        cseq: (cseq.number, text(cseq.method)),
        from_tag: tag(scan::Name::From),
        to_tag: tag(scan::Name::To),
        branch: via.branch.map(text),
        body: message.body.to_vec(),
    }
}

fn rsip_reading(bytes: &[u8]) -> Reading {
    let message = SipMessage::try_from(bytes).expect("rsip takes it");
    let (first, body) = match &message {
        SipMessage::Request(request) => (
            First::Request {
                method: request.method.to_string(),
                user: request.uri.user().map(str::to_owned),
                host: request.uri.host().to_string(),
                port: request.uri.port().map(|port| *port.value()),
            },
            request.body.clone(),
        ),
        SipMessage::Response(response) => (
            First::Response(response.status_code.clone().into()),
            response.body.clone(),
        ),
    };
    let cseq = message
        .cseq_header()
        .expect("rsip takes it")
        .typed()
        .expect("rsip takes it");
    let tag = |tag: Option<rsip::param::Tag>| tag.map(|tag| tag.value().to_owned());
    let via = message
        .via_header()
        .expect("rsip takes it")
        .typed()
        .expect("rsip takes it");
    Reading {
        first,
        call_id: message
            .call_id_header()
            .expect("rsip takes it")
            .value()
            .to_owned(),
        cseq: (cseq.seq, cseq.method.to_string()),
        from_tag: tag(message
            .from_header()
            .expect("rsip takes it")
            .tag()
            .expect("rsip takes it")),
        to_tag: tag(message
            .to_header()
            .expect("rsip takes it")
            .tag()
            .expect("rsip takes it")),
        branch: via.branch().map(|branch| branch.value().to_owned()),
        body,
    }
}

fn ezk_reading(bytes: &[u8]) -> Reading {
    let mut lines = PullParser::new(bytes, 0);
    let line = |bytes: &[u8]| text(bytes);
    let start: MessageLine = line(lines.next().expect("ezk takes it").expect("ezk takes it"))
        .parse()
        .expect("ezk takes it");
    let mut headers = Headers::new();
    for found in lines.by_ref() {
        let found = line(found.expect("ezk takes it"));
        let (name, value) = found.split_once(':').expect("ezk takes it");
        headers.insert(Name::from(name.to_owned()), value.trim());
    }
    let first = match start {
        MessageLine::Request(line) => First::Request {
            method: line.method.to_string(),
            user: line
                .uri
                .default_print_ctx()
                .to_string()
                .strip_prefix("sip:")
                .and_then(|rest| rest.split_once('@'))
                .map(|(user, _)| user.to_owned()),
            host: line.uri.host_port.host.to_string(),
            port: line.uri.host_port.port,
        },
        MessageLine::Response(line) => First::Response(line.code.into_u16()),
    };
    let cseq: typed::CSeq = headers.get_named().expect("ezk takes it");
    let call_id: typed::CallID = headers.get_named().expect("ezk takes it");
    let tag = |name| {
        let address: typed::FromTo = headers.get(name).expect("ezk takes it");
        address.tag.map(|tag| tag.to_string())
    };
    let via: typed::Via = headers
        .get_named::<Vec<typed::Via>>()
        .expect("ezk takes it")
        .remove(0);
    Reading {
        first,
        call_id: call_id.0.to_string(),
        cseq: (cseq.cseq, cseq.method.to_string()),
        from_tag: tag(Name::FROM),
        to_tag: tag(Name::TO),
        branch: via
            .params
            .get_val("branch")
            .map(|branch| branch.to_string()),
        body: bytes[lines.head_end()..].to_vec(),
    }
}

prop_compose! {
    fn host()(literal in any::<[u8; 4]>(), name in "[a-z][a-z0-9-]{0,10}[a-z0-9](\\.[a-z]{2,8}){1,2}", named in any::<bool>()) -> String {
        if named { name } else { std::net::Ipv4Addr::from(literal).to_string() }
    }
}

prop_compose! {
    fn uri()(user in prop::option::of("[a-z][a-z0-9_-]{0,11}"), host in host(), port in prop::option::of(1u16..)) -> String {
        let user = user.map(|user| user + "@").unwrap_or_default();
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("sip:{user}{host}{port}")
    }
}

prop_compose! {
    fn address()(display in prop::option::of("\"[A-Za-z ,.]{1,12}\" |[A-Za-z]{1,8} "), uri in uri(), tag in prop::option::of("[A-Za-z0-9.-]{1,20}"), other in any::<bool>()) -> String {
        let tag = tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let other = if other { ";x-other=a.b" } else { "" };
        format!("{}<{uri}>{other}{tag}", display.unwrap_or_default())
    }
}

prop_compose! {
    fn via()(transport in "UDP|TCP|TLS", host in host(), port in prop::option::of(1u16..), branch in "z9hG4bK[A-Za-z0-9._-]{1,30}", rport in any::<bool>()) -> String {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let rport = if rport { ";rport=5070" } else { "" };
        format!("SIP/2.0/{transport} {host}{port};branch={branch}{rport}")
    }
}

prop_compose! {
    fn message()(
        kind in prop::sample::select(vec!["SUBSCRIBE", "PUBLISH", "NOTIFY", "200"]),
        target in uri(),
        vias in prop::collection::vec(via(), 1..4),
        from in address(),
        to in address(),
        contact in uri(),
        call_id in "[A-Za-z0-9._-]{1,30}(@[a-z0-9.]{1,12})?",
        cseq in 0u32..1 << 31,
        expires in any::<u32>(),
        order in any::<u64>(),
        body in "[ -~\\r\\n]{0,200}",
    ) -> String {
        let (start, method) = match kind {
            "200" => ("SIP/2.0 200 OK".to_owned(), "NOTIFY"),
            method => (format!("{method} {target} SIP/2.0"), method),
        };
        let mut fields = vec![
            vias.iter().map(|via| format!("Via: {via}\r\n")).collect(),
            format!("From: {from}\r\n"),
            format!("To: {to}\r\n"),
            format!("Call-ID: {call_id}\r\n"),
            format!("CSeq: {cseq} {method}\r\n"),
            format!("Contact: <{contact}>\r\n"),
            "Max-Forwards: 70\r\n".to_owned(),
            "Event: SIPserver;id=7\r\n".to_owned(),
            format!("Expires: {expires}\r\n"),
            "Accept: application/serverinfo+xml, application/*;q=0.5\r\n".to_owned(),
            format!("Content-Length: {}\r\n", body.len()),
        ];
        let places = fields.len();
        for at in 0..places {
            fields.swap(at, (order.rotate_left(5 * at as u32) % places as u64) as usize);
        }
        format!("{start}\r\n{}\r\n{body}", fields.concat())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_parsers_read_the_same(message in message()) {
        let bytes = message.as_bytes();
        let reading = ours(bytes);
        prop_assert_eq!(&reading, &rsip_reading(bytes));
        prop_assert_eq!(&reading, &ezk_reading(bytes));
    }

    #[test]
    fn the_quick_scan_reads_what_the_full_one_does(message in message()) {
        let bytes = message.as_bytes();
        let reading = ours(bytes);
        match (reading.first, answer(bytes)) {
            (First::Request { .. }, found) => prop_assert!(found.is_err()),
            (First::Response(_), Err(error)) => {
                let vias = scan(bytes).unwrap().elements(scan::Name::Via).count();
                prop_assert!(vias > 1, "{}", error);
            }
            (First::Response(status), Ok(found)) => {
                prop_assert_eq!(status, found.status);
                prop_assert_eq!(reading.branch, Some(text(found.branch)));
                prop_assert_eq!(reading.cseq, (found.cseq, text(found.method)));
                prop_assert_eq!(found.event, Some(&b"SIPserver;id=7"[..]));
            }
        }
    }
}
