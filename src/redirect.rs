//! Sends requests on to servers that take them: 302 with Contacts in the order in which they are to be tried (RFC 3261 8.3,
//! 21.3.3). Keeps no transactions (8.2.7): a repeated request is answered anew. Pure: knows no socket and no clock.

use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

use crate::client::Chance;
use crate::counters::counters;
use crate::info::{Address, AddressTransport, Table};
use crate::sip::request::{Method, Request};
use crate::sip::scan::{Message, Name, Start, scan};
use crate::sip::uri::SipUri;
use crate::sip::write::{Responder, answer_to};
use crate::subscription::{Pick, Picker, Work};

/// Contacts of a 302.
const CONTACTS_MOST: usize = 8;

counters! {
    /// Requests sent on with 302.
    redirected,
    /// Requests for which there was no server: 503.
    unserved,
    /// Requests refused for their form, and CANCELs.
    refused,
    /// What was neither a request nor could be answered.
    dropped,
}

/// Where requests are sent on to.
#[derive(Debug)]
pub struct Redirector {
    /// Only servers of this service.
    service: Option<Box<str>>,
    picker: Picker,
    chance: Chance,
    /// Makes To-tags that nobody guesses, and of one request the same.
    tags: SipHasher13,
    pub counters: Counters,
}

impl Redirector {
    pub fn new(service: Option<Box<str>>, mut chance: Chance) -> Self {
        Redirector {
            service,
            picker: Picker::new(Chance::new(chance.within(0..u64::MAX))),
            tags: SipHasher13::new_with_keys(
                chance.within(0..u64::MAX),
                chance.within(0..u64::MAX),
            ),
            chance,
            counters: Counters::default(),
        }
    }

    /// Answers a datagram that came from `source`: the response, and where it goes. An ACK ends what there is not, and
    /// responses are none of ours.
    pub fn answer(
        &mut self,
        table: &Table,
        now_ms: u64,
        source: SocketAddr,
        bytes: &[u8],
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let scanned = scan(bytes);
        let (message, failure) = match &scanned {
            Ok(message) => (message, None),
            Err(failure) => (failure.message.as_deref()?, Some(failure.error.status()?)),
        };
        let verdict = match failure {
            Some(status) => Verdict::plain(status),
            None => self.judge(table, now_ms, message),
        };
        let mut response = Vec::new();
        let tag = self.tag(message);
        let responder = Responder::new(message, verdict.status, source).to_tag(tag.as_bytes());
        match responder.begin(&mut response) {
            Ok(mut begun) => {
                for (name, value) in &verdict.headers {
                    begun.header(name, value.as_bytes());
                }
                begun.finish();
            }
            Err(_) => {
                self.counters.dropped += 1;
                return None;
            }
        }
        match verdict.status {
            302 => self.counters.redirected += 1,
            503 => self.counters.unserved += 1,
            _ => self.counters.refused += 1,
        }
        Some((answer_to(message, source), response))
    }

    fn judge(&mut self, table: &Table, now_ms: u64, message: &Message<'_>) -> Verdict {
        if !matches!(message.start, Start::Request { .. }) {
            // It cannot be answered: see `begin`.
            return Verdict::plain(400);
        }
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(malformed) => return Verdict::plain(malformed.status().unwrap_or(400)),
        };
        match request.method {
            // RFC 3261 8.3: "a redirect server SHOULD return a 2xx response" to a CANCEL.
            Method::Cancel => Verdict::plain(200),
            _ => self.send_on(table, now_ms, &request.target),
        }
    }

    fn send_on(&mut self, table: &Table, now_ms: u64, target: &SipUri<'_>) -> Verdict {
        let work = Work {
            service: self.service.as_deref(),
            key: None,
            // RFC 3261 19.1: a SIPS URI is reached by TLS all the way.
            transport: target.secure.then_some(AddressTransport::Tls),
        };
        let picks = self.picker.several(table, work, now_ms, CONTACTS_MOST);
        if picks.is_empty() {
            let seconds = self.chance.within(2..11).to_string();
            return Verdict {
                status: 503,
                headers: vec![("Retry-After", seconds)],
            };
        }
        let contacts = picks.iter().enumerate();
        let contacts: Vec<String> = contacts
            .map(|(place, pick)| contact(target, pick, place))
            .collect();
        Verdict {
            status: 302,
            headers: vec![("Contact", contacts.join(", "))],
        }
    }

    /// RFC 3261 8.2.7: the same for every copy of a request.
    fn tag(&self, message: &Message<'_>) -> String {
        let via = message.first(Name::Via).unwrap_or_default();
        format!("{:016x}", self.tags.hash(via))
    }
}

