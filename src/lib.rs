//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod compositor;
pub mod config;
pub mod control;
mod counters;
pub mod info;
pub mod io;
pub mod notifier;
pub mod server;
pub mod shard;
pub mod sip;
pub mod wire;
