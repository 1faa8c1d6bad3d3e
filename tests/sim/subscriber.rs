//! A model subscriber: subscribes, answers well or badly, refreshes, changes its mind, goes away. Written apart from
//! the notifier and from the library's subscriber; holds a table of its own and has it judged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use fanfare::wire::Flow;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::judge::Judge;
use crate::net::{Event, Net, Token};
use crate::plan::{Case, Kind};
use crate::reader::{Document, Line, Rows, Wanted};
use crate::text::{Sip, Style, answer, write};

/// How NOTIFYs reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Datagrams,
    /// Its own connection.
    Connection,
    /// Subscribes by UDP, its Contact asks for TCP.
    ContactOverTcp,
    /// The Contact is a name.
    Name,
    /// Through a route set, loose or strict.
    Route {
        strict: bool,
    },
}

/// How it answers NOTIFYs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    Slow {
        ms: u64,
    },
    Silent,
    /// Silent from some time on.
    Dying {
        at_ms: u64,
    },
    Says {
        status: u16,
        of_100: u32,
        retry_after_s: Option<u32>,
    },
    Provisional {
        ms: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    New,
    Refresh,
    End,
    Fetch,
}

#[derive(Debug)]
struct Request {
    serial: u64,
    purpose: Purpose,
    call_id: String,
    branch: String,
    bytes: Vec<u8>,
    flow: Flow,
    fired: u32,
    expires_s: u64,
}

#[derive(Debug, Default)]
struct Dialog {
    from_tag: String,
    to_tag: Option<String>,
    cseq: u32,
    remote_cseq: u32,
    answer: Option<Vec<u8>>,
    version: u64,
    view: Option<u64>,
    rows: Rows,
    set: Option<(u64, u64, u64, Rows)>,
    confirmed: bool,
    /// The request whose grant is to be refreshed.
    renewal: u64,
    /// Ended, or given up: its NOTIFYs are answered 481.
    over: bool,
}

#[derive(Debug)]
pub struct Subscriber {
    index: usize,
    case: Case,
    pub address: SocketAddr,
    reach: Reach,
    manner: Manner,
    style: Style,
    json: bool,
    event_id: bool,
    wanted: Wanted,
    expires_s: u64,
    rates: String,
    lapses: bool,
    random: SmallRng,
    serial: u64,
    connection: Option<Flow>,
    request: Option<Request>,
    dialogs: BTreeMap<String, Dialog>,
    current: Option<String>,
    etag: Option<String>,
    leaving: bool,
    gaps: u64,
}

impl Subscriber {
    pub fn new(index: usize, address: SocketAddr, net: &Net) -> Subscriber {
        let plan = &net.plan;
        let mut random = SmallRng::seed_from_u64(plan.seed.wrapping_mul(31) + index as u64);
        let bad = random.random_range(0..100) < plan.bad;
        let manner = if bad {
            let statuses = [481, 503, 500, 404, 400, 486, 603, 302, 408];
            match random.random_range(0..5) {
                0 => Manner::Slow {
                    ms: random.random_range(1..4_000),
                },
                1 => Manner::Silent,
                2 => Manner::Dying {
                    at_ms: net.now_ms + random.random_range(0..plan.duration_ms),
                },
                3 => Manner::Says {
                    status: statuses[random.random_range(0..statuses.len())],
                    of_100: random.random_range(1..60),
                    retry_after_s: [None, Some(0), Some(3)][random.random_range(0..3)],
                },
                _ => Manner::Provisional {
                    ms: random.random_range(1..20_000),
                },
            }
        } else {
            Manner::Good
        };
        let reach = match random.random_range(0..10) {
            _ if plan.one_hop => Reach::Datagrams,
            0..5 => Reach::Datagrams,
            5 | 6 => Reach::Connection,
            7 => Reach::ContactOverTcp,
            8 => Reach::Name,
            _ => Reach::Route {
                strict: random.random_range(0..2) == 0,
            },
        };
        let mut subscriber = Subscriber {
            index,
            case: Case { seed: plan.seed },
            address,
            reach,
            manner,
            style: [Style::Plain, Style::Lower, Style::Compact, Style::Folded]
                [random.random_range(0..4)],
            json: random.random_range(0..3) == 0,
            event_id: random.random_range(0..4) == 0,
            wanted: Wanted::default(),
            expires_s: [60, 61, 100, 200, 600, 1_800][random.random_range(0..24) / 4 % 6],
            rates: String::new(),
            lapses: plan.kind != Kind::Clean && random.random_range(0..6) == 0,
            random,
            serial: 0,
            connection: None,
            request: None,
            dialogs: BTreeMap::new(),
            current: None,
            etag: None,
            leaving: false,
            gaps: 0,
        };
        subscriber.change_mind();
        subscriber
    }

