//! The oracle at the notifier's edge: it sees every message that goes in and comes out, keeps its own idea of each dialog
//! and names the rule that a message breaks. Knows nothing of the notifier's inside; reads with the naive reader.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use fanfare::wire::{Datagram, Flow, Transport};

use crate::plan::{Case, Kind, Plan};
use crate::reader::{Document, Wanted};
use crate::text::{Sip, param};
use crate::truth::{Class, Truth, notably_different};

/// Call-ID and the notifier's tag.
pub type Key = (String, String);

const T1_MS: u64 = 500;
const TIMER_F_MS: u64 = 32_000;
/// Ten for the wheel's slot, the rest for a full batch.
const TIMER_SLACK_MS: u64 = 30;
const MIN_INTERVAL_MS: u64 = 100;
const LOAD_INTERVAL_MS: u64 = 1_000;
const REFRESH_INTERVAL_MS: u64 = 60_000;

/// What a SUBSCRIBE asked, as it arrived.
#[derive(Debug, Clone)]
struct Asked {
    in_dialog: bool,
    expires_s: Option<u64>,
    wanted: Option<Wanted>,
    max_rate_ms: Option<u64>,
    min_rate_ms: Option<u64>,
    conditional: bool,
    accept: String,
    /// No bit of it was flipped on the way.
    certain: bool,
}

#[derive(Debug)]
struct Outstanding {
    cseq: u32,
    bytes: Rc<[u8]>,
    began_ms: u64,
    next_e_ms: u64,
    sends: u32,
    proceeding: bool,
    flow: Flow,
    last: bool,
    /// The view it tells in full once answered; `None` without a document, or for a part that is not the last.
    view: Option<u64>,
    part: Option<(u64, u64, u64)>,
}

#[derive(Debug)]
struct Dialog {
    shard: u8,
    cseq: u32,
    version: u64,
    /// The view of the last NOTIFY sent.
    view: u64,
    /// The view that the subscriber acknowledged and may be built on.
    acked: Option<u64>,
    outstanding: Option<Outstanding>,
    /// A 2xx went out, the NOTIFY has still to follow.
    owed_since_ms: Option<u64>,
    granted_s: u64,
    expires_ms: u64,
    ended: bool,
    /// A last NOTIFY went out.
    terminated: bool,
    wanted: Wanted,
    accept: String,
    max_rate_ms: Option<u64>,
    min_rate_ms: Option<u64>,
    sent_ms: u64,
    /// When nothing was outstanding any more.
    idle_ms: u64,
    proven: Option<Flow>,
    flow: Option<Flow>,
    /// A set of parts begun: its view, how many are out, of how many.
    set: Option<(u64, u64, u64)>,
    urgent_ms: VecDeque<u64>,
    exempt_ms: u64,
    suppressed: bool,
    failures: u32,
    /// A failed NOTIFY is tried again, not before this.
    retry_ms: Option<u64>,
    behind_since_ms: Option<u64>,
    /// A flipped bit may have told the notifier what we do not know.
    tainted: bool,
}

/// What the judge counted itself, to compare with the notifier's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub notifies: u64,
    pub retransmissions: u64,
    pub acknowledged: u64,
    pub rejected: u64,
    pub timeouts: u64,
    pub abandoned: u64,
    pub transport_errors: u64,
    pub subscribed: u64,
}

#[derive(Debug)]
pub struct Judge {
    case: Case,
    kind: Kind,
    window_most: usize,
    /// How long a closed window may put off what is due.
    patience_ms: u64,
    now_ms: u64,
    pub truth: Truth,
    /// The newest view of each shard.
    known: Vec<u64>,
    dialogs: BTreeMap<Key, Dialog>,
    /// Those that have not ended.
    alive: BTreeSet<Key>,
    branches: HashMap<String, (Key, u32)>,
    /// The 2xx of each SUBSCRIBE: To-tag.
    answered: HashMap<(String, String, u32), String>,
    /// The filter with which each NOTIFY was made.
    filters: HashMap<(Key, u32), Wanted>,
    timers: BTreeSet<(u64, Key, u32)>,
    current: Option<Asked>,
    /// NOTIFYs sent less than T1 ago, by shard.
    fresh: Vec<VecDeque<(u64, Key, u32)>>,
    /// When NOTIFYs sent by UDP were answered, by shard.
    acks: Vec<VecDeque<u64>>,
    owed: BTreeSet<Key>,
    /// When a next hop of a shard, or the shard, last had no room for sure.
    crowded_ms: HashMap<(u8, Option<Flow>), u64>,
    pub tally: Tally,
    pub draining: bool,
    /// Other notifiers are known that subscribers can go to.
    pub has_others: bool,
    /// When the last subscription is let go.
    pub drained_ms: u64,
    /// Something happened so near a timer that its count may be either.
    pub unsure: bool,
}

