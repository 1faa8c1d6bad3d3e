//! What a notifier and the kernel's side both speak of: flows, and datagrams that wait to be sent.
//! Knows neither SIP nor sockets, so either side can be replaced by a simulation.

use std::net::SocketAddr;

/// How a message travels. The order is that of growing demands on the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// A reliable transport needs no retransmissions (RFC 3261 17.1.2.2) and no limit of 1,300 bytes (18.1.1).
    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }

    /// The transport as it stands in a Via header field.
    pub fn via_name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }
}

/// Where a message came from and where its answer goes: RFC 3261 18.2.2, RFC 3581 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub transport: Transport,
    /// Which of the node's listening addresses, by its place in the configuration.
    pub local: u16,
    pub peer: SocketAddr,
    /// The connection's number, 0 where there is none (UDP, or a connection still to be opened).
    pub connection: u64,
}

impl Flow {
    /// Datagrams between a listening address and a peer.
    pub fn udp(local: u16, peer: SocketAddr) -> Flow {
        Flow {
            transport: Transport::Udp,
            local,
            peer,
            connection: 0,
        }
    }
}

/// One message to be sent.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub flow: Flow,
    pub bytes: Vec<u8>,
}

/// Datagrams filled in one turn. The buffers are kept from turn to turn, so a warm batch allocates nothing.
#[derive(Debug)]
pub struct Batch {
    slots: Vec<Datagram>,
    len: usize,
    capacity: usize,
}

impl Batch {
    pub fn new(capacity: usize) -> Self {
        Batch {
            slots: Vec::with_capacity(capacity),
            len: 0,
            capacity,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more datagrams this batch takes.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// The next free slot, empty; `None` when the batch is full.
    pub fn next(&mut self, flow: Flow) -> Option<&mut Datagram> {
        if self.len == self.capacity {
            return None;
        }
        if self.len == self.slots.len() {
            self.slots.push(Datagram {
                flow,
                bytes: Vec::with_capacity(1400),
            });
        }
        let slot = &mut self.slots[self.len];
        self.len += 1;
        slot.flow = flow;
        slot.bytes.clear();
        Some(slot)
    }

    /// Takes back the slot that `next` gave last.
    pub fn undo(&mut self) {
        self.len = self.len.checked_sub(1).expect("undo follows next");
    }

    pub fn datagrams(&self) -> &[Datagram] {
        &self.slots[..self.len]
    }

    /// Empties the batch; the buffers stay.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}
