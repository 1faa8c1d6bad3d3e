//! A subscription against a notifier of a few lines, in virtual time.

use super::*;
use crate::info::DocumentEntry;
use crate::sip::request::Request;
use crate::sip::write::Responder;
use crate::wire::Transport;

const NOTIFIER: &str = "192.0.2.1:5060";

fn notifier() -> SocketAddr {
    NOTIFIER.parse().unwrap()
}

/// A subscription and the notifier's side of its dialog.
struct World {
    subscription: Subscription,
    call_id: String,
    subscriber_tag: String,
    cseq: u32,
}

fn wish(expires_s: u32) -> Wish {
    Wish {
        domain: "example.com".to_owned(),
        filter: None,
        expires_s,
    }
}

impl World {
    /// A subscription whose first SUBSCRIBE was taken, not yet answered, and that SUBSCRIBE.
    fn begin(wish: Wish) -> (World, Vec<u8>) {
        let local = Local {
            transport: Transport::Udp,
            address: ([192, 0, 2, 7], 5070).into(),
        };
        let mut subscription = Subscription::new(wish, local, Chance::new(3));
        subscription.advance(0);
        let mut world = World {
            subscription,
            call_id: String::new(),
            subscriber_tag: String::new(),
            cseq: 0,
        };
        let subscribe = world.opening();
        (world, subscribe)
    }

    /// One that runs since 0, with view 1 of one server.
    fn running() -> World {
        let (mut world, subscribe) = World::begin(wish(100));
        world.answer(0, &subscribe, 200, &[("Expires", "100")]);
        assert_eq!(
            world.notify(0, "active;expires=100", Some(&full(1, 1, &["a"]))),
            Some(200)
        );
        let events = world.events();
        assert_eq!(events, [Event::View]);
        world
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.subscription
            .next_message()
            .map(|message| message.bytes)
    }

    /// Takes a SUBSCRIBE that begins a dialog.
    fn opening(&mut self) -> Vec<u8> {
        let subscribe = self.sent().expect("a SUBSCRIBE");
        let message = scan(&subscribe).unwrap();
        let request = Request::parse(&message).unwrap();
        assert_eq!((request.to_tag(), request.cseq.number), (None, 1));
        self.call_id = String::from_utf8(request.call_id.to_vec()).unwrap();
        self.subscriber_tag = String::from_utf8(request.from_tag().unwrap().to_vec()).unwrap();
        self.cseq = 100;
        drop(message);
        subscribe
    }

    fn answer(&mut self, now_ms: u64, request: &[u8], status: u16, headers: &[(&str, &str)]) {
        let message = scan(request).unwrap();
        let mut out = Vec::new();
        let responder = Responder::new(&message, status, ([192, 0, 2, 7], 5070).into());
        let mut response = responder.to_tag(b"n").begin(&mut out).unwrap();
        for (name, value) in headers {
            response.header(name, value.as_bytes());
        }
        response.finish();
        self.subscription.receive(now_ms, notifier(), &out);
    }

    /// The next NOTIFY, and the status of its answer.
    fn notify(&mut self, now_ms: u64, state: &str, body: Option<&str>) -> Option<u16> {
        self.cseq += 1;
        let notify = self.text(state, body);
        self.give(now_ms, &notify)
    }

    fn text(&self, state: &str, body: Option<&str>) -> String {
        let World {
            call_id,
            subscriber_tag,
            cseq,
            ..
        } = self;
        let body = body.unwrap_or_default();
        let length = body.len();
        let content_type = if length > 0 {
            "Content-Type: application/serverinfo+xml\r\n"
        } else {
            ""
        };
        format!(
            "NOTIFY sip:fanfare@192.0.2.7:5070 SIP/2.0\r\nVia: SIP/2.0/UDP {NOTIFIER};branch=z9hG4bK{cseq};rport\r\n\
            Max-Forwards: 70\r\nFrom: <sip:example.com>;tag=n\r\nTo: <sip:fanfare@x>;tag={subscriber_tag}\r\n\
            Call-ID: {call_id}\r\nCSeq: {cseq} NOTIFY\r\nContact: <sip:{NOTIFIER};gr=1>\r\nEvent: SIPserver\r\n\
            Subscription-State: {state}\r\n{content_type}Content-Length: {length}\r\n\r\n{body}"
        )
    }

