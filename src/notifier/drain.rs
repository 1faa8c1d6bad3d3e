//! The end of a node: where new subscribers are sent, and how the others are let go, spread over a time so that the nodes
//! that stay do not see them all at once. Knows no clock.

use std::net::SocketAddr;
use std::num::NonZeroU8;

use super::Notifier;
use super::requests::Refusal;
use super::subscription::Phase;
use crate::sip::request::Request;
use crate::sip::scan::Name;
use crate::sip::uri::Host;
use crate::sip::write::Reason;
use crate::wire::Transport;

/// Contacts of a 302.
const CONTACTS_MOST: usize = 8;
/// This part of a drain passes before anybody is let go: who sees in the table that this node drains has another
/// subscription by then, and misses nothing.
const LEAVING_PART: u64 = 4;

/// Another notifier that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    pub address: SocketAddr,
    pub transport: Transport,
}

#[derive(Debug)]
pub(super) struct Drain {
    others: Vec<Other>,
    /// From when on subscriptions are let go, and over which time.
    begun_ms: u64,
    over_ms: u64,
    /// The first slot that has not been told, and the end of those that are.
    next: u32,
    end: u32,
}

impl Drain {
    /// How many slots are to be told by now.
    fn due(&self, now_ms: u64) -> u32 {
        let passed_ms = now_ms.saturating_sub(self.begun_ms);
        match u64::from(self.end).checked_mul(passed_ms) {
            Some(product) if passed_ms < self.over_ms => (product / self.over_ms) as u32,
            _ => self.end,
        }
    }

    /// When the next slot is due; `None`: all are.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let is_left = self.next < self.end;
        let next = u64::from(self.next + 1) * self.over_ms;
        is_left.then(|| self.begun_ms + next.div_ceil(u64::from(self.end)))
    }
}

impl Notifier {
    /// Begins the end: every subscription gets a NOTIFY `terminated`, and new ones are refused. Where there are other
    /// notifiers the reason is `deactivated` (RFC 6665 4.1.3: "the subscriber SHOULD retry immediately with a new
    /// subscription"), spread over the last three quarters of `over_ms`; else `probation` with a random time of 2 to 10 s, at once.
    pub fn drain(&mut self, now_ms: u64, others: Vec<Other>, over_ms: u64) {
        let over_ms = if others.is_empty() { 0 } else { over_ms };
        let leaving_ms = over_ms / LEAVING_PART;
        self.draining = Some(Drain {
            over_ms: over_ms - leaving_ms,
            others,
            begun_ms: now_ms + leaving_ms,
            next: 0,
            end: self.slots.end(),
        });
        self.let_go(now_ms);
    }

    /// While it drains: who is alive now.
    pub fn send_elsewhere(&mut self, others: Vec<Other>) {
        if let Some(drain) = &mut self.draining {
            drain.others = others;
        }
    }

    /// Ends the subscriptions that are due to end.
    pub(super) fn let_go(&mut self, now_ms: u64) {
        let Some(drain) = &mut self.draining else {
            return;
        };
        let due = drain.due(now_ms);
        let first = std::mem::replace(&mut drain.next, due);
        let has_others = !drain.others.is_empty();
        for slot in first..due {
            if self.slots.get(slot).phase != Phase::Active {
                continue;
            }
            if has_others {
                self.begin_ending(slot, Reason::Deactivated, None);
            } else {
                let retry_after_s = rand::RngExt::random_range(&mut self.random, 2..=10);
                self.begin_ending(slot, Reason::Probation, NonZeroU8::new(retry_after_s));
            }
        }
    }

    /// A new subscription is to be made elsewhere: 302 (RFC 3261 21.3.3), or 503 where nobody else is. Its Contacts keep
    /// the domain in their host, for it names the resource; `maddr` says where to send (RFC 3261 19.1.1).
    pub(super) fn elsewhere(&self, request: &Request<'_, '_>, transport: Transport) -> Refusal {
        let others = self.draining.iter().flat_map(|drain| &drain.others);
        let others: Vec<&Other> = others
            .filter(|other| other.transport == transport)
            .collect();
        let count = others.len();
        // Everybody begins with another of them.
        let from = request.message.first(Name::From).unwrap_or_default();
        let digest = self.key.digest(request.call_id, from);
        let first = digest.checked_rem(others.len() as u64).unwrap_or_default();
        let others = others.iter().cycle().skip(first as usize);
        let host = match request.target.host {
            Host::Ip(ip) => bracketed(ip),
            Host::Name(name) => String::from_utf8_lossy(name).into_owned(),
        };
        let parameter = match transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        let contacts: Vec<String> = others
            .take(CONTACTS_MOST.min(count))
            .map(|other| {
                let (ip, port) = (bracketed(other.address.ip()), other.address.port());
                format!("<sip:{host}:{port};maddr={ip}{parameter}>")
            })
            .collect();
        match contacts[..] {
            [] => Refusal::no_room(),
            _ => Refusal::moved(contacts.join(", ")),
        }
    }
}

fn bracketed(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
