//! One node of the world: the notifier's core, and the view that has come to it so far. Knows no entity.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::info::{Entry, Server, Status, View};
use fanfare::notifier::drain::Other;
use fanfare::notifier::handle::HandleKey;
use fanfare::notifier::settings::Settings;
use fanfare::notifier::{Notifier, Outbox};
use fanfare::wire::{Datagram, Flow, Transport};

const BATCH: usize = 512;
const RECEIVE_BUFFER: usize = 212_992;

pub fn address(number: usize) -> SocketAddr {
    ([127, 2, 0, number as u8 + 1], 5060).into()
}

#[derive(Debug)]
pub struct Node {
    notifier: Notifier,
    outbox: Outbox,
    view: View,
    pub since_ms: u64,
    pub drains: bool,
    /// News on its way here, and when it comes.
    coming: Vec<(u64, Server)>,
    /// Since when it knows that a server is down.
    pub down_since_ms: BTreeMap<Arc<str>, u64>,
}

impl Node {
    /// One that starts with what all others know.
    pub fn start(
        number: usize,
        now_ms: u64,
        seed: u64,
        known: &BTreeMap<Arc<str>, Server>,
    ) -> Node {
        let name = format!("n{}@{now_ms}", number + 1);
        let entry = |server: &Server| {
            Arc::new(Entry {
                server: server.clone(),
                deleted: false,
            })
        };
        let view = View {
            entries: known.values().map(entry).collect(),
            ..View::empty("*".into(), name.as_str().into())
        };
        let is_down = |server: &&Server| server.status == Status::Down;
        let down = known.values().filter(is_down);
        Node {
            notifier: Notifier::new(
                Arc::new(Settings::for_address(address(number))),
                0,
                HandleKey([number as u8; 16]),
                seed,
                RECEIVE_BUFFER,
                vec![Arc::new(view.clone())],
                now_ms,
            ),
            outbox: Outbox::new(BATCH),
            view,
            since_ms: now_ms,
            drains: false,
            coming: Vec::new(),
            down_since_ms: down
                .map(|server| (Arc::clone(&server.id), now_ms))
                .collect(),
        }
    }

    pub fn hear(&mut self, at_ms: u64, server: Server) {
        self.coming.push((at_ms, server));
    }

    /// Takes the news that has come.
    pub fn learn(&mut self, now_ms: u64) {
        let (due, coming): (Vec<_>, Vec<_>) = std::mem::take(&mut self.coming)
            .into_iter()
            .partition(|(at_ms, _)| *at_ms <= now_ms);
        self.coming = coming;
        for (_, server) in due {
            let place = self.view.position(&server.id);
            let is_old =
                place.is_ok_and(|place| self.view.entries[place].server.updated >= server.updated);
            if is_old {
                continue;
            }
            if server.status == Status::Down {
                self.down_since_ms
                    .entry(Arc::clone(&server.id))
                    .or_insert(now_ms);
            } else {
                self.down_since_ms.remove(&server.id);
            }
            let entry = Arc::new(Entry {
                server,
                deleted: false,
            });
            match place {
                Ok(place) => self.view.entries[place] = entry,
                Err(place) => self.view.entries.insert(place, entry),
            }
            self.view.revision += 1;
            (self.view.urgent, self.view.notable) = (self.view.revision, self.view.revision);
            self.notifier.learn(0, Arc::new(self.view.clone()));
        }
    }

    pub fn receive(&mut self, now_ms: u64, from: SocketAddr, bytes: &[u8]) {
        let flow = Flow::udp(0, from);
        self.notifier.receive(now_ms, flow, bytes, &mut self.outbox);
    }

    pub fn drain(&mut self, now_ms: u64, others: &[SocketAddr], over_ms: u64) {
        self.drains = true;
        let other = |address: &SocketAddr| Other {
            address: *address,
            transport: Transport::Udp,
        };
        self.notifier
            .drain(now_ms, others.iter().map(other).collect(), over_ms);
    }

    /// What it sends now.
    pub fn turn(&mut self, now_ms: u64, mut send: impl FnMut(SocketAddr, Vec<u8>)) {
        loop {
            self.notifier.fill(now_ms, &mut self.outbox);
            for Datagram { flow, bytes, .. } in self.outbox.batch.datagrams() {
                send(flow.peer, bytes.clone());
            }
            self.outbox.batch.clear();
            assert!(
                self.outbox.effects.is_empty(),
                "entities have addresses, and speak by UDP"
            );
            let due_ms = self.notifier.next_deadline_ms(now_ms);
            if due_ms.is_none_or(|due_ms| due_ms > now_ms) {
                return;
            }
        }
    }

    pub fn subscriptions(&self) -> usize {
        self.notifier.live()
    }

    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.view.entries.iter().map(|entry| &entry.server)
    }
}