    /// The addresses it is reached at.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.address, self.proxy()]
    }

    fn proxy(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), 5070)
    }

    pub fn host(&self) -> String {
        format!("s{}.example.com", self.index)
    }

    fn change_mind(&mut self) {
        let random = &mut self.random;
        self.wanted = Wanted::default();
        if random.random_range(0..3) == 0 {
            let pick = |random: &mut SmallRng, from: &[&str]| {
                let mut some: Vec<String> = Vec::new();
                for one in from {
                    if random.random_range(0..3) == 0 {
                        some.push((*one).to_owned());
                    }
                }
                some
            };
            self.wanted.services = pick(random, &["proxy", "turn"]);
            self.wanted.statuses = pick(random, &["up", "draining"]);
            self.wanted.regions = pick(random, &["eu-1", "us-1"]);
            if random.random_range(0..4) == 0 {
                self.wanted.most = Some(random.random_range(1..5));
            }
        }
        self.rates = match random.random_range(0..8) {
            0 => ";max-rate=0.1".to_owned(),
            1 => ";max-rate=2".to_owned(),
            2 => ";min-rate=0.1".to_owned(),
            3 => ";max-rate=0.5;min-rate=0.05".to_owned(),
            4 => ";max-rate=0.001;min-rate=0.5".to_owned(),
            _ => String::new(),
        };
    }

    // ---- out ----

    fn flow(&mut self, net: &mut Net) -> Flow {
        if self.reach != Reach::Connection {
            return net.datagram(self.address);
        }
        if let Some(flow) = self.connection.filter(|&flow| net.is_open(flow)) {
            return flow;
        }
        let flow = net.connect(self.address);
        self.connection = Some(flow);
        flow
    }

    fn contact(&self) -> String {
        match self.reach {
            Reach::Datagrams | Reach::Route { .. } => format!("<sip:{}>", self.address),
            Reach::Connection | Reach::ContactOverTcp => {
                format!("<sip:{};transport=tcp>", self.address)
            }
            Reach::Name => format!("<sip:me@{}>", self.host()),
        }
    }

    fn ask(&mut self, net: &mut Net, purpose: Purpose, suppress: Option<String>) {
        if self.request.is_some() {
            return;
        }
        self.serial += 1;
        let call_id = match (purpose, &self.current) {
            (Purpose::Refresh | Purpose::End, Some(call_id)) => call_id.clone(),
            _ => format!("s{}-{}@sim", self.index, self.serial),
        };
        let from_tag = format!("f{}", self.serial);
        let first = self.random.random_range(1..1_000);
        let dialog = self
            .dialogs
            .entry(call_id.clone())
            .or_insert_with(|| Dialog {
                from_tag,
                cseq: first,
                ..Dialog::default()
            });
        dialog.cseq += 1;
        let (cseq, from_tag, to_tag) =
            (dialog.cseq, dialog.from_tag.clone(), dialog.to_tag.clone());
        let expires_s = match purpose {
            Purpose::End | Purpose::Fetch => 0,
            _ => self.expires_s,
        };
        let flow = self.flow(net);
        let branch = format!("z9hG4bK-s{}-{}", self.index, self.serial);
        let bytes = self.subscribe(
            &branch,
            flow,
            &call_id,
            &from_tag,
            to_tag.as_deref(),
            cseq,
            expires_s,
            suppress,
        );
        if purpose == Purpose::New {
            self.current = Some(call_id.clone());
        }
        net.send_to_node(flow, bytes.clone(), 0);
        if !net.is_clean() && !net.quiet && self.random.random_range(0..30) == 0 {
            let merged =
                String::from_utf8_lossy(&bytes).replacen(&branch, &format!("{branch}-m"), 1);
            net.send_to_node(flow, merged.into_bytes(), 5);
        }
        if !flow.transport.is_reliable() {
            let token = Token::Again(self.serial);
            net.push(
                net.now_ms + 500,
                Event::Subscriber {
                    index: self.index,
                    token,
                },
            );
        } else {
            let token = Token::Again(self.serial);
            net.push(
                net.now_ms + 32_000,
                Event::Subscriber {
                    index: self.index,
                    token,
                },
            );
        }
        self.request = Some(Request {
            serial: self.serial,
            purpose,
            call_id,
            branch,
            bytes,
            flow,
            fired: 0,
            expires_s,
        });
    }

    #[expect(clippy::too_many_arguments, reason = "all that a SUBSCRIBE says, once")]
    fn subscribe(
        &mut self,
        branch: &str,
        flow: Flow,
        call_id: &str,
        from_tag: &str,
        to_tag: Option<&str>,
        cseq: u32,
        expires_s: u64,
        suppress: Option<String>,
    ) -> Vec<u8> {
        let transport = flow.transport.via_name();
        let to_tag = to_tag.map_or(String::new(), |tag| format!(";tag={tag}"));
        let id = if self.event_id { ";id=7" } else { "" };
        let mut headers = vec![
            (
                "Via",
                format!("SIP/2.0/{transport} {};rport;branch={branch}", self.address),
            ),
            ("Max-Forwards", "70".to_owned()),
            (
                "From",
                format!("<sip:s{}@example.com>;tag={from_tag}", self.index),
            ),
            ("To", format!("<sip:cluster@example.com>{to_tag}")),
            ("Call-ID", call_id.to_owned()),
            ("CSeq", format!("{cseq} SUBSCRIBE")),
            ("Contact", self.contact()),
            ("Event", format!("SIPserver{id}{}", self.rates)),
            ("Expires", expires_s.to_string()),
        ];
        if let Reach::Route { strict } = self.reach {
            let lr = if strict { "" } else { ";lr" };
            headers.push(("Record-Route", format!("<sip:{}{lr}>", self.proxy())));
        }
        let kind = if self.json { "json" } else { "xml" };
        headers.push(("Accept", format!("application/serverinfo+{kind}")));
        if let Some(tag) = suppress {
            headers.push(("Suppress-If-Match", tag));
        }
        let mut body = String::new();
        if to_tag.is_empty() && self.wanted != Wanted::default()
            || !to_tag.is_empty() && self.random.random_range(0..3) == 0
        {
            body = self.wanted.body();
            headers.push(("Content-Type", "application/serverinfo".to_owned()));
        }
        write(
            "SUBSCRIBE sip:cluster@example.com SIP/2.0",
            &headers,
            &body,
            self.style,
        )
    }

    // ---- time ----

    pub fn wake(&mut self, net: &mut Net, token: Token) {
        match token {
            Token::Act => self.act(net),
            Token::Anew => self.anew(net),
            Token::Again(serial) => self.again(net, serial),
            Token::Refresh(serial) => self.renew(net, serial),
        }
    }

    /// It is time to refresh what was granted to this request.
    fn renew(&mut self, net: &mut Net, serial: u64) {
        let current = self
            .current
            .as_ref()
            .and_then(|call_id| self.dialogs.get(call_id));
        let due = current.is_some_and(|dialog| dialog.renewal == serial);
        if !due || self.leaving || (self.lapses && !net.quiet) {
            return;
        }
        if self.request.is_some() {
            let (index, token) = (self.index, Token::Refresh(serial));
            return net.push(net.now_ms + 500, Event::Subscriber { index, token });
        }
        self.ask(net, Purpose::Refresh, None);
    }

    fn again(&mut self, net: &mut Net, serial: u64) {
        let Some(request) = self
            .request
            .as_mut()
            .filter(|request| request.serial == serial)
        else {
            return;
        };
        let elapsed_ms = [
            500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
        ];
        let fired = request.fired as usize;
        if request.flow.transport.is_reliable() || fired == elapsed_ms.len() {
            // Timer F: nobody there.
            let call_id = request.call_id.clone();
            self.request = None;
            return self.lose(net, &call_id);
        }
        request.fired += 1;
        let next = elapsed_ms.get(fired + 1).copied().unwrap_or(32_000) - elapsed_ms[fired];
        let (flow, bytes) = (request.flow, request.bytes.clone());
        net.send_to_node(flow, bytes, 0);
        let token = Token::Again(serial);
        net.push(
            net.now_ms + next,
            Event::Subscriber {
                index: self.index,
                token,
            },
        );
    }

    fn act(&mut self, net: &mut Net) {
        let churn = net.plan.kind == Kind::Churn;
        let pause_ms = if churn { 100..8_000 } else { 3_000..90_000 };
        let pause_ms = self.random.random_range(pause_ms);
        net.push(
            net.now_ms + pause_ms,
            Event::Subscriber {
                index: self.index,
                token: Token::Act,
            },
        );
        if self.leaving || self.request.is_some() || self.dead(net) {
            return;
        }
        let Some(call_id) = self.current.clone() else {
            return self.anew(net);
        };
        if !self.dialogs[&call_id].confirmed || net.quiet {
            return;
        }
        match self.random.random_range(0..if churn { 8 } else { 14 }) {
            0 | 1 => self.end(net),
            2 => {
                let tag = self
                    .etag
                    .clone()
                    .filter(|_| self.random.random_range(0..2) == 0);
                self.ask(net, Purpose::Fetch, tag);
            }
            3 => {
                self.change_mind();
                self.json ^= self.random.random_range(0..2) == 0;
                self.ask(net, Purpose::Refresh, None);
            }
            4 => {
                let tag = self.etag.clone().unwrap_or_else(|| "*".to_owned());
                self.ask(net, Purpose::Refresh, Some(tag));
            }
            5 if !net.is_clean() => {
                self.change_mind();
                self.ask(net, Purpose::Refresh, Some("*".to_owned()));
            }
            6 => self.ask(net, Purpose::Refresh, None),
            7 => self.old(net, &call_id),
            _ => {}
        }
    }

    fn anew(&mut self, net: &mut Net) {
        if self.current.is_none() && self.request.is_none() && !self.leaving && !self.dead(net) {
            self.ask(net, Purpose::New, None);
        }
    }

    /// A request whose CSeq is behind the last one's.
    fn old(&mut self, net: &mut Net, call_id: &str) {
        let dialog = &self.dialogs[call_id];
        let (from_tag, to_tag, cseq) =
            (dialog.from_tag.clone(), dialog.to_tag.clone(), dialog.cseq);
        if cseq < 2 || to_tag.is_none() {
            return;
        }
        self.serial += 1;
        let branch = format!("z9hG4bK-s{}-{}-old", self.index, self.serial);
        let flow = self.flow(net);
        let expires_s = self.expires_s;
        let bytes = self.subscribe(
            &branch,
            flow,
            call_id,
            &from_tag,
            to_tag.as_deref(),
            cseq - 1,
            expires_s,
            None,
        );
        net.send_to_node(flow, bytes, 0);
    }

    /// Ends the subscription, if there is one.
    fn end(&mut self, net: &mut Net) {
        let quietly = self.random.random_range(0..4) == 0;
        self.ask(net, Purpose::End, quietly.then(|| "*".to_owned()));
    }

    /// From now on it only leaves.
    pub fn leave(&mut self, net: &mut Net, politely: bool) {
        self.leaving = true;
        let confirmed = |call_id: &String| self.dialogs[call_id].confirmed;
        if politely && self.current.as_ref().is_some_and(confirmed) {
            self.request = None;
            self.end(net);
        }
    }

    fn dead(&self, net: &Net) -> bool {
        match self.manner {
            Manner::Dying { at_ms } => net.now_ms >= at_ms && !net.quiet,
            _ => false,
        }
    }

    fn lose(&mut self, net: &mut Net, call_id: &str) {
        if let Some(dialog) = self.dialogs.get_mut(call_id) {
            dialog.over = true;
        }
        if self.current.as_deref() == Some(call_id) {
            self.current = None;
            let wait_ms = self.random.random_range(100..3_000);
            let token = Token::Anew;
            net.push(
                net.now_ms + wait_ms,
                Event::Subscriber {
                    index: self.index,
                    token,
                },
            );
        }
    }

    // ---- in ----

    pub fn receive(&mut self, net: &mut Net, judge: &mut Judge, flow: Flow, bytes: &[u8]) {
        if self.dead(net) {
            return;
        }
        let Some(sip) = Sip::read(bytes) else { return };
        if sip.status().is_some() {
            return self.response(net, &sip);
        }
        if sip.method() == "NOTIFY" {
            self.notified(net, judge, flow, &sip);
        }
    }

    fn response(&mut self, net: &mut Net, sip: &Sip) {
        let status = sip.status().unwrap_or_default();
        if sip.branch().ends_with("-old") && (200..300).contains(&status) {
            self.case
                .fail("an old CSeq is answered 500", net.now_ms, &sip.start);
        }
        let ours = |request: &&mut Request| request.branch == sip.branch();
        if status < 200 || self.request.as_mut().filter(ours).is_none() {
            return;
        }
        let Some(request) = self.request.take() else {
            return;
        };
        let Some(dialog) = self.dialogs.get_mut(&request.call_id) else {
            return;
        };
        if !(200..300).contains(&status) {
            return self.lose(net, &request.call_id);
        }
        dialog.to_tag = Some(sip.to_tag().to_owned());
        dialog.confirmed = true;
        let granted_s = sip.number("expires").unwrap_or(request.expires_s);
        dialog.renewal = request.serial;
        match request.purpose {
            Purpose::New | Purpose::Refresh => {
                let share = self.random.random_range(50..95);
                let token = Token::Refresh(request.serial);
                let at_ms = net.now_ms + granted_s * 10 * share;
                net.push(
                    at_ms,
                    Event::Subscriber {
                        index: self.index,
                        token,
                    },
                );
            }
            Purpose::End if status == 204 => self.lose(net, &request.call_id),
            Purpose::End => {
                self.current = None;
            }
            Purpose::Fetch => {}
        }
    }

    fn notified(&mut self, net: &mut Net, judge: &mut Judge, flow: Flow, sip: &Sip) {
        let Some((cseq, _)) = sip.cseq() else { return };
        let call_id = sip.text("call-id").to_owned();
        let silent = self.manner == Manner::Silent && !net.quiet;
        if silent {
            return;
        }
        let index = self.index;
        let tag = sip.sender_tag().to_owned();
        let known = self.dialogs.get_mut(&call_id).filter(|dialog| {
            let same = dialog.to_tag.as_ref().is_none_or(|known| *known == tag);
            dialog.from_tag == sip.to_tag() && same && !dialog.over
        });
        let Some(dialog) = known else {
            let bytes = answer(sip, 481, &format!("u{index}"), &[], self.style);
            return net.send_to_node(flow, bytes, 0);
        };
        if cseq < dialog.remote_cseq {
            let bytes = answer(sip, 500, "", &[], self.style);
            return net.send_to_node(flow, bytes, 0);
        }
        if cseq == dialog.remote_cseq {
            // A repeat: answered as before, once there is an answer.
            if let Some(bytes) = dialog.answer.clone() {
                net.send_to_node(flow, bytes, 0);
            }
            return;
        }
        dialog.remote_cseq = cseq;
        dialog.to_tag = Some(tag.clone());
        dialog.confirmed = true;
        self.etag = sip.get("sip-etag").map(str::to_owned);
        let (status, delay_ms, more) = self.verdict(net);
        let dialog = self.dialogs.get_mut(&call_id).expect("found above");
        let mut gap = false;
        if status == 200 {
            gap = !apply(dialog, judge, self.case, net, sip, &call_id, &tag, cseq);
        }
        let bytes = answer(sip, status, "", &more, self.style);
        dialog.answer = Some(bytes.clone());
        let terminated = sip.text("subscription-state").starts_with("terminated");
        if delay_ms > 0 && matches!(self.manner, Manner::Provisional { .. }) {
            let trying = answer(sip, 100, "", &[], self.style);
            net.send_to_node(flow, trying, 0);
        }
        net.send_to_node(flow, bytes, delay_ms);
        if gap {
            self.gaps += 1;
            if net.plan.flipped == 0 {
                self.case.fail(
                    "documents follow on one another",
                    net.now_ms,
                    &format!("{call_id} {}", sip.body),
                );
            }
            self.ask(net, Purpose::Refresh, None);
        }
        if terminated || status >= 400 && [404, 481, 408].contains(&status) {
            self.lose(net, &call_id);
        }
    }

    fn verdict(&mut self, net: &Net) -> (u16, u64, Vec<(&'static str, String)>) {
        let mut more = vec![("Contact", self.contact())];
        if net.quiet {
            return (200, 0, more);
        }
        match self.manner {
            Manner::Slow { ms } => (200, self.random.random_range(0..=ms), more),
            Manner::Provisional { ms } => (200, self.random.random_range(1..=ms), more),
            Manner::Says {
                status,
                of_100,
                retry_after_s,
            } if self.random.random_range(0..100) < of_100 => {
                more.clear();
                if let Some(seconds) = retry_after_s {
                    more.push(("Retry-After", seconds.to_string()));
                }
                (status, 0, more)
            }
            _ => {
                if self.random.random_range(0..40) == 0 {
                    more.push(("Event", "SIPserver;max-rate=1".to_owned()));
                }
                (200, 0, more)
            }
        }
    }

    /// What it holds against the node once all is quiet; `None`: nothing.
    pub fn objection(&self, judge: &mut Judge, now_ms: u64) -> Option<String> {
        let call_id = self.current.as_ref()?;
        let dialog = &self.dialogs[call_id];
        let key = (call_id.clone(), dialog.to_tag.clone()?);
        if !dialog.confirmed
            || dialog.over
            || judge.serves(&key) != Some(true)
            || self.request.is_some()
        {
            return None;
        }
        let wanted = judge.filter_of(&key, dialog.remote_cseq)?.clone();
        // Views older than two periodic NOTIFYs must have come.
        let newest = judge.truth.newest_at(now_ms - 130_000);
        if dialog.view.is_some_and(|view| view >= newest) {
            return None;
        }
        let told = judge.truth.objection(newest, &wanted, &dialog.rows)?;
        if judge.has_condition(&key) || judge.is_slow(&key) {
            return None;
        }
        Some(format!(
            "{key:?} at {now_ms}: view {:?}, newest {newest}: {told}",
            dialog.view
        ))
    }

    pub fn is_served(&self, judge: &Judge) -> bool {
        let Some(call_id) = &self.current else {
            return false;
        };
        let dialog = &self.dialogs[call_id];
        dialog
            .to_tag
            .clone()
            .is_some_and(|tag| judge.serves(&(call_id.clone(), tag)) == Some(true))
    }
}

