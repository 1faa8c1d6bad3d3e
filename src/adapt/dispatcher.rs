//! `fanfare adapt dispatcher`: calls Kamailio's JSON-RPC (jsonrpcs over xhttp) until its destination set is as the table says.
//! Knows nothing of what is to be called.

use std::time::Duration;

use clap::Args;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::Common;
use crate::client::{Backoff, Chance};
use crate::dispatcher::{self, Call, Destination, NoList, Plan};
use crate::info::Table;
use crate::session::{End, Signals};
use crate::tool::{ToolError, say};

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What is there is looked at again so often, for a Kamailio that was restarted has nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
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

/// Flags of `fanfare adapt dispatcher`.
#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Kamailio's JSON-RPC, such as http://127.0.0.1:5080/RPC
    #[arg(long, value_name = "URL", value_parser = url)]
    rpc: Url,
    /// Number of the destination set, which shall have nothing but these servers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    set: i32,
}

fn url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or("allowed: http://HOST[:PORT]/PATH, or https")
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

struct Kamailio {
    http: Client,
    rpc: Url,
    set: i32,
    requests: u64,
    /// When the list may be changed again.
    change_at: Instant,
    counters: Counters,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    /// More is to be changed.
    Partly,
}

pub(super) async fn run(flags: Arguments, mut signals: Signals) -> Result<(), ToolError> {
    let Arguments { common, rpc, set } = flags;
    let mut kamailio = Kamailio::new(rpc.clone(), set)?;
    let subscriber = common.subscribe().await?;
    let mut changes = subscriber.changes();
    say(format_args!("fanfare dispatcher ready rpc={rpc} set={set}"));
    let (mut backoff, mut chance) = (Backoff::default(), Chance::new(rand::random()));
    let mut trouble: Option<String> = None;
    // Before there is a table there is nothing to say.
    let mut look_at: Option<Instant> = None;
    loop {
        tokio::select! {
            // A Kamailio that is away is asked again in its time, however much happens meanwhile.
            view = changes.next(), if trouble.is_none() || look_at.is_none() => match view {
                Some(_) => look_at = Some(Instant::now()),
                None => break,
            },
            () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                let view = subscriber.view();
                let looked = tokio::select! {
                    looked = kamailio.look(&view, common.service.as_deref()) => looked,
                    () = stopped(&mut signals) => break,
                };
                let wait = match &looked {
                    Ok(Progress::Done) => LOOK_EVERY,
                    Ok(Progress::Partly) => kamailio.change_at.saturating_duration_since(Instant::now()),
                    Err(_) => Duration::from_millis(backoff.next_ms(&mut chance)),
                };
                look_at = Some(Instant::now() + wait);
                match looked {
                    Ok(_) => {
                        backoff.reset();
                        if trouble.take().is_some() {
                            tracing::info!(%rpc, "Kamailio takes calls again");
                        }
                    }
                    Err(failure) => {
                        let text = failure.to_string();
                        if trouble.as_ref() != Some(&text) {
                            tracing::warn!(%rpc, "Kamailio: {text}; trying until it works");
                        }
                        trouble = Some(text);
                    }
                }
            }
            () = stopped(&mut signals) => break,
        }
    }
    tracing::info!(counters = ?kamailio.counters, "ends; the set stays as it is");
    subscriber.stop().await;
    Ok(())
}

async fn stopped(signals: &mut Signals) {
    while signals.next().await != End::Stop {}
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
            counters: Counters::default(),
        })
    }

    /// Sees what is there, and does what can be done of what is to be done.
    async fn look(&mut self, table: &Table, service: Option<&str>) -> Result<Progress, Failure> {
        let wanted = dispatcher::destinations(table, service);
        let done = self.adjust(&wanted).await;
        match &done {
            Err(Failure::Away(_)) => self.counters.away += 1,
            Err(_) => self.counters.refused += 1,
            Ok(_) => {}
        }
        done
    }

    async fn adjust(&mut self, wanted: &[Destination]) -> Result<Progress, Failure> {
        let entries = match self.call("dispatcher.list", json!([])).await {
            Ok(result) => dispatcher::listed(result, self.set)?,
            Err(Failure::Refused { message, .. }) if message == NO_SETS => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let Plan { states, change } = dispatcher::plan(&entries, wanted);
        let is_done = states.is_empty() && change.is_none();
        for call in states {
            self.carry_out(&call).await?;
        }
        if is_done {
            return Ok(Progress::Done);
        }
        if let Some(change) = change.filter(|_| Instant::now() >= self.change_at) {
            self.change_at = Instant::now() + CHANGE_EVERY;
            self.carry_out(&change).await?;
        }
        Ok(Progress::Partly)
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