impl Judge {
    pub fn new(case: Case, plan: &Plan) -> Judge {
        Judge {
            case,
            kind: plan.kind,
            window_most: (plan.receive_buffer / 2 / 1300).max(32),
            patience_ms: if plan.one_hop || plan.kind == Kind::Crowd {
                60_000
            } else {
                1_000
            },
            now_ms: 0,
            truth: Truth::default(),
            known: vec![1; plan.shards.into()],
            dialogs: BTreeMap::new(),
            alive: BTreeSet::new(),
            branches: HashMap::new(),
            answered: HashMap::new(),
            filters: HashMap::new(),
            timers: BTreeSet::new(),
            current: None,
            fresh: vec![VecDeque::new(); plan.shards.into()],
            acks: vec![VecDeque::new(); plan.shards.into()],
            owed: BTreeSet::new(),
            crowded_ms: HashMap::new(),
            tally: Tally::default(),
            draining: false,
            has_others: false,
            drained_ms: 0,
            unsure: false,
        }
    }

    fn fail(&self, rule: &str, detail: &str) -> ! {
        self.case.fail(rule, self.now_ms, detail)
    }

    /// Time goes on: whoever should have sent something by now is late.
    pub fn advance(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some((due_ms, key, cseq)) = self.timers.first().cloned() {
            if due_ms + TIMER_SLACK_MS >= now_ms {
                break;
            }
            self.timers.pop_first();
            self.timer(&key, cseq, due_ms);
        }
    }

    fn timer(&mut self, key: &Key, cseq: u32, due_ms: u64) {
        let dialog = &self.dialogs[key];
        let Some(out) = dialog.outstanding.as_ref().filter(|out| out.cseq == cseq) else {
            return;
        };
        let end_ms = out.began_ms + TIMER_F_MS;
        if due_ms >= end_ms {
            self.tally.timeouts += 1;
            return self.end(key);
        }
        if out.next_e_ms == due_ms && !dialog.tainted {
            self.fail(
                "Timer E sends an unanswered NOTIFY again in time (RFC 3261 17.1.2.2)",
                &format!("{key:?} CSeq {cseq} sent {} times, due {due_ms}", out.sends),
            );
        }
    }

    fn end(&mut self, key: &Key) {
        let now_ms = self.now_ms;
        let dialog = self.dialog(key);
        dialog.ended = true;
        dialog.outstanding = None;
        dialog.owed_since_ms = None;
        dialog.idle_ms = now_ms;
        self.owed.remove(key);
        self.alive.remove(key);
    }

    fn dialog(&mut self, key: &Key) -> &mut Dialog {
        self.dialogs.get_mut(key).expect("a dialog that was seen")
    }

    pub fn learned(&mut self, shard: u8, revision: u64) {
        self.known[usize::from(shard)] = revision;
    }

    /// The filter with which a NOTIFY was made; `None` if it may be anyone's guess.
    pub fn filter_of(&self, key: &Key, cseq: u32) -> Option<&Wanted> {
        if self.dialogs.get(key)?.tainted {
            return None;
        }
        self.filters.get(&(key.clone(), cseq))
    }

    /// Whether the node still serves this dialog as far as can be known; `None`: cannot be known.
    pub fn serves(&self, key: &Key) -> Option<bool> {
        let dialog = self.dialogs.get(key)?;
        (!dialog.tainted).then_some(!dialog.ended)
    }

    /// Whether the subscriber was promised silence while nothing changes.
    pub fn has_condition(&self, key: &Key) -> bool {
        self.dialogs
            .get(key)
            .is_some_and(|dialog| dialog.suppressed)
    }

    /// Whether the subscriber asked to hear so seldom that the quiet phase is not enough.
    pub fn is_slow(&self, key: &Key) -> bool {
        let rate_ms = self.dialogs.get(key).and_then(|dialog| dialog.max_rate_ms);
        rate_ms.is_some_and(|interval_ms| interval_ms > 100_000)
    }

    pub fn live(&self) -> Option<usize> {
        let known = self.dialogs.values().all(|dialog| !dialog.tainted);
        known.then(|| self.dialogs.values().filter(|dialog| !dialog.ended).count())
    }

    // ---- in ----

    /// A request is about to be taken by a shard.
    pub fn request_in(&mut self, sip: &Sip, certain: bool) {
        self.current = None;
        if sip.method() != "SUBSCRIBE" {
            return;
        }
        let event = sip.text("event");
        let rate_ms = |name| {
            let rate: f64 = param(event, name)?.parse().ok()?;
            Some((1000.0 / rate).ceil() as u64)
        };
        self.current = Some(Asked {
            in_dialog: !sip.to_tag().is_empty(),
            expires_s: sip.number("expires"),
            wanted: (!sip.body.is_empty()).then(|| Wanted::read(&sip.body)),
            max_rate_ms: rate_ms("max-rate"),
            min_rate_ms: rate_ms("min-rate"),
            accept: sip.text("accept").to_owned(),
            conditional: sip.get("suppress-if-match").is_some(),
            certain,
        });
    }

