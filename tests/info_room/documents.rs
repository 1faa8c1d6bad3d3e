//! What is rendered is what is read, byte for byte where event-package.md shows the bytes.

use fanfare::info::*;
use proptest::prelude::*;

use crate::worlds::{any_server, any_view, example, server, view};

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<serverinfo xmlns="urn:fanfare:serverinfo:1" domain="example.com" notifier="n1@1795379461123" version="7"          view="42" state="full">
  <server id="p1" status="up" load="37" priority="10" weight="60" updated="1795379461123.0.n1">
    <address ip="192.0.2.1" port="5060" transport="udp"/>
    <address ip="2001:db8::1" port="5061" transport="tls" host="p1.example.com" service="proxy"/>
    <service name="proxy"/>
    <attribute name="region">eu-1</attribute>
  </server>
  <server id="p2" state="deleted" updated="1795379460000.3.n2"/>
</serverinfo>"#;

/// Broken in two for the page of event-package.md, where the second line begins with a space.
const JSON: &str = r#"{"domain":"example.com","notifier":"n1@1795379461123","version":7         ,"view":42,"state":"full","servers":[{"id":"p1","status":"up","load":37,"#;
const JSON_REST: &str = r#""priority":10,"weight":60,"updated":"1795379461123.0.n1","addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"}],"services":["proxy"],"attributes":{"region":"eu-1"}},{"id":"p2","state":"deleted","updated":"1795379460000.3.n2"}]}"#;

const FORMATS: [Format; 2] = [Format::Xml, Format::Json];

fn entries(view: &View) -> impl Iterator<Item = &Entry> {
    view.entries.iter().map(|entry| &**entry)
}

fn as_read(entry: &Entry) -> DocumentEntry {
    match entry.deleted {
        false => DocumentEntry::Server(entry.server.clone()),
        true => DocumentEntry::Deleted {
            id: entry.server.id.clone(),
            updated: entry.server.updated.clone(),
        },
    }
}

#[test]
fn the_xml_example_is_rendered_byte_for_byte() {
    let view = example();
    let body = full(&view, entries(&view), Format::Xml);
    assert_eq!(String::from_utf8(body.to_vec(7)).unwrap(), XML);
}

#[test]
fn the_json_example_is_rendered_byte_for_byte() {
    let example = example();
    let mut p1 = Entry::clone(&example.entries[0]);
    p1.server.addresses.truncate(1);
    let view = view(42, vec![p1, Entry::clone(&example.entries[1])]);
    let body = full(&view, entries(&view), Format::Json);
    let text = String::from_utf8(body.to_vec(7)).unwrap();
    assert_eq!(text, format!("{JSON}{JSON_REST}"));
}

#[test]
fn the_examples_are_read() {
    let document = parse(XML.as_bytes(), Format::Xml).unwrap();
    assert_eq!(document.domain.as_deref(), Some("example.com"));
    assert_eq!(document.notifier.as_deref(), Some("n1@1795379461123"));
    assert_eq!((document.version, document.view), (Some(7), Some(42)));
    assert_eq!((document.state, document.base), (Some(State::Full), None));
    assert_eq!(
        document.entries,
        entries(&example()).map(as_read).collect::<Vec<_>>()
    );

    let document = parse(format!("{JSON}\n {JSON_REST}").as_bytes(), Format::Json).unwrap();
    assert_eq!((document.version, document.view), (Some(7), Some(42)));
    assert_eq!(document.entries.len(), 2);
}

#[test]
fn the_length_is_the_same_for_every_version() {
    let view = example();
    for format in FORMATS {
        let body = full(&view, entries(&view), format);
        for version in [1, 9, 10, 4_000_000_000, u32::MAX] {
            let bytes = body.to_vec(version);
            assert_eq!(bytes.len(), body.len(), "{format:?} {version}");
            assert_eq!(parse(&bytes, format).unwrap().version, Some(version));
        }
    }
}

#[test]
fn an_unknown_status_survives_and_takes_no_work() {
    let resting = Server {
        status: "resting".parse().unwrap(),
        ..server("p1")
    };
    assert!(!resting.status.takes_work());
    for format in FORMATS {
        let bytes = publication_body("example.com", &resting, format);
        assert_eq!(
            publication(&bytes, format).unwrap().server.status,
            resting.status
        );
    }
}

