//! A publisher against a notifier of a few lines, in virtual time.

use super::*;
use crate::info::{Address, AddressTransport, Stamp, Status};
use crate::sip::request::Request;
use crate::sip::scan::{Name, scan};
use crate::sip::write::Responder;
use crate::wire::Transport;

fn notifier() -> SocketAddr {
    ([127, 0, 0, 1], 5060).into()
}

fn sent(publisher: &mut Publisher) -> Option<Vec<u8>> {
    publisher.next_message().map(|message| message.bytes)
}

fn publisher() -> Publisher {
    publisher_at(Vec::new())
}

fn publisher_at(notifiers: Vec<SocketAddr>) -> Publisher {
    let server = Server {
        id: "p1".into(),
        status: Status::Up,
        load: Some(20),
        priority: 0,
        weight: 1,
        updated: Stamp {
            ms: 0,
            counter: 0,
            node: "-".into(),
        },
        addresses: vec![Address {
            ip: [192, 0, 2, 1].into(),
            port: 5060,
            transport: AddressTransport::Udp,
            host: None,
            service: None,
        }],
        services: vec!["proxy".into()],
        attributes: Vec::new(),
    };
    let local = Local {
        transport: Transport::Udp,
        address: ([127, 0, 0, 1], 5070).into(),
    };
    let publisher = Publisher::new("example.com", server, 12, local, Chance::new(1));
    let mut publisher = publisher.among(notifiers);
    publisher.advance(0);
    publisher
}

/// What a request says: If-Match, Expires, body.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    if_match: Option<String>,
    expires: Option<u32>,
    load: Option<Option<u8>>,
}

