//! Calls as their callers saw them, from SIPp's traces. Knows no server's state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::sipp::Message;

/// A call as its caller saw it.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub begun: Duration,
    /// Whether it was taken and ended with a 200 to its BYE.
    pub is_whole: bool,
    /// Which server took it.
    pub by: Option<SocketAddr>,
    /// When each of its messages passed, which way, and its first line.
    pub passed: Vec<(Duration, &'static str, String)>,
}

/// The calls of a trace.
pub fn calls(messages: &[Message]) -> Vec<Call> {
    let mut calls: BTreeMap<&str, Call> = BTreeMap::new();
    for message in messages {
        let id = message.fields("Call-ID").next().expect("a Call-ID");
        let call = calls.entry(id).or_insert(Call {
            begun: message.at,
            is_whole: false,
            by: None,
            passed: Vec::new(),
        });
        let way = if message.is_sent { "sent" } else { "received" };
        let line = message.text.lines().next().unwrap_or_default();
        call.passed.push((message.at, way, line.to_owned()));
        let method = message
            .fields("CSeq")
            .next()
            .and_then(|cseq| cseq.split(' ').nth(1));
        if message.is_sent || !message.text.starts_with("SIP/2.0 200") {
            continue;
        }
        call.is_whole |= method == Some("BYE");
        if method == Some("INVITE") {
            let contact = message
                .fields("Contact")
                .next()
                .expect("a 2xx to INVITE has one");
            let at = contact.trim_start_matches("<sip:").split([';', '>']).next();
            call.by = at.and_then(|at| at.parse().ok());
        }
    }
    calls.into_values().collect()
}

pub fn lost(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| !call.is_whole).collect()
}

/// How many calls were taken at this address.
pub fn taken_at(calls: &[Call], at: SocketAddr) -> usize {
    calls.iter().filter(|call| call.by == Some(at)).count()
}