    /// Hands over a request; the status of its answer.
    fn give(&mut self, now_ms: u64, request: &str) -> Option<u16> {
        self.subscription
            .receive(now_ms, notifier(), request.as_bytes());
        let answer = self.subscription.outbox.pop_back()?;
        assert_eq!(answer.to, Some(notifier()));
        Some(Response::parse(&answer.bytes).expect("an answer").status)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.subscription.next_event()).collect()
    }

    /// Lets time pass to the next deadline; when that was.
    fn pass(&mut self) -> u64 {
        let now_ms = self.subscription.deadline_ms().expect("not over");
        self.subscription.advance(now_ms);
        now_ms
    }

    fn ids(&self) -> Vec<String> {
        let entries = self.subscription.table().entries();
        entries
            .filter(|entry| matches!(entry, DocumentEntry::Server(_)))
            .map(|entry| entry.id().to_string())
            .collect()
    }
}

fn document(version: u32, view: u64, rest: &str, ids: &[&str]) -> String {
    let servers: String = ids
        .iter()
        .map(|id| {
            format!(
                "<server id=\"{id}\" status=\"up\" updated=\"{view}.0.n1\">\
                <address ip=\"192.0.2.9\" port=\"5060\" transport=\"udp\"/></server>"
            )
        })
        .collect();
    format!(
        "<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"example.com\" notifier=\"n1@1\" \
        version=\"{version}\" view=\"{view}\" {rest}>{servers}</serverinfo>"
    )
}

fn full(version: u32, view: u64, ids: &[&str]) -> String {
    document(version, view, "state=\"full\"", ids)
}

fn partial(version: u32, base: u64, view: u64, ids: &[&str]) -> String {
    document(
        version,
        view,
        &format!("state=\"partial\" base=\"{base}\""),
        ids,
    )
}

/// The Expires and To-tag of a SUBSCRIBE.
fn said(bytes: &[u8]) -> (Option<u32>, Option<String>) {
    let message = scan(bytes).unwrap();
    let request = Request::parse(&message).unwrap();
    let tag = request
        .to_tag()
        .map(|tag| String::from_utf8(tag.to_vec()).unwrap());
    (request.expires, tag)
}

#[test]
fn a_subscription_shows_what_it_is_told_and_refreshes_before_it_ends() {
    let mut world = World::running();
    assert_eq!(world.ids(), ["a"]);
    let refresh_ms = world.pass();
    assert!((50_000..90_000).contains(&refresh_ms), "{refresh_ms}");
    let refresh = world.subscription.next_message().unwrap();
    assert_eq!(refresh.to, Some(notifier()));
    assert_eq!(said(&refresh.bytes), (Some(100), Some("n".to_owned())));
    world.answer(refresh_ms, &refresh.bytes, 200, &[("Expires", "100")]);
    assert!(world.subscription.deadline_ms().unwrap() >= refresh_ms + 50_000);
}

#[test]
fn a_notify_may_come_before_the_2xx() {
    let (mut world, subscribe) = World::begin(wish(100));
    assert_eq!(
        world.notify(5, "active;expires=100", Some(&full(1, 1, &["a"]))),
        Some(200)
    );
    assert_eq!(world.events(), [Event::View]);
    world.answer(10, &subscribe, 200, &[("Expires", "100")]);
    assert_eq!(
        world.notify(20, "active;expires=100", Some(&partial(2, 1, 2, &["b"]))),
        Some(200)
    );
    assert_eq!(world.ids(), ["a", "b"]);
}

#[test]
fn a_repeated_notify_is_answered_again_and_applied_once() {
    let mut world = World::running();
    let body = partial(2, 1, 2, &["b"]);
    assert_eq!(
        world.notify(10, "active;expires=90", Some(&body)),
        Some(200)
    );
    let again = world.text("active;expires=90", Some(&body));
    assert_eq!(world.give(20, &again), Some(200));
    assert_eq!(world.events(), [Event::View]);
    world.cseq -= 1;
    let older = world.text("active;expires=90", Some(&full(1, 1, &[])));
    assert_eq!(world.give(30, &older), Some(500));
    assert_eq!(world.ids(), ["a", "b"]);
}

#[test]
fn a_gap_is_answered_200_dropped_and_asked_about() {
    let mut world = World::running();
    assert_eq!(
        world.notify(10, "active;expires=90", Some(&partial(3, 2, 3, &["c"]))),
        Some(200)
    );
    assert_eq!(world.ids(), ["a"]);
    assert_eq!(world.pass(), 10);
    let refresh = world.sent().unwrap();
    assert_eq!(said(&refresh).0, Some(100));
    world.answer(12, &refresh, 200, &[("Expires", "100")]);
    assert_eq!(
        world.notify(13, "active;expires=100", Some(&full(4, 3, &["a", "c"]))),
        Some(200)
    );
    assert_eq!(world.ids(), ["a", "c"]);
}

