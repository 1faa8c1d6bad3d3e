//! One subscription: its dialog, its NOTIFY transaction, what its subscriber knows, and when it is next due; and the
//! slab of fixed chunks in which all of a shard's subscriptions stand. Knows no message and no view.

use super::handle::Handle;
use crate::sip::header::Rate;
use crate::sip::write::Reason;

const CHUNK: usize = 1024;

/// RFC 3261 17.1.2.2: the estimate of the round trip.
pub const T1_MS: u64 = 500;
/// RFC 3261 17.1.2.2: retransmissions are at most this far apart.
pub const T2_MS: u64 = 4_000;
/// RFC 3261 17.1.2.2: the longest that a message stays in the network.
pub const T4_MS: u64 = 5_000;
/// Timer F: 64 * T1.
pub const TIMER_F_MS: u64 = 64 * T1_MS;
/// How long repeats of a SUBSCRIBE are recognised: Timer J, and as long as the last of them may be under way.
pub const REPEATS_MS: u64 = 64 * T1_MS + T4_MS;
/// A subscription is held this much longer than it says, and takes refreshes in that time.
pub const GRACE_MS: u64 = 32_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody's; the next free slot.
    Free {
        next: u32,
    },
    Active,
    /// The last NOTIFY is to be sent, or outstanding.
    Ending {
        reason: Reason,
        retry_after_s: Option<u32>,
    },
    /// Ended, but repeats of its last SUBSCRIBE may still come (Timer J).
    Gone {
        until_ms: u64,
    },
}

/// What the next NOTIFY must carry, apart from changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    Nothing,
    /// The full state.
    Full,
    /// A NOTIFY without a body: the subscriber has that state already (RFC 5839 6.2).
    Bodyless,
}

/// What a NOTIFY, once answered 2xx, has told the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The subscriber has this view.
    View(u64),
    /// One more part of a set, not the last.
    Part,
    /// No document: the next one is full.
    Nothing,
}

/// An outstanding NOTIFY (RFC 3261 17.1.2): what is needed to send the same bytes again.
#[derive(Debug, Clone, Copy)]
pub struct Transaction {
    /// The body's number, held; `None` without a body.
    pub body: Option<u32>,
    pub tag: u64,
    pub expires_s: u32,
    /// The rates as they were: a refresh answered 204 may change them while the NOTIFY is outstanding.
    pub max_rate: Option<Rate>,
    pub min_rate: Option<Rate>,
    /// Subscription-State says `terminated`.
    pub last: bool,
    pub offer: Offer,
    pub began_ms: u64,
    /// When Timer E fires next; Timer F is decided then.
    pub next_e_ms: u64,
    /// How often Timer E fired.
    pub fired: u8,
    /// A provisional answer came: Timer E is T2 (17.1.2.2).
    pub proceeding: bool,
    /// Counts in the windows: sent less than T1 ago.
    pub windowed: bool,
}

/// A set of parts in progress.
#[derive(Debug, Clone, Copy)]
pub struct SetProgress {
    pub set: u32,
    pub next: u32,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// A NOTIFY was answered: the target wants them.
    pub proven: bool,
    /// The last SUBSCRIBE was answered 204 (RFC 5839 6.3).
    pub answered_204: bool,
    /// The condition of the last SUBSCRIBE holds: no periodic NOTIFY.
    pub suppressed: bool,
    /// Stands in the queue of first NOTIFYs, of retransmissions, of what became due.
    pub in_first: bool,
    pub in_again: bool,
    pub in_due: bool,
}

