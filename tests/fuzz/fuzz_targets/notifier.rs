//! A notifier that receives any sequence of messages, views, broken connections and passing time. Nothing may panic, and
//! no NOTIFY may go out over the limit of a datagram.
//!
//! The input is a list of acts: one byte says which, one or two more say with what.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fanfare::info::View;
use fanfare::notifier::handle::HandleKey;
use fanfare::notifier::settings::Settings;
use fanfare::notifier::{Effect, Notifier, Outbox};
use fanfare::sip::scan::{Name, scan};
use fanfare::wire::{Flow, Transport};
use libfuzzer_sys::fuzz_target;

const RECEIVE_BUFFER: usize = 212_992;

/// What peers sent before, so that answers and refreshes can be made of it.
struct World {
    notifier: Notifier,
    out: Outbox,
    now_ms: u64,
    revision: u64,
    /// Messages of the node that were not answered yet.
    seen: Vec<(Flow, Vec<u8>)>,
}

/// Reads acts off the input.
struct Acts<'a>(&'a [u8]);

impl<'a> Acts<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?) * 8;
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Some(bytes)
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut acts = Acts(input);
    while world.act(&mut acts).is_some() {
        world.turn();
    }
});

impl World {
    fn new() -> World {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
        let settings = Arc::new(Settings::for_address(address));
        let view = Arc::new(View::empty("*".into(), "n1@1".into()));
        let notifier = Notifier::new(
            settings,
            0,
            HandleKey([7; 16]),
            1,
            RECEIVE_BUFFER,
            vec![view],
            0,
        );
        World {
            notifier,
            out: Outbox::new(1_024),
            now_ms: 0,
            revision: 1,
            seen: Vec::new(),
        }
    }

    fn act(&mut self, acts: &mut Acts<'_>) -> Option<()> {
        match acts.byte()? % 8 {
            0 => self.now_ms += u64::from(acts.byte()?) * u64::from(acts.byte()?),
            1 => {
                let flow = flow(acts.byte()?);
                let bytes = acts.bytes()?;
                self.receive(flow, bytes);
            }
            2 => {
                let (flow, call, cseq) = (flow(acts.byte()?), acts.byte()?, acts.byte()?);
                let more = acts.bytes()?;
                self.receive(flow, &subscribe(flow, call, cseq, more));
            }
            3 => self.answer(acts.byte()?, acts.byte()?),
            4 => {
                self.revision += 1;
                let mut view = View::empty("*".into(), "n1@1".into());
                view.revision = self.revision;
                view.urgent = self.revision;
                self.notifier.learn(0, Arc::new(view));
            }
            5 => self
                .notifier
                .disconnected(self.now_ms, flow(acts.byte()?), &mut self.out),
            6 => self.notifier.unreachable(self.now_ms, flow(acts.byte()?)),
            _ if acts.byte()? == 0 => self.notifier.drain(self.now_ms, Vec::new(), 0),
            _ => {}
        }
        Some(())
    }

    fn receive(&mut self, flow: Flow, bytes: &[u8]) {
        self.notifier
            .receive(self.now_ms, flow, bytes, &mut self.out);
    }

    /// Answers one of the messages seen with any status.
    fn answer(&mut self, which: u8, status: u8) {
        if self.seen.is_empty() {
            return;
        }
        let (flow, request) = self.seen.swap_remove(usize::from(which) % self.seen.len());
        let Ok(message) = scan(&request) else {
            return;
        };
        if !message.is_request() {
            return;
        }
        let mut response = format!("SIP/2.0 {} x\r\n", 100 + u16::from(status) * 2).into_bytes();
        let names = [
            (Name::Via, "Via"),
            (Name::From, "From"),
            (Name::To, "To"),
            (Name::CallId, "Call-ID"),
            (Name::CSeq, "CSeq"),
        ];
        for (name, text) in names {
            let value = message.first(name).unwrap_or_default();
            response.extend([text.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        response.extend(b"Content-Length: 0\r\n\r\n");
        self.receive(flow, &response);
    }

    fn turn(&mut self) {
        self.notifier.fill(self.now_ms, &mut self.out);
        for datagram in self.out.batch.datagrams() {
            let bytes = datagram.to_vec();
            assert!(!bytes.starts_with(b"NOTIFY") || bytes.len() <= 1_300);
            self.seen.push((datagram.flow, bytes));
        }
        self.out.batch.clear();
        for effect in self.out.effects.drain(..) {
            if let Effect::Stream(message) = effect {
                self.seen.push((message.flow, message.to_vec()));
            }
        }
        let most = 64;
        let beyond = self.seen.len().saturating_sub(most);
        self.seen.drain(..beyond);
    }
}

/// Sixteen peers over UDP, and sixteen connections.
fn flow(which: u8) -> Flow {
    let is_tcp = which & 16 != 0;
    Flow {
        transport: if is_tcp {
            Transport::Tcp
        } else {
            Transport::Udp
        },
        local: 0,
        peer: ([127, 0, 0, 1 + (which & 15)], 5_060).into(),
        connection: u64::from(is_tcp) * u64::from(1 + (which & 15)),
    }
}

/// A SUBSCRIBE of one of a few calls; `more` stands among its header fields, whatever it is.
fn subscribe(flow: Flow, call: u8, cseq: u8, more: &[u8]) -> Vec<u8> {
    let (peer, transport) = (flow.peer, flow.transport.via_name());
    let call = call & 31;
    let head = format!(
        "SUBSCRIBE sip:example.com SIP/2.0\r\nVia: SIP/2.0/{transport} {peer};rport;branch=z9hG4bK{call}x{cseq}\r\n\
         From: <sip:a@b>;tag={call}\r\nTo: <sip:b>\r\nCall-ID: {call}\r\nCSeq: {cseq} SUBSCRIBE\r\n\
         Max-Forwards: 70\r\nEvent: SIPserver\r\nContact: <sip:a@{peer}>\r\n"
    );
    [head.as_bytes(), more, b"Content-Length: 0\r\n\r\n"].concat()
}
