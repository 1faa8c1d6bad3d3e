//! The tools `publish` and `watch` as processes: against a peer of a few lines, and against a real node.

mod cluster;
mod peer;
mod process;
mod publish;
mod watch;
