//! SUBSCRIBE: makes, refreshes and ends subscriptions (RFC 6665 4.2.1). Knows no document.

use std::sync::Arc;

use rand::RngExt;

use super::dialog::{Dialog, texts_most};
use super::handle::Handle;
use super::names::Target;
use super::requests::{Detail, Refusal};
use super::stamp::Stamp;
use super::subscription::{Details, Flag, Owed, Phase, SetProgress, Subscription};
use super::target::{NextHop, contact_uri, route_set};
use super::transaction::{Offer, Rates};
use super::{Effect, Notifier, Outbox};
use crate::info::{Filter, Format};
use crate::sip::EVENT_PACKAGE;
use crate::sip::header::{Event, MediaRange, NameAddr};
use crate::sip::request::Request;
use crate::sip::scan::Name;
use crate::sip::write::Reason;
use crate::wire::Flow;

/// Above this, the first grant is jittered, so that what subscribed together does not refresh together.
const JITTER_ABOVE_S: u32 = 120;

/// What a SUBSCRIBE asks for.
struct Wish {
    /// Formats acceptable, the preferred one; `None` without Accept.
    format: Option<Format>,
    /// `None` without a body: a refresh keeps its filter.
    filter: Option<Option<Arc<Filter>>>,
    expires_s: u32,
    rates: Rates,
}

impl Notifier {
    pub(super) fn subscribe(
        &mut self,
        now_ms: u64,
        flow: Flow,
        bytes: &[u8],
        request: &Request<'_, '_>,
        out: &mut Outbox,
    ) {
        let Some(from_tag) = request.from_tag() else {
            // RFC 3261 8.1.1.3: From has a tag; no dialog can be made without it.
            return self.refuse(flow, request, Refusal::because(400, "From has no tag"), out);
        };
        let verdict = match request.to_tag() {
            None => {
                let origin = self.key.digest(request.call_id, from_tag);
                let shard = (origin % u64::from(self.settings.shards)) as u8;
                if shard != self.shard {
                    return self.hand_over(shard, flow, bytes, out);
                }
                // The lower half chose the shard.
                let origin = (origin >> 32) as u32;
                self.outside_dialog(now_ms, flow, bytes, request, origin, out)
            }
            Some(tag) => match Handle::from_tag(tag, &self.key) {
                Some(handle)
                    if handle.shard != self.shard && handle.shard < self.settings.shards =>
                {
                    return self.hand_over(handle.shard, flow, bytes, out);
                }
                handle => self.inside_dialog(now_ms, flow, bytes, request, handle, out),
            },
        };
        if let Err(refusal) = verdict {
            self.refuse(flow, request, refusal, out);
        }
    }