    pub fn request_done(&mut self) {
        self.current = None;
    }

    /// An answer of which a bit may be flipped: whose it was before.
    pub fn doubt(&mut self, original: &Sip) {
        if let Some((key, _)) = self.branches.get(original.branch()).cloned() {
            self.unsure = true;
            self.dialog(&key).tainted = true;
        }
    }

    /// An answer was taken by a shard.
    pub fn answer_in(&mut self, shard: u8, sip: &Sip) {
        let (Some(status), Some((number, "NOTIFY"))) = (sip.status(), sip.cseq()) else {
            return;
        };
        let Some((key, cseq)) = self.branches.get(sip.branch()).cloned() else {
            return;
        };
        let now_ms = self.now_ms;
        let dialog = self.dialog(&key);
        let matches = |out: &Outstanding| out.cseq == cseq && number == cseq;
        let over = |out: &Outstanding| out.began_ms + TIMER_F_MS <= now_ms;
        if dialog.outstanding.as_ref().is_some_and(over) {
            dialog.tainted = true;
            self.unsure = true;
            return;
        }
        if dialog.shard != shard || !dialog.outstanding.as_ref().is_some_and(matches) {
            return;
        }
        if status < 200 {
            if let Some(out) = &mut dialog.outstanding {
                out.proceeding = true;
            }
            return;
        }
        let Some(out) = dialog.outstanding.take() else {
            return;
        };
        dialog.idle_ms = now_ms;
        if out.flow.transport == Transport::Udp {
            self.acks[usize::from(shard)].push_back(now_ms);
        }
        match status {
            200..=299 => self.tally.acknowledged += 1,
            _ => self.tally.rejected += 1,
        }
        match status {
            _ if out.last => self.end(&key),
            200..=299 => self.acknowledged(&key, out, sip),
            401 | 404 | 405 | 407 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604 => {
                self.end(&key);
            }
            _ if self.is_ending(&key) => {
                // Not the last NOTIFY: that one is still to come.
                let dialog = self.dialog(&key);
                dialog.set = None;
                dialog.retry_ms = Some(now_ms);
            }
            _ => self.failed(&key, sip.number("retry-after")),
        }
    }

    fn is_ending(&self, key: &Key) -> bool {
        let dialog = &self.dialogs[key];
        dialog.granted_s == 0 || self.now_ms >= dialog.expires_ms + 32_000 || self.draining
    }

    fn acknowledged(&mut self, key: &Key, out: Outstanding, sip: &Sip) {
        let event = sip.get("event").map(str::to_owned);
        let dialog = self.dialog(key);
        dialog.failures = 0;
        dialog.proven = Some(out.flow);
        let part_to_come = out.part.is_some_and(|(_, part, parts)| part < parts);
        if !part_to_come {
            dialog.acked = out.view;
            dialog.set = None;
            let rate = |name| {
                let rate: f64 = param(event.as_deref()?, name)?.parse().ok()?;
                Some((1000.0 / rate).ceil() as u64)
            };
            dialog.max_rate_ms = rate("max-rate").or(dialog.max_rate_ms);
            dialog.min_rate_ms = rate("min-rate").or(dialog.min_rate_ms);
            dialog.min_rate_ms = dialog
                .min_rate_ms
                .max(dialog.min_rate_ms.and(dialog.max_rate_ms));
        }
    }

    fn failed(&mut self, key: &Key, retry_after_s: Option<u64>) {
        let now_ms = self.now_ms;
        let dialog = self.dialog(key);
        dialog.failures += 1;
        dialog.acked = None;
        dialog.set = None;
        let backoff_s = retry_after_s.unwrap_or(1 << (dialog.failures - 1));
        dialog.retry_ms = Some(now_ms + backoff_s * 1_000);
        if dialog.failures == 5 || self.is_ending(key) {
            self.end(key);
        }
    }

    /// The connection behind this flow broke, or could not be opened: after how long what failed is tried again.
    pub fn broken(&mut self, shard: u8, flow: Flow, backoff_s: Option<u64>) {
        let now_ms = self.now_ms;
        let moves = backoff_s.is_some();
        let keys: Vec<Key> = self.alive.iter().cloned().collect();
        for key in keys {
            let dialog = self.dialog(&key);
            if dialog.shard != shard || dialog.flow != Some(flow) || dialog.ended {
                continue;
            }
            if dialog.outstanding.take_if(|out| out.flow == flow).is_some() {
                dialog.idle_ms = now_ms;
                self.tally.transport_errors += 1;
                self.failed(&key, backoff_s);
            } else if moves && dialog.owed_since_ms.is_none() {
                // It moves to its Contact, which has still to prove itself: the full state goes there.
                dialog.acked = None;
                dialog.set = None;
                dialog.retry_ms.get_or_insert(now_ms);
            }
        }
    }

