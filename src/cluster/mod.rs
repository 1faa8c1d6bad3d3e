//! How nodes share what their compositors know. An engine on a thread of its own speaks to the others; the control thread
//! gives it what is new here and is given what is new there. Knows no SIP, no subscriber and no shard.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::error;

use crate::compositor::Record;
use crate::counters::counters;

pub mod etcd;
pub mod frame;
mod gossip;
mod link;
pub mod member;
mod membership;
pub mod message;
mod sync;

use membership::Membership;
use message::{Message, Place};

/// The engine's thread: what panics there is begun anew, for it is not ours and holds nothing that is not elsewhere.
pub const THREAD: &str = "cluster";
/// Messages that may wait for the engine, and for the control thread.
const QUEUE: usize = 4_096;
/// What is told last may take so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// An engine that broke down begins anew after this.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);
/// A starting node is no longer stale after this, whether anybody answered or not.
pub const SYNC_WITHIN: Duration = Duration::from_secs(10);

counters! {
    /// Datagrams between nodes that came.
    cluster_datagrams,
    /// Bytes of them.
    cluster_bytes,
    /// Datagrams from networks that may not speak to this node.
    cluster_strangers,
    /// Datagrams of another cluster, and starts at which etcd had nobody of this one, but keys of another.
    cluster_wrong_id,
    /// Datagrams whose check was wrong.
    cluster_forged,
    /// Datagrams and values that could not be read.
    cluster_malformed,
    /// Datagrams that could not be sent.
    cluster_send_failures,
    /// Messages dropped because too many waited.
    cluster_overflows,
    /// Publications answered although no other node confirmed them in time.
    cluster_unconfirmed,
    /// Seeds that could not be looked up, each time.
    cluster_unknown_seeds,
    /// Starts at which no seed told what it knows.
    cluster_silent_seeds,
    /// Times another node of this name was seen alive.
    cluster_name_conflicts,
    /// Times the engine had to begin anew.
    cluster_restarts,
    /// Times that etcd was away.
    cluster_store_losses,
    /// Requests to etcd that failed.
    cluster_store_failures,
}

/// What a node needs to be one of a cluster by gossip.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node: Arc<str>,
    /// Nodes of another id are none of ours.
    pub cluster_id: String,
    /// Where others reach this node.
    pub advertise: SocketAddr,
    /// Nodes to begin with, as host:port.
    pub seeds: Vec<String>,
    pub secret: Option<Vec<u8>>,
    /// Who may speak to this node.
    pub allow: Vec<IpNet>,
    pub interval: Duration,
    /// Greater with every start of the process, in Unix ms; of the engine's first life, and of the one it lives.
    pub first_generation: u64,
    pub generation: u64,
}

/// What the engine is told.
#[derive(Debug)]
pub enum ToCluster {
    /// A publication that is to be answered once another node has it: `Kept` tells. `everyone`: all are to hear of it at
    /// once, not only with the next gossip.
    Keep {
        ticket: u64,
        record: Box<Record>,
        everyone: bool,
    },
    /// What else is new here.
    Tell(Vec<Record>),
    /// What this node keeps for one that is dead: those who come later are told.
    Hold(Vec<Record>),
    /// What is known of nodes that are taken for dead: each is told, for it may not be.
    Accuse(Vec<Record>),
    /// What this server is, as `node` knows it.
    Ask { node: Arc<str>, place: Place },
    /// An answer to what another node wants.
    Answer { to: SocketAddr, message: Message },
    /// Servers of which this node need not tell any more: another one alive knows better.
    Release(Vec<Place>),
    /// Servers that nobody need remember any more.
    Forget(Vec<Place>),
    /// The end of the process.
    Leave,
}

