//! Many entities of the demonstration in one process: each follows the table at notifiers of its own choice, and calls the
//! servers that it picks. Says a report a line. Knows no other process.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UdpSocket;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::calls::{Calls, End};
use super::report::{Report, Seen};
use crate::client::{Chance, Trouble};
use crate::info::Table;
use crate::session::{self, Signals};
use crate::subscriber::{Follower, Loss, News, Settings};
use crate::subscription::{Picker, Wish, Work};
use crate::tool::{ToolError, say};
use crate::wire::Transport;

/// So many entities begin in a second.
const BEGIN_PER_S: u64 = 4_000;
const REPORT_EVERY: Duration = Duration::from_millis(100);
const CALL_EVERY: Duration = Duration::from_millis(10);
/// Beside one for each notifier of an entity: while one is replaced there is another.
const SOCKETS_BESIDE_EACH: u64 = 1;
const SOCKETS_BESIDE: u64 = 64;
/// The largest datagram.
const DATAGRAM_MOST: usize = 65_535;

/// Flags of `fanfare demo entities`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[arg(long, value_delimiter = ',')]
    pub via: Vec<SocketAddr>,
    #[arg(long)]
    pub number: usize,
    /// How many notifiers each is subscribed at
    #[arg(long)]
    pub notifiers: usize,
    #[arg(long)]
    pub domain: String,
    #[arg(long)]
    pub service: String,
    /// Calls a second, of all together
    #[arg(long)]
    pub calls: u64,
    /// Life that the subscriptions ask for, in seconds
    #[arg(long)]
    pub expires: u32,
}

#[derive(Debug)]
struct Entity {
    table: Arc<Table>,
    picker: Picker,
}

/// What the tasks of this thread have in common.
#[derive(Debug)]
struct Crowd {
    entities: Vec<Entity>,
    report: Report,
    calls: Calls,
    service: String,
    /// Whose turn it is to call.
    next: usize,
}

type Shared = Rc<RefCell<Crowd>>;

/// Plays until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let mut signals = Signals::new().map_err(ToolError::io("signals"))?;
    let each = arguments.notifiers as u64 + SOCKETS_BESIDE_EACH;
    allow_descriptors(arguments.number as u64 * each + SOCKETS_BESIDE)?;
    let socket = UdpSocket::bind("127.0.0.1:0").await;
    let socket = Rc::new(socket.map_err(ToolError::io("socket"))?);
    let local = socket.local_addr().map_err(ToolError::io("socket"))?;
    let one = |_| Entity {
        table: Arc::default(),
        picker: Picker::new(Chance::new(rand::random())),
    };
    let crowd = Crowd {
        entities: (0..arguments.number).map(one).collect(),
        report: Report {
            entities: arguments.number as u32,
            ..Report::default()
        },
        calls: Calls::new(local, rand::random()),
        service: arguments.service.clone(),
        next: 0,
    };
    let crowd = Rc::new(RefCell::new(crowd));
    let tasks = LocalSet::new();
    tasks.spawn_local(begin(arguments.clone(), Rc::clone(&crowd)));
    tasks.spawn_local(call(arguments.calls, Rc::clone(&socket), Rc::clone(&crowd)));
    tasks.spawn_local(hear(socket, Rc::clone(&crowd)));
    tasks.spawn_local(report(crowd));
    tasks
        .run_until(async { while signals.next().await != session::End::Stop {} })
        .await;
    Ok(())
}

fn allow_descriptors(needed: u64) -> Result<(), ToolError> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let limit = Rlimit {
        current: Some(needed),
        maximum: now.maximum.map(|most| most.max(needed)),
    };
    let set = setrlimit(Resource::Nofile, limit);
    set.map_err(|error| ToolError::Unfinished(format!("{needed} open files are needed: {error}")))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// Each speaks from a loopback address of its own: one address has 28,232 ports by default, fewer than 10,000 entities