    // ---- out ----

    pub fn message_out(&mut self, shard: u8, datagram: &Datagram) {
        let bytes = datagram.bytes.clone();
        let Some(sip) = Sip::read(&bytes) else {
            self.fail("what goes out is SIP", &String::from_utf8_lossy(&bytes));
        };
        if sip.method() == "NOTIFY" {
            self.notify_out(shard, datagram.flow, &sip, bytes);
        } else if let (Some(200 | 204), Some((_, "SUBSCRIBE"))) = (sip.status(), sip.cseq()) {
            self.subscribe_accepted(shard, &sip);
        }
    }

    fn subscribe_accepted(&mut self, shard: u8, sip: &Sip) {
        let Some(asked) = self.current.clone() else {
            self.fail(
                "a 2xx to SUBSCRIBE answers the SUBSCRIBE at hand",
                &sip.start,
            );
        };
        let tag = sip.to_tag().to_owned();
        let cseq = sip.cseq().map_or(0, |(number, _)| number);
        let name = (
            sip.text("call-id").to_owned(),
            sip.sender_tag().to_owned(),
            cseq,
        );
        if let Some(former) = self.answered.get(&name) {
            if *former != tag {
                self.fail(
                    "one SUBSCRIBE makes one subscription",
                    &format!("{name:?} was answered {former} and {tag}"),
                );
            }
            return;
        }
        self.answered.insert(name.clone(), tag.clone());
        let Some(granted_s) = sip.number("expires") else {
            self.fail(
                "a 2xx to SUBSCRIBE has Expires (RFC 6665 4.2.1.1)",
                &sip.start,
            );
        };
        let most_s = asked.expires_s.unwrap_or(1_800).min(3_600);
        let least_s = if asked.in_dialog || most_s <= 120 {
            most_s
        } else {
            most_s - most_s / 10
        };
        if asked.certain && !(least_s..=most_s).contains(&granted_s) {
            self.fail(
                "what is granted is what was asked, jitter apart",
                &format!("asked {most_s}, granted {granted_s}"),
            );
        }
        let key = (name.0, tag);
        let status = sip.status().unwrap_or_default();
        self.update(shard, key, &asked, granted_s, status == 204);
    }

    fn update(&mut self, shard: u8, key: Key, asked: &Asked, granted_s: u64, quiet: bool) {
        let now_ms = self.now_ms;
        if !asked.in_dialog {
            self.tally.subscribed += 1;
        }
        if self
            .dialogs
            .get(&key)
            .is_some_and(|dialog| dialog.ended && !dialog.tainted)
        {
            self.fail(
                "a subscription that ended takes no refresh",
                &format!("{key:?}"),
            );
        }
        let dialog = self.dialogs.entry(key.clone()).or_insert_with(|| Dialog {
            shard,
            cseq: 0,
            version: 0,
            view: 0,
            acked: None,
            outstanding: None,
            owed_since_ms: None,
            granted_s,
            expires_ms: 0,
            ended: false,
            terminated: false,
            wanted: Wanted::default(),
            accept: String::new(),
            max_rate_ms: None,
            min_rate_ms: None,
            sent_ms: now_ms,
            idle_ms: now_ms,
            proven: None,
            flow: None,
            set: None,
            urgent_ms: VecDeque::new(),
            exempt_ms: 0,
            suppressed: false,
            failures: 0,
            retry_ms: None,
            behind_since_ms: None,
            tainted: false,
        });
        // Only the full state that follows a 200 leaves no doubt.
        dialog.tainted = !asked.certain || (dialog.tainted && quiet);
        self.unsure |= !asked.certain;
        dialog.ended = false;
        self.alive.insert(key.clone());
        // What was put off by the former max-rate stays so.
        let allowed_ms = dialog.sent_ms + dialog.max_rate_ms.unwrap_or(0);
        dialog.retry_ms = dialog.retry_ms.map(|retry_ms| retry_ms.max(allowed_ms));
        dialog.granted_s = granted_s;
        dialog.expires_ms = now_ms + granted_s * 1_000;
        // RFC 6446 5.3: one that would let nothing through is raised.
        let most_ms = granted_s.max(1) * 1_000;
        dialog.max_rate_ms = asked.max_rate_ms.map(|ms| ms.min(most_ms));
        dialog.min_rate_ms = asked
            .min_rate_ms
            .max(asked.min_rate_ms.and(dialog.max_rate_ms));
        let wanted = asked.wanted.clone().unwrap_or(dialog.wanted.clone());
        if (&wanted, &asked.accept) != (&dialog.wanted, &dialog.accept) {
            // Nothing that the subscriber holds, or is about to, is a base for this.
            dialog.wanted = wanted;
            dialog.accept.clone_from(&asked.accept);
            dialog.acked = None;
            dialog.set = None;
            if quiet {
                // It wants to hear of later changes only.
                dialog.view = self.known[usize::from(shard)];
            }
            if let Some(out) = &mut dialog.outstanding {
                (out.view, out.part) = (None, None);
            }
        }
        dialog.suppressed = quiet || (asked.conditional && !asked.in_dialog);
        dialog.behind_since_ms = None;
        if quiet {
            if granted_s == 0 {
                if dialog.outstanding.is_some() {
                    self.tally.abandoned += 1;
                }
                self.end(&key);
            }
            return;
        }
        if dialog.outstanding.take().is_some() {
            self.tally.abandoned += 1;
        }
        dialog.acked = None;
        dialog.set = None;
        dialog.retry_ms = None;
        dialog.owed_since_ms = Some(now_ms);
        self.owed.insert(key);
    }

