//! The minimal notifier: the least that any notifier can do. It keeps a prebuilt head a subscriber and one body a view,
//! sends within a window, and matches an answer by its branch. No timers, no grammar, no rates, no checks: it serves
//! loadgen on a machine that loses nothing, to be held against Fanfare.
//!
//! `bare` leaves even the matching out: answers are counted and not looked at. That is the bare exchange. `periodic` sends to everybody once in so many seconds, in slots, whether anything changed or not.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use clap::Args;
use memchr::memmem;

use super::kernel::{BATCH, Parcel, Wire};

/// From this window on pacing costs nothing; an answer takes about 1,300 bytes of the receive buffer, which is not to be
/// filled by more than half.
const WINDOW_MOST: usize = 2048;
const ANSWER_MEMORY: usize = 1300;
/// What is outstanding for so long without any answer is given up: there are no retransmissions.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// Periodic NOTIFYs begin when nobody has subscribed for so long: heads are laid out anew for all.
const SETTLED: Duration = Duration::from_secs(1);
const SLOT: Duration = Duration::from_millis(10);
const EXPIRES: u32 = 1800;
const NOTIFIER: &str = "minimal@1795397236253";

#[derive(Debug, Clone, Args)]
pub struct Flags {
    #[arg(long)]
    listen: SocketAddrV4,
    #[arg(long)]
    rcvbuf: Option<usize>,
    /// Every datagram by a send of its own.
    #[arg(long)]
    no_gso: bool,
    /// Answers are counted, not matched: no notifier, the bare exchange.
    #[arg(long)]
    bare: bool,
    /// Seconds in which everybody is sent one NOTIFY.
    #[arg(long)]
    periodic: Option<u64>,
}

struct Subscriber {
    peer: SocketAddrV4,
    head: Box<[u8]>,
    branch_at: u16,
    cseq_at: u16,
    cseq: u32,
    outstanding: bool,
}

struct Minimal {
    bare: bool,
    sent_by: String,
    /// By server id: the element as it goes into a document.
    servers: BTreeMap<String, String>,
    subscribers: Vec<Subscriber>,
    /// Places of the subscribers in the order of their peers, so that those of one next hop stand together.
    order: Vec<u32>,
    known: HashMap<Vec<u8>, u32>,
    view: u64,
    stamp: u64,
    version: u32,
    body: Vec<u8>,
    /// When the last one subscribed.
    joined: Instant,
    /// How many heads say the length of how long a body.
    laid: (usize, usize),
    /// How much of the lap is done; a change waits until the lap before is over.
    cursor: usize,
    waiting: Option<String>,
    outstanding: usize,
    notifies: u64,
    answers: u64,
    replies: Vec<(SocketAddrV4, Vec<u8>)>,
}

