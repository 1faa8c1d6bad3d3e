//! Subscriptions at several notifiers over real sockets, as one table: a [`Follower`] for the tools, a [`Subscriber`] in the
//! background for programs. Knows no SIP: what is decided is decided in `subscription`.

mod follower;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::client::Chance;
use crate::info::Table;
use crate::subscription::{Pick, Picker, Wish, Work};
use crate::wire::Transport;

pub use follower::{Follower, Loss, News, Settings};

/// The life that a subscription asks for, in seconds.
const EXPIRES_S: u32 = 60;

/// How long the end of the subscriptions may take.
pub const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A domain's servers, as several notifiers tell them.
///
/// ```no_run
/// # async fn example() -> Option<()> {
/// use fanfare::subscriber::Subscriber;
///
/// let notifiers = ["192.0.2.1:5060", "192.0.2.2:5060"].map(|at| at.parse().unwrap());
/// let subscriber = Subscriber::start("example.com", notifiers.into());
/// let mut changes = subscriber.changes();
/// changes.next().await?;
/// let server = subscriber.pick("proxy", Some("alice@example.com"))?;
/// println!("{} at {}:{}", server.id, server.address.ip, server.address.port);
/// subscriber.failed(&server.id);
/// subscriber.stop().await;
/// # Some(())
/// # }
/// ```
///
/// With k notifiers subscribed the loss of k - 1 of them is not even a gap in [`view`](Subscriber::view); others are found
/// in the table itself. A notifier that falls silent, ends, lies or refuses is replaced; as long as nobody serves the last
/// good table stays, marked stale.
#[derive(Debug)]
pub struct Subscriber {
    views: watch::Receiver<Arc<Table>>,
    picker: Mutex<Picker>,
    epoch: Instant,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes over UDP at these notifiers, and at others where one of them is lost; at two at least, as soon as the table
    /// shows another. Wants a tokio runtime, on which it goes on until it is stopped or dropped.
    pub fn start(domain: &str, notifiers: Vec<SocketAddr>) -> Subscriber {
        let wish = Wish {
            domain: domain.to_owned(),
            filter: None,
            expires_s: EXPIRES_S,
        };
        Subscriber::with(Settings {
            notifiers: notifiers.len().max(2),
            via: notifiers,
            source: None,
            transport: Transport::Udp,
            wish,
        })
    }

    /// The same with every setting named.
    pub fn with(settings: Settings) -> Subscriber {
        let (to, views) = watch::channel(Arc::default());
        let (stop, stopped) = oneshot::channel();
        Subscriber {
            views,
            picker: Mutex::new(Picker::new(Chance::new(rand::random()))),
            epoch: Instant::now(),
            stop,
            task: tokio::spawn(follow(Follower::new(settings), to, stopped)),
        }
    }

    /// The table as it is known now; empty before the first notifier has told it.
    pub fn view(&self) -> Arc<Table> {
        Arc::clone(&self.views.borrow())
    }

    /// The views from the next on; who is slow gets the newest.
    pub fn changes(&self) -> Changes {
        let mut views = self.views.clone();
        // A view that is there already is one to be told.
        if self.views.borrow().view().is_some() {
            views.mark_changed();
        }
        Changes(views)
    }

    /// A server for new work of this service: see [`Picker::pick`].
    pub fn pick(&self, service: &str, key: Option<&str>) -> Option<Pick> {
        let work = Work {
            service: Some(service),
            key,
            transport: None,
        };
        let view = self.view();
        self.picker.lock().pick(&view, work, self.now_ms())
    }

    /// This client could not use a server: it picks others for a while.
    pub fn failed(&self, id: &str) {
        self.picker.lock().failed(id, self.now_ms());
    }

    /// It could: what failed before is forgotten.
    pub fn succeeded(&self, id: &str) {
        self.picker.lock().succeeded(id);
    }

    /// Unsubscribes everywhere, which takes 2 s at most.
    pub async fn stop(mut self) {
        drop(self.stop);
        // What a peer that takes nothing holds up is not waited for.
        if timeout(STOP_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The views of a subscriber, as they come.
#[derive(Debug, Clone)]
pub struct Changes(watch::Receiver<Arc<Table>>);

impl Changes {
    /// The next view; `None`: there will be no more. May be given up at any await.
    pub async fn next(&mut self) -> Option<Arc<Table>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update()))
    }
}

async fn follow(
    mut follower: Follower,
    views: watch::Sender<Arc<Table>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut is_stopped = false;
    loop {
        let news = tokio::select! {
            _ = &mut stopped, if !is_stopped => {
                is_stopped = true;
                follower.stop();
                continue;
            }
            news = follower.next() => news,
        };
        match news {
            None => return,
            Some(News::View) => {
                views.send_replace(Arc::clone(follower.table()));
            }
            Some(News::Failing(at, trouble)) => {
                tracing::warn!(notifier = %at, %trouble, "notifier fails");
            }
            Some(News::Lost(at, loss) | News::Over(at, loss)) => {
                tracing::info!(notifier = %at, ?loss, "notifier left");
            }
            Some(News::Moved | News::Notified(_) | News::Restored(_)) => {}
        }
    }
}
