//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod compositor;
pub mod info;
pub mod io;
pub mod notifier;
pub mod sip;
pub mod wire;
