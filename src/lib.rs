//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod info;
pub mod sip;
pub mod wire;
