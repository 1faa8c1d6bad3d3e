//! Calls Kamailio's JSON-RPC (jsonrpcs over xhttp) until its destination set is as the table says.
//! Knows nothing of what is to be called.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::client::{Backoff, Chance};
use crate::dispatcher::{self, Call, Destination, Entry, NoList};
use crate::info::Table;
use crate::subscriber::Subscriber;
use crate::tool::{ToolError, say};

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What is there is looked at again so often, for a Kamailio that was restarted has nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The least time between two looks.
const AGAIN: Duration = Duration::from_millis(100);
/// A server that the table does not so much as name is left as it is for so long: a notifier that begins anew knows nobody.
const SPARED: Duration = Duration::from_secs(30);
/// Changes that were refused are put behind the others, so many at the most.
const PASSED_MOST: usize = 64;
/// Between two changes of the list: the module keeps the one before for those that read it, and frees it at the next.
const CHANGE_EVERY: Duration = Duration::from_millis(1_100);

/// Counts since the start of the process, for its last line.
#[derive(Debug, Default)]
struct Counters {
    /// Calls of the RPC that did what they should, looks at the list not counted.
    called: u64,
    /// Looks that ended with a refusal.
    refused: u64,
    /// Looks that found Kamailio away.
    away: u64,
}

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Away(#[from] reqwest::Error),
    #[error("{method}: {message}")]
    Refused {
        method: &'static str,
        message: String,
    },
    #[error(transparent)]
    NoList(#[from] NoList),
}

#[derive(Deserialize)]
struct Answer {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    message: String,
}

/// What the module says of a set where there is none at all.
const NO_SETS: &str = "No Destination Sets";

#[derive(Debug)]
struct Kamailio {
    http: Client,
    rpc: Url,
    set: i32,
    requests: u64,
    /// When the list may be changed again.
    change_at: Instant,
    /// Changes that were refused since one was made.
    passed: Vec<Call>,
    /// Since when a destination is of a server that the table does not name.
    unnamed: BTreeMap<String, Instant>,
    counters: Counters,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    /// More is to be changed.
    Partly,
}

#[derive(Debug)]
pub(super) struct Adapter {
    kamailio: Kamailio,
    service: Option<Box<str>>,
}

impl Adapter {
    pub(super) fn new(rpc: Url, set: i32, service: Option<Box<str>>) -> Result<Self, ToolError> {
        say(format_args!("fanfare dispatcher ready rpc={rpc} set={set}"));
        let kamailio = Kamailio::new(rpc, set)?;
        Ok(Adapter { kamailio, service })
    }

    pub(super) async fn run(self, subscriber: Subscriber, stop: impl Future<Output = ()>) {
        let Adapter {
            mut kamailio,
            service,
        } = self;
        let mut stop = pin!(stop);
        let mut changes = subscriber.changes();
        let mut patience = Patience::default();
        // Before there is a table there is nothing to say.
        let mut look_at: Option<Instant> = None;
        loop {
            tokio::select! {
                // A Kamailio that is away is asked again in its time, however much happens meanwhile.
                view = changes.next(), if !patience.is_tried() || look_at.is_none() => match view {
                    Some(_) => look_at = Some(Instant::now()),
                    None => break,
                },
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                    let view = subscriber.view();
                    let looked = tokio::select! {
                        looked = kamailio.look(&view, service.as_deref()) => looked,
                        () = &mut stop => break,
                    };
                    let wait = match &looked {
                        Ok(Progress::Done) => LOOK_EVERY,
                        Ok(Progress::Partly) => {
                            let until = kamailio.change_at.saturating_duration_since(Instant::now());
                            until.max(AGAIN)
                        }
                        Err(_) => Duration::ZERO,
                    };
                    look_at = Some(Instant::now() + wait.max(patience.after(looked.err(), &kamailio.rpc)));
                }
                () = &mut stop => break,
            }
        }
        tracing::info!(counters = ?kamailio.counters, "ends; the set stays as it is");
        subscriber.stop().await;
    }
}

/// What is said of failures, and how long is waited after them.
#[derive(Debug)]
struct Patience {
    backoff: Backoff,
    chance: Chance,
    trouble: Option<String>,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            backoff: Backoff::default(),
            chance: Chance::new(rand::random()),
            trouble: None,
        }
    }
}

impl Patience {
    /// Whether something fails at present.
    fn is_tried(&self) -> bool {
        self.trouble.is_some()
    }

    /// Says what is new, and how long to wait for it.
    fn after(&mut self, failure: Option<Failure>, rpc: &Url) -> Duration {
        let Some(failure) = failure else {
            self.backoff.reset();
            if self.trouble.take().is_some() {
                tracing::info!(%rpc, "Kamailio takes calls again");
            }
            return Duration::ZERO;
        };
        let text = failure.to_string();
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!(%rpc, "Kamailio: {text}; trying until it works");
        }
        self.trouble = Some(text);
        Duration::from_millis(self.backoff.next_ms(&mut self.chance))
    }
}