#[test]
fn foreign_elements_and_attributes_are_dropped() {
    let xml = r#"<?xml version='1.0'?><!-- x --><s:serverinfo xmlns:s="urn:fanfare:serverinfo:1" xmlns:f="urn:f"
        domain="example.com" f:domain="evil" colour="red" version="no number" updated="?">
        <f:server id="f"><a xmlns="">text</a></f:server><s:novelty><s:server id="inner"/></s:novelty>
        <s:server id="p&#49;" status="up" f:id="f">
          <s:address ip="::1" port="5060" transport="udp" speed="9"/><f:address/>
          <s:attribute name="a&amp;b" xmlns:x="urn:x" x:y="z">no</s:attribute>
        </s:server></s:serverinfo>"#
        .replace("a&amp;b", "note")
        .replace(">no<", "> &lt;&#10;&#x2603;<![CDATA[<&>]]>\r\n <");
    let read = publication(xml.as_bytes(), Format::Xml).unwrap();
    assert_eq!(read.domain, "example.com");
    assert_eq!(&*read.server.id, "p1");
    assert_eq!(read.server.addresses.len(), 1);
    assert_eq!(read.server.attribute("note"), Some(" <\n\u{2603}<&>\n "));

    let json = br#"{"colour":{"a":[1,{"b":null}]},"domain":"example.com","version":"x","view":-1,"state":7,"servers":
        [{"novelty":[],"id":"p1","status":"up","addresses":[{"ip":"::1","port":5060,"transport":"udp","speed":9}]}]}"#;
    let read = publication(json, Format::Json).unwrap();
    assert_eq!((&*read.domain, &*read.server.id), ("example.com", "p1"));
}

