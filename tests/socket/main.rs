//! The whole node over real sockets, as a stranger meets it: messages that are none, connections that misbehave, limits
//! reached, signals. Knows nothing of the node's inside but its counters.

mod limits;
mod names;
mod node;
mod process;
mod sip;
mod targets;
mod tcp;
mod torture;
