//! A NOTIFY as bytes: written from the subscription whenever it is sent, the same each time, so that nothing is stored for
//! retransmissions; and how long its head is at the most. Knows no window, timer or view.

use super::dialog::Extent;
use super::settings::Settings;
use super::subscribe::entity_tag;
use super::subscription::{Phase, Subscription};
use super::target::strict_routing;
use super::transaction::{Rates, Transaction};
use super::{Effect, Notifier, Outbox};
use crate::sip::write::{NO_CONTENT, Notify, SubscriptionState};
use crate::wire::{Datagram, Transport};

/// Bytes of a NOTIFY's head that every one has, with a document of at most 9,999 bytes; every head written is held to it
/// where debug assertions are on.
const HEAD_FIXED: usize = 357;
/// A Route header field without its value; a strict first route moves the target into it, in angle brackets.
const ROUTE_FIXED: usize = "Route: \r\n".len() + "<>".len();
const RATE_MOST: usize = ";max-rate=99.9999999999".len();

impl Notifier {
    /// Writes the outstanding NOTIFY: the same bytes whenever it is sent again.
    pub(super) fn write_notify(&mut self, slot: u32, out: &mut Outbox) {
        let subscription = self.slots.get(slot);
        let Some(transaction) = self.slots.transaction(slot) else {
            return;
        };
        let flow = self.hops.flow(subscription.hop);
        let rendered = transaction.body.map(|body| self.bodies.get(body));
        let body = rendered.map(|rendered| {
            let body = rendered.body.as_ref();
            body.expect("a NOTIFY holds a document")
        });
        let settings = &self.settings;
        let listener = &settings.listeners[usize::from(flow.local)];
        let (tag, branch) = self
            .handle(slot)
            .tag_and_branch(subscription.cseq, &self.key);
        let dialog = self.slots.dialog(slot);
        let strict = (!dialog.routes.is_empty())
            .then(|| strict_routing(dialog.target, dialog.routes))
            .flatten();
        let (target, routes) = strict
            .as_ref()
            .map_or((dialog.target, dialog.routes), |(target, routes)| {
                (target, routes)
            });
        let rates = self.slots.rates_of(transaction);
        let etag = entity_tag(transaction.tag);
        let notify = Notify {
            target,
            via: listener.notify_via(flow.transport),
            branch: &branch,
            routes,
            from_uri: dialog.local_uri,
            from_tag: &tag,
            to_uri: dialog.remote_uri,
            to_tag: dialog.remote_tag,
            call_id: dialog.call_id,
            cseq: subscription.cseq,
            event_id: (!dialog.event_id.is_empty()).then_some(dialog.event_id),
            state: subscription.state(transaction),
            max_rate: rates.max,
            min_rate: rates.min,
            etag: &etag,
            contact: listener.notify_contact(flow.transport),
            content: rendered.map_or(NO_CONTENT, |rendered| &rendered.content),
        };
        let version = subscription.version;
        let fill = |datagram: &mut Datagram| {
            notify.write(&mut datagram.bytes);
            debug_assert!(
                transaction.fired > 0
                    || body.is_none()
                    || flow.transport.is_reliable()
                    || datagram.bytes.len()
                        <= head_most(dialog.extent(), rates, flow.local, settings),
                "HEAD_FIXED is too small"
            );
            if let Some(body) = body {
                body.write(version, &mut datagram.bytes);
            }
        };
        if flow.transport.is_reliable() {
            let mut datagram = Datagram {
                flow,
                bytes: Vec::new(),
            };
            fill(&mut datagram);
            out.effects.push_back(Effect::Stream(datagram));
        } else if let Some(datagram) = out.batch.next(flow) {
            fill(datagram);
        }
    }
}

impl Subscription {
    fn state(&self, transaction: &Transaction) -> SubscriptionState {
        match self.phase {
            Phase::Ending {
                reason,
                retry_after_s,
            } if transaction.last => SubscriptionState::Terminated {
                reason,
                retry_after: retry_after_s.map(|seconds| u32::from(seconds.get())),
            },
            _ => SubscriptionState::Active {
                expires: transaction.expires_s,
            },
        }
    }
}

/// The bytes of the head of a subscription's NOTIFY with a document by UDP, at the most.
pub(super) fn head_most(dialog: Extent, rates: Rates, listener: u16, settings: &Settings) -> usize {
    let listener = &settings.listeners[usize::from(listener)];
    let rates = usize::from(rates.max.is_some()) + usize::from(rates.min.is_some());
    HEAD_FIXED
        + dialog.len
        + listener.sent_by.len()
        + listener.contact(Transport::Udp).len()
        + usize::from(dialog.has_event_id) * ";id=".len()
        + usize::from(dialog.has_routes) * ROUTE_FIXED
        + rates * RATE_MOST
}

#[cfg(test)]
mod tests {
    use super::super::handle::{Handle, HandleKey};
    use super::*;
    use crate::sip::header::Rate;
    use crate::sip::write::{Reason, notify_contact, notify_content, notify_via};

    fn head_len(state: SubscriptionState, rate: Option<Rate>) -> usize {
        let key = HandleKey([0; 16]);
        let handle = Handle {
            shard: u8::MAX,
            slot: u32::MAX,
            generation: u32::MAX,
        };
        let notify = Notify {
            target: b"",
            via: &notify_via("UDP", ""),
            branch: &handle.tag_and_branch(u32::MAX, &key).1,
            routes: b"",
            from_uri: b"",
            from_tag: &handle.tag(&key),
            to_uri: b"",
            to_tag: b"t",
            call_id: b"",
            cseq: u32::MAX,
            event_id: Some(b""),
            state,
            max_rate: rate,
            min_rate: rate,
            etag: &entity_tag(u64::MAX),
            contact: &notify_contact(""),
            content: &notify_content("application/serverinfo+json", 9_999),
        };
        let mut head = Vec::new();
        notify.write(&mut head);
        head.len()
    }

    #[test]
    fn the_bound_of_a_head_is_the_length_of_the_longest() {
        let rate = Rate::parse(b"99.9999999999");
        assert!(rate.is_some());
        let active = SubscriptionState::Active { expires: u32::MAX };
        // The only reason that a document goes with.
        let last = SubscriptionState::Terminated {
            reason: Reason::Timeout,
            retry_after: None,
        };
        let most = HEAD_FIXED + ";id=".len() + "t".len();
        assert_eq!(head_len(active, None), most);
        assert_eq!(head_len(last, None), most);
        assert_eq!(head_len(active, rate), most + 2 * RATE_MOST);
    }
}
