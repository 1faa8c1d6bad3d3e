//! The steps of RFC 3903 6: what is refused, in which order, with what, and what a success carries.

use fanfare::compositor::CompositorConfig;
use fanfare::info::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::publisher::*;

#[test]
fn a_success_carries_a_tag_and_the_lease_and_shows_at_once() {
    let mut world = World::one();
    let answer = world.send(&initial(&server("p1", 10)));
    assert_eq!((answer.status, answer.header("Expires")), (200, Some("30")));
    assert_eq!(
        answer.header("Via").unwrap(),
        "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1"
    );
    assert!(answer.header("To").unwrap().contains(";tag="));
    let entry = world.entry("p1");
    assert_eq!((entry.deleted, entry.server.load), (false, Some(10)));
    assert_eq!(
        entry.server.updated.to_string(),
        format!("{}.0.n1", START.unix_ms)
    );
    assert!(lease(&answer.tag()) > entry.server.updated);
    let view = world.view();
    assert_eq!(&*view.domain, "example.com");
    assert_eq!(*view.notifier, *format!("n1@{}", START.unix_ms));
    assert!(!view.stale);
    assert_eq!(world.compositor.counters().initial, 1);
}

#[test]
fn every_success_gives_another_tag_and_only_the_last_matches() {
    let mut world = World::one();
    let mut tags = vec![world.send(&initial(&server("p1", 10))).tag()];
    for publish in [
        refresh,
        |tag: &str| modify(tag, &server("p1", 90)),
        refresh,
        remove,
    ] {
        let answer = world.send(&publish(&tags[tags.len() - 1]));
        let tag = answer.tag();
        assert!(!tags.contains(&tag));
        for old in &tags {
            for again in [refresh(old), modify(old, &server("p1", 1)), remove(old)] {
                assert_eq!(world.send(&again).status, 412);
            }
        }
        tags.push(tag);
    }
    assert_eq!(world.send(&refresh(&tags[4])).status, 412, "removed");
    let counters = world.compositor.counters();
    let successes = (
        counters.initial,
        counters.modified,
        counters.refreshed,
        counters.removed,
    );
    assert_eq!(successes, (1, 1, 2, 1));
    assert_eq!(counters.tag_mismatch, 31);
}

#[test]
fn what_is_wrong_in_several_ways_is_refused_for_the_first() {
    let mut world = World::new(CompositorConfig {
        min_expires_s: 5,
        ..config(&["example.com"])
    });
    let mut publish = Publish {
        uri: "sip:example.org".into(),
        event: Some("presence"),
        tag: Some("no-tag".into()),
        expires: Some(1),
        content_type: Some("text/plain"),
        ..initial(&server("p1", 1))
    };
    assert_eq!(world.send(&publish).status, 404);
    publish.uri = "sip:anyone@EXAMPLE.com.:5070;transport=tcp".into();
    let answer = world.send(&publish);
    assert_eq!(
        (answer.status, answer.header("Allow-Events")),
        (489, Some("SIPserver"))
    );
    publish.event = None;
    assert_eq!(world.send(&publish).status, 489);
    publish.event = Some("SIPserver");
    assert_eq!(world.send(&publish).status, 412);
    publish.tag = None;
    let answer = world.send(&publish);
    assert_eq!(
        (answer.status, answer.header("Min-Expires")),
        (423, Some("5"))
    );
    publish.expires = Some(5);
    let answer = world.send(&publish);
    let accept = "application/serverinfo+xml, application/serverinfo+json";
    assert_eq!(
        (answer.status, answer.header("Accept")),
        (415, Some(accept))
    );
    publish.content_type = Some("Application/ServerInfo+XML ; charset=utf-8");
    assert_eq!(world.send(&publish).status, 200);
    assert_eq!(world.view().entries.len(), 1);
}

#[test]
fn the_lease_is_what_was_asked_within_the_bounds() {
    let mut world = World::one();
    for (asked, given) in [
        (None, "30"),
        (Some(1), "1"),
        (Some(600), "600"),
        (Some(3600), "3600"),
        (Some(3601), "3600"),
        (Some(u32::MAX), "3600"),
    ] {
        let publish = Publish {
            expires: asked,
            ..initial(&server("p1", 1))
        };
        let answer = World::one().send(&publish);
        assert_eq!(
            (answer.status, answer.header("Expires")),
            (200, Some(given))
        );
    }
    let nothing = Publish {
        expires: Some(0),
        ..initial(&server("p1", 1))
    };
    let answer = world.send(&nothing);
    assert_eq!(answer.status, 400, "nothing to remove");
    assert_eq!(
        answer.header("Warning"),
        Some("399 fanfare \"Expires 0 without entity-tag\"")
    );
    let tag = world.send(&initial(&server("p1", 1))).tag();
    let answer = world.send(&remove(&tag));
    assert_eq!((answer.status, answer.header("Expires")), (200, Some("0")));
    assert!(world.entry("p1").deleted);
}

