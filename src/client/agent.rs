//! The face that publisher and subscriber show to whoever drives them. Pure: see the room's first line.

use std::net::SocketAddr;

use super::Local;

/// Bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// `None`: to the peer that was named at the start. Means nothing over a connection.
    pub to: Option<SocketAddr>,
    pub bytes: Vec<u8>,
}

/// Something that keeps a state alive at a notifier. Times are milliseconds on a clock that never goes back.
pub trait Agent {
    /// What its user should hear.
    type Event;

    /// The next message to send.
    fn next_message(&mut self) -> Option<Outgoing>;

    fn next_event(&mut self) -> Option<Self::Event>;

    /// When `advance` is to be called next; `None`: it is over.
    fn deadline_ms(&self) -> Option<u64>;

    /// Does what the time demands.
    fn advance(&mut self, now_ms: u64);

    /// Takes a message that came from `source`.
    fn receive(&mut self, now_ms: u64, source: SocketAddr, bytes: &[u8]);

    /// Ends the state, as soon as that is possible; then it is over.
    fn stop(&mut self, now_ms: u64);

    /// The connection is gone, or could not be made.
    fn disconnected(&mut self, now_ms: u64);

    /// Where messages are to go; `None`: to the peer that was named at the start.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether it would go to another peer if this one failed.
    fn has_others(&self) -> bool {
        false
    }

    /// From now on this end is reached at another address.
    fn moved(&mut self, local: Local);
}
