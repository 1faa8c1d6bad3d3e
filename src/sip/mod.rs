//! SIP as bytes: what a message says, and how an answer or a NOTIFY is written.
//! Knows no socket, no time and no subscription.

pub mod answer;
pub mod header;
pub mod request;
pub mod scan;
pub mod uri;
pub mod write;

/// The event package's name, compared byte by byte (RFC 6665 8.2.1 makes it case-sensitive by SIP's token rule of `Event`).
pub const EVENT_PACKAGE: &str = "SIPserver";