#[derive(Debug)]
pub struct Subscription {
    pub generation: u32,
    pub phase: Phase,
    pub flags: Flags,
    pub owed: Owed,
    pub interest: u16,
    /// The listening address that speaks in this dialog.
    pub listener: u16,
    pub hop: u32,
    /// The key under which the SUBSCRIBE that made it is found.
    pub origin: u64,
    pub dialog: Dialog,
    /// Our CSeq: that of the last NOTIFY.
    pub cseq: u32,
    /// Their CSeq and a digest of their branch: those of the last SUBSCRIBE.
    pub remote_cseq: u32,
    pub remote_branch: u32,
    pub granted_s: u32,
    pub subscribed_ms: u64,
    pub expires_ms: u64,
    /// Of the last document sent.
    pub version: u32,
    /// The view that the subscriber is known to have; 0: none, the next document is full.
    pub acked: u64,
    /// The view up to which nothing is left to be told, provided the outstanding NOTIFY arrives.
    pub told: u64,
    /// Where the next round of a document too large for a datagram begins.
    pub round: u32,
    /// The subscriber's `max-rate` and `min-rate` (RFC 6446).
    pub max_rate: Option<Rate>,
    pub min_rate: Option<Rate>,
    pub sent_ms: u64,
    /// When a change last passed the node's interval.
    pub urgent_ms: u64,
    pub refresh_ms: u64,
    /// NOTIFYs failed in a row, and when to try again.
    pub failures: u8,
    pub retry_ms: u64,
    pub transaction: Option<Transaction>,
    pub set: Option<SetProgress>,
}

impl Subscription {
    /// When this subscription must be looked at, apart from changes of the view.
    pub fn deadline_ms(&self, reliable: bool) -> Option<u64> {
        let transaction = self.transaction.as_ref().map(|transaction| {
            if reliable {
                transaction.began_ms + TIMER_F_MS
            } else if transaction.fired == 0 {
                // The first Timer E waits in a queue of its own: the wheel need not come by for a NOTIFY answered.
                transaction.next_e_ms.max(self.refresh_ms)
            } else {
                transaction.next_e_ms
            }
        });
        match self.phase {
            Phase::Free { .. } => None,
            Phase::Gone { until_ms } => Some(until_ms),
            Phase::Ending { .. } => transaction,
            Phase::Active => {
                let end = self.expires_ms + GRACE_MS;
                let next = match transaction {
                    Some(deadline) => deadline,
                    None if self.owed != Owed::Nothing => self.retry_ms,
                    None => self.refresh_ms,
                };
                Some(end.min(next))
            }
        }
    }

    /// RFC 6446 5.2: the subscriber's max-rate lets no NOTIFY out before, except after a SUBSCRIBE and at the end.
    pub fn allowed_ms(&self) -> u64 {
        self.max_rate
            .map_or(0, |rate| self.sent_ms + rate.interval_ms())
    }

    /// RFC 6665 4.2.2: what remains, never 0 while active.
    pub fn remaining_s(&self, now_ms: u64) -> u32 {
        let remaining = self.expires_ms.saturating_sub(now_ms).div_ceil(1_000);
        u32::try_from(remaining).expect("at most an hour").max(1)
    }
}

impl Transaction {
    /// Timer E after it fired (RFC 3261 17.1.2.2: 500 ms, 1 s, 2 s, 4 s, 4 s, ...; T2 in Proceeding).
    pub fn next_interval_ms(&self) -> u64 {
        if self.proceeding {
            T2_MS
        } else {
            (T1_MS << self.fired.min(3)).min(T2_MS)
        }
    }
}

/// The texts of a dialog in one piece: each behind its length.
#[derive(Debug, Clone, Default)]
pub struct Dialog(Box<[u8]>);

/// The places of those texts of a dialog that are asked for singly; between them stand the remote and the local URI.
#[derive(Debug, Clone, Copy)]
pub enum Text {
    CallId = 0,
    RemoteTag = 1,
    /// The remote target: Request-URI of our requests, unless the first route is strict.
    Target = 4,
    /// The Route header field's value, empty without a route set.
    Routes = 5,
    EventId = 6,
}

const TEXTS: usize = 7;

/// Identifiers and routes longer than this leave no room for a document of one server in a datagram of 1,300 bytes; on a
/// connection more may be kept.
pub fn texts_most(reliable: bool) -> usize {
    if reliable { 16_384 } else { 450 }
}

impl Dialog {
    /// Call-ID, remote tag, remote URI, local URI, remote target, route set, event id.
    pub fn new(texts: [&[u8]; TEXTS]) -> Self {
        let mut piece = Vec::with_capacity(texts.iter().map(|text| text.len() + 2).sum());
        for text in texts {
            let len = u16::try_from(text.len())
                .expect("a text is part of a datagram or a framed message of 64 KiB");
            piece.extend_from_slice(&len.to_le_bytes());
            piece.extend_from_slice(text);
        }
        Dialog(piece.into_boxed_slice())
    }

    pub fn text(&self, which: Text) -> &[u8] {
        self.texts()[which as usize]
    }

