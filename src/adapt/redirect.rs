//! `fanfare adapt redirect`: a redirect server (RFC 3261 8.3) on a socket. Knows nothing of the protocol.

use clap::Args;
use tokio::time::Instant;

use super::{Common, DATAGRAM_MOST, Listen, send, taken};
use crate::client::Chance;
use crate::redirect::Redirector;
use crate::session::{End, Signals};
use crate::tool::{ToolError, say};

/// Flags of `fanfare adapt redirect`.
#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    listen: Listen,
}

pub(super) async fn run(flags: Arguments, mut signals: Signals) -> Result<(), ToolError> {
    let (socket, at) = flags.listen.bind().await?;
    let subscriber = flags.common.subscribe().await?;
    say(format_args!("fanfare redirect ready udp={at}"));
    let mut redirector = Redirector::new(flags.common.service, Chance::new(rand::random()));
    let epoch = Instant::now();
    let mut buffer = vec![0; DATAGRAM_MOST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            end = signals.next() => match end {
                End::Stop => break,
                End::Resized => continue,
            },
        };
        let Some((length, source)) = taken(received) else {
            continue;
        };
        let now_ms = epoch.elapsed().as_millis() as u64;
        let bytes = &buffer[..length];
        let answered = redirector.answer(&subscriber.view(), now_ms, source, bytes);
        if let Some((to, bytes)) = answered {
            send(&socket, to, &bytes).await;
        }
    }
    tracing::info!(counters = ?redirector.counters, "ends");
    subscriber.stop().await;
    Ok(())
}