    /// Has a SUBSCRIBE wait for its target to be located.
    fn park(
        &mut self,
        target: Target,
        flow: Flow,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        if out.effects.len() >= self.settings.effects_most {
            self.counters.full += 1;
            return Err(Refusal::no_room());
        }
        out.effects.push_back(Effect::Locate {
            target,
            flow,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    pub(super) fn hand_over(&mut self, shard: u8, flow: Flow, bytes: &[u8], out: &mut Outbox) {
        self.counters.handed_over += 1;
        out.effects.push_back(Effect::HandOver {
            shard,
            flow,
            bytes: bytes.to_vec(),
        });
    }

    /// A SUBSCRIBE that makes a subscription, or repeats the one that did.
    fn outside_dialog(
        &mut self,
        now_ms: u64,
        flow: Flow,
        bytes: &[u8],
        request: &Request<'_, '_>,
        origin: u32,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let former = self
            .origins
            .find(origin, |slot| self.same_dialog(slot, request));
        if let Some(slot) = former
            && let Some(verdict) = self.repeated(slot, flow, request, out)
        {
            return verdict;
        }
        let domain = self
            .check_domain(request)
            .map(|()| self.request_domain(request).unwrap_or_default())?;
        let event = Self::check_event(request)?;
        if !self.settings.may_subscribe(flow.peer.ip()) {
            return Err(Refusal::because(403, "this network may not subscribe"));
        }
        let wish = self.read_wish(request, &event)?;
        // A fetch is over at once, and is served to the end.
        if self.draining.is_some() && wish.expires_s > 0 {
            return Err(self.elsewhere(request, flow.transport));
        }
        let mut routes = Vec::new();
        route_set(request.message, &mut routes)?;
        // RFC 3261 12.1.1, RFC 6665 4.1: a request that makes a dialog has one Contact.
        let contact = request
            .contact
            .ok_or_else(|| Refusal::because(400, "no Contact"))?;
        let target = contact_uri(&contact)?;
        let hop = match self.next_hop(now_ms, flow, &routes, &target)? {
            NextHop::At(hop) => hop,
            NextHop::Unknown(target) => {
                return self.park(target, flow, bytes, out);
            }
        };
        let dialog = new_dialog(request, &contact, &routes, &event, hop)?;
        let slot = self.create(now_ms, flow, request, domain, &wish, hop, &dialog)?;
        if let Some(former) = former {
            self.origins.remove(former);
        }
        self.origins.insert(origin, slot);
        let tag = self.handle(slot).tag(&self.key);
        self.accept(slot, flow, request, &tag, 200, out);
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that a subscription is made of, once"
    )]
    fn create(
        &mut self,
        now_ms: u64,
        flow: Flow,
        request: &Request<'_, '_>,
        domain: u16,
        wish: &Wish,
        hop: Flow,
        dialog: &Dialog<'_>,
    ) -> Result<u32, Refusal> {
        let address = hop.peer.ip();
        if self.slots.taken() >= self.settings.subscriptions_most
            || self.unproven.of(address) >= self.settings.unproven_most
        {
            self.counters.full += 1;
            return Err(Refusal::no_room());
        }
        let filter = wish.filter.clone().flatten();
        let Some(interest) =
            self.interests
                .enter(domain, filter, wish.format.unwrap_or(Format::Xml))
        else {
            self.counters.full += 1;
            return Err(Refusal::because(403, "too many distinct filters"));
        };
        let granted_s = self.jittered(wish.expires_s);
        // RFC 5839 6.2: a condition that holds outside a dialog leaves the body out.
        let bodyless = self.condition_holds(request, interest);
        let mut subscription = Subscription::new(now_ms, granted_s, interest);
        if granted_s == 0 {
            subscription.phase = Phase::Ending {
                reason: Reason::Timeout,
                retry_after_s: None,
            };
        }
        if bodyless {
            subscription.owed = Owed::Bodyless;
            subscription.flags.set(Flag::Suppressed, true);
        }
        let details = Details {
            remote_cseq: request.cseq.number,
            remote_branch: self.branch_digest(request),
            granted_s,
            round: 0,
            subscribed_ms: now_ms,
            retry_ms: now_ms,
            rates: 0,
            set: SetProgress::default(),
        };
        let slots = self.slots.end();
        let slot = self.slots.insert(subscription, details, dialog);
        if self.slots.end() > slots {
            self.cursor.grown();
        }
        let hop = self.enter_hop(hop, slot);
        self.slots.get_mut(slot).hop = hop;
        self.slots.set_rates(slot, wish.rates.limited(granted_s));
        self.unproven.enter(address);
        self.live += 1;
        self.counters.subscribed += 1;
        debug_assert_eq!(flow.transport.is_reliable(), flow.connection != 0);
        self.schedule_refresh(slot, now_ms);
        self.queue_first(slot);
        Ok(slot)
    }

    /// A SUBSCRIBE with a To-tag: a refresh, an end, or a repeat of either.
    fn inside_dialog(
        &mut self,
        now_ms: u64,
        flow: Flow,
        bytes: &[u8],
        request: &Request<'_, '_>,
        handle: Option<Handle>,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        // RFC 3261 12.2.2: a dialog is found by Call-ID and both tags; unknown ones are answered 481.
        let slot = handle
            .filter(|&handle| self.slots.find(handle).is_some())
            .map(|handle| handle.slot)
            .filter(|&slot| self.same_dialog(slot, request))
            .ok_or_else(|| Refusal::of(481))?;
        if let Some(verdict) = self.repeated(slot, flow, request, out) {
            return verdict;
        }
        let subscription = self.slots.get(slot);
        if subscription.phase != Phase::Active {
            return Err(Refusal::of(481));
        }
        let event = Self::check_event(request)?;
        if event.id.unwrap_or_default() != self.slots.dialog(slot).event_id {
            // RFC 6665 4.5.2: a notifier need not take a second subscription in a dialog.
            return Err(Refusal::because(403, "one subscription a dialog"));
        }
        let mut wish = self.read_wish(request, &event)?;
        let hop = match self.moved_target(now_ms, flow, slot, request)? {
            Some(NextHop::Unknown(target)) => {
                return self.park(target, flow, bytes, out);
            }
            Some(NextHop::At(hop)) => Some(hop),
            None => None,
        };
        let former = self.interests.get(self.slots.get(slot).interest);
        let filter = wish
            .filter
            .take()
            .unwrap_or_else(|| self.interests.filter(self.slots.get(slot).interest));
        let Some(interest) =
            self.interests
                .enter(former.domain, filter, wish.format.unwrap_or(former.format))
        else {
            self.counters.full += 1;
            return Err(Refusal::because(403, "too many distinct filters"));
        };
        let in_parts = self.slots.set(slot).is_some();
        self.refresh(now_ms, slot, request, &wish, interest);
        // RFC 5839 6.3: a condition that holds within a dialog is answered 204, and no NOTIFY follows; but a new target
        // has to prove itself, and who has but some parts of a document does not have the state.
        let no_notification = self.condition_holds(request, interest)
            && !in_parts
            && hop.is_none_or(|hop| hop == self.hops.flow(self.slots.get(slot).hop))
            && self.slots.get(slot).flags.has(Flag::Proven);
        if let Some(hop) = hop {
            self.retarget(slot, hop, request);
        }
        let flags = &mut self.slots.get_mut(slot).flags;
        flags.set(Flag::Answered204, no_notification);
        flags.set(Flag::Suppressed, no_notification);
        let tag = self.handle(slot).tag(&self.key);
        self.accept(
            slot,
            flow,
            request,
            &tag,
            if no_notification { 204 } else { 200 },
            out,
        );
        self.after_refresh(now_ms, slot, wish.expires_s == 0, no_notification);
        Ok(())
    }

    /// Writes a refresh's wishes into the subscription.
    fn refresh(
        &mut self,
        now_ms: u64,
        slot: u32,
        request: &Request<'_, '_>,
        wish: &Wish,
        interest: u16,
    ) {
        let branch = self.branch_digest(request);
        let budget = self.budget(slot);
        let subscription = self.slots.get_mut(slot);
        let former = std::mem::replace(&mut subscription.interest, interest);
        let changed = former != interest;
        if changed {
            // Another filter or format: no base that the subscriber holds, nor will what is outstanding give it one.
            subscription.acked = 0;
        }
        subscription.expires = Stamp::of(now_ms + u64::from(wish.expires_s) * 1_000);
        subscription.renew(now_ms);
        if changed && let Some(transaction) = self.slots.transaction_mut(slot) {
            transaction.offer = Offer::Nothing;
        }
        let details = self.slots.details_mut(slot);
        details.remote_cseq = request.cseq.number;
        details.remote_branch = branch;
        details.granted_s = wish.expires_s;
        details.subscribed_ms = now_ms;
        self.slots
            .set_rates(slot, wish.rates.limited(wish.expires_s));
        if changed {
            self.leave_set(slot);
        } else if self.slots.set(slot).is_some() && self.budget(slot) != budget {
            // The head grew or shrank (rates): what was cut for the former one is begun anew.
            self.leave_set(slot);
            self.slots.get_mut(slot).owed = Owed::Full;
            self.slots.details_mut(slot).retry_ms = now_ms;
            if let Some(transaction) = self.slots.transaction_mut(slot) {
                transaction.offer = Offer::Nothing;
            }
        }
        self.leave_interest(former);
        self.schedule_refresh(slot, now_ms);
        self.counters.refreshed += 1;
    }

    /// What follows the answer to a refresh: a NOTIFY at once, whatever is outstanding (RFC 6665 4.2.1.2).
    fn after_refresh(&mut self, now_ms: u64, slot: u32, unsubscribed: bool, no_notification: bool) {
        if unsubscribed {
            self.counters.unsubscribed += 1;
            if no_notification {
                if self.close_transaction(slot, now_ms, false).is_some() {
                    self.counters.abandoned += 1;
                }
                return self.end(slot, now_ms);
            }
            self.slots.get_mut(slot).phase = Phase::Ending {
                reason: Reason::Timeout,
                retry_after_s: None,
            };
        }
        if no_notification {
            let allowed_ms = self.slots.allowed_ms(slot, now_ms);
            let details = self.slots.details_mut(slot);
            details.retry_ms = details.retry_ms.max(allowed_ms);
            return self.arm(slot, now_ms);
        }
        if self.close_transaction(slot, now_ms, false).is_some() {
            self.counters.abandoned += 1;
        }
        self.leave_set(slot);
        self.slots.get_mut(slot).owed = Owed::Full;
        self.slots.details_mut(slot).retry_ms = now_ms;
        self.queue_first(slot);
    }

    /// Recognises repeats of the last SUBSCRIBE, merged requests and old ones; nothing but the subscription is needed,
    /// so no response is stored for Timer J.
    fn repeated(
        &mut self,
        slot: u32,
        flow: Flow,
        request: &Request<'_, '_>,
        out: &mut Outbox,
    ) -> Option<Result<(), Refusal>> {
        let details = self.slots.details(slot);
        match request.cseq.number.cmp(&details.remote_cseq) {
            std::cmp::Ordering::Greater => None,
            // RFC 3261 12.2.2: a request out of order is answered 500.
            std::cmp::Ordering::Less => {
                Some(Err(Refusal::because(500, "CSeq is older than the last")))
            }
            // RFC 3261 8.2.2.2: the same request by another path is answered 482.
            std::cmp::Ordering::Equal if self.branch_digest(request) != details.remote_branch => {
                Some(Err(Refusal::of(482)))
            }
            std::cmp::Ordering::Equal => {
                self.counters.repeats += 1;
                let status = if self.slots.get(slot).flags.has(Flag::Answered204) {
                    204
                } else {
                    200
                };
                let tag = self.handle(slot).tag(&self.key);
                self.accept(slot, flow, request, &tag, status, out);
                Some(Ok(()))
            }
        }
    }

    /// A 2xx (RFC 6665 4.2.1.1): Expires is what was granted; Contact names this notifier (4.5.1).
    fn accept(
        &mut self,
        slot: u32,
        flow: Flow,
        request: &Request<'_, '_>,
        tag: &[u8],
        status: u16,
        out: &mut Outbox,
    ) {
        let granted_s = self.slots.details(slot).granted_s;
        let settings = self.settings.clone();
        let contact = settings.listeners[usize::from(flow.local)].contact(flow.transport);
        self.respond(flow, request, status, Some(tag), out, |response| {
            response.number("Expires", granted_s.into());
            response.lines(&[b"Contact: ", contact, b"\r\n"]);
            response.lines(&[b"Allow-Events: ", EVENT_PACKAGE.as_bytes(), b"\r\n"]);
        });
    }

    fn same_dialog(&self, slot: u32, request: &Request<'_, '_>) -> bool {
        let dialog = self.slots.dialog(slot);
        dialog.call_id == request.call_id && Some(dialog.remote_tag) == request.from_tag()
    }

    fn branch_digest(&self, request: &Request<'_, '_>) -> u32 {
        // RFC 3261 17.2.3: branch and sent-by name a transaction.
        self.key
            .digest(request.via.branch.unwrap_or_default(), request.via.host) as u32
    }

    /// RFC 5839 6: `*` always matches.
    fn condition_holds(&self, request: &Request<'_, '_>, interest: u16) -> bool {
        let tag = self.interests.get(interest).tag();
        request
            .suppress_if_match
            .is_some_and(|wanted| wanted == b"*" || wanted == entity_tag(tag))
    }

    fn jittered(&mut self, expires_s: u32) -> u32 {
        if expires_s <= JITTER_ABOVE_S {
            return expires_s;
        }
        expires_s - self.random.random_range(0..=expires_s / 10)
    }

    fn read_wish(&self, request: &Request<'_, '_>, event: &Event<'_>) -> Result<Wish, Refusal> {
        let filter = read_filter(request)?;
        let format = read_accept(request)?;
        let settings = &self.settings;
        let asked_s = request.expires.unwrap_or(settings.expires_default_s);
        // RFC 6665 4.2.1.1: 423 only where 0 < Expires < 3600 and under the least.
        if asked_s > 0 && asked_s < 3_600 && asked_s < settings.expires_least_s {
            return Err(Refusal {
                status: 423,
                detail: Detail::MinExpires(settings.expires_least_s),
            });
        }
        let expires_s = asked_s.min(settings.expires_most_s);
        Ok(Wish {
            format,
            filter,
            expires_s,
            rates: Rates {
                max: event.max_rate,
                min: event.min_rate,
            },
        })
    }
}

/// The text of an entity-tag in SIP-ETag.
pub(super) fn entity_tag(tag: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (place, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(tag >> (60 - 4 * place)) as usize & 15];
    }
    text
}

fn new_dialog<'a: 'd, 'd>(
    request: &Request<'_, 'a>,
    contact: &NameAddr<'a>,
    routes: &'d [u8],
    event: &Event<'a>,
    hop: Flow,
) -> Result<Dialog<'d>, Refusal> {
    let dialog = Dialog {
        call_id: request.call_id,
        remote_tag: request.from_tag().unwrap_or_default(),
        remote_uri: request.from.uri,
        local_uri: request.to.uri,
        target: contact.uri,
        routes,
        event_id: event.id.unwrap_or_default(),
    };
    if dialog.len() > texts_most(hop.transport.is_reliable()) {
        return Err(Refusal::because(
            513,
            "identifiers and routes leave no room for a document",
        ));
    }
    Ok(dialog)
}

