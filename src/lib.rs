//! Fanfare: a SIP event-notification publisher for server clusters.

pub mod client;
pub mod config;
pub mod info;
pub mod io;
pub mod notifier;
pub mod publisher;
pub mod sip;
pub mod subscriber;
pub mod wire;
