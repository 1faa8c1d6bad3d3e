//! The adapters of a node: a thread of their own beside it, from before the node is ready until it has ended. Knows no
//! equipment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::Ready;
use crate::config::Adapter;
use crate::tool::{self, ToolError};

/// They subscribe like everybody, first at the node that they are beside and then where others are.
#[derive(Debug)]
pub struct Beside {
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

impl Beside {
    /// Returns when all of them listen. The node listens at `node`.
    ///
    /// # Errors
    ///
    /// The first that cannot have what it needs; none runs then.
    pub fn start(node: SocketAddr, adapters: Vec<Adapter>) -> Result<Beside, ToolError> {
        let node = reached_here(node);
        let (opened_to, opened) = bounded(1);
        let (stop, stopped) = watch::channel(());
        let run = move || {
            let driven = tool::drive(async {
                let all = adapt(node, adapters, &opened_to, &stopped);
                LocalSet::new().run_until(all).await;
                Ok(())
            });
            if driven.is_err() {
                // Without a runtime nothing was begun.
                opened_to.send(driven).unwrap_or_default();
            }
        };
        let thread = std::thread::Builder::new().name("adapters".to_owned());
        let thread = thread.spawn(run).map_err(ToolError::io("thread"))?;
        opened
            .recv()
            .expect("the thread says how it began before it ends")?;
        Ok(Beside { stop, thread })
    }

    /// They unsubscribe elsewhere, which takes 2 s at most.
    pub fn end(self) {
        drop(self.stop);
        // A thread that panicked has aborted the process.
        let _ = self.thread.join();
    }
}

async fn adapt(
    node: SocketAddr,
    adapters: Vec<Adapter>,
    opened: &Sender<Result<(), ToolError>>,
    stopped: &watch::Receiver<()>,
) {
    // Whoever waits for it lives as long as this process.
    let say = |how| opened.send(how).unwrap_or_default();
    let mut ready = Vec::new();
    for adapter in adapters {
        match Ready::open(adapter).await {
            Ok(adapter) => ready.push(adapter),
            Err(error) => return say(Err(error)),
        }
    }
    say(Ok(()));
    let mut running = JoinSet::new();
    for adapter in ready {
        let settings = adapter.beside(node);
        let mut stopped = stopped.clone();
        let stop = async move { drop(stopped.changed().await) };
        running.spawn_local(adapter.run(settings, stop));
    }
    running.join_all().await;
}

/// Where this machine reaches what listens there.
fn reached_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