#[test]
fn gaps_in_a_row_ask_once_a_second() {
    let mut world = World::running();
    let mut asked = 0;
    for step in 0..50 {
        let now_ms = step * 100;
        world.notify(now_ms, "active;expires=90", Some(&partial(9, 8, 9, &[])));
        world.subscription.advance(now_ms);
        while let Some(refresh) = world.sent() {
            asked += 1;
            world.answer(now_ms, &refresh, 200, &[("Expires", "90")]);
        }
    }
    assert!((4..=6).contains(&asked), "asked {asked} times in 5 s");
}

#[test]
fn what_is_not_for_this_subscription_is_refused() {
    let mut world = World::running();
    world.cseq += 1;
    let good = world.text("active;expires=90", None);
    let tag = format!("tag={}", world.subscriber_tag);
    for (from, to, status) in [
        ("Event: SIPserver", "Event: presence", 489),
        ("Event: SIPserver\r\n", "", 489),
        ("Event: SIPserver", "Event: SIPserver;id=7", 481),
        ("Call-ID: ", "Call-ID: x", 481),
        (tag.as_str(), "tag=other", 481),
        (";tag=n\r\n", ";tag=m\r\n", 481),
        ("NOTIFY", "MESSAGE", 405),
        ("NOTIFY", "CANCEL", 481),
        ("NOTIFY", "WINK", 501),
        ("active;expires=90", "", 400),
    ] {
        let mut other = good.replace(from, to);
        assert_ne!(other, good, "{from}");
        world.cseq += 1;
        other = other.replace(
            &format!("CSeq: {} ", world.cseq - 1),
            &format!("CSeq: {} ", world.cseq),
        );
        assert_eq!(world.give(10, &other), Some(status), "{from} -> {to}");
    }
    assert!(world.events().is_empty());
}

#[test]
fn a_body_that_is_no_document_is_refused() {
    let mut world = World::running();
    assert_eq!(
        world.notify(10, "active;expires=90", Some("<serverinfo")),
        Some(400)
    );
    let text = world.text("active;expires=90", Some("x"));
    let other = text.replace("serverinfo+xml", "sdp").replace(
        &format!("CSeq: {}", world.cseq),
        &format!("CSeq: {}", world.cseq + 1),
    );
    assert_eq!(world.give(10, &other), Some(415));
    assert_eq!(world.ids(), ["a"]);
}

#[test]
fn silence_is_reported_once_and_a_new_dialog_is_tried_until_it_ends() {
    let (mut world, _) = World::begin(wish(100));
    let mut now_ms = 0;
    while now_ms < 120_000 {
        now_ms = world.pass();
    }
    assert_eq!(world.events(), [Event::Failing(Trouble::Silent)]);
    let mut last = None;
    while let Some(message) = world.sent() {
        last = Some(message);
    }
    let message = last.expect("it goes on asking");
    world.subscription.outbox.push_back(Outgoing {
        to: None,
        bytes: message,
    });
    let subscribe = world.opening();
    world.answer(now_ms, &subscribe, 200, &[("Expires", "100")]);
    assert_eq!(
        world.notify(now_ms, "active;expires=100", Some(&full(1, 1, &["a"]))),
        Some(200)
    );
    assert_eq!(world.events(), [Event::View, Event::Restored]);
}

#[test]
fn who_notifies_is_not_silent_however_late_its_answer_is() {
    let (mut world, subscribe) = World::begin(wish(100));
    let body = full(1, 1, &["a"]);
    assert_eq!(
        world.notify(10, "active;expires=100", Some(&body)),
        Some(200)
    );
    let mut now_ms = 0;
    while now_ms < 20_000 {
        now_ms = world.pass();
    }
    world.answer(now_ms, &subscribe, 200, &[("Expires", "100")]);
    assert_eq!(world.events(), [Event::View]);
}

#[test]
fn a_2xx_without_notify_fails_with_timer_n() {
    let (mut world, subscribe) = World::begin(wish(100));
    world.answer(10, &subscribe, 200, &[("Expires", "100")]);
    assert_eq!(world.pass(), 32_000);
    assert_eq!(world.events(), [Event::Failing(Trouble::NoNotify)]);
    world.pass();
    let call_id = world.call_id.clone();
    world.opening();
    assert_ne!(world.call_id, call_id);
}

#[test]
fn a_refresh_answered_481_begins_a_new_dialog_at_once() {
    let mut world = World::running();
    let now_ms = world.pass();
    let refresh = world.sent().unwrap();
    world.answer(now_ms, &refresh, 481, &[]);
    world.opening();
    assert_eq!(
        world.notify(now_ms, "active;expires=100", Some(&full(1, 7, &["b"]))),
        Some(200)
    );
    assert_eq!(world.ids(), ["b"]);
}

