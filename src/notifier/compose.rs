//! What the next NOTIFY of a subscription carries: the full state, its changes, one part of it, or nothing. Bodies are
//! rendered once and shared. Knows no window and no timer.

use super::bodies::{BodyKey, SetKey, Show};
use super::stamp::Stamp;
use super::subscription::{Flag, Owed, Phase, SetProgress};
use super::transaction::Offer;
use super::{Notifier, message};
use crate::info::{self, Body, Change, Entry};

/// Budgets of parts are rounded down to this, so that subscriptions with identifiers of about one length share parts.
const BUDGET_STEP: usize = 64;

/// A NOTIFY about to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draft {
    pub body: Option<u32>,
    pub offer: Offer,
    pub tag: u64,
    /// Says `terminated`.
    pub last: bool,
    /// The view that it brings the subscriber to.
    pub told: u64,
    /// A change that passes the node's interval.
    pub urgent: bool,
}

impl Notifier {
    /// The next NOTIFY of a subscription without an outstanding one; `None` when nothing is to be told now.
    pub(super) fn compose(&mut self, slot: u32, now_ms: u64) -> Option<Draft> {
        let subscription = self.slots.get(slot);
        if let Some(progress) = self.slots.set(slot) {
            return Some(self.next_part(slot, progress));
        }
        match (subscription.phase, subscription.owed) {
            (Phase::Free | Phase::Gone, _) => None,
            (Phase::Ending { .. }, Owed::Full) | (Phase::Active, Owed::Full) => {
                Some(self.full(slot))
            }
            (Phase::Ending { .. }, _) | (_, Owed::Bodyless) => Some(self.bodyless(slot)),
            (Phase::Active, Owed::Nothing) => {
                let due = self
                    .change_due_ms(slot, now_ms)
                    .is_some_and(|due_ms| due_ms <= now_ms);
                let change = if due { self.change(slot) } else { None };
                if change.is_some() || self.slots.get(slot).refresh.ms(now_ms) > now_ms {
                    return change;
                }
                // RFC 6446 5.2: nor does a periodic NOTIFY come sooner than max-rate allows.
                let allowed_ms = self.slots.allowed_ms(slot, now_ms);
                if allowed_ms > now_ms {
                    self.slots.get_mut(slot).refresh = Stamp::of(allowed_ms);
                    return None;
                }
                self.periodic(slot, now_ms)
            }
        }
    }

    fn bodyless(&self, slot: u32) -> Draft {
        let subscription = self.slots.get(slot);
        let interest = self.interests.get(subscription.interest);
        Draft {
            body: None,
            offer: Offer::Nothing,
            tag: interest.tag(),
            last: subscription.ends(),
            told: interest.current().view().revision,
            urgent: false,
        }
    }

    /// A NOTIFY with a document of the current view.
    fn draft(&self, slot: u32, body: u32) -> Draft {
        let whole = self.bodyless(slot);
        Draft {
            body: Some(body),
            offer: Offer::View(whole.told),
            ..whole
        }
    }

    /// The full state: in one document if it fits, else the first part of a set.
    fn full(&mut self, slot: u32) -> Draft {
        let body = self.full_body(slot);
        if self.fits(slot, body) {
            self.draft(slot, body)
        } else {
            self.begin_set(slot)
        }
    }

    fn full_body(&mut self, slot: u32) -> u32 {
        self.body(slot, Show::Full, |interest| {
            let now = interest.current();
            let entries = now.entries().map(|entry| &**entry);
            (Some(info::full(now.view(), entries, interest.format)), 0)
        })
    }

