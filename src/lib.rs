//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod client;
pub mod config;
pub mod info;
pub mod io;
pub mod load;
pub mod notifier;
pub mod publish;
pub mod publisher;
pub mod session;
pub mod sip;
pub mod subscriber;
pub mod tool;
pub mod watch;
pub mod wire;
