//! The slots in which all of a shard's subscriptions stand, and beside them what only some of them have: an outstanding
//! NOTIFY, rates. Knows no message and no view.

use super::arena::Piece;
use super::chunks::{Chunks, Slab};
use super::dialog::{Dialog, Dialogs, Extent};
use super::handle::{Handle, HandleKey};
use super::subscription::{
    Details, Flag, GRACE_MS, NO_TRANSACTION, Owed, Phase, REPEATS_MS, SetProgress, Subscription,
};
use super::transaction::{NO_RATES, Rates, TIMER_F_MS, Transaction};

const NONE: u32 = u32::MAX;
const RATES_LIVE: &str = "rates live while they are used";

#[derive(Debug)]
pub struct Slots {
    subscriptions: Chunks<Subscription>,
    details: Chunks<Details>,
    dialogs: Dialogs,
    transactions: Slab<Transaction>,
    rates: Slab<Rates>,
    /// Transactions begun; it goes round.
    begun: u32,
    free: u32,
    taken: usize,
}

impl Slots {
    pub fn new(key: HandleKey) -> Self {
        Slots {
            subscriptions: Chunks::new(),
            details: Chunks::new(),
            dialogs: Dialogs::new(key),
            transactions: Slab::new(),
            rates: Slab::new(),
            begun: 0,
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
        self.subscriptions.len()
    }

    /// Dialogs kept, the texts they share, transactions and rates.
    pub fn held(&self) -> (usize, usize, usize, usize) {
        let (dialogs, shared) = self.dialogs.len();
        (dialogs, shared, self.transactions.len(), self.rates.len())
    }

    /// Puts a subscription into a free slot, with that slot's next generation.
    pub fn insert(
        &mut self,
        mut subscription: Subscription,
        details: Details,
        dialog: &Dialog<'_>,
    ) -> u32 {
        self.taken += 1;
        subscription.texts = self.dialogs.keep(dialog);
        if self.free == NONE {
            self.details.push(details);
            return self.subscriptions.push(subscription);
        }
        let slot = self.free;
        let place = &mut self.subscriptions[slot];
        self.free = place.hop;
        subscription.generation = Handle::next_generation(place.generation);
        *place = subscription;
        self.details[slot] = details;
        slot
    }

    pub fn remove(&mut self, slot: u32) {
        self.set_rates(slot, Rates::default());
        let subscription = &mut self.subscriptions[slot];
        self.dialogs.give_back(subscription.texts);
        subscription.texts = Piece::NONE;
        subscription.phase = Phase::Free;
        subscription.hop = std::mem::replace(&mut self.free, slot);
        self.taken -= 1;
    }

    pub fn get(&self, slot: u32) -> &Subscription {
        &self.subscriptions[slot]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Subscription {
        &mut self.subscriptions[slot]
    }

    pub fn details(&self, slot: u32) -> &Details {
        &self.details[slot]
    }

    pub fn details_mut(&mut self, slot: u32) -> &mut Details {
        &mut self.details[slot]
    }

    pub fn dialog(&self, slot: u32) -> Dialog<'_> {
        self.dialogs.get(self.subscriptions[slot].texts)
    }

    /// How much there is to say of its dialog.
    pub fn extent(&self, slot: u32) -> Extent {
        self.dialogs.extent(self.subscriptions[slot].texts)
    }

    pub fn retarget(&mut self, slot: u32, target: &[u8]) {
        let subscription = &mut self.subscriptions[slot];
        subscription.texts = self.dialogs.retarget(subscription.texts, target);
    }

    /// The subscription that a handle names, ended ones that linger included.
    pub fn find(&self, handle: Handle) -> Option<&Subscription> {
        let subscription = self.subscriptions.get(handle.slot)?;
        (subscription.phase != Phase::Free && subscription.generation == handle.generation)
            .then_some(subscription)
    }

    // ---- the outstanding NOTIFY ----

    /// Begins the transaction of an idle subscription, with its rates as they are; its place and serial number.
    pub fn begin(&mut self, transaction: Transaction) -> (u32, u32) {
        self.begun = self.begun.wrapping_add(1);
        let slot = transaction.slot;
        let subscription = &mut self.subscriptions[slot];
        let rates = if subscription.flags.has(Flag::Rates) {
            let rates = *self.rates.get(self.details[slot].rates).expect(RATES_LIVE);
            self.rates.insert(rates)
        } else {
            NO_RATES
        };
        let place = self.transactions.insert(Transaction {
            serial: self.begun,
            rates,
            ..transaction
        });
        assert!(!subscription.is_outstanding(), "one NOTIFY at a time");
        subscription.transaction = place;
        (place, self.begun)
    }

    pub fn close(&mut self, slot: u32) -> Option<Transaction> {
        let subscription = &mut self.subscriptions[slot];
        let transaction = match std::mem::replace(&mut subscription.transaction, NO_TRANSACTION) {
            NO_TRANSACTION => None,
            place => self.transactions.remove(place),
        }?;
        if transaction.rates != NO_RATES {
            self.rates.remove(transaction.rates);
        }
        Some(transaction)
    }

    /// The rates that a NOTIFY says.
    pub fn rates_of(&self, transaction: &Transaction) -> Rates {
        match transaction.rates {
            NO_RATES => Rates::default(),
            number => *self.rates.get(number).expect(RATES_LIVE),
        }
    }

    pub fn transaction(&self, slot: u32) -> Option<&Transaction> {
        match self.subscriptions[slot].transaction {
            NO_TRANSACTION => None,
            place => self.transactions.get(place),
        }
    }

    pub fn transaction_mut(&mut self, slot: u32) -> Option<&mut Transaction> {
        match self.subscriptions[slot].transaction {
            NO_TRANSACTION => None,
            place => self.transactions.get_mut(place),
        }
    }

    /// The transaction at a place, if it still is the one with this serial number.
    pub fn outstanding(&self, place: u32, serial: u32) -> Option<&Transaction> {
        self.transactions
            .get(place)
            .filter(|transaction| transaction.serial == serial)
    }

    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.iter()
    }

