//! What is up in a demonstration, what is done to it, and what is seen meanwhile. Knows no SIP.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::cast::Player;
use super::report::Report;
use super::show::Show;
use super::{ActName, Arguments, NODES, Outcome, SERVICE, calls, unix_ms};
use crate::info::{DocumentEntry, Status, Table};
use crate::subscriber::{Follower, Settings};
use crate::subscription::Wish;
use crate::tool::ToolError;
use crate::wire::Transport;

const DOMAIN: &str = "example.com";
/// The servers' weights: p1, p2 ...
const WEIGHTS: [u16; 4] = [40, 30, 20, 10];
/// Processes that the entities are spread over.
const GROUPS: usize = 2;
/// What the servers publish for, in seconds: the shortest lease that a node takes.
const LEASE_S: u32 = 2;
/// What the entities subscribe for, in seconds.
const EXPIRES_S: u32 = 60;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// An act that has not come to its end by then has failed.
const ACT_WITHIN: Duration = Duration::from_secs(30);

/// A node that takes part.
#[derive(Debug)]
struct Node {
    player: Player,
    sip: SocketAddr,
    gossip: SocketAddr,
}

impl Node {
    async fn start(number: usize, join: Option<SocketAddr>) -> Result<Node, ToolError> {
        let name = format!("n{number}");
        let here = "127.0.0.1:0";
        let mut flags = vec![
            "serve", "--node", &name, "--listen", here, "--gossip", here, "--shards", "1",
        ];
        flags.extend(["--drain-time", "4s"]);
        let join = join.map(|seed| seed.to_string());
        if let Some(seed) = &join {
            flags.extend(["--join", seed]);
        }
        let mut player = Player::start(&flags)?;
        let ready = player.ready().await?;
        Ok(Node {
            sip: ready.at("udp")?,
            gossip: ready.at("gossip")?,
            player,
        })
    }
}

/// Everything that is up.
#[derive(Debug)]
pub struct Stage {
    pub arguments: Arguments,
    nodes: Vec<Node>,
    servers: Vec<Player>,
    /// What each group of entities said last.
    reports: Rc<RefCell<[Report; GROUPS]>>,
    /// They end when their group does.
    readers: Vec<JoinHandle<ToolError>>,
    /// As an entity sees it.
    table: Rc<RefCell<Arc<Table>>>,
    pub show: Show,
    /// Calls to each server within the last second.
    pub called: BTreeMap<Arc<str>, u64>,
    /// How many there had been before, and when that was.
    counted: (Instant, BTreeMap<Arc<str>, u64>),
    begun_ms: u64,
}

impl Stage {
    pub async fn open(arguments: Arguments) -> Result<Stage, ToolError> {
        let mut show = Show::open(arguments.json).map_err(ToolError::io("terminal"))?;
        show.event(format!(
            "{NODES} nodes, {} servers of the service {SERVICE}, as processes",
            WEIGHTS.len()
        ));
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=NODES {
            nodes.push(Node::start(number, nodes.first().map(|node| node.gossip)).await?);
        }
        let mut servers = Vec::new();
        for (number, weight) in WEIGHTS.iter().enumerate() {
            servers.push(start_server(&nodes, number, *weight, arguments.still).await?);
        }
        let table = Rc::default();
        let via = nodes.iter().map(|node| node.sip).collect();
        spawn_local(follow(via, Rc::clone(&table)));
        let reports = Rc::default();
        let begun_ms = unix_ms();
        let mut readers = Vec::new();
        for group in 0..GROUPS {
            let player = start_group(&nodes, &arguments, group)?;
            let reader = read_reports(player, group, Rc::clone(&reports));
            readers.push(spawn_local(reader));
        }
        Ok(Stage {
            arguments,
            nodes,
            servers,
            reports,
            readers,
            table,
            show,
            called: BTreeMap::new(),
            counted: (Instant::now(), BTreeMap::new()),
            begun_ms,
        })
    }

    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// What all entities have seen.
    pub fn report(&self) -> Report {
        let reports = self.reports.borrow();
        reports.iter().fold(Report::default(), Report::and)
    }

