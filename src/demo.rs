//! `fanfare demo`: a small cluster on this machine, as real processes, and what its entities notice when a server and a node
//! die and another node ends. Plays the acts and says what came of them. Knows no SIP.

mod calls;
mod cast;
mod entities;
mod report;
mod server;
mod show;
mod stage;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::task::LocalSet;

use crate::session::{End, Signals};
use crate::tool::{ToolError, say};
use cast::Part;
use stage::Stage;

const SERVICE: &str = "proxy";
const NODES: usize = 3;
/// How long is looked at undisturbed servers.
const STEADY: Duration = Duration::from_secs(4);

/// Flags of `fanfare demo`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Entities, in two processes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=50_000))]
    entities: u32,
    /// How many of the three nodes each is subscribed at
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    notifiers: u8,
    /// Calls a second, of all entities together
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    calls: u32,
    /// What shall happen (repeatable, or with commas) [default: all of it]
    #[arg(long, value_delimiter = ',')]
    act: Vec<ActName>,
    /// Let the servers' loads stand still
    #[arg(long)]
    still: bool,
    /// Write what came of it as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum Role {
    #[command(hide = true)]
    Part(Part),
    #[command(hide = true)]
    Server(server::Arguments),
    #[command(hide = true)]
    Entities(entities::Arguments),
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ActName {
    /// A server is killed
    Server,
    /// A node is killed
    Node,
    /// A node is told to end
    Drain,
}

/// What came of an act. Times are milliseconds since it began.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    act: ActName,
    /// Until the first entity knew; only of a server.
    first_ms: Option<u64>,
    /// Until the last entity had switched.
    last_ms: u64,
    calls_lost: u64,
    /// When the last call that was lost had begun.
    last_lost_ms: Option<u64>,
    /// How often a table came to lack something.
    gaps: u32,
    /// Subscriptions that a notifier refused.
    refused: u32,
    /// The longest that an entity was without a subscription.
    longest_alone_ms: u64,
}

/// What came of everything.
#[derive(Debug, Serialize)]
struct Summary {
    entities: u32,
    notifiers: u8,
    calls_per_s: u32,
    /// Until all entities were subscribed, in milliseconds.
    subscribed_ms: u64,
    acts: Vec<Outcome>,
    calls: u64,
    lost: u64,
}

/// Plays, or plays a part of it.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    match arguments.role {
        Some(Role::Part(part)) => Err(cast::become_part(&part)),
        Some(Role::Server(flags)) => server::run(flags).await,
        Some(Role::Entities(flags)) => entities::run(flags).await,
        None => {
            let mut signals = Signals::new().map_err(ToolError::io("signals"))?;
            let stopped = async { while signals.next().await != End::Stop {} };
            let tasks = LocalSet::new();
            tokio::select! {
                played = tasks.run_until(play(arguments)) => played,
                // What was started ends with this process.
                () = stopped => Ok(()),
            }
        }
    }
}

async fn play(arguments: Arguments) -> Result<(), ToolError> {
    let mut acts = arguments.act.clone();
    if acts.is_empty() {
        acts = ActName::value_variants().to_vec();
    }
    // One of each, and always in this order: what is gone cannot be killed again.
    acts.sort();
    acts.dedup();
    let is_json = arguments.json;
    let mut stage = Stage::open(arguments).await?;
    let subscribed_ms = stage.gather().await?;
    stage.show.event(format!(
        "{} entities are subscribed at {} of {NODES} nodes each, {:.1} s after the first began",
        stage.arguments.entities,
        stage.arguments.notifiers,
        seconds(subscribed_ms)
    ));
    stage.watch(STEADY).await?;
    stage.show.print(&stage.table(), &stage.called);
    let mut outcomes = Vec::new();
    for act in acts {
        let outcome = match act {
            ActName::Server => stage.kill_server().await?,
            ActName::Node => stage.kill_node().await?,
            ActName::Drain => stage.end_node().await?,
        };
        stage.show.event(outcome.text());
        outcomes.push(outcome);
    }
    let report = stage.report();
    let summary = Summary {
        entities: stage.arguments.entities,
        notifiers: stage.arguments.notifiers,
        calls_per_s: stage.arguments.calls,
        subscribed_ms,
        calls: report.calls.values().map(|calls| calls.begun).sum(),
        lost: report.lost(),
        acts: outcomes,
    };
    stage.show.close();
    if is_json {
        say(format_args!(
            "{}",
            serde_json::to_string(&summary).expect("numbers")
        ));
    } else {
        say(format_args!(
            "{} calls, {} lost",
            summary.calls, summary.lost
        ));
    }
    Ok(())
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

impl Outcome {
    fn text(&self) -> String {
        let mut text = match (self.act, self.first_ms) {
            (ActName::Server, Some(first_ms)) => format!(
                "  every entity had switched after {:.2} s, {} ms after the first",
                seconds(self.last_ms),
                self.last_ms.saturating_sub(first_ms)
            ),
            _ => format!(
                "  all were subscribed elsewhere after {:.2} s",
                seconds(self.last_ms)
            ),
        };
        if self.act != ActName::Server {
            text += &match self.longest_alone_ms {
                0 => ", none was without a subscription meanwhile".to_owned(),
                ms => format!(", none without a subscription for more than {ms} ms"),
            };
            text += &match self.gaps {
                0 => ", no table lacked anything".to_owned(),
                gaps => format!(", {gaps} tables lacked something for a while"),
            };
        }
        text += &match (self.calls_lost, self.last_lost_ms) {
            (0, _) | (_, None) => "; no call lost".to_owned(),
            (lost, Some(last_ms)) => format!(
                "; {lost} calls lost, the last of them begun {:.2} s after the death",
                seconds(last_ms)
            ),
        };
        text
    }
}
