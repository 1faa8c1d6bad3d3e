//! The table as rows of coloured text. Knows no terminal.

use crossterm::style::Color;

use crate::info::{Address, DocumentEntry, Server, Table};
use crate::screen::{Row, Span, align, span, status_colour};

/// Cells of a load's bar.
const BAR: usize = 5;

/// What stands above the table beside what the table knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    pub domain: &'a str,
    pub via: &'a str,
    pub since_notify_s: Option<u64>,
    pub trouble: Option<&'a str>,
}

const TITLES: [&str; 8] = [
    "ID",
    "STATUS",
    "LOAD",
    "PRIO",
    "WEIGHT",
    "AGE",
    "SERVICES",
    "ADDRESSES",
];

/// The header, the titles, and a row a server that is not deleted.
pub(super) fn rows(table: &Table, header: &Header<'_>, now_ms: u64) -> Vec<Row> {
    let mut cells = vec![TITLES.map(|title| span(title, Some(Color::DarkGrey)))];
    cells.extend(table.entries().filter_map(|entry| match entry {
        DocumentEntry::Server(server) => Some(cells_of(server, now_ms)),
        DocumentEntry::Deleted { .. } | DocumentEntry::Left { .. } => None,
    }));
    let mut rows = head(table, header);
    rows.extend(align(cells));
    rows
}

/// The same without colours, an empty line behind.
pub(super) fn plain(table: &Table, header: &Header<'_>, now_ms: u64) -> String {
    let mut text = String::new();
    for row in rows(table, header, now_ms) {
        let line: String = row.iter().map(|span| span.text.as_str()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

fn head(table: &Table, header: &Header<'_>) -> Vec<Row> {
    let mut facts = String::new();
    if let (Some(notifier), Some(view)) = (table.notifier(), table.view()) {
        facts = format!("  notifier {notifier}  view {view}");
    } else {
        facts.push_str("  waiting for ");
        facts.push_str(header.via);
    }
    if let Some(seconds) = header.since_notify_s {
        facts.push_str(&format!("  last NOTIFY {} ago", age(seconds)));
    }
    if table.is_stale() {
        facts.push_str("  incomplete");
    }
    let mut rows = vec![vec![
        span(header.domain, Some(Color::Cyan)),
        span(facts, None),
    ]];
    rows.extend(
        header
            .trouble
            .map(|trouble| vec![span(trouble, Some(Color::Red))]),
    );
    rows
}

fn cells_of(server: &Server, now_ms: u64) -> [Span; 8] {
    let seconds = now_ms.saturating_sub(server.updated.ms) / 1_000;
    let addresses: Vec<String> = server.addresses.iter().map(address).collect();
    [
        span(&*server.id, None),
        span(server.status.as_str(), Some(status_colour(&server.status))),
        load(server.load),
        span(server.priority.to_string(), None),
        span(server.weight.to_string(), None),
        span(age(seconds), None),
        span(server.services.join(","), None),
        span(addresses.join(" "), None),
    ]
}

fn load(load: Option<u8>) -> Span {
    let Some(load) = load else {
        return span("-", Some(Color::DarkGrey));
    };
    let full = (usize::from(load) * BAR).div_ceil(100);
    let colour = match load {
        0..50 => Color::Green,
        50..80 => Color::Yellow,
        _ => Color::Red,
    };
    let bar = "█".repeat(full) + &"░".repeat(BAR - full);
    span(format!("{bar} {load:>3}%"), Some(colour))
}

fn address(address: &Address) -> String {
    let at = std::net::SocketAddr::new(address.ip, address.port);
    let host = address.host.as_deref().map(|host| format!("({host})"));
    format!(
        "{at}/{}{}",
        address.transport.as_str(),
        host.unwrap_or_default()
    )
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Format, parse};

    fn table() -> Table {
        let text = r#"{"domain":"example.com","notifier":"n1@1","version":1,"view":42,"state":"full","servers":[
            {"id":"edge-1","status":"up","load":37,"priority":10,"weight":60,"updated":"5000.0.n1",
             "addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"},{"ip":"2001:db8::1","port":5061,"transport":"tls","host":"p1.example.com"}],"services":["proxy","turn"]},
            {"id":"p2","status":"down","updated":"1000.0.n1","addresses":[{"ip":"192.0.2.2","port":5060,"transport":"udp"}]},
            {"id":"p3","state":"deleted","updated":"4.3.n2"}]}"#;
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).unwrap());
        table
    }

    #[test]
    fn the_table_is_aligned_and_leaves_deleted_entries_out() {
        let header = Header {
            domain: "example.com",
            via: "127.0.0.1:5060",
            since_notify_s: Some(3),
            trouble: None,
        };
        let expected = "\
example.com  notifier n1@1  view 42  last NOTIFY 3 s ago
ID      STATUS  LOAD        PRIO  WEIGHT  AGE  SERVICES    ADDRESSES
edge-1  up      ██░░░  37%  10    60      5 s  proxy,turn  192.0.2.1:5060/udp [2001:db8::1]:5061/tls(p1.example.com)
p2      down    -           0     1       9 s              192.0.2.2:5060/udp

";
        assert_eq!(plain(&table(), &header, 10_000), expected);
    }

    #[test]
    fn trouble_and_waiting_are_said() {
        let header = Header {
            domain: "example.com",
            via: "h:5060",
            since_notify_s: None,
            trouble: Some("no answer"),
        };
        let text = plain(&Table::new(), &header, 0);
        assert!(
            text.starts_with("example.com  waiting for h:5060\nno answer\nID "),
            "{text}"
        );
    }

    #[test]
    fn a_bar_is_empty_only_without_load() {
        assert_eq!(load(Some(0)).text, "░░░░░   0%");
        assert_eq!(load(Some(1)).text, "█░░░░   1%");
        assert_eq!(load(Some(100)).text, "█████ 100%");
        assert_eq!(load(None).text, "-");
    }
}