/// want while some of their notifiers die.
fn own_address(entity: usize) -> IpAddr {
    let [.., high, low] = entity.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

/// Begins one entity after the other.
async fn begin(arguments: Arguments, crowd: Shared) {
    let settings = Settings {
        via: arguments.via,
        source: None,
        transport: Transport::Udp,
        wish: Wish {
            domain: arguments.domain,
            filter: None,
            expires_s: arguments.expires,
        },
        notifiers: arguments.notifiers,
    };
    let mut begun = 0;
    let mut ticks = interval(CALL_EVERY);
    while begun < arguments.number {
        ticks.tick().await;
        let due = (CALL_EVERY.as_millis() as u64 * BEGIN_PER_S / 1_000) as usize;
        let until = (begun + due).min(arguments.number);
        for entity in begun..until {
            let settings = Settings {
                source: Some(own_address(entity)),
                ..settings.clone()
            };
            spawn_local(follow(settings, entity, Rc::clone(&crowd)));
        }
        begun = until;
    }
}

/// One entity's table, for ever.
async fn follow(settings: Settings, entity: usize, crowd: Shared) {
    let want = settings.notifiers;
    let mut follower = Follower::new(settings);
    let mut seen = Seen::default();
    while let Some(news) = follower.next().await {
        let now_ms = unix_ms();
        let mut crowd = crowd.borrow_mut();
        match news {
            News::View => {
                let table = follower.table();
                crowd.entities[entity].table = Arc::clone(table);
                crowd.report.shown(&mut seen, table, now_ms);
            }
            News::Moved => {
                let relying = follower.relied_on().collect();
                let heard = follower.heard().count();
                let report = &mut crowd.report;
                report.follows(&mut seen, heard, relying, want, now_ms);
            }
            News::Lost(_, Loss::Refused(_)) | News::Failing(_, Trouble::Refused(_)) => {
                crowd.report.refused += 1;
            }
            _ => {}
        }
    }
}

impl Crowd {
    /// The next call: whom to send what.
    fn begin(&mut self, now_ms: u64) -> Option<(SocketAddr, Vec<u8>)> {
        let number = self.next % self.entities.len();
        self.next += 1;
        let Entity { table, picker } = &mut self.entities[number];
        // It has no table yet, so it calls nobody.
        table.view()?;
        let work = Work {
            service: Some(&self.service),
            ..Work::default()
        };
        let Some(pick) = picker.pick(table, work, now_ms) else {
            self.report.unplaced += 1;
            return None;
        };
        let at = SocketAddr::new(pick.address.ip, pick.address.port);
        self.report
            .calls
            .entry(Arc::clone(&pick.id))
            .or_default()
            .begun += 1;
        Some((at, self.calls.begin(now_ms, number, pick.id, at)))
    }

    fn ended(&mut self, now_ms: u64, end: &End) {
        let picker = &mut self.entities[end.entity].picker;
        let calls = self
            .report
            .calls
            .entry(Arc::clone(&end.server))
            .or_default();
        if end.is_served {
            calls.served += 1;
            picker.succeeded(&end.server);
        } else {
            calls.lost += 1;
            calls.lost_ms = calls.lost_ms.max(end.begun_ms);
            picker.failed(&end.server, now_ms);
        }
    }
}

async fn send(socket: &UdpSocket, messages: Vec<(SocketAddr, Vec<u8>)>) {
    for (to, bytes) in messages {
        if let Err(error) = socket.send_to(&bytes, to).await {
            tracing::debug!(%error, "not sent");
        }
    }
}

/// Calls, so many a second, and gives up what nobody answers.
async fn call(per_s: u64, socket: Rc<UdpSocket>, crowd: Shared) {
    let mut ticks = interval(CALL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let begun_ms = unix_ms();
    let mut begun = 0;
    loop {
        ticks.tick().await;
        let now_ms = unix_ms();
        let due = (now_ms.saturating_sub(begun_ms)) * per_s / 1_000;
        let (mut messages, ends) = crowd.borrow_mut().calls.advance(now_ms);
        for end in ends {
            crowd.borrow_mut().ended(now_ms, &end);
        }
        for _ in begun..due {
            messages.extend(crowd.borrow_mut().begin(now_ms));
        }
        begun = due;
        send(&socket, messages).await;
    }
}

async fn hear(socket: Rc<UdpSocket>, crowd: Shared) {
    let mut buffer = vec![0; DATAGRAM_MOST];
    loop {
        let received: io::Result<usize> = socket.recv(&mut buffer).await;
        let Ok(length) = received.inspect_err(|error| tracing::debug!(%error, "not received"))
        else {
            continue;
        };
        let now_ms = unix_ms();
        let (messages, end) = crowd.borrow_mut().calls.receive(now_ms, &buffer[..length]);
        if let Some(end) = end {
            crowd.borrow_mut().ended(now_ms, &end);
        }
        send(&socket, messages).await;
    }
}

async fn report(crowd: Shared) {
    loop {
        sleep(REPORT_EVERY).await;
        let line = serde_json::to_string(&crowd.borrow().report);
        say(format_args!("{}", line.expect("numbers and texts")));
    }
}
