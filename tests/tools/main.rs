//! The tools `publish`, `watch` and `demo` as processes: against a peer of a few lines, and against a real node.

mod cluster;
mod demo;
mod peer;
mod process;
mod publish;
mod watch;