pub fn serve(flags: &Flags) -> io::Result<()> {
    let mut wire = Wire::bind(flags.listen, flags.rcvbuf, !flags.no_gso)?;
    println!("minimal ready udp={}", wire.address()?);
    io::stdout().flush()?;
    let window = flags
        .rcvbuf
        .map_or(WINDOW_MOST, |rcvbuf| rcvbuf / 2 / ANSWER_MEMORY)
        .clamp(32, WINDOW_MOST);
    let mut minimal = Minimal {
        bare: flags.bare,
        sent_by: wire.address()?.to_string(),
        servers: BTreeMap::new(),
        subscribers: Vec::new(),
        order: Vec::new(),
        known: HashMap::new(),
        view: 0,
        stamp: 0,
        version: 1,
        body: Vec::new(),
        joined: Instant::now(),
        laid: (0, 0),
        cursor: 0,
        waiting: None,
        outstanding: 0,
        notifies: 0,
        answers: 0,
        replies: Vec::new(),
    };
    let start = Instant::now();
    let mut last_answer = Instant::now();
    let mut allowed = 0;
    let mut slot = 0;
    loop {
        if let Some(period) = flags.periodic {
            let now = u64::try_from(start.elapsed().as_millis() / SLOT.as_millis())
                .expect("a run is short");
            let next = SLOT * u32::try_from(now + 1).expect("a run is short");
            let wait = next.saturating_sub(start.elapsed()).as_millis() as u64 + 1;
            wire.wait_at_most(Duration::from_millis(wait))?;
            let joining = minimal.joined.elapsed() < SETTLED;
            if now > slot && !joining {
                let slots = period * 1000 / SLOT.as_millis() as u64;
                let due = minimal.order.len() * (now - slot) as usize / slots as usize;
                // A slot that was missed is made up for, a second is not.
                allowed = (allowed + due).min(minimal.order.len() / period as usize);
                slot = now;
                if minimal.cursor == minimal.order.len() && allowed > 0 {
                    minimal.again();
                }
            }
        } else {
            allowed = usize::MAX;
        }
        let room = window.saturating_sub(minimal.outstanding);
        let idle = room == 0 || allowed == 0 || minimal.cursor == minimal.order.len();
        loop {
            let before = minimal.answers;
            let taken = wire.receive(idle && minimal.replies.is_empty(), &mut |peer, bytes| {
                minimal.take(peer, bytes);
            })?;
            if minimal.answers > before {
                last_answer = Instant::now();
            }
            if taken < BATCH {
                break;
            }
        }
        for (peer, bytes) in std::mem::take(&mut minimal.replies) {
            wire.send(&[Parcel {
                peer,
                head: &bytes,
                body: b"",
            }])?;
        }
        if minimal.outstanding > 0 && last_answer.elapsed() > GIVEN_UP {
            minimal.give_up();
            last_answer = Instant::now();
        }
        let room = window
            .saturating_sub(minimal.outstanding)
            .min(allowed)
            .min(BATCH);
        let (first, count) = minimal.fill(room);
        if count > 0 {
            if minimal.outstanding == 0 {
                last_answer = Instant::now();
            }
            minimal.send(&mut wire, first, count)?;
            allowed -= count.min(allowed);
            if minimal.cursor == minimal.order.len()
                && let Some(element) = minimal.waiting.take()
            {
                minimal.change(&element);
            }
        }
    }
}

impl Minimal {
    /// Moves the cursor over the next subscribers and puts their CSeqs into their heads.
    fn fill(&mut self, room: usize) -> (usize, usize) {
        let first = self.cursor;
        let count = room.min(self.order.len() - first);
        for &place in &self.order[first..first + count] {
            let subscriber = &mut self.subscribers[place as usize];
            subscriber.cseq += 1;
            subscriber.outstanding = true;
            let branch = usize::from(subscriber.branch_at) + 8;
            put_hexadecimal(&mut subscriber.head[branch..branch + 8], subscriber.cseq);
            let at = usize::from(subscriber.cseq_at);
            put_decimal(&mut subscriber.head[at..at + 10], subscriber.cseq);
        }
        self.cursor += count;
        (first, count)
    }

    fn send(&mut self, wire: &mut Wire, first: usize, count: usize) -> io::Result<()> {
        let parcels: Vec<Parcel<'_>> = self.order[first..first + count]
            .iter()
            .map(|&place| {
                let subscriber = &self.subscribers[place as usize];
                Parcel {
                    peer: subscriber.peer,
                    head: &subscriber.head,
                    body: &self.body,
                }
            })
            .collect();
        wire.send(&parcels)?;
        self.outstanding += count;
        self.notifies += count as u64;
        Ok(())
    }

    fn take(&mut self, peer: SocketAddrV4, bytes: &[u8]) {
        if bytes.starts_with(b"SIP/2.0 2") {
            self.answered(bytes);
        } else if bytes.starts_with(b"SUBSCRIBE ") {
            self.subscribe(peer, bytes);
        } else if bytes.starts_with(b"PUBLISH ") {
            self.publish(peer, bytes);
        } else if bytes == b"counters" {
            let text = format!("notifies={} answers={}", self.notifies, self.answers);
            self.replies.push((peer, text.into_bytes()));
        }
    }

    /// Our Via comes back as it went out, at the same place.
    fn answered(&mut self, bytes: &[u8]) {
        if self.bare {
            self.answers += 1;
            self.outstanding = self.outstanding.saturating_sub(1);
            return;
        }
        let at = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP ".len()
            + self.sent_by.len()
            + ";branch=z9hG4bK".len();
        let named = bytes
            .get(at..at + 16)
            .and_then(|branch| Some((hexadecimal(&branch[..8])?, hexadecimal(&branch[8..])?)));
        let Some((place, cseq)) = named else { return };
        if let Some(subscriber) = self.subscribers.get_mut(place as usize)
            && subscriber.outstanding
            && subscriber.cseq == cseq
        {
            subscriber.outstanding = false;
            self.outstanding -= 1;
            self.answers += 1;
        }
    }