/// Takes a document by event-package's rules and has the table judged; false on a gap.
#[expect(clippy::too_many_arguments, reason = "one call")]
fn apply(
    dialog: &mut Dialog,
    judge: &mut Judge,
    case: Case,
    net: &Net,
    sip: &Sip,
    call_id: &str,
    tag: &str,
    cseq: u32,
) -> bool {
    if sip.body.is_empty() {
        return true;
    }
    let Some(document) = Document::read(sip.text("content-type"), &sip.body) else {
        case.fail("a document can be read", net.now_ms, &sip.body);
    };
    if dialog.view.is_some_and(|view| document.view < view) {
        case.fail(
            "a subscriber never goes back to an older view",
            net.now_ms,
            &sip.body,
        );
    }
    let former_version = std::mem::replace(&mut dialog.version, document.version);
    let put = |rows: &mut Rows| {
        for (id, line) in &document.lines {
            match line {
                Line::Live(row) => drop(rows.insert(id.clone(), Rc::new(row.clone()))),
                Line::Gone => drop(rows.remove(id)),
            }
        }
    };
    if document.partial {
        let follows = dialog.set.take().is_none()
            && former_version + 1 == document.version
            && document.base.is_some()
            && document.base == dialog.view;
        if !follows {
            return false;
        }
        put(&mut dialog.rows);
    } else {
        let mut rows = match (document.part, dialog.set.take()) {
            (None | Some((1, _)), _) => Rows::new(),
            (Some((part, parts)), Some((view, last, of, rows)))
                if (part, parts, document.view) == (last + 1, of, view)
                    && document.version == former_version + 1 =>
            {
                rows
            }
            _ => return false,
        };
        put(&mut rows);
        if let Some((part, parts)) = document.part.filter(|(part, parts)| part < parts) {
            dialog.set = Some((document.view, part, parts, rows));
            return true;
        }
        dialog.rows = rows;
    }
    dialog.view = Some(document.view);
    let key = (call_id.to_owned(), tag.to_owned());
    if let Some(wanted) = judge.filter_of(&key, cseq).cloned()
        && let Some(told) = judge.truth.objection(document.view, &wanted, &dialog.rows)
    {
        let detail = format!(
            "{key:?} CSeq {cseq} filter {wanted:?}: {told}\n{}",
            sip.body
        );
        case.fail(
            "a subscriber's table is the view it was told",
            net.now_ms,
            &detail,
        );
    }
    true
}