#[derive(Debug)]
struct Verdict {
    status: u16,
    headers: Vec<(&'static str, String)>,
}

impl Verdict {
    fn plain(status: u16) -> Self {
        Verdict {
            status,
            headers: Vec::new(),
        }
    }
}

/// The user that was asked for, at a server; the first has the greatest q (RFC 3261 20.10).
fn contact(target: &SipUri<'_>, pick: &Pick, place: usize) -> String {
    let Address {
        ip,
        port,
        transport,
        host,
        ..
    } = &pick.address;
    let scheme = if target.secure { "sips" } else { "sip" };
    let user = target.user.map(String::from_utf8_lossy);
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let host = match (host, ip) {
        // A certificate is of a name.
        (Some(host), _) if *transport == AddressTransport::Tls => host.to_string(),
        (_, IpAddr::V4(ip)) => ip.to_string(),
        (_, IpAddr::V6(ip)) => format!("[{ip}]"),
    };
    let by = match transport {
        AddressTransport::Udp => String::new(),
        AddressTransport::Tls if target.secure => String::new(),
        other => format!(";transport={}", other.as_str()),
    };
    format!(
        "<{scheme}:{user}{host}:{port}{by}>;q={:.1}",
        1.0 - place as f64 / 10.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Format, parse};

    const SOURCE: ([u8; 4], u16) = ([192, 0, 2, 7], 5090);

    fn table(statuses: &[(&str, &str)]) -> Table {
        let servers = statuses.iter().zip(1..).map(|((id, status), number)| {
            format!(
                "{{\"id\":\"{id}\",\"status\":\"{status}\",\"priority\":{number},\"updated\":\"5.0.n1\",\"services\":[\"proxy\"],\
                 \"addresses\":[{{\"ip\":\"192.0.2.{number}\",\"port\":5060,\"transport\":\"udp\"}},\
                 {{\"ip\":\"192.0.2.{number}\",\"port\":5061,\"transport\":\"tls\",\"host\":\"{id}.example.com\"}}]}}"
            )
        });
        let text = format!(
            "{{\"domain\":\"example.com\",\"notifier\":\"n@1\",\"version\":1,\"view\":1,\"state\":\"full\",\"servers\":[{}]}}",
            servers.collect::<Vec<_>>().join(",")
        );
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        table
    }

    fn request(method: &str, uri: &str) -> Vec<u8> {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:5090;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             From: <sip:a@example.com>;tag=f\r\nTo: <{uri}>\r\nCall-ID: c1\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn answer(redirector: &mut Redirector, table: &Table, request: &[u8]) -> Option<String> {
        let (to, bytes) = redirector.answer(table, 0, SOURCE.into(), request)?;
        assert_eq!(to, SOURCE.into());
        Some(String::from_utf8(bytes).expect("text"))
    }

    fn redirector() -> Redirector {
        Redirector::new(Some("proxy".into()), Chance::new(3))
    }

    #[test]
    fn a_request_is_sent_on_to_the_servers_in_order() {
        let (mut redirector, table) = (
            redirector(),
            table(&[("a", "down"), ("b", "up"), ("c", "up")]),
        );
        for method in [
            "INVITE",
            "REGISTER",
            "MESSAGE",
            "OPTIONS",
            "SUBSCRIBE",
            "FOO",
        ] {
            let answer = answer(
                &mut redirector,
                &table,
                &request(method, "sip:bob@example.com"),
            );
            let answer = answer.expect("it is answered");
            assert!(
                answer.starts_with("SIP/2.0 302 Moved Temporarily\r\n"),
                "{answer}"
            );
            let contact =
                "Contact: <sip:bob@192.0.2.2:5060>;q=1.0, <sip:bob@192.0.2.3:5060>;q=0.9\r\n";
            assert!(answer.contains(contact), "{answer}");
        }
        assert_eq!(redirector.counters.redirected, 6);
    }

    #[test]
    fn sips_is_sent_on_by_tls_to_the_name() {
        let answer = answer(
            &mut redirector(),
            &table(&[("a", "up")]),
            &request("INVITE", "sips:bob@example.com"),
        );
        let contact = "Contact: <sips:bob@a.example.com:5061>;q=1.0\r\n";
        assert!(answer.expect("it is answered").contains(contact));
    }

    #[test]
    fn without_a_service_no_call_goes_to_a_notifier_and_udp_goes_first() {
        let text = r#"{"domain":"example.com","notifier":"n@1","version":1,"view":1,"state":"full","servers":[
            {"id":"n1","status":"up","updated":"5.0.n1","services":["notifier"],
            "addresses":[{"ip":"192.0.2.9","port":5060,"transport":"udp"}]},
            {"id":"p1","status":"up","priority":10,"updated":"5.0.n1","addresses":[
            {"ip":"192.0.2.1","port":443,"transport":"wss"},{"ip":"192.0.2.1","port":5060,"transport":"udp"}]}]}"#;
        let mut table = Table::new();
        table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
        let mut redirector = Redirector::new(None, Chance::new(3));
        let answer = answer(
            &mut redirector,
            &table,
            &request("INVITE", "sip:bob@example.com"),
        );
        let contact = "Contact: <sip:bob@192.0.2.1:5060>;q=1.0\r\n";
        assert!(answer.expect("it is answered").contains(contact));
    }

