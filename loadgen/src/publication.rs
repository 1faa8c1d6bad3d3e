//! What a simulated server publishes of itself in each round. Knows no request and no lease.

use std::fmt::Write;

use crate::plan::{Event, Subject};
use crate::publisher::Change;

/// Bytes of one attribute of padding, which a notifier of `SIPserver` takes at most 256 of.
const ATTRIBUTE: usize = 200;

/// The document of a simulated server at its `round`; its id is `prefix` and its number.
pub fn document(subject: &Subject, prefix: &str, server: u32, servers: u32, round: u32) -> String {
    let is_odd = round.div_ceil(servers) % 2 == 1;
    match subject.event {
        Event::SipServer => server_info(subject, prefix, server, round, is_odd),
        Event::Presence => presence(subject, prefix, server, round, is_odd),
    }
}

fn server_info(subject: &Subject, prefix: &str, server: u32, round: u32, is_odd: bool) -> String {
    let status = if is_odd && subject.change == Change::Status {
        "draining"
    } else {
        "up"
    };
    let load = match (subject.change, is_odd) {
        (Change::Load, true) => 70,
        (Change::Load, false) => 20,
        _ => 37,
    };
    let domain = &subject.domain;
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"{domain}\">\
         <server id=\"{prefix}{server}\" status=\"{status}\" load=\"{load}\" priority=\"10\" weight=\"60\">\
         <address ip=\"192.0.2.1\" port=\"5060\" transport=\"udp\"/>\
         <attribute name=\"round\">{round}</attribute>"
    );
    let end = "</server></serverinfo>";
    let mut number = 0;
    while text.len() + end.len() < subject.body {
        let missing = subject.body - text.len() - end.len();
        let width = missing.min(ATTRIBUTE);
        write!(
            text,
            "<attribute name=\"pad{number:02}\">{:x<width$}</attribute>",
            ""
        )
        .expect("a String takes every write");
        number += 1;
    }
    text + end
}

/// RFC 3863; the round stands in the tuple's note.
fn presence(subject: &Subject, prefix: &str, server: u32, round: u32, is_odd: bool) -> String {
    let basic = if is_odd && subject.change == Change::Status {
        "closed"
    } else {
        "open"
    };
    let entity = subject.uri();
    let begin = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"{entity}\">\
         <tuple id=\"{prefix}{server}\"><status><basic>{basic}</basic></status><note>round {round}</note></tuple><note>"
    );
    let end = "</note></presence>";
    let padding = subject.body.saturating_sub(begin.len() + end.len());
    format!("{begin}{:x<padding$}{end}", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn every_round_of_a_server_changes_its_status_or_load() {
        for line in ["--change status", "--change load", "--event presence"] {
            let subject = plan(line).subject;
            for server in 0..4 {
                let at = |turn: u32| {
                    let round = if turn == 0 {
                        0
                    } else {
                        (turn - 1) * 4 + server + 1
                    };
                    let text = document(&subject, "lg-", server, 4, round);
                    let end = text.find("<attribute").or(text.find("<note>")).unwrap();
                    text[..end].to_owned()
                };
                for turn in 0..6 {
                    assert_ne!(at(turn), at(turn + 1), "server {server} turn {turn}");
                }
            }
        }
    }

    #[test]
    fn a_document_is_as_large_as_asked_for() {
        for (line, spare) in [("--event SIPserver", 40), ("--event presence", 0)] {
            for body in [600, 900, 3_000] {
                let subject = plan(&format!("{line} --body {body}")).subject;
                let length = document(&subject, "lg-", 0, 1, 7).len();
                assert!(
                    (body..=body + spare).contains(&length),
                    "{line} {body} {length}"
                );
            }
        }
    }
}