    /// What changed since the view that the subscriber has; the full state if that is too long ago or too much.
    pub(super) fn change(&mut self, slot: u32) -> Option<Draft> {
        let subscription = self.slots.get(slot);
        let (base, told) = (subscription.acked, subscription.told);
        let interest = self.interests.get(subscription.interest);
        let now = interest.current();
        let revision = now.view().revision;
        let urgent = now.view().urgent > told;
        let key = BodyKey {
            interest: interest.uid,
            view: revision,
            show: Show::Since { base },
        };
        let body = self.bodies.find(&key).or_else(|| {
            let changes = info::delta(interest.at(base)?, now);
            let body = (!changes.is_empty())
                .then(|| info::partial(now.view(), base, &changes, interest.format));
            Some(self.bodies.keep(key, body, 0))
        });
        let draft = match body {
            // Nothing that this filter shows has changed.
            Some(body) if self.bodies.get(body).body.is_none() => {
                self.slots.get_mut(slot).told = revision;
                return None;
            }
            Some(body) if self.fits(slot, body) => self.draft(slot, body),
            _ => self.full(slot),
        };
        Some(Draft { urgent, ..draft })
    }

    /// Nothing new, but time for a sign of life: the full state if one message takes it, else as much as fits, the next
    /// entries each time.
    fn periodic(&mut self, slot: u32, now_ms: u64) -> Option<Draft> {
        if self.slots.get(slot).flags.has(Flag::Suppressed) {
            self.slots.get_mut(slot).refresh = Stamp::never(now_ms);
            return None;
        }
        let body = self.full_body(slot);
        if self.fits(slot, body) {
            return Some(self.draft(slot, body));
        }
        let subscription = self.slots.get(slot);
        let (base, from) = (subscription.acked, self.slots.details(slot).round);
        if self.interests.get(subscription.interest).at(base).is_none() {
            return Some(self.full(slot));
        }
        if let Some(change) = self.change(slot) {
            return Some(change);
        }
        let budget = self.budget(slot);
        let body = self.body(slot, Show::Round { base, from, budget }, |interest| {
            let now = interest.current();
            let entries: Vec<&Entry> = now.entries().map(|entry| &**entry).collect();
            round(
                now.view(),
                base,
                &entries,
                from as usize,
                interest.format,
                budget as usize,
            )
        });
        self.slots.details_mut(slot).round = self.bodies.get(body).next;
        Some(self.draft(slot, body))
    }

    fn begin_set(&mut self, slot: u32) -> Draft {
        let budget = self.budget(slot);
        let interest = self.interests.get(self.slots.get(slot).interest);
        let key = SetKey {
            interest: interest.uid,
            view: interest.current().view().revision,
            budget,
        };
        let mut oversize = 0;
        let set = self.sets.enter(key, || {
            let now = interest.current();
            let entries: Vec<&Entry> = now.entries().map(|entry| &**entry).collect();
            let split = info::split(now.view(), &entries, interest.format, budget as usize);
            oversize = split.oversize.len() as u64;
            (now.clone(), interest.tag(), split.parts)
        });
        self.counters.oversize_entries += oversize;
        let progress = SetProgress { set, next: 0 };
        self.slots.begin_set(slot, progress);
        self.next_part(slot, progress)
    }

    /// The next part of a set, which stays at its view whatever changes meanwhile.
    fn next_part(&mut self, slot: u32, progress: SetProgress) -> Draft {
        let set = self.sets.get(progress.set);
        let parts = set.parts.len() as u32;
        let (view, tag) = (set.projection.view().revision, set.tag);
        let interest = self.interests.get(self.slots.get(slot).interest);
        let budget = set.budget();
        let key = BodyKey {
            interest: interest.uid,
            view,
            show: Show::Part {
                budget,
                index: progress.next,
            },
        };
        let body = match self.bodies.find(&key) {
            Some(body) => body,
            None => {
                let range = &set.parts[progress.next as usize];
                let entries = set
                    .projection
                    .entries()
                    .skip(range.start)
                    .take(range.len())
                    .map(|entry| &**entry);
                let body = info::part(
                    set.projection.view(),
                    entries,
                    progress.next + 1,
                    parts,
                    interest.format,
                );
                self.bodies.keep(key, Some(body), 0)
            }
        };
        let complete = progress.next + 1 == parts;
        Draft {
            body: Some(body),
            offer: if complete {
                Offer::View(view)
            } else {
                Offer::Part
            },
            tag,
            last: complete && self.slots.get(slot).ends(),
            told: view,
            urgent: false,
        }
    }

