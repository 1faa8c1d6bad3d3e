//! Follows a table at several notifiers: a task with a socket for each subscription that the roster wants. Knows no SIP.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::client::{Chance, Refusal, Trouble};
use crate::info::Table;
use crate::session::link::Link;
use crate::session::{Happening, Session};
use crate::subscription::{Ending, Event, Order, Roster, Subscription, Wish};
use crate::wire::Transport;

/// What subscriptions have said and nobody has heard yet.
const HEARD: usize = 64;

/// What to follow, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Notifiers to begin with, at least one; others are found in the table.
    pub via: Vec<SocketAddr>,
    /// The address of this machine to speak from to notifiers of its family; `None`: whichever leads there.
    pub source: Option<IpAddr>,
    pub transport: Transport,
    pub wish: Wish,
    /// How many notifiers to be subscribed at, as far as there are so many.
    pub notifiers: usize,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The table is another: see [`Follower::table`].
    View,
    /// Other notifiers are heard or relied on than before.
    Moved,
    /// A notifier said something.
    Notified(SocketAddr),
    /// A notifier does not serve; attempts go on, there and elsewhere.
    Failing(SocketAddr, Trouble),
    Restored(SocketAddr),
    /// A notifier has been left, or wants no subscription of ours.
    Lost(SocketAddr, Loss),
    /// Nobody who is known takes a subscription: the end.
    Over(SocketAddr, Loss),
}

/// Why a subscription has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    Refused(Refusal),
    Terminated(Ending),
    /// There is no way to it from here.
    Unreachable(String),
    /// It was fetched, or unsubscribed.
    Done,
}

#[derive(Debug)]
enum Heard {
    View(Arc<Table>),
    Notified,
    Failing(Trouble),
    Restored,
    Ended(Loss),
}

#[derive(Debug)]
struct Place {
    at: SocketAddr,
    /// Gone: it was told to end.
    end: Option<oneshot::Sender<()>>,
}

/// One table, followed at several notifiers.
#[derive(Debug)]
pub struct Follower {
    settings: Settings,
    roster: Roster,
    places: BTreeMap<u32, Place>,
    tasks: JoinSet<()>,
    to: mpsc::Sender<(u32, Heard)>,
    heard: mpsc::Receiver<(u32, Heard)>,
    chance: Chance,
    epoch: Instant,
    news: VecDeque<News>,
    /// Who was heard and who relied on when that was told last.
    told: (Vec<SocketAddr>, Vec<SocketAddr>),
    is_stopping: bool,
}

impl Follower {
    /// Subscribes from the first `next` on. Wants a tokio runtime, then and later.
    pub fn new(settings: Settings) -> Self {
        let (to, heard) = mpsc::channel(HEARD);
        let roster = Roster::new(
            settings.via.clone(),
            settings.transport,
            settings.notifiers,
            Chance::new(rand::random()),
        );
        Follower {
            settings,
            roster,
            places: BTreeMap::new(),
            tasks: JoinSet::new(),
            to,
            heard,
            chance: Chance::new(rand::random()),
            epoch: Instant::now(),
            news: VecDeque::new(),
            told: Default::default(),
            is_stopping: false,
        }
    }

    /// What the notifiers say together; the last good one while nobody says anything.
    pub fn table(&self) -> &Arc<Table> {
        self.roster.table()
    }

    /// The notifiers whose word is in the table now.
    pub fn heard(&self) -> impl Iterator<Item = SocketAddr> {
        self.roster.heard()
    }

    /// Those of them that know everything and are to stay.
    pub fn relied_on(&self) -> impl Iterator<Item = SocketAddr> {
        self.roster.relied_on()
    }