    #[test]
    fn where_no_server_is_left_there_is_503_with_a_time() {
        for table in [Table::new(), table(&[("a", "down")])] {
            let answer = answer(
                &mut redirector(),
                &table,
                &request("INVITE", "sip:bob@example.com"),
            );
            let answer = answer.expect("it is answered");
            assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
            assert!(answer.contains("Retry-After: "), "{answer}");
        }
    }

    #[test]
    fn copies_of_a_request_get_one_tag_and_an_ack_gets_nothing() {
        let (mut redirector, table) = (redirector(), table(&[("a", "up")]));
        let invite = request("INVITE", "sip:bob@example.com");
        let both = [0, 1].map(|_| answer(&mut redirector, &table, &invite));
        assert_eq!(both[0], both[1]);
        assert!(
            both[0]
                .as_ref()
                .is_some_and(|answer| answer.contains(";tag="))
        );
        assert_eq!(
            answer(
                &mut redirector,
                &table,
                &request("ACK", "sip:bob@example.com")
            ),
            None
        );
        let cancel = answer(
            &mut redirector,
            &table,
            &request("CANCEL", "sip:bob@example.com"),
        );
        assert!(cancel.expect("it is answered").starts_with("SIP/2.0 200 "));
    }

    #[test]
    fn what_is_no_request_of_sip_is_refused_or_dropped() {
        let (mut redirector, table) = (redirector(), table(&[("a", "up")]));
        for (bytes, status) in [
            (request("INVITE", "tel:+1234"), Some("416")),
            (request("INVITE", "sip:bob@"), Some("400")),
            (
                b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a\r\nCSeq: 1 INVITE\r\n\r\n".to_vec(),
                None,
            ),
            (b"\r\n\r\n".to_vec(), None),
            (b"\x00\x01rubbish".to_vec(), None),
        ] {
            let answer = answer(&mut redirector, &table, &bytes);
            let got = answer
                .as_deref()
                .and_then(|answer| answer.split(' ').nth(1));
            assert_eq!(got, status, "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