    /// A shard has nothing more to send for now: who got a 2xx has had its NOTIFY, unless a window is closed.
    pub fn turn_done(&mut self, shard: u8) {
        if self.owed.is_empty() {
            return;
        }
        let now_ms = self.now_ms;
        let fresh = self.count_fresh(shard);
        if fresh >= 32 {
            self.crowded_ms.insert((shard, None), now_ms);
        }
        let alive = self.alive.iter().map(|key| &self.dialogs[key]);
        for dialog in alive.filter(|dialog| dialog.shard == shard) {
            if let Some(out) = &dialog.outstanding {
                self.crowded_ms.insert((shard, Some(out.flow)), now_ms);
            }
        }
        for key in &self.owed {
            let dialog = &self.dialogs[key];
            let Some(since_ms) = dialog.owed_since_ms.filter(|_| dialog.shard == shard) else {
                continue;
            };
            // Who found a window closed is looked at again 20 ms later.
            let crowded = |flow| {
                let at_ms = self.crowded_ms.get(&(shard, flow));
                at_ms.is_some_and(|at_ms| now_ms <= at_ms + 40)
            };
            let limited = crowded(None) || dialog.flow.is_none() || crowded(dialog.flow);
            if !dialog.tainted && (!limited || now_ms > since_ms + 60_000) {
                self.fail(
                    "a 2xx to SUBSCRIBE is followed by a NOTIFY at once (RFC 6665 4.2.1.2)",
                    &format!("{key:?} since {since_ms}, {fresh} unanswered"),
                );
            }
        }
    }

    fn count_fresh(&mut self, shard: u8) -> usize {
        let now_ms = self.now_ms;
        let fresh = &mut self.fresh[usize::from(shard)];
        while fresh
            .front()
            .is_some_and(|(began_ms, ..)| began_ms + T1_MS <= now_ms)
        {
            fresh.pop_front();
        }
        let open = |key: &Key, cseq: u32| {
            let dialog = &self.dialogs[key];
            dialog
                .outstanding
                .as_ref()
                .is_some_and(|out| out.cseq == cseq)
                && !dialog.tainted
        };
        fresh
            .iter()
            .filter(|(_, key, cseq)| open(key, *cseq))
            .count()
    }

    fn notify_out(&mut self, shard: u8, flow: Flow, sip: &Sip, bytes: Vec<u8>) {
        let key = (sip.text("call-id").to_owned(), sip.sender_tag().to_owned());
        let Some((cseq, "NOTIFY")) = sip.cseq() else {
            self.fail("a NOTIFY has its CSeq", &sip.start);
        };
        if flow.transport == Transport::Udp && bytes.len() > 1_300 {
            self.fail(
                "no request over 1,300 bytes goes over UDP (RFC 3261 18.1.1)",
                &format!("{} bytes to {key:?}", bytes.len()),
            );
        }
        let Some(dialog) = self.dialogs.get(&key) else {
            self.fail("a NOTIFY belongs to a subscription", &format!("{key:?}"));
        };
        if dialog.ended && !dialog.tainted {
            self.fail(
                "nothing is sent after the end",
                &format!("{key:?} CSeq {cseq}"),
            );
        }
        if cseq == dialog.cseq {
            return self.again(&key, cseq, flow, &bytes);
        }
        if cseq != dialog.cseq + 1 {
            self.fail(
                "CSeq grows by exactly one",
                &format!("{key:?}: {} then {cseq}", dialog.cseq),
            );
        }
        if let Some(out) = dialog.outstanding.as_ref().filter(|_| !dialog.tainted) {
            self.fail(
                "one NOTIFY is outstanding in a dialog",
                &format!("{key:?}: {} is, {cseq} follows", out.cseq),
            );
        }
        self.begin(shard, key, cseq, flow, sip, bytes);
    }

