//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod sip;
pub mod wire;
