//! Fanfare: a SIP event-notification publisher for server clusters.

mod counters;
pub mod info;
pub mod io;
pub mod notifier;
pub mod shard;
pub mod sip;
pub mod wire;