    fn again(&mut self, key: &Key, cseq: u32, flow: Flow, bytes: &[u8]) {
        self.tally.retransmissions += 1;
        let dialog = &self.dialogs[key];
        let Some(out) = &dialog.outstanding else {
            if dialog.tainted {
                return;
            }
            self.fail(
                "an answered or abandoned NOTIFY is not sent again",
                &format!("{key:?} CSeq {cseq}"),
            );
        };
        let detail = format!(
            "{key:?} CSeq {cseq}, began {}, sent {}",
            out.began_ms, out.sends
        );
        if *out.bytes != *bytes {
            self.fail("a retransmission is the same bytes", &detail);
        }
        if out.flow.transport.is_reliable() || flow != out.flow {
            self.fail("only UDP retransmits, and to the same place", &detail);
        }
        if self.kind == Kind::Clean {
            self.fail("no retransmission without loss", &detail);
        }
        let early = self.now_ms < out.next_e_ms;
        if (early && !dialog.tainted) || self.now_ms >= out.began_ms + TIMER_F_MS {
            self.fail("Timer E as RFC 3261 17.1.2.2 has it", &detail);
        }
        let now_ms = self.now_ms;
        let dialog = self.dialog(key);
        if let Some(out) = &mut dialog.outstanding {
            let interval_ms = if out.proceeding {
                4_000
            } else {
                (T1_MS << out.sends.min(3)).min(4_000)
            };
            out.sends += 1;
            out.next_e_ms = now_ms + interval_ms;
            let next = (
                out.next_e_ms.min(out.began_ms + TIMER_F_MS),
                key.clone(),
                cseq,
            );
            self.timers.insert(next);
        }
    }

    fn begin(&mut self, shard: u8, key: Key, cseq: u32, flow: Flow, sip: &Sip, bytes: Vec<u8>) {
        self.tally.notifies += 1;
        let state = sip.text("subscription-state").to_owned();
        let last = state.starts_with("terminated");
        self.check_state(&key, &state, last);
        let document = self.check_document(shard, &key, sip);
        self.check_proof(&key, flow, last);
        self.check_rate(&key, document.as_ref(), last);
        let now_ms = self.now_ms;
        let newest = self.known[usize::from(shard)];
        let dialog = self.dialog(&key);
        dialog.cseq = cseq;
        dialog.sent_ms = now_ms;
        dialog.behind_since_ms = None;
        dialog.retry_ms = None;
        dialog.owed_since_ms = None;
        dialog.flow = Some(flow);
        dialog.terminated |= last;
        let mut part = None;
        match &document {
            Some(document) => {
                dialog.version = document.version;
                part = document
                    .part
                    .map(|(part, parts)| (document.view, part, parts));
                if document.view > dialog.view {
                    dialog.suppressed = false;
                }
                dialog.view = document.view;
            }
            None => dialog.view = dialog.view.max(newest),
        }
        dialog.set = part;
        let complete = part.is_none_or(|(_, part, parts)| part == parts);
        let view = document.as_ref().map(|document| document.view);
        dialog.outstanding = Some(Outstanding {
            cseq,
            bytes: bytes.into(),
            began_ms: now_ms,
            next_e_ms: now_ms + T1_MS,
            sends: 1,
            proceeding: false,
            flow,
            last,
            view: view.filter(|_| complete),
            part,
        });
        let wanted = dialog.wanted.clone();
        self.owed.remove(&key);
        self.branches
            .insert(sip.branch().to_owned(), (key.clone(), cseq));
        self.filters.insert((key.clone(), cseq), wanted);
        self.timers.insert((now_ms + TIMER_F_MS, key.clone(), cseq));
        if flow.transport == Transport::Udp {
            self.timers.insert((now_ms + T1_MS, key.clone(), cseq));
            self.check_window(shard, key, cseq);
        }
    }

    /// No more unanswered than half the receive buffer holds, nor than were answered in the last 100 ms, but 32.
    fn check_window(&mut self, shard: u8, key: Key, cseq: u32) {
        let now_ms = self.now_ms;
        self.fresh[usize::from(shard)].push_back((now_ms, key, cseq));
        let acks = &mut self.acks[usize::from(shard)];
        while acks.front().is_some_and(|&at_ms| at_ms + 110 < now_ms) {
            acks.pop_front();
        }
        let most = acks.len().clamp(32, self.window_most);
        let fresh = self.count_fresh(shard);
        if fresh > most {
            self.fail(
                "no more NOTIFYs are unanswered than the window allows",
                &format!("{fresh} of {most} at shard {shard}"),
            );
        }
    }