impl Kamailio {
    fn new(rpc: Url, set: i32) -> Result<Kamailio, ToolError> {
        // It fails where another one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder().no_proxy().timeout(ANSWER_WITHIN);
        if rpc.scheme() == "http" {
            // A machine without any certificates can do that.
            http = http.tls_certs_only([]);
        }
        let http = http.build();
        let http =
            http.map_err(|error| ToolError::io("HTTP client")(std::io::Error::other(error)))?;
        Ok(Kamailio {
            http,
            rpc,
            set,
            requests: 0,
            change_at: Instant::now(),
            passed: Vec::new(),
            unnamed: BTreeMap::new(),
            counters: Counters::default(),
        })
    }

    /// Sees what is there, and does what can be done of what is to be done.
    async fn look(&mut self, table: &Table, service: Option<&str>) -> Result<Progress, Failure> {
        let wanted = dispatcher::destinations(table, service);
        let done = self.adjust(table, &wanted).await;
        match &done {
            Err(Failure::Away(_)) => self.counters.away += 1,
            Err(_) => self.counters.refused += 1,
            Ok(_) => {}
        }
        done
    }

    async fn adjust(&mut self, table: &Table, wanted: &[Destination]) -> Result<Progress, Failure> {
        let entries = match self.call("dispatcher.list", json!([])).await {
            Ok(result) => dispatcher::listed(result, self.set)?,
            Err(Failure::Refused { message, .. }) if message == NO_SETS => Vec::new(),
            Err(failure) => return Err(failure),
        };
        self.spare(table, &entries);
        let lately = |since: &Instant| since.elapsed() < SPARED;
        let is_spared = |entry: &Entry| self.unnamed.get(&entry.uri).is_some_and(lately);
        let plan = dispatcher::plan(&entries, wanted, is_spared);
        let is_done = plan.is_done();
        let mut failed = None;
        for call in plan.states {
            // One that is refused keeps none of the others.
            if let Err(failure) = self.carry_out(&call).await {
                failed.get_or_insert(failure);
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        if is_done {
            return Ok(Progress::Done);
        }
        if Instant::now() >= self.change_at {
            self.change(plan.changes).await?;
        }
        Ok(Progress::Partly)
    }

    /// Makes the first of these changes that was not refused of late.
    async fn change(&mut self, changes: Vec<Call>) -> Result<(), Failure> {
        let is_new = |call: &&Call| !self.passed.contains(call);
        let Some(change) = changes.iter().find(is_new).or(changes.first()) else {
            return Ok(());
        };
        self.change_at = Instant::now() + CHANGE_EVERY;
        let made = self.carry_out(change).await;
        if made.is_ok() || self.passed.len() == PASSED_MOST {
            self.passed.clear();
        } else {
            self.passed.push(change.clone());
        }
        made
    }

    /// Notes since when entries are of servers that the table does not name. What is not named in a stale table may merely be
    /// unknown.
    fn spare(&mut self, table: &Table, entries: &[Entry]) {
        let is_named = |entry: &Entry| {
            let id = dispatcher::id_of(entry);
            id.is_none_or(|id| table.get(id).is_some())
        };
        let now = Instant::now();
        let unnamed = entries.iter().filter(|entry| !is_named(entry));
        let since = |entry: &Entry| match table.is_stale() {
            true => now,
            false => self.unnamed.get(&entry.uri).copied().unwrap_or(now),
        };
        let unnamed = unnamed.map(|entry| (entry.uri.clone(), since(entry)));
        self.unnamed = unnamed.collect();
    }

    async fn carry_out(&mut self, call: &Call) -> Result<(), Failure> {
        let (method, parameters) = call.json(self.set);
        self.call(method, parameters).await?;
        tracing::debug!(?call, "called");
        self.counters.called += 1;
        Ok(())
    }

    /// The result of a call. A refusal comes with HTTP's status 500, and a body all the same.
    async fn call(&mut self, method: &'static str, params: Value) -> Result<Value, Failure> {
        self.requests += 1;
        let id = self.requests;
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id});
        // With a length: a request in chunks is never answered.
        let request = self.http.post(self.rpc.clone()).body(body.to_string());
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        let refused = |message: String| Failure::Refused { method, message };
        let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) else {
            return Err(refused(format!(
                "HTTP status {status}, and no answer of JSON-RPC"
            )));
        };
        match (answer.error, answer.result) {
            (Some(fault), _) => Err(refused(fault.message)),
            (None, Some(result)) if answer.id == Some(id) => Ok(result),
            _ => Err(refused("an answer to something else".to_owned())),
        }
    }
}
