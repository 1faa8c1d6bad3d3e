//! SIP as bytes: what a message says, and how an answer or a NOTIFY is written.
//! Knows no socket, no time and no subscription.

pub mod answer;
mod class;
mod event;
pub mod header;
mod name;
mod params;
pub mod request;
pub mod scan;
pub mod uri;
pub mod write;

/// The event package's name, compared byte by byte.
pub const EVENT_PACKAGE: &str = "SIPserver";
