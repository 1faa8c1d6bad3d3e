//! A small but real notifier for the tests of loadgen: SUBSCRIBE, NOTIFY and PUBLISH of the SIPserver package over
//! UDP, one thread, with faults on demand. It shares no code with loadgen, which judges it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const T1: Duration = Duration::from_millis(500);

/// What the notifier does wrong, once per subscription where not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// A change is withheld from one subscription of ten, and never made good.
    Withholds,
    /// A NOTIFY takes its numbers but is never sent.
    DropsANotify,
    /// A change is announced with the content of the view before.
    RepeatsAView,
    GoesBack,
    SkipsAVersion,
    RepeatsAVersion,
    LiesAboutTheBase,
    SkipsACSeq,
    /// Two NOTIFYs at once.
    DoesNotWait,
    ChangesItsTag,
    ForgetsThePadding,
    BreaksTheXml,
    EndsASubscription,
    /// Every change is held for 700 ms.
    IsLate,
    /// The 200 to SUBSCRIBE comes after the NOTIFY, which is allowed (RFC 6665 4.4.1).
    NotifiesFirst,
    /// The first copy of every SUBSCRIBE that makes a dialog is lost.
    LosesTheFirstSubscribe,
    /// A refresh is answered with 481.
    ForgetsSubscriptions,
    /// SUBSCRIBE with Expires: 0 is answered, and no NOTIFY follows.
    NeverTerminates,
    /// Route header fields are left out.
    ForgetsTheRoute,
    /// An ended subscription gets one NOTIFY more.
    GoesOnAfterTheEnd,
    /// The first SUBSCRIBE of each entity is answered 503 with Retry-After.
    PutsOff,
    RefusesSubscribe,
    RefusesPublish,
    SaysNothing,
}

#[derive(Debug, Clone)]
struct Outstanding {
    bytes: Vec<u8>,
    branch: String,
    view: u64,
    sent: Instant,
    pause: Duration,
    again: Instant,
}

#[derive(Debug)]
struct Subscription {
    call_id: String,
    local: String,
    remote: String,
    contact: String,
    /// What the SUBSCRIBE recorded.
    route: Option<String>,
    to: SocketAddr,
    json: bool,
    presence: bool,
    cseq: u32,
    version: u32,
    acknowledged: Option<u64>,
    outstanding: Option<Outstanding>,
    ending: bool,
    full_due: bool,
    /// The SUBSCRIBE taken last, and the answer for its repeats.
    subscribe: (String, Vec<u8>),
    misbehaved: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    xml: String,
    round: String,
    view: u64,
}

/// The notifier's table, and who subscribed to it.
#[derive(Debug)]
struct Notifier {
    socket: UdpSocket,
    wrong: Wrong,
    view: u64,
    hold_until: Option<Instant>,
    table: BTreeMap<String, Entry>,
    tags: HashMap<String, String>,
    tag_count: u32,
    branch_count: u32,
    subscriptions: HashMap<String, Subscription>,
    hold_back: u32,
    lost: HashSet<String>,
}

/// A notifier that runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(ip: &str, wrong: Wrong) -> Self {
        let socket = UdpSocket::bind(format!("{ip}:0")).expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(5)))
            .expect("it is there");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut notifier = Notifier {
            socket,
            wrong,
            view: 1,
            hold_until: None,
            table: BTreeMap::new(),
            tags: HashMap::new(),
            tag_count: 0,
            branch_count: 0,
            subscriptions: HashMap::new(),
            hold_back: 0,
            lost: HashSet::new(),
        };
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = notifier.socket.recv_from(&mut buffer) {
                    notifier.receive(&String::from_utf8_lossy(&buffer[..length]), from);
                }
                notifier.retransmit();
                notifier.notify_all();
            }
        });
        Running {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("the notifier did not panic");
            }
        }
    }
}

fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split("\r\n\r\n").next()?.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    header(message, name).unwrap_or_else(|| panic!("no {name} in {message}"))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"))
        .1;
    rest.split_once(after).unwrap_or((rest, "")).0
}

fn answer(request: &str, status: &str, tag: Option<&str>, more: &str) -> Vec<u8> {
    let to = field(request, "To");
    let to = match tag {
        Some(tag) if !to.contains(";tag=") => format!("{to};tag={tag}"),
        _ => to.to_owned(),
    };
    format!(
        "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\n{more}Content-Length: 0\r\n\r\n",
        field(request, "Via"),
        field(request, "From"),
        field(request, "Call-ID"),
        field(request, "CSeq"),
    )
    .into_bytes()
}