    /// Unsubscribes everywhere; `next` goes on until that is done.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.places
            .values_mut()
            .for_each(|place| drop(place.end.take()));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Works until something happens; `None`: it was stopped, and every subscription has ended. May be given up at any
    /// await.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Some(news);
            }
            if self.is_stopping && self.places.is_empty() {
                return None;
            }
            let now_ms = self.now_ms();
            if !self.is_stopping {
                let is_view = self.roster.advance(now_ms);
                self.obey();
                self.look_who_serves();
                if is_view {
                    return Some(News::View);
                }
                if !self.news.is_empty() {
                    continue;
                }
            }
            let due_ms = self.roster.deadline_ms().filter(|_| !self.is_stopping);
            let due = self.epoch + Duration::from_millis(due_ms.unwrap_or_default());
            let heard = tokio::select! {
                Some(heard) = self.heard.recv() => heard,
                () = sleep_until(due), if due_ms.is_some() => continue,
            };
            self.hear(heard);
        }
    }

    fn look_who_serves(&mut self) {
        let now = (self.heard().collect(), self.relied_on().collect());
        if now != self.told {
            self.told = now;
            self.news.push_back(News::Moved);
        }
    }

    fn obey(&mut self) {
        while let Some(order) = self.roster.next_order() {
            match order {
                Order::Begin { number, at } => self.begin(number, at),
                Order::End { number } => {
                    if let Some(place) = self.places.get_mut(&number) {
                        debug!(notifier = %place.at, number, "unsubscribing");
                        place.end = None;
                    }
                }
            }
        }
        // Tasks that have ended leave their results, which are none.
        while self.tasks.try_join_next().is_some() {}
    }

    fn begin(&mut self, number: u32, at: SocketAddr) {
        debug!(notifier = %at, number, "subscribing");
        let (end, owner) = oneshot::channel();
        let end = Some(end);
        self.places.insert(number, Place { at, end });
        let (source, transport) = (self.settings.source, self.settings.transport);
        let wish = self.settings.wish.clone();
        let chance = Chance::new(self.chance.within(0..u64::MAX));
        let to = self.to.clone();
        self.tasks.spawn(async move {
            let loss = match Link::open_from(source, at, transport).await {
                Ok(link) => {
                    let subscription = Subscription::new(wish, link.local(), chance);
                    follow(Session::owned(subscription, link, owner), number, &to).await
                }
                Err(error) => Loss::Unreachable(error.to_string()),
            };
            let _ = to.send((number, Heard::Ended(loss))).await;
        });
    }

    fn hear(&mut self, (number, heard): (u32, Heard)) {
        let now_ms = self.now_ms();
        let Some(at) = self.places.get(&number).map(|place| place.at) else {
            return;
        };
        if !matches!(heard, Heard::View(_)) {
            debug!(notifier = %at, number, ?heard, "heard");
        }
        let (is_view, news) = match heard {
            Heard::View(table) => {
                let is_view = self.roster.told(now_ms, number, table);
                (is_view, Some(News::Notified(at)))
            }
            Heard::Notified => (false, Some(News::Notified(at))),
            Heard::Failing(trouble) => {
                let is_view = self.roster.fails(now_ms, number);
                (is_view, Some(News::Failing(at, trouble)))
            }
            Heard::Restored => {
                let is_view = self.roster.restored(now_ms, number);
                (is_view, Some(News::Restored(at)))
            }
            // The table stays as it was seen last.
            Heard::Ended(loss) if self.is_stopping => {
                self.places.remove(&number);
                (false, Some(News::Lost(at, loss)))
            }
            Heard::Ended(loss) => {
                self.places.remove(&number);
                let refused = matches!(loss, Loss::Refused(_) | Loss::Terminated(_));
                let is_view = self.roster.ended(now_ms, number, refused);
                let is_over = refused && self.roster.is_over();
                let news = if is_over {
                    News::Over(at, loss)
                } else {
                    News::Lost(at, loss)
                };
                (is_view, Some(news))
            }
        };
        self.news.extend(news);
        if is_view {
            self.news.push_back(News::View);
        }
    }
}

/// Passes on what becomes of a subscription, until it has ended.
async fn follow(
    mut session: Session<Subscription>,
    number: u32,
    to: &mpsc::Sender<(u32, Heard)>,
) -> Loss {
    // It has failed since it told its table: the same is to be told again.
    let mut is_owed = false;
    loop {
        let heard = match session.next().await {
            Happening::Event(event) => match event {
                Event::View => {
                    is_owed = false;
                    Heard::View(Arc::new(session.agent.table().clone()))
                }
                Event::Notified if is_owed && !session.agent.is_failing() => {
                    is_owed = false;
                    Heard::View(Arc::new(session.agent.table().clone()))
                }
                Event::Notified => Heard::Notified,
                Event::Failing(trouble) => {
                    is_owed = true;
                    Heard::Failing(trouble)
                }
                Event::Restored => Heard::Restored,
                Event::Refused(refusal) => return Loss::Refused(refusal),
                Event::Terminated(ending) => return Loss::Terminated(ending),
                Event::Over => return Loss::Done,
            },
            Happening::Over | Happening::Killed => return Loss::Done,
            Happening::Tick | Happening::Resized => continue,
        };
        if to.send((number, heard)).await.is_err() {
            // The follower is gone, and this task with it.
            return Loss::Done;
        }
    }
}