#[test]
fn a_refresh_that_fails_otherwise_is_tried_again_while_the_subscription_lasts() {
    let mut world = World::running();
    let now_ms = world.pass();
    let refresh = world.sent().unwrap();
    world.answer(now_ms, &refresh, 503, &[("Retry-After", "3")]);
    assert_eq!(world.pass(), now_ms + 3_000);
    let again = world.sent().unwrap();
    assert_eq!(said(&again).1.as_deref(), Some("n"));
    world.answer(now_ms + 3_000, &again, 200, &[("Expires", "100")]);
    let events = world.events();
    assert!(
        matches!(
            events[..],
            [Event::Failing(Trouble::Refused(_)), Event::Restored]
        ),
        "{events:?}"
    );
}

#[test]
fn how_a_subscription_was_terminated_says_what_comes_next() {
    for (state, now_ms, earliest_ms, latest_ms) in [
        ("terminated;reason=deactivated", 5_000, 5_000, 5_000),
        ("terminated;reason=timeout", 5_000, 5_000, 5_000),
        ("terminated;reason=deactivated", 500, 1_250, 1_500),
        (
            "terminated;reason=probation;retry-after=7",
            5_000,
            12_000,
            12_000,
        ),
        ("terminated;reason=giveup", 5_000, 5_750, 6_000),
        ("terminated", 5_000, 5_750, 6_000),
    ] {
        let mut world = World::running();
        assert_eq!(world.notify(now_ms, state, None), Some(200));
        let mut at_ms = now_ms;
        while world.subscription.outbox.is_empty() {
            at_ms = world.pass();
        }
        assert!(
            (earliest_ms..=latest_ms).contains(&at_ms),
            "{state}: {at_ms}"
        );
        world.opening();
    }
    for ending in [Ending::Rejected, Ending::NoResource, Ending::Invariant] {
        let mut world = World::running();
        let state = format!("terminated;reason={}", ending.as_str());
        assert_eq!(world.notify(10, &state, None), Some(200));
        assert_eq!(world.events(), [Event::Notified, Event::Terminated(ending)]);
        assert_eq!(world.subscription.deadline_ms(), None);
    }
}

#[test]
fn refusals_of_the_first_subscribe_end_it_or_wait() {
    let (mut world, subscribe) = World::begin(wish(100));
    world.answer(0, &subscribe, 403, &[("Warning", "399 n \"not you\"")]);
    let [Event::Refused(refusal)] = &world.events()[..] else {
        panic!("403 is the end");
    };
    assert_eq!(refusal.to_string(), "403 Forbidden (not you)");

    let (mut world, subscribe) = World::begin(wish(100));
    world.answer(0, &subscribe, 423, &[("Min-Expires", "300")]);
    let raised = world.sent().unwrap();
    assert_eq!(said(&raised), (Some(300), None));

    let (mut world, subscribe) = World::begin(wish(100));
    world.answer(0, &subscribe, 503, &[("Retry-After", "9")]);
    assert_eq!(world.pass(), 9_000);
    world.opening();
}

#[test]
fn unsubscribing_ends_with_the_last_notify() {
    let mut world = World::running();
    world.subscription.stop(10);
    let subscribe = world.sent().unwrap();
    assert_eq!(said(&subscribe), (Some(0), Some("n".to_owned())));
    world.answer(20, &subscribe, 200, &[("Expires", "0")]);
    assert!(world.events().is_empty());
    let last = full(2, 1, &["a"]);
    assert_eq!(
        world.notify(30, "terminated;reason=timeout", Some(&last)),
        Some(200)
    );
    assert_eq!(world.events(), [Event::Notified, Event::Over]);
    let again = world.text("terminated;reason=timeout", Some(&last));
    assert_eq!(world.give(40, &again), Some(200));
    assert!(world.events().is_empty());
}

#[test]
fn a_fetch_ends_when_the_whole_table_is_there() {
    let (mut world, subscribe) = World::begin(wish(0));
    assert_eq!(said(&subscribe).0, Some(0));
    world.answer(0, &subscribe, 200, &[("Expires", "0")]);
    let part = |version, part: u32, id: &str| {
        document(
            version,
            4,
            &format!("state=\"full\" part=\"{part}\" parts=\"2\""),
            &[id],
        )
    };
    assert_eq!(
        world.notify(1, "active;expires=32", Some(&part(1, 1, "a"))),
        Some(200)
    );
    assert_eq!(world.events(), [Event::Notified]);
    assert_eq!(
        world.notify(2, "terminated;reason=timeout", Some(&part(2, 2, "b"))),
        Some(200)
    );
    assert_eq!(world.events(), [Event::View, Event::Over]);
    assert_eq!(world.ids(), ["a", "b"]);
}