impl Notifier {
    fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.socket
            .send_to(bytes, to)
            .expect("the loopback takes a datagram");
    }

    fn receive(&mut self, message: &str, from: SocketAddr) {
        match message.split(' ').next() {
            _ if self.wrong == Wrong::SaysNothing => {}
            Some("SIP/2.0") => self.answered(message),
            Some("SUBSCRIBE") if self.wrong == Wrong::RefusesSubscribe => {
                self.send(&answer(message, "403 Forbidden", Some("x"), ""), from);
            }
            Some("PUBLISH") if self.wrong == Wrong::RefusesPublish => {
                self.send(&answer(message, "403 Forbidden", Some("x"), ""), from);
            }
            Some("SUBSCRIBE") => self.subscribe(message, from),
            Some("PUBLISH") => self.publish(message, from),
            other => panic!("{other:?} is nothing that loadgen sends"),
        }
    }

    fn publish(&mut self, message: &str, from: SocketAddr) {
        let expires: u32 = field(message, "Expires")
            .parse()
            .expect("as loadgen writes it");
        let given = header(message, "SIP-If-Match");
        let known = given.map(|tag| self.tags.get(tag).cloned());
        let body = message.split_once("\r\n\r\n").expect("it is there").1;
        let id = match known {
            Some(Some(id)) => id,
            Some(None) => {
                return self.send(
                    &answer(message, "412 Conditional Request Failed", Some("e"), ""),
                    from,
                );
            }
            None if body.contains("<presence ") => between(body, "<tuple id=\"", "\"").to_owned(),
            None => between(body, "<server id=\"", "\"").to_owned(),
        };
        if let Some(given) = given {
            self.tags.remove(given);
        }
        if expires == 0 {
            self.table.remove(&id);
        } else if !body.is_empty() {
            self.view += 1;
            let is_presence = body.contains("<presence ");
            let round = if is_presence {
                between(body, "<note>round ", "<").to_owned()
            } else {
                between(body, "name=\"round\">", "<").to_owned()
            };
            let xml = if is_presence {
                body.to_owned()
            } else {
                let updated = format!(" updated=\"{}.0.n1\" status=", self.view);
                let entry = between(body, "<server ", "</server>");
                format!("<server {entry}</server>").replacen(" status=", &updated, 1)
            };
            self.table.insert(
                id.clone(),
                Entry {
                    xml,
                    round,
                    view: self.view,
                },
            );
            if self.wrong == Wrong::IsLate && !self.subscriptions.is_empty() {
                self.hold_until = Some(Instant::now() + Duration::from_millis(700));
            }
        }
        self.tag_count += 1;
        let tag = format!("e{}", self.tag_count);
        let more = format!("SIP-ETag: {tag}\r\nExpires: {expires}\r\n");
        self.tags.insert(tag, id);
        self.send(&answer(message, "200 OK", Some("e"), &more), from);
    }

    fn subscribe(&mut self, message: &str, from: SocketAddr) {
        let call_id = field(message, "Call-ID").to_owned();
        let branch = between(field(message, "Via"), "branch=", ";").to_owned();
        let expires: u32 = field(message, "Expires")
            .parse()
            .expect("as loadgen writes it");
        let contact = between(field(message, "Contact"), "<", ">").to_owned();
        let in_dialog = field(message, "To").contains(";tag=");
        if let Some(known) = self.subscriptions.get(&call_id)
            && known.subscribe.0 == branch
        {
            return self.send(&known.subscribe.1, from);
        }
        if self.wrong == Wrong::LosesTheFirstSubscribe && self.lost.insert(call_id.clone()) {
            return;
        }
        if self.wrong == Wrong::PutsOff && self.lost.insert(call_id.clone()) {
            let more = "Retry-After: 1 (busy)\r\n";
            return self.send(
                &answer(message, "503 Service Unavailable", Some("x"), more),
                from,
            );
        }
        if self.wrong == Wrong::ForgetsSubscriptions && in_dialog && expires > 0 {
            self.subscriptions.remove(&call_id);
        }
        if in_dialog != self.subscriptions.contains_key(&call_id) {
            return self.send(
                &answer(message, "481 Subscription Does Not Exist", None, ""),
                from,
            );
        }
        let tag = format!("n{}", &call_id[..17]);
        let route = header(message, "Record-Route").map(str::to_owned);
        let recorded = route
            .as_ref()
            .map_or(String::new(), |route| format!("Record-Route: {route}\r\n"));
        let more = format!(
            "{recorded}Expires: {expires}\r\nContact: <sip:n1@{};gr=1>\r\n",
            self.socket.local_addr().expect("it is bound")
        );
        let bytes = answer(message, "200 OK", Some(&tag), &more);
        if self.wrong != Wrong::NotifiesFirst {
            self.send(&bytes, from);
        }
        if self.wrong == Wrong::NeverTerminates && expires == 0 {
            self.subscriptions.remove(&call_id);
            return;
        }
        let subscription = self
            .subscriptions
            .entry(call_id.clone())
            .or_insert_with(|| Subscription {
                call_id,
                local: format!("{};tag={tag}", field(message, "To")),
                remote: field(message, "From").to_owned(),
                to: between(&contact, "@", ";")
                    .parse()
                    .expect("as loadgen writes it"),
                contact,
                route,
                json: field(message, "Accept").ends_with("json"),
                presence: field(message, "Event") == "presence",
                cseq: 100,
                version: 0,
                acknowledged: None,
                outstanding: None,
                ending: false,
                full_due: false,
                subscribe: Default::default(),
                misbehaved: false,
            });
        subscription.subscribe = (branch, bytes.clone());
        subscription.outstanding = None;
        subscription.full_due = true;
        subscription.ending = expires == 0;
        if self.wrong == Wrong::NotifiesFirst {
            self.notify_all();
            self.send(&bytes, from);
        }
    }

    fn answered(&mut self, message: &str) {
        let call_id = field(message, "Call-ID");
        let branch = between(field(message, "Via"), "branch=", ";");
        let Some(subscription) = self.subscriptions.get_mut(call_id) else {
            return;
        };
        let matches = |outstanding: &Outstanding| outstanding.branch == branch;
        if !subscription.outstanding.as_ref().is_some_and(matches) {
            return;
        }
        let outstanding = subscription.outstanding.take().expect("it is there");
        subscription.acknowledged = Some(outstanding.view);
        if subscription.ending && !subscription.full_due {
            let call_id = call_id.to_owned();
            let mut ended = self.subscriptions.remove(&call_id).expect("it is there");
            if self.wrong == Wrong::GoesOnAfterTheEnd {
                (ended.ending, ended.cseq, ended.version) =
                    (false, ended.cseq + 1, ended.version + 1);
                let body = self.document(&ended, self.view, None, u64::MAX, Wrong::Nothing);
                let bytes = self.message(&ended, &body).0;
                self.send(&bytes, ended.to);
            }
        }
    }

    fn retransmit(&mut self) {
        let now = Instant::now();
        let mut again = Vec::new();
        for subscription in self.subscriptions.values_mut() {
            if let Some(outstanding) = &mut subscription.outstanding
                && outstanding.again <= now
            {
                outstanding.pause = (outstanding.pause * 2).min(8 * T1);
                outstanding.again = now + outstanding.pause;
                again.push((outstanding.bytes.clone(), subscription.to));
            }
        }
        again.iter().for_each(|(bytes, to)| self.send(bytes, *to));
        self.subscriptions.retain(|_, subscription| {
            subscription
                .outstanding
                .as_ref()
                .is_none_or(|outstanding| outstanding.sent + 64 * T1 > now)
        });
    }

    fn notify_all(&mut self) {
        if self.hold_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let view = self.view;
        let is_due = |subscription: &Subscription| {
            let behind = subscription.acknowledged != Some(view);
            subscription.full_due
                || (subscription.outstanding.is_none() && behind && !subscription.ending)
        };
        let due: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| is_due(subscription))
            .map(|(call_id, _)| call_id.clone())
            .collect();
        for call_id in due {
            let mut subscription = self.subscriptions.remove(&call_id).expect("it is there");
            self.notify(&mut subscription);
            if subscription.cseq < u32::MAX {
                self.subscriptions.insert(call_id, subscription);
            }
        }
    }

    /// Sends what is due to one subscription, rightly or wrongly.
    fn notify(&mut self, subscription: &mut Subscription) {
        let is_change = !subscription.full_due && subscription.acknowledged.is_some();
        let wrong = if is_change && !subscription.misbehaved {
            self.wrong
        } else {
            Wrong::Nothing
        };
        subscription.misbehaved |= wrong != Wrong::Nothing;
        let base = if subscription.full_due {
            None
        } else {
            subscription.acknowledged
        };
        let (mut view, mut shown) = (self.view, u64::MAX);
        let mut said_base = base;
        subscription.full_due = false;
        subscription.cseq += 1;
        subscription.version += 1;
        match wrong {
            Wrong::Withholds => {
                self.hold_back += 1;
                if self.hold_back % 10 == 1 {
                    // As if the change had been sent and acknowledged.
                    subscription.cseq -= 1;
                    subscription.version -= 1;
                    subscription.acknowledged = Some(view);
                    return;
                }
            }
            Wrong::DropsANotify => {
                subscription.acknowledged = Some(view);
                return;
            }
            Wrong::RepeatsAView => shown = 0,
            Wrong::GoesBack => (view, said_base) = (base.expect("a change has a base") - 1, None),
            Wrong::SkipsAVersion => subscription.version += 1,
            Wrong::RepeatsAVersion => subscription.version -= 1,
            Wrong::LiesAboutTheBase => said_base = base.map(|base| base - 1),
            Wrong::SkipsACSeq => subscription.cseq += 1,
            Wrong::ChangesItsTag => subscription.local.push('x'),
            Wrong::EndsASubscription => subscription.ending = true,
            _ => {}
        }
        let body = self.document(subscription, view, said_base, shown, wrong);
        let (bytes, branch) = self.message(subscription, &body);
        self.send(&bytes, subscription.to);
        if wrong == Wrong::ChangesItsTag {
            subscription.local.pop();
        }
        let now = Instant::now();
        subscription.outstanding = Some(Outstanding {
            bytes,
            branch,
            view: self.view,
            sent: now,
            pause: T1,
            again: now + T1,
        });
        if wrong == Wrong::DoesNotWait {
            subscription.cseq += 1;
            subscription.version += 1;
            let body = self.document(subscription, view, Some(view), shown, wrong);
            let (bytes, branch) = self.message(subscription, &body);
            self.send(&bytes, subscription.to);
            subscription.outstanding = Some(Outstanding {
                bytes,
                branch,
                view,
                sent: now,
                pause: T1,
                again: now + T1,
            });
        }
    }

    fn message(&mut self, subscription: &Subscription, body: &str) -> (Vec<u8>, String) {
        self.branch_count += 1;
        let branch = format!("z9hG4bKn{}", self.branch_count);
        let address = self.socket.local_addr().expect("it is bound");
        let state = if subscription.ending {
            "terminated;reason=timeout"
        } else {
            "active;expires=100"
        };
        let (event, kind) = match (subscription.presence, subscription.json) {
            (true, _) => ("presence", "pidf+xml"),
            (false, true) => ("SIPserver", "serverinfo+json"),
            (false, false) => ("SIPserver", "serverinfo+xml"),
        };
        let route = match &subscription.route {
            Some(_) if self.wrong == Wrong::ForgetsTheRoute => String::new(),
            Some(route) => format!("Route: {route}\r\n"),
            None => String::new(),
        };
        let text = format!(
            "NOTIFY {} SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch={branch};rport\r\nMax-Forwards: 70\r\n{route}\
             From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} NOTIFY\r\nContact: <sip:n1@{address};gr=1>\r\n\
             Event: {event}\r\nSubscription-State: {state}\r\nContent-Type: application/{kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            subscription.contact,
            subscription.local,
            subscription.remote,
            subscription.call_id,
            subscription.cseq,
            body.len(),
        );
        (text.into_bytes(), branch)
    }

    /// The entries newer than `base`, with the rounds up to view `shown`.
    fn document(
        &self,
        subscription: &Subscription,
        view: u64,
        base: Option<u64>,
        shown: u64,
        wrong: Wrong,
    ) -> String {
        let version = subscription.version;
        let entries = self
            .table
            .iter()
            .filter(|(_, entry)| base.is_none_or(|base| entry.view > base));
        let old = |entry: &Entry| entry.view > shown;
        if subscription.presence {
            let entry = self.table.values().next().expect("it was published");
            let round = format!("round {}<", entry.round);
            return if old(entry) {
                entry.xml.replace(&round, "round 0<")
            } else {
                entry.xml.clone()
            };
        }
        if subscription.json {
            let state = base.map_or("\"state\":\"full\"".to_owned(), |base| {
                format!("\"state\":\"partial\",\"base\":{base}")
            });
            let servers: Vec<String> = entries
                .map(|(id, entry)| {
                    format!(
                        "{{\"id\":\"{id}\",\"status\":\"up\",\"load\":37,\"updated\":\"{}.0.n1\",\"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}],\"attributes\":{{\"round\":\"{}\"}}}}",
                        entry.view, entry.round
                    )
                })
                .collect();
            let servers = servers.join(",");
            return format!(
                "{{\"domain\":\"*\",\"notifier\":\"n1@1\",\"version\":{version:<10},\"view\":{view},{state},\"servers\":[{servers}]}}"
            );
        }
        let state = base.map_or("state=\"full\"".to_owned(), |base| {
            format!("state=\"partial\" base=\"{base}\"")
        });
        let servers: String = entries
            .map(|(_, entry)| {
                let round = format!("\"round\">{}<", entry.round);
                if old(entry) {
                    entry.xml.replace(&round, "\"round\">0<")
                } else {
                    entry.xml.clone()
                }
            })
            .collect();
        let version = format!("\"{version}\"");
        let width = if wrong == Wrong::ForgetsThePadding {
            0
        } else {
            12
        };
        let end = if wrong == Wrong::BreaksTheXml {
            "</serverinf>"
        } else {
            "</serverinfo>"
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"*\" notifier=\"n1@1\" version={version:<width$} view=\"{view}\" {state}>{servers}{end}"
        )
    }
}
