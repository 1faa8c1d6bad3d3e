//! One subscription: what each NOTIFY and each answer need of it, in one cache line, and the rest beside it. Knows no
//! message and no view.

use super::arena::Piece;
use super::stamp::{LONG_MS, Stamp};
use super::transaction::{T1_MS, T4_MS};
use crate::sip::write::Reason;

/// How long repeats of a SUBSCRIBE are recognised: Timer J, and as long as the last of them may be under way.
pub const REPEATS_MS: u64 = 64 * T1_MS + T4_MS;
/// A subscription is held this much longer than it says, and takes refreshes in that time.
pub const GRACE_MS: u64 = 32_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody's.
    Free,
    Active,
    /// The last NOTIFY is to be sent, or outstanding.
    Ending {
        reason: Reason,
        retry_after_s: Option<std::num::NonZeroU8>,
    },
    /// Ended, but repeats of its last SUBSCRIBE may still come (Timer J).
    Gone,
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

/// A set of parts in progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetProgress {
    pub set: u32,
    pub next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// A NOTIFY was answered: the target wants them.
    Proven = 1,
    /// The last SUBSCRIBE was answered 204 (RFC 5839 6.3).
    Answered204 = 2,
    /// The condition of the last SUBSCRIBE holds: no periodic NOTIFY.
    Suppressed = 4,
    /// Stands in the queue of first NOTIFYs, of retransmissions, of what became due.
    InFirst = 8,
    InAgain = 16,
    InDue = 32,
    /// The subscriber asked for rates.
    Rates = 64,
    /// A set of parts is in progress.
    Set = 128,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Flags(u8);

impl Flags {
    pub fn has(self, flag: Flag) -> bool {
        self.0 & flag as u8 != 0
    }

    /// What it was before.
    pub fn set(&mut self, flag: Flag, on: bool) -> bool {
        let before = self.has(flag);
        self.0 = self.0 & !(flag as u8) | (u8::from(on) * flag as u8);
        before
    }
}

/// What stands in the slots' transactions, where there is none.
pub(super) const NO_TRANSACTION: u32 = u32::MAX;

/// What each NOTIFY and each answer need.
#[derive(Debug)]
#[repr(align(64))]
pub struct Subscription {
    pub(super) generation: u32,
    /// Our CSeq: that of the last NOTIFY.
    pub cseq: u32,
    /// Of the last document sent.
    pub version: u32,
    /// In a free slot, the next free one.
    pub hop: u32,
    pub(super) transaction: u32,
    pub(super) texts: Piece,
    /// The view that the subscriber is known to have; 0: none, the next document is full.
    pub acked: u64,
    /// The view up to which nothing is left to be told, provided the outstanding NOTIFY arrives.
    pub told: u64,
    pub sent: Stamp,
    /// When a change last passed the node's interval.
    pub urgent: Stamp,
    pub refresh: Stamp,
    pub expires: Stamp,
    pub interest: u16,
    pub phase: Phase,
    pub owed: Owed,
    pub flags: Flags,
    /// NOTIFYs failed in a row.
    pub failures: u8,
}

const _: () = assert!(size_of::<Subscription>() == 64);

/// The rest of a subscription.
#[derive(Debug)]
pub struct Details {
    /// Their CSeq and a digest of their branch: those of the last SUBSCRIBE.
    pub remote_cseq: u32,
    pub remote_branch: u32,
    pub granted_s: u32,
    /// Where the next round of a document too large for a datagram begins.
    pub round: u32,
    pub subscribed_ms: u64,
    /// When to try again what is owed.
    pub retry_ms: u64,
    /// The number of the rates, where the flag says that there are some.
    pub(super) rates: u32,
    /// Where the flag says that there is one.
    pub(super) set: SetProgress,
}

impl Subscription {
    /// A new one, active and owed the full state.
    pub fn new(now_ms: u64, granted_s: u32, interest: u16) -> Self {
        Subscription {
            generation: 1,
            cseq: 0,
            version: 0,
            hop: 0,
            transaction: NO_TRANSACTION,
            texts: Piece::NONE,
            acked: 0,
            told: 0,
            sent: Stamp::of(now_ms),
            urgent: Stamp::long_ago(now_ms),
            refresh: Stamp::of(now_ms),
            expires: Stamp::of(now_ms + u64::from(granted_s) * 1_000),
            interest,
            phase: Phase::Active,
            owed: Owed::Full,
            flags: Flags::default(),
            failures: 0,
        }
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// A NOTIFY is outstanding.
    pub fn is_outstanding(&self) -> bool {
        self.transaction != NO_TRANSACTION
    }

    pub fn ends(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// Idle, proven, and owed nothing else: changes are told as they come (until the first NOTIFY was answered, a
    /// subscription gets no fan-out).
    pub fn waits_for_change(&self) -> bool {
        !self.is_outstanding()
            && self.owed == Owed::Nothing
            && self.flags.has(Flag::Proven)
            && !self.flags.has(Flag::Set)
    }

    /// RFC 6665 4.2.2: what remains, never 0 while active.
    pub fn remaining_s(&self, now_ms: u64) -> u32 {
        let remaining_ms = self.expires.ms(now_ms).saturating_sub(now_ms);
        u32::try_from(remaining_ms.div_ceil(1_000))
            .expect("at most a day")
            .max(1)
    }

    /// Times so long past that they matter no more are kept near.
    pub fn renew(&mut self, now_ms: u64) {
        for time in [&mut self.sent, &mut self.urgent] {
            if time.ms(now_ms) + LONG_MS < now_ms {
                *time = Stamp::long_ago(now_ms);
            }
        }
    }
}