#[test]
fn a_filter_goes_with_the_first_subscribe_only() {
    let filter = Filter::new(vec!["turn".into()], Vec::new(), Vec::new(), None).unwrap();
    let mut wish = wish(100);
    wish.filter = Some(filter.clone());
    let (mut world, subscribe) = World::begin(wish);
    let body = |bytes: &[u8]| scan(bytes).unwrap().body.to_vec();
    assert_eq!(Filter::parse(&body(&subscribe)), Ok(filter));
    world.answer(0, &subscribe, 200, &[("Expires", "100")]);
    world.notify(0, "active;expires=100", Some(&full(1, 1, &[])));
    world.pass();
    assert_eq!(body(&world.sent().unwrap()), b"");
}

#[test]
fn a_lost_connection_begins_a_new_dialog() {
    let mut world = World::running();
    world.subscription.disconnected(5_000);
    assert_eq!(world.events(), [Event::Failing(Trouble::Disconnected)]);
    assert!(world.pass() >= 5_750);
    world.opening();
}

#[test]
fn endings_that_leave_nobody_serving_are_told_and_others_are_not() {
    for (state, told) in [
        ("terminated;reason=deactivated", Some("deactivated")),
        (
            "terminated;reason=probation;retry-after=7",
            Some("probation"),
        ),
        ("terminated;reason=giveup", Some("giveup")),
        ("terminated", Some("no reason given")),
        ("terminated;reason=timeout", None),
    ] {
        let mut world = World::running();
        world.notify(5_000, state, None);
        let told = told.map(|reason| Event::Failing(Trouble::Ended(reason)));
        let expected: Vec<Event> = [Event::Notified].into_iter().chain(told).collect();
        assert_eq!(world.events(), expected, "{state}");
    }
}

#[test]
fn a_retry_after_is_neither_a_flood_nor_for_ever() {
    for (seconds, wait_ms) in [("0", 500), ("7", 7_000), ("4294967295", 3_600_000)] {
        let mut world = World::running();
        let state = format!("terminated;reason=probation;retry-after={seconds}");
        world.notify(5_000, &state, None);
        assert_eq!(world.subscription.deadline_ms(), Some(5_000 + wait_ms));
    }
}

#[test]
fn what_cannot_be_taken_is_asked_about_and_three_times_in_a_row_is_no_service() {
    let mut world = World::running();
    let other_domain = full(2, 2, &["x"]).replace("example.com", "example.org");
    let other_life = full(2, 2, &["x"]).replace("n1@1", "n1@2");
    let lies = [
        "<serverinfo",
        &other_domain,
        &other_life,
        &full(2, 0, &["x"]),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let now_ms = 10 + 2_000 * number as u64;
        world.notify(now_ms, "active;expires=100", Some(lie));
        let is_third = number == 2;
        let failing = |event: &Event| matches!(event, Event::Failing(Trouble::Nonsense(_)));
        assert_eq!(world.events().iter().any(failing), is_third, "{lie}");
        // It asks again, and a 2xx alone makes nothing good.
        let asked_ms = world.pass();
        assert!(asked_ms <= now_ms + 1_000, "{asked_ms}");
        let refresh = world.sent().expect("a SUBSCRIBE");
        world.answer(asked_ms, &refresh, 200, &[("Expires", "100")]);
        assert_eq!(world.events(), []);
        assert_eq!(world.subscription.is_failing(), number >= 2);
    }
    assert_eq!(world.ids(), ["a"], "the last good table");
    let good = full(9, 3, &["a", "b"]);
    world.notify(9_000, "active;expires=100", Some(&good));
    assert!(world.events().contains(&Event::Restored));
    assert_eq!(world.ids(), ["a", "b"]);
}

#[test]
fn what_was_dropped_while_a_refresh_was_answered_is_asked_for_still() {
    let mut world = World::running();
    let refresh_ms = world.pass();
    let refresh = world.sent().expect("a SUBSCRIBE");
    // The NOTIFY may come before the 2xx.
    world.notify(
        refresh_ms,
        "active;expires=100",
        Some(&partial(9, 8, 9, &["b"])),
    );
    world.answer(refresh_ms + 1, &refresh, 200, &[("Expires", "100")]);
    assert!(world.pass() <= refresh_ms + 1_000);
    assert!(world.sent().is_some());
}
