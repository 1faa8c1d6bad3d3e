//! Random servers, views and filters, and the example of the event package.

use std::net::IpAddr;
use std::sync::Arc;

use fanfare::info::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub fn stamp(text: &str) -> Stamp {
    text.parse().unwrap()
}

/// A server with one address and nothing else.
pub fn server(id: &str) -> Server {
    Server {
        id: id.into(),
        status: Status::Up,
        load: None,
        priority: 0,
        weight: 1,
        updated: stamp("1.0.n1"),
        addresses: vec![Address {
            ip: "192.0.2.1".parse().unwrap(),
            port: 5060,
            transport: AddressTransport::Udp,
            host: None,
            service: None,
        }],
        services: Vec::new(),
        attributes: Vec::new(),
    }
}

pub fn view(revision: u64, entries: Vec<Entry>) -> Arc<View> {
    let mut entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
    entries.sort_by(|one, other| one.server.id.as_bytes().cmp(other.server.id.as_bytes()));
    Arc::new(View {
        revision,
        entries,
        ..View::empty("example.com".into(), "n1@1795379461123".into())
    })
}

/// The table of event-package.md's examples.
pub fn example() -> Arc<View> {
    let p1 = Server {
        load: Some(37),
        priority: 10,
        weight: 60,
        updated: stamp("1795379461123.0.n1"),
        addresses: vec![
            server("p1").addresses[0].clone(),
            Address {
                ip: "2001:db8::1".parse().unwrap(),
                port: 5061,
                transport: AddressTransport::Tls,
                host: Some("p1.example.com".into()),
                service: Some("proxy".into()),
            },
        ],
        services: vec!["proxy".into()],
        attributes: vec![("region".into(), "eu-1".into())],
        ..server("p1")
    };
    let p2 = Server {
        updated: stamp("1795379460000.3.n2"),
        ..server("p2")
    };
    let entry = |server, deleted| Entry { server, deleted };
    view(42, vec![entry(p1, false), entry(p2, true)])
}

fn name() -> impl Strategy<Value = Box<str>> {
    "[A-Za-z0-9._-]{1,12}".prop_map(Into::into)
}

/// Text of every kind that is allowed, of at most 256 bytes.
fn text() -> impl Strategy<Value = Box<str>> {
    let any_legal = vec(
        prop_oneof![
            prop::sample::select(vec![
                '<', '>', '&', '"', '\'', '\\', '/', ']', ' ', '\t', '\n', '\r', ';', '#'
            ]),
            prop::char::range('!', '~'),
            prop::char::range('\u{a0}', '\u{d7ff}'),
            prop::char::range('\u{10000}', '\u{10ffff}'),
        ],
        0..40,
    );
    any_legal.prop_map(|chars| chars.into_iter().collect::<String>().into())
}

pub fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        4 => Just(Status::Up),
        1 => Just(Status::Draining),
        1 => Just(Status::Overloaded),
        1 => Just(Status::Down),
        1 => Just(Status::Other("resting".into())),
    ]
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    ("n[1-3]", 0u64..50, 0u32..3).prop_map(|(node, ms, counter)| Stamp {
        ms,
        counter,
        node: node.into(),
    })
}

fn address() -> impl Strategy<Value = Address> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    let transport = prop::sample::select(vec![
        AddressTransport::Udp,
        AddressTransport::Tcp,
        AddressTransport::Tls,
        AddressTransport::Ws,
        AddressTransport::Wss,
    ]);
    let host = option::of("[a-z0-9.-]{1,20}".prop_map(Into::into));
    (ip, 1u16.., transport, host, option::of(name())).prop_map(
        |(ip, port, transport, host, service)| Address {
            ip,
            port,
            transport,
            host,
            service,
        },
    )
}

/// A server with fields of every kind.
pub fn any_server(id: impl Strategy<Value = Arc<str>>) -> impl Strategy<Value = Server> {
    let numbers = (option::of(0u8..=100), any::<u16>(), any::<u16>());
    let services = prop::collection::btree_set(name(), 0..4);
    let lists = (
        vec(address(), 1..4),
        services,
        btree_map(name(), text(), 0..4),
    );
    (id, status(), numbers, any_stamp(), lists).prop_map(
        |(id, status, (load, priority, weight), updated, (addresses, services, attributes))| {
            Server {
                id,
                status,
                load,
                priority,
                weight,
                updated,
                addresses,
                services: services.into_iter().collect(),
                attributes: attributes.into_iter().collect(),
            }
        },
    )
}

/// Views of up to eight servers with every kind of field.
pub fn any_view() -> impl Strategy<Value = Arc<View>> {
    let id = "[A-Za-z0-9._-]{1,64}".prop_map(Arc::from);
    let entries = vec((any_server(id), any::<bool>()), 0..8);
    (any::<u64>(), any::<bool>(), entries).prop_map(|(revision, stale, entries)| {
        let mut entries: Vec<Arc<Entry>> = entries
            .into_iter()
            .map(|(server, deleted)| Arc::new(Entry { server, deleted }))
            .collect();
        entries.sort_by(|one, other| one.server.id.as_bytes().cmp(other.server.id.as_bytes()));
        entries.dedup_by(|one, other| one.server.id == other.server.id);
        Arc::new(View {
            revision,
            stale,
            entries,
            ..View::empty("example.com".into(), "n1@1795379461123".into())
        })
    })
}

/// Entries that differ in what filters look at, with ids few enough to meet again in another view.
pub fn small_entry(id: Arc<str>) -> impl Strategy<Value = Entry> {
    let services = prop::sample::subsequence(vec!["proxy", "turn", "notifier"], 0..3);
    let value = || option::of(prop::sample::select(vec!["eu", "us"]));
    let numbers = (option::of(0u8..=100), 0u16..3);
    let deleted = prop::bool::weighted(0.2);
    (
        status(),
        numbers,
        any_stamp(),
        services,
        (value(), value()),
        deleted,
    )
        .prop_map(
            move |(status, (load, priority), updated, services, (region, zone), deleted)| {
                let attribute =
                    |name: &str, value: Option<&str>| Some((name.into(), value?.into()));
                let attributes = [attribute("region", region), attribute("zone", zone)];
                let server = Server {
                    status,
                    load,
                    priority,
                    updated,
                    services: services.into_iter().map(Into::into).collect(),
                    attributes: attributes.into_iter().flatten().collect(),
                    ..server(&id)
                };
                Entry { server, deleted }
            },
        )
}

pub fn small_view(revision: u64) -> impl Strategy<Value = Arc<View>> {
    let slots: Vec<_> = ["a", "B", "c", "d", "e", "f", "g"]
        .into_iter()
        .map(|id| option::weighted(0.7, small_entry(id.into())))
        .collect();
    slots.prop_map(move |slots| view(revision, slots.into_iter().flatten().collect()))
}

pub fn any_filter() -> impl Strategy<Value = Filter> {
    let services = prop::sample::subsequence(vec!["proxy", "turn", "mail"], 0..3);
    let attributes = vec![
        ("region", "eu"),
        ("region", "us"),
        ("zone", "eu"),
        ("zone", "x"),
    ];
    let attributes = prop::sample::subsequence(attributes, 0..4);
    let most = option::of(1u16..5);
    (services, vec(status(), 0..3), attributes, most).prop_map(
        |(services, statuses, attributes, most)| {
            let services = services.into_iter().map(Into::into).collect();
            let attributes = attributes
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            Filter::new(services, statuses, attributes, most).unwrap()
        },
    )
}