/// The filter in a SUBSCRIBE's body; an empty one shows everything.
fn read_filter(request: &Request<'_, '_>) -> Result<Option<Option<Arc<Filter>>>, Refusal> {
    // RFC 3261 8.2.3: an encoding that we do not know is refused with the ones that we do: none.
    let encoded = request.message.elements(Name::ContentEncoding);
    if encoded
        .into_iter()
        .any(|encoding| !encoding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal {
            status: 415,
            detail: Detail::Header("Accept-Encoding", ""),
        });
    }
    if request.body.is_empty() {
        return Ok(None);
    }
    let known = request.content_type.is_some_and(|kind| {
        kind.kind.eq_ignore_ascii_case(b"application")
            && kind.subtype.eq_ignore_ascii_case(b"serverinfo")
    });
    if !known {
        return Err(Refusal {
            status: 415,
            detail: Detail::Header("Accept", "application/serverinfo"),
        });
    }
    let filter =
        Filter::parse(request.body).map_err(|error| Refusal::because(error.status(), error))?;
    Ok(Some((!filter.is_empty()).then(|| Arc::new(filter))))
}

/// The format that Accept prefers (RFC 3261 20.1); wildcards mean XML, ties go to it.
fn read_accept(request: &Request<'_, '_>) -> Result<Option<Format>, Refusal> {
    match request.message.first(Name::Accept) {
        None => return Ok(None),
        // What most subscribers say; nothing that other fields may add is preferred to it.
        Some(b"application/serverinfo+xml") => return Ok(Some(Format::Xml)),
        Some(_) => {}
    }
    let (mut xml, mut json) = (None, None);
    for range in request
        .message
        .elements(Name::Accept)
        .filter_map(MediaRange::parse)
    {
        let exact = range.subtype != b"*";
        // The most specific range counts: type/subtype before type/* before */*.
        let rank = if exact {
            2
        } else {
            u8::from(range.kind != b"*")
        };
        if range.covers("application", "serverinfo+xml") {
            xml = xml.max(Some((rank, range.q)));
        }
        if exact && range.covers("application", "serverinfo+json") {
            json = json.max(Some((rank, range.q)));
        }
    }
    let quality = |found: Option<(u8, u16)>| found.map_or(0, |(_, q)| q);
    match (quality(xml), quality(json)) {
        (0, 0) => Err(Refusal {
            status: 406,
            detail: Detail::Header(
                "Accept",
                "application/serverinfo+xml, application/serverinfo+json",
            ),
        }),
        (xml, json) if json > xml => Ok(Some(Format::Json)),
        _ => Ok(Some(Format::Xml)),
    }
}
