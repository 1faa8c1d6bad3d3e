//! A notifier that takes subscriptions, names a node once, and from then on says what cannot be taken: malformed documents,
//! another cluster's, and views that go back.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::farm::response;

pub struct Liar {
    pub address: SocketAddr,
    subscribed: Arc<AtomicUsize>,
    lies: Arc<AtomicUsize>,
    named: Mutex<Sender<SocketAddr>>,
}

/// What a NOTIFY to a subscriber needs to know of its SUBSCRIBE.
struct Dialog {
    peer: SocketAddr,
    call_id: String,
    tag: String,
    contact: String,
    cseq: u32,
}

fn field<'t>(text: &'t str, name: &str) -> &'t str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a SUBSCRIBE has it").trim()
}

impl Dialog {
    fn of(subscribe: &str, peer: SocketAddr) -> Dialog {
        let from = field(subscribe, "From:");
        let contact = field(subscribe, "Contact:");
        let (_, tag) = from.split_once(";tag=").expect("it has a tag");
        let contact = contact.trim_start_matches('<').split('>').next();
        Dialog {
            peer,
            call_id: field(subscribe, "Call-ID:").to_owned(),
            tag: tag.to_owned(),
            contact: contact.expect("it is a name-addr").to_owned(),
            cseq: 0,
        }
    }

    fn notify(&mut self, socket: &UdpSocket, body: &str) {
        self.cseq += 1;
        let local = socket.local_addr().expect("it is bound");
        let Dialog {
            call_id,
            tag,
            contact,
            cseq,
            ..
        } = self;
        let notify = format!(
            "NOTIFY {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKliar{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:example.com>;tag=liar\r\nTo: <sip:x>;tag={tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} NOTIFY\r\n\
             Contact: <sip:{local}>\r\nEvent: SIPserver\r\nSubscription-State: active;expires=600\r\n\
             Content-Type: application/serverinfo+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.send_to(notify.as_bytes(), self.peer).expect("sent");
    }
}

fn document(domain: &str, version: u32, view: u32, id: &str, at: SocketAddr) -> String {
    format!(
        "{{\"domain\":\"{domain}\",\"notifier\":\"liar@1\",\"version\":{version},\"view\":{view},\"state\":\"full\",\"servers\":[{{\
         \"id\":\"{id}\",\"status\":\"up\",\"updated\":\"5.0.n\",\"services\":[\"notifier\"],\"addresses\":[{{\"ip\":\"{}\",\
         \"port\":{},\"transport\":\"udp\"}}]}}]}}",
        at.ip(),
        at.port()
    )
}

impl Liar {
    pub fn start() -> Liar {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("not zero");
        let address = socket.local_addr().expect("it is bound");
        let (named, names) = channel::<SocketAddr>();
        let (subscribed, lies) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, told) = (Arc::clone(&subscribed), Arc::clone(&lies));
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            let mut dialog: Option<Dialog> = None;
            let mut name = None;
            loop {
                if let (None, Ok(at)) = (name, names.try_recv()) {
                    name = Some(at);
                    let dialog = dialog.as_mut().expect("somebody has subscribed");
                    dialog.notify(&socket, &document("example.com", 1, 50, "named", at));
                }
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text.starts_with("SUBSCRIBE ") {
                    let answer = response(&text, 200);
                    // Whoever asked may be gone.
                    let _ = socket.send_to(answer.as_bytes(), peer);
                    if dialog.is_none() {
                        dialog = Some(Dialog::of(&text, peer));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                } else if let (Some(dialog), Some(at)) = (&mut dialog, name)
                    && text.contains(&format!("CSeq: {} NOTIFY", dialog.cseq))
                {
                    let lie = told.fetch_add(1, Ordering::Relaxed);
                    let next = dialog.cseq + 1;
                    dialog.notify(
                        &socket,
                        &match lie % 3 {
                            0 => "{\"domain\":".to_owned(),
                            1 => document("other.example", next, 51, "evil", at),
                            _ => document("example.com", next, 49, "evil", at),
                        },
                    );
                }
            }
        });
        Liar {
            address,
            subscribed,
            lies,
            named: Mutex::new(named),
        }
    }

    /// How many have subscribed.
    pub fn subscribed(&self) -> usize {
        self.subscribed.load(Ordering::Relaxed)
    }

    pub fn lies(&self) -> usize {
        self.lies.load(Ordering::Relaxed)
    }

    /// Tells the truth once: of a notifier.
    pub fn name(&self, at: SocketAddr) {
        let named = self.named.lock().expect("nobody panics");
        named.send(at).expect("it runs");
    }
}