    fn give_up(&mut self) {
        self.outstanding = 0;
        for subscriber in &mut self.subscribers {
            subscriber.outstanding = false;
        }
    }

    fn subscribe(&mut self, peer: SocketAddrV4, bytes: &[u8]) {
        let expires = field(bytes, "Expires").map_or(EXPIRES, |text| {
            text.parse::<u32>()
                .map_or(EXPIRES, |asked| asked.min(EXPIRES))
        });
        let Some(call_id) = field(bytes, "Call-ID") else {
            return;
        };
        let place = self.known.get(call_id.as_bytes()).copied();
        let tag = place.unwrap_or(self.subscribers.len() as u32);
        self.replies.push((
            peer,
            response(
                bytes,
                &format!(";tag={tag:08x}"),
                &format!("Expires: {expires}\r\nContact: <sip:{}>\r\n", self.sent_by),
            ),
        ));
        let place = match place {
            Some(_) if expires > 0 => return,
            Some(place) => place,
            None => self.add(peer, call_id, bytes),
        };
        let state = if expires > 0 {
            format!("active;expires={expires}")
        } else {
            "terminated;reason=timeout".to_owned()
        };
        let subscriber = &mut self.subscribers[place as usize];
        subscriber.cseq += 1;
        let head = head(&self.sent_by, place, subscriber.cseq, bytes, &state);
        let full = self.document("full", None, self.servers.values());
        let whole = [
            head.as_slice(),
            format!("Content-Length: {}\r\n\r\n", full.len()).as_bytes(),
            &full,
        ]
        .concat();
        let subscriber = &mut self.subscribers[place as usize];
        subscriber.outstanding = true;
        self.outstanding += 1;
        self.notifies += 1;
        self.replies.push((peer, whole));
    }

    fn add(&mut self, peer: SocketAddrV4, call_id: &str, bytes: &[u8]) -> u32 {
        let place = self.subscribers.len() as u32;
        let head = head(
            &self.sent_by,
            place,
            0,
            bytes,
            &format!("active;expires={EXPIRES}"),
        );
        let at = |mark: &str| {
            let at = memmem::find(&head, mark.as_bytes()).expect("the head has it");
            (at + mark.len()) as u16
        };
        self.subscribers.push(Subscriber {
            peer,
            branch_at: at("branch=z9hG4bK"),
            cseq_at: at("CSeq: "),
            head: head.into(),
            cseq: 0,
            outstanding: false,
        });
        self.known.insert(call_id.as_bytes().to_vec(), place);
        self.order.push(place);
        self.joined = Instant::now();
        self.cursor = self.order.len();
        place
    }

    fn publish(&mut self, peer: SocketAddrV4, bytes: &[u8]) {
        let expires = field(bytes, "Expires").unwrap_or("30");
        let tag = field(bytes, "Call-ID").unwrap_or_default();
        self.replies.push((
            peer,
            response(
                bytes,
                ";tag=min",
                &format!("SIP-ETag: {tag}\r\nExpires: {expires}\r\n"),
            ),
        ));
        let text = String::from_utf8_lossy(bytes);
        let (Some(from), Some(to)) = (text.find("<server "), text.find("</server>")) else {
            return;
        };
        let element = text[from..to].to_owned();
        if self.cursor < self.order.len() {
            self.waiting = Some(element);
        } else {
            self.change(&element);
        }
    }

    /// A new view: one entry changed. With the layout of Fanfare's documents, so that the bodies have one length.
    fn change(&mut self, element: &str) {
        self.stamp += 1;
        let id = element.split('"').nth(1).unwrap_or_default().to_owned();
        let updated = format!(" updated=\"{}.0.vm\">", 1_795_397_238_329 + self.stamp);
        let entry = element
            .replacen('>', &updated, 1)
            .replace("<address", "\n    <address")
            .replace("<attribute", "\n    <attribute");
        let entry = format!("  {entry}\n  </server>\n");
        self.servers.insert(id, entry.clone());
        let base = self.view;
        self.view += 1;
        if self.order.is_empty() {
            return;
        }
        self.version += 1;
        self.body = self.document("partial", Some(base), std::iter::once(&entry));
        self.order
            .sort_by_key(|&place| self.subscribers[place as usize].peer);
        self.begin_lap();
    }