    // ---- the set in progress ----

    pub fn set(&self, slot: u32) -> Option<SetProgress> {
        let has = self.subscriptions[slot].flags.has(Flag::Set);
        has.then(|| self.details[slot].set)
    }

    pub fn begin_set(&mut self, slot: u32, progress: SetProgress) {
        self.subscriptions[slot].flags.set(Flag::Set, true);
        self.details[slot].set = progress;
    }

    pub fn take_set(&mut self, slot: u32) -> Option<SetProgress> {
        let had = self.subscriptions[slot].flags.set(Flag::Set, false);
        had.then(|| self.details[slot].set)
    }

    // ---- rates and times ----

    pub fn rates(&self, slot: u32) -> Rates {
        if !self.subscriptions[slot].flags.has(Flag::Rates) {
            return Rates::default();
        }
        *self.rates.get(self.details[slot].rates).expect(RATES_LIVE)
    }

    pub fn set_rates(&mut self, slot: u32, rates: Rates) {
        let details = &mut self.details[slot];
        let had = self.subscriptions[slot]
            .flags
            .set(Flag::Rates, !rates.is_none());
        match (had, rates.is_none()) {
            (false, true) => {}
            (false, false) => details.rates = self.rates.insert(rates),
            (true, true) => drop(self.rates.remove(details.rates)),
            (true, false) => {
                let place = self.rates.get_mut(details.rates);
                *place.expect(RATES_LIVE) = rates;
            }
        }
    }

    /// RFC 6446 5.2: the subscriber's max-rate lets no NOTIFY out before, except after a SUBSCRIBE and at the end.
    pub fn allowed_ms(&self, slot: u32, now_ms: u64) -> u64 {
        let max = self.rates(slot).max;
        max.map_or(0, |rate| {
            self.subscriptions[slot].sent.ms(now_ms) + rate.interval_ms()
        })
    }

    /// When a subscription must be looked at, apart from changes of the view.
    pub fn deadline_ms(&self, slot: u32, now_ms: u64, reliable: bool) -> Option<u64> {
        let subscription = &self.subscriptions[slot];
        let refresh_ms = subscription.refresh.ms(now_ms);
        let transaction = self.transaction(slot).map(|transaction| {
            if reliable {
                transaction.began_ms + TIMER_F_MS
            } else if transaction.fired == 0 && refresh_ms > now_ms {
                // The first Timer E waits in a queue of its own: a NOTIFY that is answered leaves the wheel as it is.
                refresh_ms
            } else {
                transaction.next_e.ms(now_ms)
            }
        });
        match subscription.phase {
            Phase::Free => None,
            Phase::Gone => Some(self.forgotten_ms(slot)),
            Phase::Ending { .. } => transaction,
            Phase::Active => {
                let end_ms = subscription.expires.ms(now_ms) + GRACE_MS;
                let next_ms = match transaction {
                    Some(deadline_ms) => deadline_ms,
                    None if subscription.owed != Owed::Nothing => self.details[slot].retry_ms,
                    None => refresh_ms,
                };
                Some(end_ms.min(next_ms))
            }
        }
    }

    /// When no repeat of the last SUBSCRIBE can come any more.
    pub fn forgotten_ms(&self, slot: u32) -> u64 {
        self.details[slot].subscribed_ms + REPEATS_MS
    }
}
