//! A cluster to describe: as many servers as asked, each with what servers in the field say of themselves.

use std::sync::Arc;

use fanfare::info::{Address, AddressTransport, Entry, Server, Stamp, Status, View};

fn server(number: usize) -> Server {
    let node: Arc<str> = "n1".into();
    let octets = [192, 0, 2 + (number / 250) as u8, (number % 250) as u8 + 1];
    let address = |port, transport, service: Option<&str>| Address {
        ip: octets.into(),
        port,
        transport,
        host: None,
        service: service.map(Into::into),
    };
    Server {
        id: format!("proxy-{number:03}").into(),
        status: Status::Up,
        load: Some((number % 100) as u8),
        priority: 10,
        weight: 60,
        updated: Stamp {
            ms: 1_795_379_461_123 + number as u64,
            counter: 0,
            node,
        },
        addresses: vec![
            address(5060, AddressTransport::Udp, None),
            address(5061, AddressTransport::Tls, Some("proxy")),
        ],
        services: vec!["proxy".into()],
        attributes: vec![("region".into(), "eu-1".into())],
    }
}

/// A table of `servers` at revision 1.
pub fn view(servers: usize) -> View {
    let empty = View::empty("example.com".into(), "n1@1795379461000".into());
    let entry = |number| {
        Arc::new(Entry {
            server: server(number),
            deleted: false,
        })
    };
    View {
        entries: (0..servers).map(entry).collect(),
        ..empty
    }
}

/// The next revision: one server has another status.
pub fn changed(view: &View) -> View {
    let mut next = view.clone();
    next.revision += 1;
    (next.urgent, next.notable) = (next.revision, next.revision);
    let place = next.revision as usize % next.entries.len();
    let mut entry = Entry::clone(&next.entries[place]);
    entry.server.status = match entry.server.status {
        Status::Up => Status::Overloaded,
        _ => Status::Up,
    };
    entry.server.updated.ms += 1;
    next.entries[place] = Arc::new(entry);
    next
}