    /// The next period begins. The document's version goes on, so nobody takes it for the last one.
    fn again(&mut self) {
        self.version += 1;
        self.body = self.document("full", None, self.servers.values());
        self.begin_lap();
    }

    /// A head prebuilt says how long the body is, and from here on everybody is to have it.
    fn begin_lap(&mut self) {
        self.cursor = 0;
        let laid = (self.subscribers.len(), self.body.len());
        if std::mem::replace(&mut self.laid, laid) == laid {
            return;
        }
        let length = format!("Content-Length: {}\r\n\r\n", self.body.len());
        for subscriber in &mut self.subscribers {
            let head = &subscriber.head;
            let kept = memmem::find(head, b"Content-Length: ").unwrap_or(head.len());
            if &head[kept..] != length.as_bytes() {
                subscriber.head = [&head[..kept], length.as_bytes()].concat().into();
            }
        }
    }

    fn document<'a>(
        &self,
        state: &str,
        base: Option<u64>,
        entries: impl Iterator<Item = &'a String>,
    ) -> Vec<u8> {
        let base = base.map_or_else(String::new, |base| format!(" base=\"{base}\""));
        let entries: String = entries.map(String::as_str).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"*\" \
             notifier=\"{NOTIFIER}\" version={:<12} view=\"{}\" state=\"{state}\"{base}>\n{entries}</serverinfo>\n",
            format!("\"{}\"", self.version),
            self.view,
        )
        .into_bytes()
    }
}

/// A NOTIFY's head but for the length of its body; branch and CSeq have constant places.
fn head(sent_by: &str, place: u32, cseq: u32, subscribe: &[u8], state: &str) -> Vec<u8> {
    let get = |name: &str| field(subscribe, name).unwrap_or_default();
    let contact = get("Contact").trim_matches(['<', '>']);
    let route = field(subscribe, "Record-Route")
        .map_or_else(String::new, |route| format!("Route: {route}\r\n"));
    format!(
        "NOTIFY {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {sent_by};branch=z9hG4bK{place:08x}{cseq:08x};rport\r\n\
         Max-Forwards: 70\r\n{route}From: {};tag={place:08x}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq:10} NOTIFY\r\n\
         Contact: <sip:{sent_by}>\r\nEvent: SIPserver\r\nSubscription-State: {state}\r\n\
         SIP-ETag: 70fd9fb4bfee80cb\r\nContent-Type: application/serverinfo+xml\r\n",
        get("To").split(";tag=").next().unwrap_or_default(),
        get("From"),
        get("Call-ID"),
    )
    .into_bytes()
}

fn response(request: &[u8], to_tag: &str, more: &str) -> Vec<u8> {
    let get = |name: &str| field(request, name).unwrap_or_default();
    let to = get("To");
    let to_tag = if to.contains(";tag=") { "" } else { to_tag };
    let routes = field(request, "Record-Route")
        .map_or_else(String::new, |route| format!("Record-Route: {route}\r\n"));
    format!(
        "SIP/2.0 200 OK\r\nVia: {}\r\n{routes}From: {}\r\nTo: {to}{to_tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{more}\
         Content-Length: 0\r\n\r\n",
        get("Via"),
        get("From"),
        get("Call-ID"),
        get("CSeq"),
    )
    .into_bytes()
}

/// A header field's value, as loadgen writes them: in full, on one line.
fn field<'a>(bytes: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn hexadecimal(text: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn put_hexadecimal(text: &mut [u8], mut value: u32) {
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// Right-aligned, spaces before.
fn put_decimal(text: &mut [u8], mut value: u32) {
    for place in text.iter_mut().rev() {
        *place = if value > 0 {
            b'0' + (value % 10) as u8
        } else {
            b' '
        };
        value /= 10;
    }
}