    /// Shows what is, and counts.
    fn look(&mut self) -> Result<Report, ToolError> {
        if self.readers.iter().any(JoinHandle::is_finished) {
            return Err(ToolError::Unfinished(
                "a process of entities has ended".to_owned(),
            ));
        }
        let report = self.report();
        let since = self.counted.0.elapsed();
        if since >= Duration::from_secs(1) {
            let begun = report
                .calls
                .iter()
                .map(|(id, calls)| (Arc::clone(id), calls.begun));
            let begun: BTreeMap<Arc<str>, u64> = begun.collect();
            let before = |id: &str| self.counted.1.get(id).copied().unwrap_or_default();
            let per_s = |(id, begun): (&Arc<str>, &u64)| {
                let new = (begun - before(id)) as f64 / since.as_secs_f64();
                (Arc::clone(id), new.round() as u64)
            };
            self.called = begun.iter().map(per_s).collect();
            self.counted = (Instant::now(), begun);
        }
        let drawn = self.show.draw(&self.table(), &self.called, &report);
        drawn.map_err(ToolError::io("terminal"))?;
        Ok(report)
    }

    /// Looks on for a while.
    pub async fn watch(&mut self, time: Duration) -> Result<(), ToolError> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(LOOK_EVERY).await;
            self.look()?;
        }
        Ok(())
    }

    /// Looks on until what is seen is as wanted.
    async fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Stage, &Report) -> bool,
    ) -> Result<Report, ToolError> {
        let by = Instant::now() + ACT_WITHIN;
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let report = self.look()?;
            if is_so(self, &report) {
                return Ok(report);
            }
            if Instant::now() >= by {
                let within_s = ACT_WITHIN.as_secs();
                return Err(ToolError::Unfinished(format!(
                    "{what}: not within {within_s} s: of {} entities {} have the whole table, {} are subscribed as they want to be",
                    report.entities, report.whole, report.settled
                )));
            }
        }
    }

    /// Waits until every entity is subscribed and knows every server; how long that took, in milliseconds.
    pub async fn gather(&mut self) -> Result<u64, ToolError> {
        let is_there = |stage: &Stage, report: &Report| {
            let all = stage.arguments.entities;
            report.whole == all && report.settled == all
        };
        let report = self.until("all entities subscribed", is_there).await?;
        Ok(report.settled_ms.saturating_sub(self.begun_ms))
    }

    pub async fn kill_server(&mut self) -> Result<Outcome, ToolError> {
        // The first is the one with the greatest share.
        let id = "p1";
        self.show.event(format!("{id} is killed (kill -9)"));
        let before = self.report();
        let killed_ms = unix_ms();
        self.servers[0].kill().await?;
        let knows = |stage: &Stage, report: &Report| {
            let known = report.avoided.get(id);
            known.is_some_and(|known| known.entities == stage.arguments.entities)
        };
        let report = self.until("every entity knows of the death", knows).await?;
        let known = &report.avoided[id];
        let (first_ms, last_ms) = (
            known.first_ms.saturating_sub(killed_ms),
            known.last_ms.saturating_sub(killed_ms),
        );
        self.outcome(
            ActName::Server,
            killed_ms,
            (Some(first_ms), last_ms),
            &before,
        )
        .await
    }

    pub async fn kill_node(&mut self) -> Result<Outcome, ToolError> {
        let at = self.nodes[0].sip;
        self.show.event("n1 is killed (kill -9)".to_owned());
        let before = self.report();
        let killed_ms = unix_ms();
        self.nodes[0].player.kill().await?;
        let report = self
            .until("all subscribed elsewhere", Stage::are_elsewhere(at))
            .await?;
        let last_ms = report.settled_ms.saturating_sub(killed_ms);
        let outcome = self
            .outcome(ActName::Node, killed_ms, (None, last_ms), &before)
            .await?;
        // It comes back, so that another can go.
        let seed = self.nodes[1].gossip;
        self.nodes[0] = Node::start(1, Some(seed)).await?;
        let back = self.nodes[0].sip;
        self.until("n1 is up again", |stage: &Stage, _: &Report| {
            let view = stage.table();
            let is_it = |entry: &DocumentEntry| match entry {
                DocumentEntry::Server(server) => {
                    let mut places = server.addresses.iter();
                    server.status == Status::Up
                        && places.any(|one| (one.ip, one.port) == (back.ip(), back.port()))
                }
                _ => false,
            };
            view.entries().any(is_it)
        })
        .await?;
        Ok(outcome)
    }

    pub async fn end_node(&mut self) -> Result<Outcome, ToolError> {
        let at = self.nodes[1].sip;
        self.show.event("n2 is told to end (SIGTERM)".to_owned());
        let before = self.report();
        let told_ms = unix_ms();
        self.nodes[1].player.tell_to_end()?;
        self.nodes[1].player.ended().await?;
        let report = self
            .until("all subscribed elsewhere", Stage::are_elsewhere(at))
            .await?;
        let last_ms = report.settled_ms.saturating_sub(told_ms);
        self.outcome(ActName::Drain, told_ms, (None, last_ms), &before)
            .await
    }

    /// Every entity is subscribed as it wants to be, and none there.
    fn are_elsewhere(at: SocketAddr) -> impl Fn(&Stage, &Report) -> bool {
        move |stage, report| {
            let all = stage.arguments.entities;
            report.settled == all
                && report
                    .relying
                    .get(&at)
                    .is_none_or(|entities| *entities == 0)
        }
    }

    /// What came of an act, once every call that was up then has ended.
    async fn outcome(
        &mut self,
        act: ActName,
        begun_ms: u64,
        (first_ms, last_ms): (Option<u64>, u64),
        before: &Report,
    ) -> Result<Outcome, ToolError> {
        self.watch(Duration::from_millis(calls::PATIENCE_MS + 300))
            .await?;
        let after = self.report();
        let calls_lost = after.lost() - before.lost();
        Ok(Outcome {
            act,
            first_ms,
            last_ms,
            calls_lost,
            last_lost_ms: (calls_lost > 0).then(|| after.lost_ms().saturating_sub(begun_ms)),
            gaps: after.gaps - before.gaps,
            refused: after.refused - before.refused,
            longest_alone_ms: after.longest_alone_ms,
        })
    }
}

