//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod client;
pub mod compositor;
pub mod config;
pub mod control;
mod counters;
pub mod info;
pub mod io;
pub mod load;
pub mod log;
pub mod notifier;
pub mod publish;
pub mod publisher;
pub mod server;
pub mod session;
pub mod shard;
pub mod sip;
pub mod subscriber;
pub mod tool;
pub mod watch;
pub mod wire;
