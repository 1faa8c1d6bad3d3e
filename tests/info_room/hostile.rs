//! Documents and filters that must be refused, and mutations of good ones: nothing panics, nothing bad is let through.

use std::time::{Duration, Instant};

use fanfare::info::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::worlds::{example, server};

const HEAD: &str = r#"<serverinfo xmlns="urn:fanfare:serverinfo:1" domain="d">"#;
const SERVER: &str =
    r#"<server id="p1" status="up"><address ip="::1" port="5060" transport="udp"/></server>"#;

fn refused(bytes: &[u8], format: Format) -> u16 {
    let error = publication(bytes, format).expect_err(&String::from_utf8_lossy(bytes));
    let text = error.to_string();
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    assert!(text.len() < 64 && text.bytes().all(printable), "{text}");
    error.status()
}

#[test]
fn the_plain_publication_is_taken() {
    let plain = format!("{HEAD}{SERVER}</serverinfo>");
    assert!(publication(plain.as_bytes(), Format::Xml).is_ok());
}

#[test]
fn what_is_no_xml_of_ours_is_refused() {
    let laughs = r#"<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>"#;
    let whole = format!("{HEAD}{SERVER}</serverinfo>");
    let within = |text: &str| format!("{HEAD}{text}</serverinfo>");
    let attribute = |text: &str| {
        let attribute = format!("<attribute name=\"a\">{text}</attribute></server>");
        within(&SERVER.replace("</server>", &attribute))
    };
    let bad = [
        String::new(),
        " ".into(),
        "{}".into(),
        format!("{laughs}{whole}"),
        format!("<!DOCTYPE serverinfo SYSTEM \"http://192.0.2.1/x.dtd\">{whole}"),
        attribute("&b;"),
        attribute("&#0;"),
        attribute("&#x1;"),
        attribute("&#xFFFE;"),
        attribute("&#55555555555;"),
        attribute("&#127;"),
        attribute("a\u{1}b"),
        attribute("a\u{0}b"),
        attribute("]]>"),
        attribute("& x"),
        attribute("&amp"),
        format!("<?php x?>{whole}"),
        format!("{whole}<?x y?>"),
        format!(" <?xml version=\"1.0\"?>{whole}"),
        format!("<?xml version=\"1.1\"?>{whole}"),
        format!("<?xml version=\"1.0\" encoding=\"latin1\"?>{whole}"),
        format!("<?xml version=\"1.0\"?><?xml version=\"1.0\"?>{whole}"),
        format!("<?xml version=\"1.0\"encoding=\"UTF-8\"?>{whole}"),
        format!("<?xml version=\"1.0\" encodig=\"UTF-8\"?>{whole}"),
        format!("<?xml encoding=\"UTF-8\" version=\"1.0\"?>{whole}"),
        format!("<?xml encoding=\"UTF-8\"?>{whole}"),
        format!("<?xml version=\"1.0\" standalone=\"maybe\"?>{whole}"),
        format!("<?xml?>{whole}"),
        whole.replace(" status=", "status="),
        format!("{whole}{whole}"),
        format!("{whole}text"),
        format!("text{whole}"),
        format!("{whole}&lt;"),
        format!("<![CDATA[ ]]>{whole}"),
        whole.replace("</serverinfo>", ""),
        whole.replace("</serverinfo>", "</server>"),
        whole.replace("urn:fanfare:serverinfo:1", "urn:fanfare:serverinfo:2"),
        whole.replace(r#"xmlns="urn:fanfare:serverinfo:1""#, ""),
        whole.replace("<serverinfo", "<x:serverinfo"),
        whole.replace("id=", "x:y=\"\" id="),
        whole.replace("id=", "colour=\"<\" id="),
        whole.replace("serverinfo", "filter"),
        within("text"),
        within(&format!("{SERVER}{SERVER}")),
        within(""),
        within("<server id='p1' state='deleted' updated='1.0.n'/>"),
        within(&format!("<1x/>{SERVER}")),
        within(&format!("<!-- -- -->{SERVER}")),
        within(&format!("{}{}", "<x>".repeat(100), "</x>".repeat(100))),
    ];
    for text in &bad {
        assert_eq!(refused(text.as_bytes(), Format::Xml), 400, "{text}");
    }
    assert_eq!(refused(b"\xff\xfe<\0s\0", Format::Xml), 400);
    let mut truncated = whole.into_bytes();
    truncated.insert(60, 0xc3);
    assert_eq!(refused(&truncated, Format::Xml), 400);
}

#[test]
fn fields_out_of_their_range_are_refused() {
    let whole = format!("{HEAD}{SERVER}</serverinfo>");
    for (from, to) in [
        ("p1", "p 1"),
        ("p1", ""),
        ("p1", "p/1"),
        ("id=\"p1\"", ""),
        ("id=\"p1\"", "id=\"p1\" id=\"p1\""),
        ("status=\"up\"", ""),
        ("up", "not up"),
        ("::1", "example.com"),
        ("::1", "1.2.3"),
        ("5060", "0"),
        ("5060", "65536"),
        ("5060", "+5060"),
        ("5060", "99999999999999999999999"),
        ("5060", ""),
        ("udp", "UDP"),
        ("ip=\"::1\"", ""),
        (" domain=\"d\"", ""),
        ("domain=\"d\"", "domain=\"a b\""),
        ("status", "load=\"101\" status"),
        ("status", "load=\"-1\" status"),
        ("status", "load=\"1.5\" status"),
        ("status", "priority=\"65536\" status"),
        ("status", "weight=\"x\" status"),
        ("<address ip=\"::1\" port=\"5060\" transport=\"udp\"/>", ""),
        ("</server>", "<service/></server>"),
        ("</server>", "<service name=\"\"/></server>"),
        (
            "</server>",
            "<service name=\"a\"/><service name=\"a\"/></server>",
        ),
        (
            "</server>",
            "<attribute name=\"a\"/><attribute name=\"a\"/></server>",
        ),
    ] {
        assert!(whole.contains(from));
        let text = whole.replacen(from, to, 1);
        assert_eq!(refused(text.as_bytes(), Format::Xml), 400, "{text}");
    }
}

#[test]
fn documents_out_of_their_range_are_refused() {
    let head = HEAD.replace(
        '>',
        " notifier=\"n@1\" version=\"1\" view=\"1\" state=\"full\">",
    );
    let live = SERVER.replace("id=", "updated=\"1.0.n\" id=");
    let whole = format!("{head}{live}</serverinfo>");
    assert!(parse(whole.as_bytes(), Format::Xml).is_ok());
    for (from, to) in [
        ("version=\"1\"", "version=\"0\""),
        ("version=\"1\"", "version=\"4294967296\""),
        ("view=\"1\"", "view=\"18446744073709551616\""),
        ("full", "whole"),
        ("state=\"full\"", "state=\"full\" part=\"1\""),
        ("state=\"full\"", "state=\"full\" part=\"3\" parts=\"2\""),
        ("state=\"full\"", "state=\"full\" part=\"0\" parts=\"2\""),
        ("state=\"full\"", "state=\"partial\" base=\"-1\""),
        ("state=\"full\"", "stale=\"maybe\""),
        ("n@1", "n 1"),
        ("1.0.n", "1.0"),
        ("updated=\"1.0.n\"", ""),
        ("id=\"p1\"", "id=\"p1\" state=\"lost\""),
        (
            "</serverinfo>",
            "<server id=\"p1\" state=\"left\" updated=\"1.0.n\"/></serverinfo>",
        ),
    ] {
        let text = whole.replacen(from, to, 1);
        let error = parse(text.as_bytes(), Format::Xml).expect_err(&text);
        assert_eq!(error.status(), 400, "{text}");
    }
}

#[test]
fn what_is_no_json_of_ours_is_refused() {
    let server =
        r#"{"id":"p1","status":"up","addresses":[{"ip":"::1","port":5060,"transport":"udp"}]}"#;
    let whole = format!(r#"{{"domain":"d","servers":[{server}]}}"#);
    assert!(publication(whole.as_bytes(), Format::Json).is_ok());
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let bad = [
        String::new(),
        "[]".into(),
        "null".into(),
        deep.clone(),
        whole.replace("\"d\"", &deep),
        format!("{whole}{whole}"),
        whole.replace("\"domain\":\"d\"", "\"domain\":\"d\",\"domain\":\"d\""),
        whole.replace("\"domain\":\"d\",", ""),
        whole.replace("\"d\"", "7"),
        whole.replace("\"id\":\"p1\"", "\"id\":\"p1\",\"id\":\"p2\""),
        whole.replace("5060", "\"5060\""),
        whole.replace("5060", "65536"),
        whole.replace("5060", "0"),
        whole.replace("5060", "-1"),
        whole.replace("5060", "5060.0"),
        whole.replace("5060", "1e999"),
        whole.replace("p1", "p\\u0000"),
        whole.replace("p1", "p\0"),
        whole.replace("p1", "\\ud800"),
        whole.replace("\"status\"", "\"load\":101,\"status\""),
        whole.replace("\"status\"", "\"state\":\"deleted\",\"status\""),
        whole.replace("\"status\"", "\"services\":[7],\"status\""),
        whole.replace("\"status\"", "\"services\":[\"a\",\"a\"],\"status\""),
        whole.replace("\"status\"", "\"attributes\":[],\"status\""),
        whole.replace("\"status\"", "\"attributes\":{\"a\":1},\"status\""),
        whole.replace(
            "\"status\"",
            "\"attributes\":{\"a\":\"\",\"a\":\"\"},\"status\"",
        ),
        whole.replace(
            "\"status\"",
            "\"attributes\":{\"a\":\"\\u0007\"},\"status\"",
        ),
        whole.replace(server, &format!("{server},{server}")),
        whole.replace(server, ""),
        whole.replace(server, "7"),
    ];
    for text in &bad {
        assert_eq!(refused(text.as_bytes(), Format::Json), 400, "{:.200}", text);
    }
    assert_eq!(refused(b"{\"domain\":\"\xff\"}", Format::Json), 400);
}

#[test]
fn a_server_made_by_hand_is_held_to_the_same_rules() {
    assert_eq!(server("p1").check(), Ok(()));
    let wrong: [fn(&mut Server); 6] = [
        |server| server.id = "p 1".into(),
        |server| server.load = Some(101),
        |server| server.addresses.clear(),
        |server| server.addresses[0].port = 0,
        |server| server.addresses[0].host = Some("a b".into()),
        |server| server.services = vec!["a/b".into()],
    ];
    for alter in wrong {
        let mut server = server("p1");
        alter(&mut server);
        assert_eq!(
            server.check().map_err(DocumentError::status),
            Err(400),
            "{server:?}"
        );
    }
}

#[test]
fn what_is_over_a_limit_is_too_large() {
    let address = server("p1").addresses[0].clone();
    let names = |count: usize| (0..count).map(|place| format!("n{place}").into());
    let within = Server {
        addresses: vec![address.clone(); MAX_ADDRESSES],
        services: names(MAX_SERVICES).collect(),
        attributes: names(MAX_ATTRIBUTES)
            .map(|name| (name, "x".repeat(MAX_ATTRIBUTE_BYTES).into()))
            .collect(),
        ..server("p1")
    };
    let mut over = [
        within.clone(),
        within.clone(),
        within.clone(),
        within.clone(),
    ];
    over[0].addresses.push(address);
    over[1].services.push("one-more".into());
    over[2].attributes.push(("one-more".into(), "".into()));
    over[3].attributes[0].1 = "x".repeat(MAX_ATTRIBUTE_BYTES + 1).into();
    for format in [Format::Xml, Format::Json] {
        assert!(publication(&publication_body("d", &within, format), format).is_ok());
        for server in &over {
            assert_eq!(refused(&publication_body("d", server, format), format), 413);
        }
        assert_eq!(refused(&vec![b' '; MAX_BODY_BYTES + 1], format), 413);
        assert_eq!(refused(&vec![b' '; MAX_BODY_BYTES], format), 400);
    }
}

/// Mutations that leave most of a text whole, so that many get past the first check.
fn mutate(random: &mut SmallRng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..4) {
        let place = random.random_range(0..=bytes.len());
        let end = (place + random.random_range(0..12)).min(bytes.len());
        match random.random_range(0..6) {
            0 => drop(bytes.drain(place..end)),
            1 => bytes.truncate(place),
            2 => bytes.insert(place, random.random()),
            3 => {
                let from = random.random_range(0..seed.len());
                let to = (from + random.random_range(0..60)).min(seed.len());
                bytes.splice(place..place, seed[from..to].iter().copied());
            }
            4 => {
                let pieces: [&[u8]; 12] = [
                    b"<",
                    b">",
                    b"\"",
                    b"&#x41;",
                    b"&x;",
                    b"<![CDATA[",
                    b"]]>",
                    b"<!--",
                    b"{",
                    b"[",
                    b"\\u0041",
                    b"4294967296",
                ];
                let piece = pieces[random.random_range(0..pieces.len())];
                bytes.splice(place..end, piece.iter().copied());
            }
            _ if place < bytes.len() => bytes[place] ^= 1 << random.random_range(0..8),
            _ => {}
        }
    }
    bytes
}

#[test]
fn mutated_documents_never_panic_and_what_passes_can_be_sent_on() {
    let seed = match std::env::var("FANFARE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("FANFARE_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let view = example();
    let entries = || view.entries.iter().map(|entry| &**entry);
    let mut corpus = Vec::new();
    for format in [Format::Xml, Format::Json] {
        corpus.push((full(&view, entries(), format).to_vec(7), format));
        corpus.push((
            publication_body("d", &view.entries[0].server, format),
            format,
        ));
    }
    let filter = br#"<filter xmlns="urn:fanfare:serverinfo:1"><service name="turn"/><status>up</status><attribute name="r">e</attribute><most>8</most></filter>"#;
    corpus.push((filter.to_vec(), Format::Xml));
    let end = Instant::now() + Duration::from_secs(2);
    let (mut rounds, mut passed) = (0u32, 0u32);
    while rounds < 200 || (rounds < 40_000 && Instant::now() < end) {
        rounds += 1;
        let (whole, format) = &corpus[rounds as usize % corpus.len()];
        let bytes = mutate(&mut random, whole);
        if let Ok(filter) = Filter::parse(&bytes) {
            passed += 1;
            assert_eq!(Filter::parse(&filter.canonical()), Ok(filter));
        }
        if let Ok(document) = parse(&bytes, *format) {
            passed += 1;
            Table::new().apply(document);
        }
        if let Ok(read) = publication(&bytes, *format) {
            passed += 1;
            for format in [Format::Xml, Format::Json] {
                let again = publication_body(&read.domain, &read.server, format);
                assert_eq!(publication(&again, format).as_ref(), Ok(&read));
            }
        }
    }
    assert!(passed > 0, "of {rounds} mutations none was harmless");
}