#[test]
fn left_out_priority_and_weight_are_those_of_the_event_package() {
    let xml = br#"<serverinfo xmlns="urn:fanfare:serverinfo:1" domain="d"><server id="p1" status="up"><address
        ip="::1" port="5060" transport="udp"/></server></serverinfo>"#;
    let server = publication(xml, Format::Xml).unwrap().server;
    assert_eq!((server.priority, server.weight, server.load), (0, 1, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn full_documents_are_read_as_they_were_rendered(view in any_view(), version in 1u32..) {
        for format in FORMATS {
            let body = full(&view, entries(&view), format);
            let bytes = body.to_vec(version);
            prop_assert_eq!(bytes.len(), body.len());
            let document = parse(&bytes, format).unwrap();
            prop_assert_eq!(document.domain.as_deref(), Some(&*view.domain));
            prop_assert_eq!(document.notifier.as_deref(), Some(&*view.notifier));
            prop_assert_eq!(document.version, Some(version));
            prop_assert_eq!(document.view, Some(view.revision));
            prop_assert_eq!(document.state, Some(State::Full));
            prop_assert_eq!(document.part.or(document.parts), None);
            prop_assert_eq!(document.stale, view.stale);
            prop_assert_eq!(document.entries, entries(&view).map(as_read).collect::<Vec<_>>());
        }
    }

    #[test]
    fn partial_documents_are_read_as_they_were_rendered(view in any_view(), base: u64) {
        let changes: Vec<Change<'_>> = entries(&view)
            .enumerate()
            .map(|(place, entry)| match place % 3 {
                0 => Change::Left { id: &entry.server.id, updated: &entry.server.updated },
                _ => Change::of(entry),
            })
            .collect();
        for format in FORMATS {
            let document = parse(&partial(&view, base, &changes, format).to_vec(1), format).unwrap();
            prop_assert_eq!((document.state, document.base), (Some(State::Partial), Some(base)));
            prop_assert_eq!(document.entries.len(), changes.len());
            for (entry, change) in document.entries.iter().zip(&changes) {
                prop_assert_eq!(&**entry.id(), change.id());
                let kinds = matches!(
                    (entry, change),
                    (DocumentEntry::Server(_), Change::Put(_))
                        | (DocumentEntry::Deleted { .. }, Change::Deleted(_))
                        | (DocumentEntry::Left { .. }, Change::Left { .. })
                );
                prop_assert!(kinds, "{:?} for {:?}", entry, change);
            }
        }
    }

    #[test]
    fn publications_are_read_as_they_were_rendered(server in any_server("[a-z]{1,9}".prop_map(Into::into))) {
        for format in FORMATS {
            let bytes = publication_body("example.com", &server, format);
            let mut read = publication(&bytes, format).unwrap();
            read.server.updated = server.updated.clone();
            prop_assert_eq!(&read.domain, "example.com");
            prop_assert_eq!(&read.server, &server);
        }
    }

    #[test]
    fn lengths_are_known_without_rendering(view in any_view(), base: u64) {
        for format in FORMATS {
            let sum: usize = entries(&view).map(|entry| entry_len(Change::of(entry), format)).sum();
            let comma = usize::from(format == Format::Json && !view.entries.is_empty());
            let len = full(&view, entries(&view), format).len();
            prop_assert_eq!(envelope_len(&view, Kind::Full, format) + sum - comma, len);
            let len = partial(&view, base, &[], format).len();
            prop_assert_eq!(envelope_len(&view, Kind::Partial { base }, format), len);
        }
    }

    #[test]
    fn no_part_is_over_the_budget_and_none_is_lost(view in any_view(), budget in 150usize..2000) {
        let all: Vec<&Entry> = entries(&view).collect();
        for format in FORMATS {
            let split = split(&view, &all, format, budget);
            let parts = split.parts.len() as u32;
            let mut seen = split.oversize.clone();
            for (number, range) in (1..).zip(&split.parts) {
                seen.extend(range.clone());
                let body = part(&view, all[range.clone()].iter().copied(), number, parts, format);
                prop_assert!(body.len() <= budget || range.is_empty(), "{} > {}", body.len(), budget);
                let document = parse(&body.to_vec(9), format).unwrap();
                prop_assert_eq!((document.part, document.parts), (Some(number), Some(parts)));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..all.len()).collect::<Vec<_>>());
            for place in split.oversize {
                let alone = part(&view, [all[place]].into_iter(), 1, 1, format).len();
                // A comma and the digits of two numbers of parts are all that may be counted too much.
                prop_assert!(alone + 5 > budget);
            }
        }
    }
}

#[test]
fn an_entry_that_just_fits_is_a_part_and_one_byte_less_is_too_little() {
    let view = view(
        7,
        vec![Entry {
            server: server("p1"),
            deleted: false,
        }],
    );
    let all: Vec<&Entry> = entries(&view).collect();
    for (format, comma) in [(Format::Xml, 0), (Format::Json, 1)] {
        let needed = part(&view, entries(&view), 1, 1, format).len() + comma;
        let fits = split(&view, &all, format, needed);
        assert_eq!(
            (&fits.parts[0], fits.parts.len()),
            (&(0..1), 1),
            "{format:?}"
        );
        assert!(fits.oversize.is_empty());
        let over = split(&view, &all, format, needed - 1);
        assert_eq!(
            (&over.parts[0], over.parts.len()),
            (&(0..0), 1),
            "{format:?}"
        );
        assert_eq!(over.oversize, [0]);
    }
}

#[test]
fn texts_that_look_like_markup_are_read_as_they_were() {
    for text in [
        "]]>",
        "<![CDATA[",
        "&amp;",
        "&#10;",
        "-->",
        "\\u0041",
        "\"}]}",
        " \t\r\n ",
        "",
    ] {
        let server = Server {
            attributes: vec![("note".into(), text.into())],
            ..server("p1")
        };
        for format in FORMATS {
            let bytes = publication_body("example.com", &server, format);
            let read = publication(&bytes, format).unwrap().server;
            assert_eq!(read.attribute("note"), Some(text), "{format:?}");
        }
    }
}

#[test]
fn five_hundred_servers_go_into_few_parts() {
    let entries = (0..500).map(|number| Entry {
        server: server(&format!("server-{number}")),
        deleted: false,
    });
    let view = view(9, entries.collect());
    let all: Vec<&Entry> = view.entries.iter().map(|entry| &**entry).collect();
    for format in FORMATS {
        let split = split(&view, &all, format, 700);
        assert!(split.oversize.is_empty());
        let whole = full(&view, all.iter().copied(), format).len();
        let least = whole / 700;
        assert!(
            (least..3 * least).contains(&split.parts.len()),
            "{}",
            split.parts.len()
        );
        let parts = split.parts.len() as u32;
        let mut table = Table::new();
        for (number, range) in (1..).zip(split.parts) {
            let entries = all[range].iter().copied();
            let body = part(&view, entries, number, parts, format);
            assert!(body.len() <= 700);
            let expected = match number == parts {
                true => Applied::Changed,
                false => Applied::PartPending,
            };
            let document = parse(&body.to_vec(number), format).unwrap();
            assert_eq!(table.apply(document), expected);
        }
        assert_eq!(table.entries().count(), 500);
    }
}
