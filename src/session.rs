//! Drives an agent (a publisher or a subscription) over a real socket, with the clock and the signals of a process.
//! Knows no PUBLISH, SUBSCRIBE or screen.

pub mod link;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, interval, sleep_until};

use crate::client::{Agent, Outgoing};
use link::Link;

/// How long the end of an agent's state may take once it was asked for.
const GRACE: Duration = Duration::from_secs(2);
/// No deadline is further away: what lies beyond is looked at again then.
const FAR: Duration = Duration::from_secs(3_600);

/// What the user's side has to act on.
#[derive(Debug)]
pub enum Happening<E> {
    Event(E),
    /// A second went by.
    Tick,
    /// The terminal has another size.
    Resized,
    /// The agent's state has ended, or its time to end is over.
    Over,
    /// A second signal: nothing more is to be waited for.
    Killed,
}

#[derive(Debug)]
pub struct Session<A> {
    pub agent: A,
    link: Link,
    epoch: Instant,
    stop_by: Option<Instant>,
    ticks: Interval,
    signals: Signals,
}

impl<A: Agent> Session<A> {
    pub fn new(agent: A, link: Link) -> io::Result<Self> {
        Ok(Session {
            agent,
            link,
            epoch: Instant::now(),
            stop_by: None,
            ticks: interval(Duration::from_secs(1)),
            signals: Signals::new()?,
        })
    }

    /// The agent's clock.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends the agent's state, within the time of grace.
    pub fn stop(&mut self) {
        self.stop_by.get_or_insert(Instant::now() + GRACE);
        self.agent.stop(self.now_ms());
    }

    /// Works until something happens. To be called again and again, with nothing beside it: what the agent asks for is
    /// done in here.
    pub async fn next(&mut self) -> Happening<A::Event> {
        loop {
            self.work().await;
            if let Some(event) = self.agent.next_event() {
                return Happening::Event(event);
            }
            let Some(deadline_ms) = self.agent.deadline_ms() else {
                return Happening::Over;
            };
            let now = Instant::now();
            if self.stop_by.is_some_and(|stop_by| now >= stop_by) {
                return Happening::Over;
            }
            let wait = Duration::from_millis(deadline_ms.saturating_sub(self.now_ms())).min(FAR);
            let wake = self
                .stop_by
                .map_or(now + wait, |stop_by| stop_by.min(now + wait));
            tokio::select! {
                received = self.link.receive() => self.received(received),
                () = sleep_until(wake) => {}
                _ = self.ticks.tick() => return Happening::Tick,
                _ = self.signals.window.recv() => return Happening::Resized,
                () = stop(&mut self.signals.interrupt, &mut self.signals.terminate) => match self.stop_by {
                    Some(_) => return Happening::Killed,
                    None => self.stop(),
                },
            }
        }
    }

    /// What the time demands, and what it made to send. A connection that is needed is made first: requests name it.
    async fn work(&mut self) {
        let is_due = |agent: &A, now_ms| agent.deadline_ms().is_some_and(|at_ms| at_ms <= now_ms);
        if is_due(&self.agent, self.now_ms()) {
            if !self.link.is_up()
                && let Err(error) = self.link.connect().await
            {
                tracing::debug!(%error, "no connection");
                return self.agent.disconnected(self.now_ms());
            }
            self.agent.moved(self.link.local());
            self.agent.advance(self.now_ms());
        }
        while let Some(Outgoing { to, bytes }) = self.agent.next_message() {
            if let Err(error) = self.link.send(to, &bytes).await {
                tracing::debug!(%error, "not sent");
                if !self.link.is_up() {
                    self.agent.disconnected(self.now_ms());
                }
            }
        }
    }

    fn received(&mut self, received: io::Result<(SocketAddr, Vec<u8>)>) {
        match received {
            Ok((source, bytes)) => self.agent.receive(self.now_ms(), source, &bytes),
            Err(error) => {
                tracing::debug!(%error, "not received");
                if !self.link.is_up() {
                    self.agent.disconnected(self.now_ms());
                }
            }
        }
    }
}

#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    window: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            window: signal(SignalKind::window_change())?,
        })
    }
}

/// SIGINT or SIGTERM.
async fn stop(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