    /// The number of the body that shows `show` of the subscription's current view; rendered if nobody asked before.
    fn body(
        &mut self,
        slot: u32,
        show: Show,
        render: impl FnOnce(&super::interests::Interest) -> (Option<Body>, u32),
    ) -> u32 {
        let interest = self.interests.get(self.slots.get(slot).interest);
        let key = BodyKey {
            interest: interest.uid,
            view: interest.current().view().revision,
            show,
        };
        if let Some(number) = self.bodies.find(&key) {
            return number;
        }
        let (body, next) = render(interest);
        self.bodies.keep(key, body, next)
    }

    /// RFC 3261 18.1.1: what is longer than the limit does not go over UDP.
    fn fits(&self, slot: u32, body: u32) -> bool {
        let hop = self.slots.get(slot).hop;
        self.hops.transport(hop).is_reliable() || {
            let len = self.bodies.get(body).body.as_ref().map_or(0, Body::len);
            self.head_most(slot) + len <= self.settings.datagram_most
        }
    }

    fn head_most(&self, slot: u32) -> usize {
        let (extent, rates) = (self.slots.extent(slot), self.slots.rates(slot));
        let flow = self.hops.flow(self.slots.get(slot).hop);
        message::head_most(extent, rates, flow.local, &self.settings)
    }

    /// Bytes that a part's document may take.
    pub(super) fn budget(&self, slot: u32) -> u32 {
        let room = self
            .settings
            .datagram_most
            .saturating_sub(self.head_most(slot));
        (room / BUDGET_STEP * BUDGET_STEP) as u32
    }

    /// When the changes that the subscriber does not know yet may be told (RFC 6446 5.2, and the node's own intervals);
    /// `None` when nothing worth a NOTIFY has changed.
    pub(super) fn change_due_ms(&self, slot: u32, now_ms: u64) -> Option<u64> {
        let subscription = self.slots.get(slot);
        let view = self.interests.get(subscription.interest).current().view();
        let told = subscription.told;
        if view.revision <= told {
            return None;
        }
        let settings = &self.settings;
        let by_interval = |interval_ms: u64| subscription.sent.ms(now_ms) + interval_ms;
        let due_ms = if view.urgent > told {
            by_interval(settings.min_interval_ms)
                .min(subscription.urgent.ms(now_ms) + settings.urgent_interval_ms)
        } else if view.notable > told {
            by_interval(settings.min_interval_ms)
        } else if view.load > told {
            by_interval(settings.load_interval_ms)
        } else {
            return None;
        };
        Some(due_ms.max(self.slots.allowed_ms(slot, now_ms)))
    }
}

/// As many entries from place `from` on as fit, as changes that change nothing; and the place after them.
fn round(
    view: &info::View,
    base: u64,
    entries: &[&Entry],
    from: usize,
    format: info::Format,
    budget: usize,
) -> (Option<Body>, u32) {
    let from = if from < entries.len() { from } else { 0 };
    let envelope = info::envelope_len(view, info::Kind::Partial { base }, format);
    let most = budget.saturating_sub(envelope);
    let mut room = most;
    let mut changes = Vec::new();
    let mut next = from;
    for entry in &entries[from..] {
        let change = Change::of(entry);
        let len = info::entry_len(change, format);
        // One that never fits is passed over, or the round would end before it for ever.
        if len > room && len <= most {
            break;
        }
        next += 1;
        if len <= room {
            room -= len;
            changes.push(change);
        }
    }
    (
        Some(info::partial(view, base, &changes, format)),
        next as u32,
    )
}
