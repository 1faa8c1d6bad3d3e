//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod wire;