#[test]
fn bodies_that_do_not_fit_are_refused_with_the_reason() {
    let mut world = World::one();
    let good = initial(&server("p1", 1));
    let body = |body: &[u8]| Publish {
        body: body.into(),
        ..good.clone()
    };
    let other_domain = publication_body("example.org", &server("p1", 1), Format::Xml);
    let too_large = Server {
        services: (0..33).map(|place| format!("s{place}").into()).collect(),
        ..server("p1", 1)
    };
    let too_large = publication_body("example.com", &too_large, Format::Xml);
    for (publish, status, warning) in [
        (body(b""), 400, "no body and no entity-tag"),
        (
            body(b"<serverinfo/>"),
            400,
            "wrong root element or namespace",
        ),
        (body(b"<!DOCTYPE x><x/>"), 400, "document type declared"),
        (
            body(&other_domain),
            400,
            "domain is not that of the Request-URI",
        ),
        (body(&too_large), 413, "more than 32 services"),
        (body(&vec![b' '; 65_537]), 413, "body over 65536 bytes"),
    ] {
        let answer = world.send(&publish);
        assert_eq!(answer.status, status, "{}", answer.text);
        let warning = format!("399 fanfare \"{warning}\"");
        assert_eq!(answer.header("Warning"), Some(&*warning));
    }
    let encoded = Publish {
        more: "Content-Encoding: gzip\r\n".into(),
        ..good.clone()
    };
    let answer = world.send(&encoded);
    assert_eq!(answer.status, 415);
    assert!(
        answer.text.contains("\r\nAccept-Encoding: \r\n"),
        "{}",
        answer.text
    );
    assert!(!answer.text.contains("Accept: "));
    for content_type in [None, Some("*/*"), Some("application/serverinfo")] {
        let publish = Publish {
            content_type,
            ..good.clone()
        };
        assert_eq!(world.send(&publish).status, 415);
    }
    assert!(world.view().entries.is_empty());
    assert_eq!(world.view().revision, 1);

    let tag = world.send(&good).tag();
    let answer = world.send(&modify(&tag, &server("p2", 1)));
    assert_eq!(answer.status, 400, "the tag is of another id");
    let encoded = Publish {
        more: "Content-Encoding: identity\r\n".into(),
        ..modify(&tag, &server("p1", 2))
    };
    assert_eq!(
        world.send(&encoded).status,
        200,
        "what was refused took nothing from the tag"
    );
}

#[test]
fn more_than_one_tag_is_malformed() {
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 1))).tag();
    for more in [format!("SIP-If-Match: {tag}\r\n"), String::new()] {
        let list = if more.is_empty() {
            format!("{tag}, {tag}")
        } else {
            tag.clone()
        };
        let publish = Publish {
            more,
            ..refresh(&list)
        };
        let answer = world.send(&publish);
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
    assert_eq!(world.send(&refresh(&tag)).status, 200);
}

#[test]
fn json_is_taken_as_well() {
    let mut world = World::one();
    let publish = Publish {
        content_type: Some("application/serverinfo+json"),
        body: publication_body("Example.COM", &server("p1", 42), Format::Json),
        ..initial(&server("p1", 1))
    };
    assert_eq!(world.send(&publish).status, 200);
    assert_eq!(world.entry("p1").server.load, Some(42));
}

#[test]
fn domains_have_tables_of_their_own() {
    let mut world = World::new(config(&["example.com", "Example.ORG"]));
    let at_org = Publish {
        uri: "sip:example.org".into(),
        body: publication_body("example.org", &server("p1", 1), Format::Xml),
        ..initial(&server("p1", 1))
    };
    let tag = world.send(&at_org).tag();
    let names: Vec<String> = world
        .compositor
        .views()
        .map(|view| view.domain.to_string())
        .collect();
    assert_eq!(names, ["example.com", "example.org"]);
    let changed = world.compositor.take_changed();
    assert_eq!((changed.len(), changed[0].0), (1, 1));
    assert_eq!(changed[0].1.entries.len(), 1);
    assert!(world.compositor.take_changed().is_empty());
    assert_eq!(world.send(&refresh(&tag)).status, 412, "of another domain");
    assert!(world.compositor.take_changed().is_empty());
}

