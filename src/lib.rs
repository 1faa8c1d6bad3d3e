//! Fanfare: a SIP event-notification publisher for server clusters.
//!
//! The servers of a cluster say what they are and how loaded they are (PUBLISH); every entity that subscribed hears it at
//! once on every change, and periodically (NOTIFY).
//!
//! The map of the house; lower rooms never import higher ones, which `tests/architecture.rs` holds:
//!
//! | room | what it is for | what it must not know |
//! |---|---|---|
//! | [`server`] | threads, start and end | SIP |
//! | [`control`] | the control thread: TCP, compositor, other nodes, lookups, signals | datagrams |
//! | [`shard`] | one core's turn: joins `io` and `notifier` | SIP, views |
//! | [`config`] | file and flags to one checked [`config::Config`] | what the settings do |
//! | [`publish`], [`watch`], [`pick`], [`adapt`] | the tools: an agent, a socket and a terminal | the protocol |
//! | [`demo`] | a small cluster on one machine, with its deaths, as processes | how it is all done |
//! | [`session`], [`tool`], `screen`, [`load`], [`log`] | what drives an agent; what the tools share; rows on a terminal; this machine's load; log lines | the protocol |
//! | [`dns`] | a zone of the servers: NAPTR, SRV, addresses (RFC 3263) | sockets, clocks, notifiers |
//! | [`dispatcher`] | what to call so that Kamailio's destination set is as the table says | sockets, clocks, notifiers |
//! | [`redirect`] | 302 to the servers that take a request (RFC 3261 8.3) | sockets, clocks, notifiers |
//! | [`subscriber`] | subscriptions at several notifiers as one table, for programs and tools | the protocol |
//! | [`resolver`] | SIP servers by name (RFC 3263) | dialogs |
//! | [`publisher`], [`subscription`], [`client`] | the other side: publication, subscription, which notifiers and which server, as pure cores | sockets, clocks |
//! | [`notifier`] | one shard of subscriptions (RFC 6665) | sockets, threads, clocks |
//! | [`cluster`] | how nodes share what their compositors know | SIP, subscribers |
//! | [`probe`] | servers that do not publish, asked whether they live | sockets, clocks, tables |
//! | [`compositor`] | publications, leases, entity-tags to views (RFC 3903) | subscribers |
//! | [`info`] | servers, views, changes, filters, documents | who reads them |
//! | [`io`] | io_uring, sendmmsg, sockets, steering; the only unsafe code | SIP |
//! | [`sip`] | bytes to meaning and back (RFC 3261) | sockets, time, subscriptions |
//! | [`rendezvous`] | which of several names answers for a key | what the names are |
//! | [`wire`] | flows and datagrams, which `io` and `notifier` both speak of | everything else |

pub mod adapt;
pub mod client;
pub mod cluster;
pub mod compositor;
pub mod config;
pub mod control;
mod counters;
pub mod demo;
pub mod dispatcher;
pub mod dns;
#[doc = include_str!("event-package.md")]
pub mod info;
pub mod io;
pub mod load;
pub mod log;
pub mod notifier;
pub mod pick;
pub mod probe;
pub mod publish;
pub mod publisher;
pub mod redirect;
pub mod rendezvous;
pub mod resolver;
mod screen;
pub mod server;
pub mod session;
pub mod shard;
pub mod sip;
pub mod subscriber;
pub mod subscription;
pub mod tool;
pub mod watch;
pub mod wire;