    fn check_state(&self, key: &Key, state: &str, last: bool) {
        let dialog = &self.dialogs[key];
        let detail = format!("{key:?}: {state}, until {}", dialog.expires_ms);
        if last {
            let reason = param(state, "reason").unwrap_or_default();
            let known = match reason {
                "timeout" => true,
                "probation" => {
                    param(state, "retry-after").is_some() && self.draining && !self.has_others
                }
                // RFC 6665 4.1.3: "retry-after" has no meaning with it.
                "deactivated" => {
                    param(state, "retry-after").is_none() && self.draining && self.has_others
                }
                _ => false,
            };
            if !known || param(state, "expires").is_some() {
                self.fail("terminated says why (RFC 6665 4.2.2)", &detail);
            }
            return;
        }
        let remaining_s = dialog
            .expires_ms
            .saturating_sub(self.now_ms)
            .div_ceil(1_000);
        let expires_s = param(state, "expires").and_then(|text| text.parse::<u64>().ok());
        let fits = |expires_s| (1..=remaining_s.max(1)).contains(&expires_s);
        if !state.starts_with("active") || !(expires_s.is_some_and(fits) || dialog.tainted) {
            self.fail(
                "active says what remains and never 0 (RFC 6665 4.2.2)",
                &detail,
            );
        }
        let fetched = dialog.granted_s == 0;
        if self.now_ms > dialog.expires_ms + 32_100 && !dialog.tainted && !fetched {
            self.fail("a subscription ends 32 s after it expired", &detail);
        }
    }

    fn check_document(&mut self, shard: u8, key: &Key, sip: &Sip) -> Option<Document> {
        let dialog = &self.dialogs[key];
        let tainted = dialog.tainted;
        if sip.body.is_empty() {
            let may = dialog.suppressed || sip.text("subscription-state").starts_with("term");
            if !may && !tainted {
                self.fail("a NOTIFY carries the state", &format!("{key:?}"));
            }
            return None;
        }
        let Some(document) = Document::read(sip.text("content-type"), &sip.body) else {
            self.fail("a NOTIFY's document can be read", &sip.body);
        };
        let detail = format!(
            "{key:?}: view {} version {} base {:?} part {:?}; known {}, sent {} version {}, acknowledged {:?}, set {:?}",
            document.view,
            document.version,
            document.base,
            document.part,
            self.known[usize::from(shard)],
            dialog.view,
            dialog.version,
            dialog.acked,
            dialog.set,
        );
        if document.version != dialog.version + 1 {
            self.fail("version grows by exactly one", &detail);
        }
        if document.view < dialog.view {
            self.fail("nobody goes back to an older view", &detail);
        }
        if tainted {
            return Some(document);
        }
        if let Some((view, part, parts)) = dialog.set.filter(|(_, part, parts)| part < parts) {
            if document.part != Some((part + 1, parts)) || document.view != view {
                self.fail("a set once begun is finished at its view", &detail);
            }
            return Some(document);
        }
        if document.part.is_some_and(|(part, _)| part != 1) {
            self.fail("a set begins with its first part", &detail);
        }
        if document.view != self.known[usize::from(shard)] {
            self.fail("the newest view wins", &detail);
        }
        if document.partial && (document.base != dialog.acked || document.base.is_none()) {
            self.fail(
                "base is the view of the last document acknowledged",
                &detail,
            );
        }
        Some(document)
    }

    /// Who never answered gets nothing but what a SUBSCRIBE asked for.
    fn check_proof(&self, key: &Key, flow: Flow, last: bool) {
        let dialog = &self.dialogs[key];
        let asked = dialog.owed_since_ms.is_some() || dialog.retry_ms.is_some() || last;
        let moved = dialog.flow.is_some_and(|former| former != flow);
        if dialog.proven != Some(flow) && !asked && !moved && !dialog.tainted {
            self.fail(
                "no fan-out to an address that never answered",
                &format!("{key:?} at {flow:?}"),
            );
        }
    }

    fn check_rate(&mut self, key: &Key, document: Option<&Document>, last: bool) {
        let dialog = &self.dialogs[key];
        let now_ms = self.now_ms;
        let part_of_set =
            document.is_some_and(|document| document.part.is_some_and(|(part, _)| part > 1));
        if dialog.owed_since_ms.is_some() || last || part_of_set || dialog.tainted {
            return;
        }
        let gap_ms = now_ms - dialog.sent_ms;
        let detail = format!(
            "{key:?}: {gap_ms} ms after the last, max-rate {:?} ms, min-rate {:?} ms, retry {:?}",
            dialog.max_rate_ms, dialog.min_rate_ms, dialog.retry_ms
        );
        if dialog
            .max_rate_ms
            .is_some_and(|interval_ms| gap_ms < interval_ms)
        {
            self.fail("max-rate binds (RFC 6446 5.2)", &detail);
        }
        if let Some(retry_ms) = dialog.retry_ms {
            if now_ms < retry_ms {
                self.fail("a failed NOTIFY waits before it is tried again", &detail);
            }
            return;
        }
        let Some(document) = document else { return };
        let (before, after) = (dialog.view, document.view);
        let min_rate_ms = dialog.min_rate_ms.unwrap_or(REFRESH_INTERVAL_MS);
        let period_ms = min_rate_ms.min(REFRESH_INTERVAL_MS) / 2;
        let class = self.truth.class_between(before, after);
        let too_fast = if class == Class::Urgent {
            let dialog = self.dialog(key);
            while dialog
                .urgent_ms
                .front()
                .is_some_and(|at_ms| at_ms + 1_000 <= now_ms)
            {
                dialog.urgent_ms.pop_front();
            }
            let hasty = gap_ms < MIN_INTERVAL_MS;
            if hasty {
                dialog.urgent_ms.push_back(now_ms);
            }
            dialog.urgent_ms.len() > 5
        } else if class == Class::Notable {
            gap_ms < MIN_INTERVAL_MS
        } else {
            gap_ms < LOAD_INTERVAL_MS
        };
        if too_fast {
            // A periodic NOTIFY may follow a change at once, but it is periodic.
            let dialog = self.dialog(key);
            let periodic = now_ms >= dialog.exempt_ms + period_ms;
            dialog.exempt_ms = now_ms;
            if !periodic {
                self.fail("the node's intervals bind", &detail);
            }
        }
    }