#[test]
fn without_domains_every_host_names_the_one_table() {
    let mut world = World::new(config(&[]));
    for (id, host) in [
        ("p1", "a.example"),
        ("p2", "[2001:DB8::1]"),
        ("p3", "192.0.2.1"),
    ] {
        let publish = Publish {
            uri: format!("sip:{host}:5060"),
            body: publication_body(host, &server(id, 1), Format::Xml),
            ..initial(&server(id, 1))
        };
        assert_eq!(world.send(&publish).status, 200, "{host}");
    }
    let view = world.view();
    assert_eq!((&*view.domain, view.entries.len()), ("*", 3));
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_changes_nothing() {
    let mut world = World::one();
    let mut tag = String::new();
    for (place, publish) in [
        |_: &str| initial(&server("p1", 1)),
        refresh,
        |tag: &str| modify(tag, &server("p1", 50)),
        remove,
    ]
    .into_iter()
    .enumerate()
    {
        let answer = world.send(&publish(&tag));
        tag = answer.tag();
        world.compositor.take_changed();
        for _ in 0..3 {
            world.advance(5_000);
            assert_eq!(world.repeat(), answer);
            assert!(world.compositor.take_changed().is_empty());
        }
        assert_eq!(world.compositor.counters().repeated, 3 * (place as u64 + 1));
    }
    world.advance(32_000);
    assert_eq!(
        world.repeat().status,
        412,
        "after Timer J it is another request"
    );
}

#[test]
fn a_late_repeat_of_the_first_request_takes_nothing_over() {
    let mut world = World::one();
    let answer = world.send(&initial(&server("p1", 1)));
    let first = world.last.clone();
    let tag = world.send(&refresh(&answer.tag())).tag();
    world.advance(2_000);
    assert_eq!(world.send_bytes(&first), answer);
    assert_eq!(world.send(&refresh(&tag)).status, 200);
    assert_eq!(world.compositor.counters().taken_over, 0);
}

#[test]
fn a_full_table_says_when_to_come_again() {
    let config = CompositorConfig {
        max_servers: 2,
        ..config(&["example.com"])
    };
    let mut world = World::new(config);
    let tag = world.send(&initial(&server("p1", 1))).tag();
    assert_eq!(world.send(&initial(&server("p2", 1))).status, 200);
    let answer = world.send(&initial(&server("p3", 1)));
    assert_eq!(
        (answer.status, answer.header("Retry-After")),
        (503, Some("60"))
    );
    assert_eq!(
        world.send(&initial(&server("p2", 1))).status,
        200,
        "it is known"
    );
    assert_eq!(world.send(&remove(&tag)).status, 200);
    assert_eq!(world.send(&initial(&server("p3", 1))).status, 200);
    // Deleted ones are bounded as well: the oldest goes first.
    for id in ["q1", "q2", "q3"] {
        let known = world
            .view()
            .entries
            .iter()
            .find(|entry| !entry.deleted)
            .cloned()
            .unwrap();
        let tag = world.send(&initial(&known.server)).tag();
        assert_eq!(world.send(&remove(&tag)).status, 200);
        assert_eq!(world.send(&initial(&server(id, 1))).status, 200);
        world.advance(1);
    }
    let view = world.view();
    assert_eq!(view.entries.len(), 4);
    assert!(view.find("p1").is_none());
}

#[test]
fn mutated_requests_never_panic_and_never_publish_without_an_answer() {
    let seed = match std::env::var("FANFARE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("FANFARE_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::one();
    let tag = world.send(&initial(&server("p1", 1))).tag();
    let whole = world.last.clone();
    world.send(&modify(&tag, &server("p1", 2)));
    let corpus = [whole, world.last.clone()];
    for round in 0..3_000 {
        let mut bytes = corpus[round % 2].clone();
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[place] = random.random(),
                1 => drop(bytes.drain(place..(place + random.random_range(0..9)).min(bytes.len()))),
                _ => bytes.insert(place, b"\r\n <\";:,="[random.random_range(0..9)]),
            }
        }
        let before = world.view().revision;
        let answer = world.send_bytes(&bytes);
        let is_changed = world.view().revision != before;
        assert!(
            !is_changed || answer.status == 200,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        world.advance(random.random_range(0..2_000));
    }
}
