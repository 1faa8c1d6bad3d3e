//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod io;
pub mod wire;