fn said(bytes: &[u8]) -> Said {
    let message = scan(bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    assert_eq!(request.event.unwrap().package, EVENT_PACKAGE.as_bytes());
    assert_eq!(request.uri, b"sip:example.com");
    let load = (!request.body.is_empty()).then(|| {
        let publication = crate::info::publication(request.body, Format::Xml).unwrap();
        assert_eq!(publication.domain, "example.com");
        publication.server.load
    });
    Said {
        if_match: request
            .if_match
            .map(|tag| String::from_utf8(tag.to_vec()).unwrap()),
        expires: request.expires,
        load,
    }
}

fn answer(request: &[u8], status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let message = scan(request).unwrap();
    let mut out = Vec::new();
    let responder = Responder::new(&message, status, ([127, 0, 0, 1], 5070).into());
    let mut response = responder.to_tag(b"t").begin(&mut out).unwrap();
    for (name, value) in headers {
        response.header(name, value.as_bytes());
    }
    response.finish();
    out
}

fn accept(publisher: &mut Publisher, now_ms: u64, tag: &str) -> Said {
    let request = sent(publisher).expect("a request");
    let headers = [("SIP-ETag", tag), ("Expires", "12")];
    publisher.receive(now_ms, notifier(), &answer(&request, 200, &headers));
    said(&request)
}

fn initial(load: u8) -> Said {
    Said {
        if_match: None,
        expires: Some(12),
        load: Some(Some(load)),
    }
}

#[test]
fn an_entry_is_published_refreshed_at_a_third_of_its_lease_and_removed() {
    let mut publisher = publisher();
    assert_eq!(accept(&mut publisher, 0, "a"), initial(20));
    assert_eq!(
        publisher.next_event(),
        Some(Event::Published { expires_s: 12 })
    );
    assert_eq!(publisher.deadline_ms(), Some(4_000));
    publisher.advance(4_000);
    let refresh = Said {
        if_match: Some("a".into()),
        expires: Some(12),
        load: None,
    };
    assert_eq!(accept(&mut publisher, 4_000, "b"), refresh);
    publisher.stop(5_000);
    let removal = sent(&mut publisher).unwrap();
    let expected = Said {
        if_match: Some("b".into()),
        expires: Some(0),
        load: None,
    };
    assert_eq!(said(&removal), expected);
    publisher.receive(5_000, notifier(), &answer(&removal, 200, &[]));
    assert_eq!(publisher.next_event(), Some(Event::Removed));
    assert_eq!(publisher.deadline_ms(), None);
}

#[test]
fn load_is_published_at_once_when_it_moved_by_five_points_else_with_the_refresh() {
    let mut publisher = publisher();
    accept(&mut publisher, 0, "a");
    publisher.set_load(1_000, Some(24));
    assert_eq!(sent(&mut publisher), None);
    publisher.set_load(2_000, Some(25));
    let modify = |tag: &str, load| Said {
        if_match: Some(tag.into()),
        expires: Some(12),
        load: Some(Some(load)),
    };
    assert_eq!(accept(&mut publisher, 2_000, "b"), modify("a", 25));
    publisher.set_load(3_000, Some(27));
    publisher.advance(6_000);
    assert_eq!(accept(&mut publisher, 6_000, "c"), modify("b", 27));
}

#[test]
fn load_that_moves_while_a_request_is_out_waits_for_its_answer() {
    let mut publisher = publisher();
    publisher.set_load(100, Some(90));
    assert_eq!(accept(&mut publisher, 200, "a"), initial(20));
    let modify = Said {
        if_match: Some("a".into()),
        expires: Some(12),
        load: Some(Some(90)),
    };
    assert_eq!(accept(&mut publisher, 300, "b"), modify);
    assert_eq!(sent(&mut publisher), None);
}

#[test]
fn a_412_discards_the_tag_and_publishes_afresh() {
    let mut publisher = publisher();
    accept(&mut publisher, 0, "a");
    publisher.advance(4_000);
    let refresh = sent(&mut publisher).unwrap();
    publisher.receive(4_000, notifier(), &answer(&refresh, 412, &[]));
    assert_eq!(accept(&mut publisher, 4_000, "b"), initial(20));
    assert_eq!(
        publisher.next_event(),
        Some(Event::Published { expires_s: 12 })
    );
    assert_eq!(publisher.next_event(), None);
}

#[test]
fn a_423_raises_expires_to_what_is_the_least() {
    let mut publisher = publisher();
    let first = sent(&mut publisher).unwrap();
    publisher.receive(
        0,
        notifier(),
        &answer(&first, 423, &[("Min-Expires", "60")]),
    );
    let second = sent(&mut publisher).unwrap();
    assert_eq!(said(&second).expires, Some(60));
    publisher.receive(
        0,
        notifier(),
        &answer(&second, 423, &[("Min-Expires", "60")]),
    );
    let Some(Event::Rejected(refusal)) = publisher.next_event() else {
        panic!("a 423 that asks for no more is no help");
    };
    assert_eq!(refusal.status, 423);
}

#[test]
fn a_refusal_names_status_and_warning() {
    let mut publisher = publisher();
    let request = sent(&mut publisher).unwrap();
    let warning = [("Warning", "399 n1 \"not from here\"")];
    publisher.receive(0, notifier(), &answer(&request, 403, &warning));
    let Some(Event::Rejected(refusal)) = publisher.next_event() else {
        panic!("403 is the end");
    };
    assert_eq!(refusal.to_string(), "403 Forbidden (not from here)");
    assert_eq!(publisher.deadline_ms(), None);
}

#[test]
fn a_503_is_obeyed_in_its_retry_after() {
    let mut publisher = publisher();
    let request = sent(&mut publisher).unwrap();
    publisher.receive(
        0,
        notifier(),
        &answer(&request, 503, &[("Retry-After", "7")]),
    );
    assert!(matches!(publisher.next_event(), Some(Event::Failing(_))));
    assert_eq!(publisher.deadline_ms(), Some(7_000));
    publisher.advance(7_000);
    assert_eq!(accept(&mut publisher, 7_000, "a"), initial(20));
}

#[test]
fn lost_requests_and_answers_are_repeated_and_change_nothing() {
    let mut publisher = publisher();
    let first = sent(&mut publisher).unwrap();
    publisher.advance(500);
    let second = sent(&mut publisher).unwrap();
    assert_eq!(first, second);
    let ok = answer(&second, 200, &[("SIP-ETag", "a"), ("Expires", "12")]);
    publisher.receive(600, notifier(), &ok);
    publisher.receive(700, notifier(), &ok);
    assert_eq!(
        publisher.next_event(),
        Some(Event::Published { expires_s: 12 })
    );
    assert_eq!(publisher.next_event(), None);
    assert_eq!(publisher.deadline_ms(), Some(4_600));
}

#[test]
fn a_silent_notifier_is_reported_once_and_asked_until_it_answers() {
    let mut publisher = publisher();
    accept(&mut publisher, 0, "a");
    publisher.next_event();
    let mut asked = 0;
    while publisher.deadline_ms().is_some_and(|at| at < 100_000) {
        publisher.advance(publisher.deadline_ms().unwrap());
        asked += std::iter::from_fn(|| sent(&mut publisher)).count();
    }
    assert!(asked > 20, "asked {asked} times");
    assert_eq!(
        publisher.next_event(),
        Some(Event::Failing(Trouble::Silent))
    );
    assert_eq!(publisher.next_event(), None);
    while publisher.outbox.is_empty() {
        publisher.advance(publisher.deadline_ms().unwrap());
    }
    // The lease ended meanwhile, and with it the tag.
    assert_eq!(accept(&mut publisher, 110_000, "b"), initial(20));
    assert_eq!(
        publisher.next_event(),
        Some(Event::Restored { expires_s: 12 })
    );
}

#[test]
fn stopping_waits_for_the_tag_of_a_request_that_is_out() {
    let mut publisher = publisher();
    publisher.stop(100);
    accept(&mut publisher, 200, "a");
    let removal = Said {
        if_match: Some("a".into()),
        expires: Some(0),
        load: None,
    };
    assert_eq!(said(&sent(&mut publisher).unwrap()), removal);
}

#[test]
fn a_lost_connection_ends_the_transaction_and_is_tried_again() {
    let mut publisher = publisher();
    sent(&mut publisher);
    publisher.disconnected(10);
    assert_eq!(
        publisher.next_event(),
        Some(Event::Failing(Trouble::Disconnected))
    );
    let again_ms = publisher.deadline_ms().unwrap();
    assert!((760..=1_010).contains(&again_ms), "{again_ms}");
    publisher.advance(again_ms);
    assert!(sent(&mut publisher).is_some());
}

#[test]
fn answers_of_other_transactions_are_dropped() {
    let mut publisher = publisher();
    let request = String::from_utf8(sent(&mut publisher).unwrap()).unwrap();
    let other = request.replacen("z9hG4bK", "z9hG4bKx", 1);
    publisher.receive(
        0,
        notifier(),
        &answer(other.as_bytes(), 200, &[("SIP-ETag", "a")]),
    );
    assert_eq!(publisher.next_event(), None);
    let message = scan(request.as_bytes()).unwrap();
    assert!(message.first(Name::SipIfMatch).is_none());
}

fn three() -> [SocketAddr; 3] {
    [1, 2, 3].map(|node| ([192, 0, 2, node], 5060).into())
}

/// Drives it to its next deadline.
fn go_on(publisher: &mut Publisher) -> u64 {
    let now_ms = publisher.deadline_ms().expect("it lives");
    publisher.advance(now_ms);
    now_ms
}

#[test]
fn where_a_notifier_is_silent_the_next_gets_the_same() {
    let [first, second, _] = three();
    let mut publisher = publisher_at(three().into());
    assert_eq!(publisher.peer(), Some(first));
    accept(&mut publisher, 0, "a");
    publisher.set_load(3_000, Some(60));
    let modify = sent(&mut publisher).expect("a modification");
    assert_eq!(go_on(&mut publisher), 3_500);
    assert_eq!(sent(&mut publisher), Some(modify.clone()), "Timer E");
    assert_eq!(go_on(&mut publisher), 4_000);
    assert_eq!(publisher.peer(), Some(second));
    assert_eq!(go_on(&mut publisher), 4_000, "once there is a way");
    let again = sent(&mut publisher).expect("the same");
    assert_eq!(said(&again), said(&modify));
    assert_ne!(again, modify, "a transaction of its own");
    // What the first says now counts no more.
    publisher.receive(4_100, first, &answer(&modify, 200, &[("SIP-ETag", "x")]));
    let headers = [("SIP-ETag", "b"), ("Expires", "12")];
    publisher.receive(4_200, second, &answer(&again, 200, &headers));
    assert_eq!(go_on(&mut publisher), 8_200);
    let refresh = said(&sent(&mut publisher).expect("a refresh"));
    assert_eq!((refresh.if_match, refresh.load), (Some("b".into()), None));
    assert_eq!(publisher.peer(), Some(second), "it stays");
    assert_eq!(
        publisher.next_event(),
        Some(Event::Published { expires_s: 12 })
    );
    assert_eq!(publisher.next_event(), None, "nothing is failing");
}

#[test]
fn a_temporary_refusal_is_taken_to_the_next_and_said_once_all_have_refused() {
    let mut publisher = publisher_at(three().into());
    for notifier in three() {
        assert_eq!(publisher.next_event(), None);
        assert_eq!(publisher.peer(), Some(notifier));
        let request = sent(&mut publisher).expect("a request");
        assert_eq!(said(&request), initial(20));
        let refusal = answer(&request, 503, &[("Retry-After", "7")]);
        publisher.receive(0, notifier, &refusal);
        let due = if notifier == three()[2] { 7_000 } else { 0 };
        assert_eq!(go_on(&mut publisher), due);
    }
    assert!(matches!(
        publisher.next_event(),
        Some(Event::Failing(Trouble::Refused(_)))
    ));
    assert_eq!(publisher.peer(), Some(three()[0]));
    assert_eq!(accept(&mut publisher, 7_000, "a"), initial(20));
}

#[test]
fn while_all_are_silent_each_is_asked_and_ever_more_seldom() {
    let mut publisher = publisher_at(three().into());
    let mut asked = Vec::new();
    let mut now_ms = 0;
    while now_ms < 20_000 {
        if sent(&mut publisher).is_some() {
            asked.push((now_ms, publisher.at));
        }
        now_ms = go_on(&mut publisher);
    }
    // Retransmissions of Timer E among them.
    asked.dedup_by_key(|(_, at)| *at);
    let expected = [
        (0, 0),
        (1_000, 1),
        (2_000, 2),
        (3_000, 0),
        (5_000, 1),
        (7_000, 2),
        (9_000, 0),
        (13_000, 1),
        (17_000, 2),
    ];
    assert_eq!(asked, expected);
    assert_eq!(
        publisher.next_event(),
        Some(Event::Failing(Trouble::Silent))
    );
    assert_eq!(publisher.next_event(), None);
}

#[test]
fn what_was_not_taken_is_told_again_with_the_next_attempt() {
    let mut publisher = publisher();
    accept(&mut publisher, 0, "a");
    publisher.set_load(1_000, Some(60));
    let modify = sent(&mut publisher).expect("a modification");
    publisher.receive(1_000, notifier(), &answer(&modify, 503, &[]));
    let now_ms = go_on(&mut publisher);
    let again = accept(&mut publisher, now_ms, "b");
    assert_eq!(again, said(&modify));
}

#[test]
fn what_may_stand_is_not_said_to_be_removed() {
    // The 200 to a refresh got lost, and the next node knows the tag no more.
    let mut publisher = publisher_at(three().into());
    accept(&mut publisher, 0, "a");
    assert_eq!(
        publisher.next_event(),
        Some(Event::Published { expires_s: 12 })
    );
    publisher.advance(4_000);
    while publisher.peer() == Some(three()[0]) {
        go_on(&mut publisher);
    }
    while sent(&mut publisher).is_some() {}
    publisher.stop(5_000);
    let removal = sent(&mut publisher).expect("a removal");
    assert_eq!(said(&removal).expires, Some(0));
    publisher.receive(5_100, three()[1], &answer(&removal, 412, &[]));
    assert_eq!(
        (publisher.next_event(), publisher.deadline_ms()),
        (None, None)
    );
}

#[test]
fn a_403_to_one_of_several_after_it_was_allowed_is_tried_again() {
    let mut publisher = publisher_at(three().into());
    accept(&mut publisher, 0, "a");
    publisher.advance(4_000);
    let refresh = sent(&mut publisher).expect("a refresh");
    publisher.receive(4_000, three()[0], &answer(&refresh, 412, &[]));
    let again = sent(&mut publisher).expect("afresh");
    publisher.receive(4_000, three()[0], &answer(&again, 403, &[]));
    let now_ms = go_on(&mut publisher);
    assert_eq!(accept(&mut publisher, now_ms, "b"), initial(20));
}