/// What the engine tells.
#[derive(Debug)]
pub enum FromCluster {
    Records(Vec<Record>),
    /// Another node tells these, and is to be answered `Message::Told` once they are known here.
    Told {
        from: SocketAddr,
        number: u32,
        records: Vec<Record>,
    },
    /// Another node has this publication, or there is none.
    Kept {
        ticket: u64,
    },
    /// The nodes alive, this one among them.
    Live(Vec<Arc<str>>),
    /// Whether another process of this node's name is alive and came first: then this one says nothing of itself.
    Twin(bool),
    /// The publication could not be kept.
    Unkept {
        ticket: u64,
    },
    /// Nobody can be told and nobody is heard until `Synced`: what does not come is not gone.
    Away,
    /// All that others know is known here: the first time, and each time that they were away.
    Synced,
    /// The engine had to begin anew: what it was told it has forgotten.
    Restarted,
    /// Another node wants to know of one server.
    Asked {
        from: SocketAddr,
        place: Place,
    },
    /// Another node wants to know of all servers after this one.
    Pulled {
        from: SocketAddr,
        number: u32,
        after: Option<Place>,
    },
}

/// The way to the engine, and back.
#[derive(Debug)]
pub struct Cluster {
    to: mpsc::Sender<ToCluster>,
    pub from: mpsc::Receiver<FromCluster>,
    counters: Arc<Mutex<Counters>>,
    thread: Option<JoinHandle<()>>,
}

/// An engine's way to the control thread, and back.
type Queues<'q> = (
    &'q mut mpsc::Receiver<ToCluster>,
    &'q mpsc::Sender<FromCluster>,
);

impl Cluster {
    /// Starts the engine by gossip on a socket that is bound already.
    pub fn gossip(mut settings: Settings, socket: UdpSocket) -> io::Result<Cluster> {
        socket.set_nonblocking(true)?;
        let mut membership = Membership::default();
        let mut is_later = false;
        Self::start(move |runtime, queues, counters| {
            // A later life of the engine is another one to the others.
            settings.generation += u64::from(std::mem::replace(&mut is_later, true));
            let socket = socket.try_clone()?;
            let life = gossip::live(&settings, socket, queues, counters, &mut membership);
            runtime.block_on(life)
        })
    }

    /// Starts the engine by etcd.
    pub fn etcd(settings: etcd::Settings) -> io::Result<Cluster> {
        Self::start(move |runtime, queues, counters| {
            runtime.block_on(etcd::live(&settings, queues, counters))
        })
    }

    /// Starts an engine that lives again when a life of it fails.
    fn start(
        life: impl FnMut(&Runtime, Queues<'_>, &Arc<Mutex<Counters>>) -> anyhow::Result<()>
        + Send
        + 'static,
    ) -> io::Result<Cluster> {
        let (to, inbox) = mpsc::channel(QUEUE);
        let (out, from) = mpsc::channel(QUEUE);
        let counters = Arc::new(Mutex::new(Counters::default()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let counted = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || lives(&runtime, inbox, &out, &counted, life))?;
        Ok(Cluster {
            to,
            from,
            counters,
            thread: Some(thread),
        })
    }

    /// Has the engine say what it was told last, and end.
    pub fn leave(&mut self) {
        // With a full queue it is too busy to say anything more.
        if self.tell(ToCluster::Leave).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // What it tells nobody hears now, and it must not wait for that.
            self.from.close();
            let until = Instant::now() + LEAVE_WITHIN;
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Gives the message back when the engine has no room for it.
    pub fn tell(&self, message: ToCluster) -> Result<(), ToCluster> {
        self.to
            .try_send(message)
            .map_err(|error| error.into_inner())
    }

    pub fn counters(&self) -> Counters {
        *self.counters.lock()
    }
}

/// One life after the other, until told to leave.
fn lives(
    runtime: &Runtime,
    mut inbox: mpsc::Receiver<ToCluster>,
    out: &mpsc::Sender<FromCluster>,
    counters: &Arc<Mutex<Counters>>,
    mut life: impl FnMut(&Runtime, Queues<'_>, &Arc<Mutex<Counters>>) -> anyhow::Result<()>,
) {
    loop {
        // A panic here has been reported; nothing that it may have left half done is used again.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            life(runtime, (&mut inbox, out), counters)
        }));
        let ended = ended.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        let Err(error) = ended else { return };
        counters.lock().cluster_restarts += 1;
        error!(%error, "the cluster's engine ended, and begins anew");
        std::thread::sleep(BEGIN_AGAIN);
        // The control thread has ended: so does this one.
        if out.blocking_send(FromCluster::Restarted).is_err() {
            return;
        }
    }
}