    // ---- once a second ----

    /// Nobody waits for a change, or for a sign of life, longer than it should.
    pub fn tick(&mut self) {
        let keys: Vec<Key> = self.alive.iter().cloned().collect();
        for key in keys {
            self.check_waiting(&key);
        }
    }

    fn check_waiting(&mut self, key: &Key) {
        let now_ms = self.now_ms;
        let dialog = &self.dialogs[key];
        let (shard, view, wanted) = (dialog.shard, dialog.view, dialog.wanted.clone());
        let idle = !dialog.ended && !dialog.tainted && dialog.outstanding.is_none();
        if !idle || (dialog.owed_since_ms.is_some()) {
            self.dialog(key).behind_since_ms = None;
            return;
        }
        let detail = format!(
            "{key:?}: last sent {} at view {view}, idle since {}, expires {}, max-rate {:?} min-rate {:?} retry {:?} set {:?} suppressed {} terminated {} proven {}",
            dialog.sent_ms,
            dialog.idle_ms,
            dialog.expires_ms,
            dialog.max_rate_ms,
            dialog.min_rate_ms,
            dialog.retry_ms,
            dialog.set,
            dialog.suppressed,
            dialog.terminated,
            dialog.proven.is_some()
        );
        // Losses close a next hop's window down to one, for all dialogs behind it.
        let shares = |other: &Key| {
            let other = &self.dialogs[other];
            other.shard == dialog.shard && other.flow == dialog.flow
        };
        let shared = self.alive.iter().filter(|other| shares(other)).count() > 1;
        let crowd_ms = if shared && self.kind != Kind::Clean {
            60_000
        } else {
            self.patience_ms
        };
        let max_rate_ms = dialog.max_rate_ms.unwrap_or(0);
        if self.draining {
            let let_go_ms = dialog.idle_ms.max(dialog.sent_ms).max(self.drained_ms);
            if now_ms > let_go_ms + crowd_ms + 40_000 {
                self.fail("draining ends every subscription", &detail);
            }
            return;
        }
        if dialog.granted_s > 0 && now_ms > dialog.expires_ms + 32_000 + crowd_ms {
            self.fail("a subscription that expired ends", &detail);
        }
        if let Some(retry_ms) = dialog.retry_ms {
            let due_ms = retry_ms.max(dialog.sent_ms + max_rate_ms);
            if now_ms > due_ms + crowd_ms {
                self.fail("a failed NOTIFY is tried again", &detail);
            }
            return;
        }
        if dialog.set.is_some_and(|(_, part, parts)| part < parts) {
            if now_ms > dialog.idle_ms + crowd_ms {
                self.fail("a set once begun is finished", &detail);
            }
            return;
        }
        let period_ms = dialog
            .min_rate_ms
            .unwrap_or(u64::MAX)
            .min(REFRESH_INTERVAL_MS);
        let due_ms = dialog.sent_ms + period_ms.max(max_rate_ms);
        if !dialog.suppressed && now_ms > due_ms.max(dialog.idle_ms) + crowd_ms {
            self.fail("a NOTIFY comes periodically", &detail);
        }
        let newest = self.known[usize::from(shard)];
        let behind = newest > view && {
            let (then, now) = (
                self.truth.shown(view, &wanted),
                self.truth.shown(newest, &wanted),
            );
            then != now
                && (notably_different(&then, &now)
                    || self.truth.load_told_since(view, newest, &wanted))
        };
        let dialog = self.dialog(key);
        if !behind || wanted.most.is_some() {
            dialog.behind_since_ms = None;
            return;
        }
        let since_ms = *dialog.behind_since_ms.get_or_insert(now_ms);
        if now_ms > since_ms + max_rate_ms.max(LOAD_INTERVAL_MS) + crowd_ms {
            let then = self.truth.shown(view, &wanted);
            let told = self.truth.objection(newest, &wanted, &then);
            self.fail(
                "a change is told in time",
                &format!("{detail}, newest {newest}, behind since {since_ms}: {told:?}"),
            );
        }
    }
}