    pub fn texts(&self) -> [&[u8]; TEXTS] {
        let mut rest = &self.0[..];
        std::array::from_fn(|_| {
            let Some((len, after)) = rest.split_first_chunk::<2>() else {
                return &rest[..0];
            };
            let (text, after) = after.split_at(usize::from(u16::from_le_bytes(*len)));
            rest = after;
            text
        })
    }

    /// Whether another remote target keeps the texts within their bound.
    pub fn has_room_for(&self, target: &[u8], reliable: bool) -> bool {
        let texts = self.texts();
        let others =
            texts.iter().map(|text| text.len()).sum::<usize>() - texts[Text::Target as usize].len();
        others + target.len() <= texts_most(reliable)
    }

    /// The same dialog with another remote target (RFC 3261 12.2: a target refresh).
    pub fn with_target(&self, target: &[u8]) -> Dialog {
        let mut texts = self.texts();
        texts[Text::Target as usize] = target;
        Dialog::new(texts)
    }
}

/// All subscriptions of a shard. Chunks, so that growth never copies.
#[derive(Debug)]
pub struct Slots {
    chunks: Vec<Vec<Subscription>>,
    len: u32,
    free: u32,
    taken: usize,
}

const NONE: u32 = u32::MAX;

impl Slots {
    pub fn new() -> Self {
        Slots {
            chunks: Vec::new(),
            len: 0,
            free: NONE,
            taken: 0,
        }
    }

    /// Slots in use, those of ended subscriptions that linger included.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// One more than the highest slot ever used.
    pub fn end(&self) -> u32 {
        self.len
    }

    /// Puts a subscription into a free slot, with that slot's next generation.
    pub fn insert(&mut self, mut subscription: Subscription) -> u32 {
        self.taken += 1;
        if self.free != NONE {
            let slot = self.free;
            let place = self.get_mut(slot);
            let Phase::Free { next } = place.phase else {
                unreachable!("the free list holds free slots")
            };
            subscription.generation = Handle::next_generation(place.generation);
            *place = subscription;
            self.free = next;
            return slot;
        }
        if (self.len as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks
            .last_mut()
            .expect("a chunk with room")
            .push(subscription);
        self.len += 1;
        self.len - 1
    }

    pub fn remove(&mut self, slot: u32) {
        let next = self.free;
        let subscription = self.get_mut(slot);
        subscription.phase = Phase::Free { next };
        subscription.dialog = Dialog::default();
        self.free = slot;
        self.taken -= 1;
    }

    pub fn get(&self, slot: u32) -> &Subscription {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Subscription {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// The subscription that a handle names, ended ones that linger included.
    pub fn find(&self, handle: Handle) -> Option<&Subscription> {
        let subscription = (handle.slot < self.len).then(|| self.get(handle.slot))?;
        let free = matches!(subscription.phase, Phase::Free { .. });
        (!free && subscription.generation == handle.generation).then_some(subscription)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_gives_back_its_texts() {
        let texts: [&[u8]; TEXTS] = [
            b"call",
            b"",
            b"sip:a@b",
            b"sip:c",
            b"sip:d",
            b"<sip:r;lr>",
            b"7",
        ];
        let dialog = Dialog::new(texts);
        assert_eq!(dialog.texts(), texts);
        let moved = dialog.with_target(b"sip:elsewhere");
        assert_eq!(moved.text(Text::Target), b"sip:elsewhere");
        assert_eq!(moved.text(Text::EventId), b"7");
        assert_eq!(Dialog::default().text(Text::CallId), b"");
    }

    #[test]
    fn timer_e_doubles_to_four_seconds_and_stays() {
        let mut transaction = Transaction {
            body: None,
            tag: 0,
            expires_s: 1,
            max_rate: None,
            min_rate: None,
            last: false,
            offer: Offer::Nothing,
            began_ms: 0,
            next_e_ms: T1_MS,
            fired: 0,
            proceeding: false,
            windowed: true,
        };
        let mut sends = vec![0];
        while transaction.next_e_ms < TIMER_F_MS {
            sends.push(transaction.next_e_ms);
            transaction.fired += 1;
            transaction.next_e_ms += transaction.next_interval_ms();
        }
        assert_eq!(
            sends,
            [
                0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500
            ]
        );
    }
}