/// Each server is told all nodes, and begins with another.
async fn start_server(
    nodes: &[Node],
    number: usize,
    weight: u16,
    is_still: bool,
) -> Result<Player, ToolError> {
    let id = format!("p{}", number + 1);
    let mut to: Vec<String> = nodes.iter().map(|node| node.sip.to_string()).collect();
    to.rotate_left(number % NODES);
    let (to, weight, expires) = (to.join(","), weight.to_string(), LEASE_S.to_string());
    let phase = (25 * number).to_string();
    let mut flags = vec![
        "demo",
        "server",
        "--id",
        &id,
        "--to",
        &to,
        "--domain",
        DOMAIN,
        "--service",
        SERVICE,
    ];
    flags.extend(["--expires", &expires, "--weight", &weight]);
    if !is_still {
        flags.extend(["--phase", &phase]);
    }
    let mut player = Player::start(&flags)?;
    player.ready().await?;
    Ok(player)
}

fn start_group(nodes: &[Node], arguments: &Arguments, group: usize) -> Result<Player, ToolError> {
    let share = |all: u32| {
        let each = all as usize / GROUPS;
        let more = usize::from(group < all as usize % GROUPS);
        (each + more).to_string()
    };
    let via: Vec<String> = nodes.iter().map(|node| node.sip.to_string()).collect();
    let via = via.join(",");
    let (number, calls) = (share(arguments.entities), share(arguments.calls));
    let (notifiers, expires) = (arguments.notifiers.to_string(), EXPIRES_S.to_string());
    let mut flags = vec![
        "demo",
        "entities",
        "--via",
        &via,
        "--number",
        &number,
        "--notifiers",
        &notifiers,
    ];
    flags.extend([
        "--domain",
        DOMAIN,
        "--service",
        SERVICE,
        "--calls",
        &calls,
        "--expires",
        &expires,
    ]);
    Player::start(&flags)
}

/// Keeps what the nodes say, for the screen.
async fn follow(via: Vec<SocketAddr>, table: Rc<RefCell<Arc<Table>>>) {
    let mut follower = Follower::new(Settings {
        notifiers: via.len(),
        via,
        source: None,
        transport: Transport::Udp,
        wish: Wish {
            domain: DOMAIN.to_owned(),
            filter: None,
            expires_s: EXPIRES_S,
        },
    });
    while follower.next().await.is_some() {
        *table.borrow_mut() = Arc::clone(follower.table());
    }
}

/// Keeps what a group says last, until it ends.
async fn read_reports(
    mut player: Player,
    group: usize,
    reports: Rc<RefCell<[Report; GROUPS]>>,
) -> ToolError {
    loop {
        match player.line().await {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(report) => reports.borrow_mut()[group] = report,
                Err(error) => tracing::error!(%error, "no report"),
            },
            Err(error) => return error,
        }
    }
}
