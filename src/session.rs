//! Drives an agent (a publisher or a subscription) over a real socket, with the clock and the signals of a process.
//! Knows no PUBLISH, SUBSCRIBE or screen.

pub mod link;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, interval, sleep_until};

use crate::client::{Agent, Outgoing};
use link::Link;

/// How long the end of an agent's state may take once it was asked for.
const GRACE: Duration = Duration::from_secs(2);
/// Where there are other peers a connection is not waited for longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
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
    /// None where nobody looks at the seconds.
    ticks: Option<Interval>,
    ends: Ends,
}

/// Who says that it shall end.
#[derive(Debug)]
enum Ends {
    Signals(Signals),
    /// By a word, or by going away.
    Owner(Option<oneshot::Receiver<()>>),
}

impl Ends {
    async fn next(&mut self) -> End {
        match self {
            Ends::Signals(signals) => signals.next().await,
            Ends::Owner(owner) => {
                let Some(word) = owner else {
                    return std::future::pending().await;
                };
                let _ = word.await;
                *owner = None;
                End::Stop
            }
        }
    }
}

impl<A: Agent> Session<A> {
    /// It ends on SIGINT and SIGTERM.
    pub fn new(agent: A, link: Link) -> io::Result<Self> {
        let ticks = interval(Duration::from_secs(1));
        let ends = Ends::Signals(Signals::new()?);
        Ok(Session::until(agent, link, ends, Some(ticks)))
    }

    /// It ends when its owner says so, or is gone. It has no ticks.
    pub fn owned(agent: A, link: Link, owner: oneshot::Receiver<()>) -> Self {
        Session::until(agent, link, Ends::Owner(Some(owner)), None)
    }

    fn until(agent: A, link: Link, ends: Ends, ticks: Option<Interval>) -> Self {
        Session {
            agent,
            link,
            epoch: Instant::now(),
            stop_by: None,
            ticks,
            ends,
        }
    }

    /// The agent's clock.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whom it speaks to.
    pub fn peer(&self) -> SocketAddr {
        self.link.peer()
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
            let stops = tokio::select! {
                received = self.link.receive() => {
                    self.received(received);
                    false
                }
                () = sleep_until(wake) => false,
                () = tick(&mut self.ticks) => return Happening::Tick,
                end = self.ends.next() => match end {
                    End::Resized => return Happening::Resized,
                    End::Stop => true,
                },
            };
            match self.stop_by {
                Some(_) if stops => return Happening::Killed,
                None if stops => self.stop(),
                _ => {}
            }
        }
    }

    /// What the time demands, and what it made to send. A connection that is needed is made first: requests name it.
    async fn work(&mut self) {
        let is_due = |agent: &A, now_ms| agent.deadline_ms().is_some_and(|at_ms| at_ms <= now_ms);
        if is_due(&self.agent, self.now_ms()) {
            self.turn().await;
            let within = match self.agent.has_others() {
                true => CONNECT_WITHIN,
                false => Duration::MAX,
            };
            if !self.link.is_up()
                && let Err(error) = self.link.connect(within).await
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

    /// Goes to the peer that the agent wants now.
    async fn turn(&mut self) {
        if let Some(peer) = self.agent.peer()
            && let Err(error) = self.link.turn(peer).await
        {
            tracing::debug!(%error, %peer, "no way");
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

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

/// What a process is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGINT or SIGTERM.
    Stop,
    /// The terminal has another size.
    Resized,
}

#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    window: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// The next signal. May be given up at any await.
    pub async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Stop,
            _ = self.terminate.recv() => End::Stop,
            _ = self.window.recv() => End::Resized,
        }
    }
}
