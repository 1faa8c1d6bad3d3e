//! etcd's JSON gateway (`/v3/`, of etcd 3.4 and later), as much of it as is needed: ranges, compare-and-set, leases and a
//! watch. Knows no record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use reqwest::header::AUTHORIZATION;
use reqwest::{Certificate, Client, Identity, Response};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// An endpoint that does not answer in this time is passed over.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Keys of one page: below what one answer of etcd may carry with the largest records.
const PAGE: usize = 500;
/// A message of a watch longer than this is none.
const MESSAGE_MOST: usize = 64 << 20;
/// Codes of gRPC: what may be had of another endpoint, or later.
const DEADLINE_EXCEEDED: i64 = 4;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;
/// etcd says so of an expired token under code 3 or 16.
const INVALID_TOKEN: &str = "invalid auth token";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot be reached: {}", chain(.0))]
    Unreachable(#[from] reqwest::Error),
    #[error("says: {message}")]
    Refused { code: i64, message: String },
    #[error("says what cannot be read: {0}")]
    Malformed(String),
    /// What was watched from is forgotten.
    #[error("has compacted what was to come next")]
    Compacted,
    #[error("has ended the watch")]
    Ended,
}

/// An error of reqwest says little without its causes.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl StoreError {
    fn is_of_endpoint(&self) -> bool {
        match self {
            StoreError::Unreachable(_) => true,
            StoreError::Refused { code, .. } => [DEADLINE_EXCEEDED, UNAVAILABLE].contains(code),
            _ => false,
        }
    }

    fn is_of_token(&self) -> bool {
        matches!(self, StoreError::Refused { code, message }
            if *code == UNAUTHENTICATED || message.contains(INVALID_TOKEN))
    }
}

/// How the store is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// URLs without a path, at least one.
    pub endpoints: Vec<String>,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Certificates to believe instead of the system's, as PEM.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key of this node, as PEM.
    pub identity: Option<Vec<u8>>,
}

impl Access {
    /// Whether what is given can be used at all.
    pub fn check(&self) -> Result<(), StoreError> {
        Store::new(self).map(drop)
    }
}

#[derive(Debug)]
pub struct Store {
    http: Client,
    endpoints: Vec<String>,
    /// Which of them is asked.
    at: AtomicUsize,
    credentials: Option<(String, String)>,
    token: Mutex<Option<String>>,
    /// What goes on over a connection is to begin again: another endpoint is asked, or nobody knows whether it still stands.
    pub turned: Notify,
}

/// A key as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    #[serde(deserialize_with = "text")]
    pub key: String,
    #[serde(default, deserialize_with = "text")]
    pub value: String,
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
}

/// What a compare-and-set came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Set {
    /// With this revision.
    Done(i64),
    /// The key is not as it was thought to be; `None`: there is none.
    Otherwise(Option<KeyValue>),
}

/// What a watch says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The newest of them; 0 where there are none.
    pub revision: i64,
    /// Of the whole store.
    pub store_revision: i64,
    pub set: Vec<KeyValue>,
    pub deleted: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "number")]
    revision: i64,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct Txn {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<TxnResponse>,
}

#[derive(Deserialize)]
struct TxnResponse {
    response_range: Option<TxnRange>,
}

#[derive(Deserialize)]
struct TxnRange {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(default, rename = "ID", deserialize_with = "number")]
    id: i64,
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    ttl: i64,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default, alias = "grpc_code")]
    code: i64,
    #[serde(default)]
    message: String,
}

/// One message of a stream.
#[derive(Deserialize)]
struct Streamed<T> {
    result: Option<T>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Watched {
    header: Header,
    #[serde(default)]
    canceled: bool,
    #[serde(default, deserialize_with = "number")]
    compact_revision: i64,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    /// Absent where it is a PUT.
    #[serde(default, rename = "type")]
    kind: String,
    kv: KeyValue,
}

/// The gateway writes 64-bit numbers as texts.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => text.parse().map_err(D::Error::custom),
        Value::Number(number) => number.as_i64().ok_or(D::Error::custom("not 64 bits")),
        _ => Err(D::Error::custom("no number")),
    }
}

/// Bytes are in base64. What is no text is nothing of ours, and is seen as such later.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let bytes = STANDARD
        .decode(String::deserialize(from)?)
        .map_err(D::Error::custom)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn bytes(text: &str) -> String {
    STANDARD.encode(text)
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    // It ends in a slash.
    *last += 1;
    STANDARD.encode(end)
}

impl Store {
    pub fn new(access: &Access) -> Result<Store, StoreError> {
        // It fails where another one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder()
            .no_proxy()
            .connect_timeout(ANSWER_WITHIN)
            .tcp_nodelay(true)
            .tcp_keepalive(ANSWER_WITHIN);
        let is_plain = |endpoint: &String| endpoint.starts_with("http://");
        if let Some(ca) = &access.ca {
            http = http.tls_certs_only(Certificate::from_pem_bundle(ca)?);
        } else if access.endpoints.iter().all(is_plain) {
            // A machine without any certificates can do that.
            http = http.tls_certs_only([]);
        }
        if let Some(identity) = &access.identity {
            http = http.identity(Identity::from_pem(identity)?);
        }
        Ok(Store {
            http: http.build()?,
            endpoints: access.endpoints.clone(),
            at: AtomicUsize::new(0),
            credentials: access.credentials.clone(),
            token: Mutex::new(None),
            turned: Notify::new(),
        })
    }

    /// Asks one endpoint after the other until one answers.
    async fn ask(&self, path: &str, body: &Value) -> Result<Response, StoreError> {
        let mut left = self.endpoints.len();
        let mut may_authenticate = self.credentials.is_some();
        loop {
            let at = self.at.load(Ordering::Relaxed);
            let mut error = match self.ask_at(at, path, body).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.is_of_token() && may_authenticate {
                may_authenticate = false;
                match self.authenticate(at).await {
                    Ok(()) => continue,
                    Err(refusal) => error = refusal,
                }
            }
            left -= 1;
            if !error.is_of_endpoint() {
                return Err(error);
            }
            // Another request may have turned to the next one already.
            let next = at + 1;
            let order = Ordering::Relaxed;
            if self.at.compare_exchange(at, next, order, order).is_ok() {
                self.turned.notify_one();
            }
            if left == 0 {
                return Err(error);
            }
            may_authenticate = self.credentials.is_some();
        }
    }

    async fn ask_at(&self, at: usize, path: &str, body: &Value) -> Result<Response, StoreError> {
        let url = format!("{}/v3/{path}", self.endpoints[at % self.endpoints.len()]);
        // A member without a leader hears of nothing.
        let request = self.http.post(url).header(HAS_LEADER, "true");
        let mut request = request.body(body.to_string());
        let token = self.token.lock().clone();
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        } else if self.credentials.is_some() && path != AUTHENTICATE {
            return Err(StoreError::Refused {
                code: UNAUTHENTICATED,
                message: "no token yet".to_owned(),
            });
        }
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        let response = answer.map_err(|_| StoreError::Refused {
            code: DEADLINE_EXCEEDED,
            message: format!("no answer within {ANSWER_WITHIN:?}"),
        })??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = response.bytes().await?;
        Err(match serde_json::from_slice::<Failure>(&said) {
            Ok(Failure { code, message }) => StoreError::Refused { code, message },
            Err(_) => StoreError::Malformed(format!("HTTP {status}")),
        })
    }

    async fn authenticate(&self, at: usize) -> Result<(), StoreError> {
        let (name, password) = self.credentials.as_ref().expect("there are some");
        *self.token.lock() = None;
        let body = json!({ "name": name, "password": password });
        let response = self.ask_at(at, AUTHENTICATE, &body).await?;
        let Token { token } = read(response).await?;
        *self.token.lock() = Some(token);
        Ok(())
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, body: Value) -> Result<T, StoreError> {
        read(self.ask(path, &body).await?).await
    }

    /// All keys that begin with `prefix`, as they were at one revision.
    pub async fn range(&self, prefix: &str) -> Result<(i64, Vec<KeyValue>), StoreError> {
        let (mut all, mut from, mut revision) = (Vec::new(), prefix.to_owned(), 0);
        loop {
            let body = json!({
                "key": bytes(&from),
                "range_end": end_of(prefix),
                "limit": PAGE.to_string(),
                "revision": revision.to_string(),
            });
            let page: Range = self.call("kv/range", body).await?;
            if revision == 0 {
                revision = page.header.revision;
            }
            all.extend(page.kvs);
            match all.last() {
                Some(last) if page.more => from = format!("{}\0", last.key),
                _ => return Ok((revision, all)),
            }
        }
    }

    /// The first key that begins with `prefix` and not with `ours`, which begins so too.
    pub async fn beside(&self, prefix: &str, ours: &str) -> Result<Option<String>, StoreError> {
        let (from, to) = (bytes(prefix), end_of(prefix));
        for (from, to) in [(from, bytes(ours)), (end_of(ours), to)] {
            let body = json!({ "key": from, "range_end": to, "limit": "1", "keys_only": true });
            let range: Range = self.call("kv/range", body).await?;
            if let Some(found) = range.kvs.into_iter().next() {
                return Ok(Some(found.key));
            }
        }
        Ok(None)
    }

    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let range: Range = self.call("kv/range", json!({ "key": bytes(key) })).await?;
        Ok(range.kvs.into_iter().next())
    }

    /// Sets a key if it was last changed at `revision`; 0: if it is not there.
    pub async fn set(
        &self,
        key: &str,
        value: &str,
        revision: i64,
        lease: i64,
    ) -> Result<Set, StoreError> {
        let key = bytes(key);
        let put = json!({ "key": key, "value": bytes(value), "lease": lease.to_string() });
        self.compare(&key, revision, json!({ "request_put": put }))
            .await
    }

    /// Deletes a key if it was last changed at `revision`.
    pub async fn delete(&self, key: &str, revision: i64) -> Result<Set, StoreError> {
        let key = bytes(key);
        let delete = json!({ "request_delete_range": { "key": key } });
        self.compare(&key, revision, delete).await
    }

    async fn compare(&self, key: &str, revision: i64, then: Value) -> Result<Set, StoreError> {
        let body = json!({
            "compare": [{
                "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
            }],
            "success": [then],
            "failure": [{ "request_range": { "key": key } }],
        });
        let txn: Txn = self.call("kv/txn", body).await?;
        if txn.succeeded {
            return Ok(Set::Done(txn.header.revision));
        }
        let range = txn.responses.into_iter().find_map(|one| one.response_range);
        Ok(Set::Otherwise(
            range.and_then(|range| range.kvs.into_iter().next()),
        ))
    }

    /// A lease that ends so many seconds after it was last kept alive: its number. etcd has a least time of its own.
    pub async fn grant(&self, ttl_s: u64) -> Result<i64, StoreError> {
        let body = json!({ "TTL": ttl_s.to_string() });
        let lease: Lease = self.call("lease/grant", body).await?;
        Ok(lease.id)
    }

    /// Whether the lease still was there to be kept alive.
    pub async fn keep_alive(&self, lease: i64) -> Result<bool, StoreError> {
        let body = json!({ "ID": lease.to_string() });
        let kept: Streamed<Lease> = self.call("lease/keepalive", body).await?;
        Ok(streamed(kept)?.ttl > 0)
    }

    pub async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        let body = json!({ "ID": lease.to_string() });
        self.call::<Value>("lease/revoke", body).await?;
        Ok(())
    }

    /// What happens to the keys that begin with `prefix`, from this revision on.
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, StoreError> {
        let create = json!({
            "key": bytes(prefix), "range_end": end_of(prefix), "start_revision": from.to_string(),
        });
        let body = json!({ "create_request": create });
        Ok(Watch {
            response: self.ask("watch", &body).await?,
            said: Vec::new(),
        })
    }
}

/// The gateway hands it on as gRPC's metadata.
const HAS_LEADER: &str = "Grpc-Metadata-hasleader";
const AUTHENTICATE: &str = "auth/authenticate";

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, StoreError> {
    let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes()).await;
    let body = body.map_err(|_| StoreError::Refused {
        code: DEADLINE_EXCEEDED,
        message: "the answer does not end".to_owned(),
    })??;
    serde_json::from_slice(&body).map_err(|error| StoreError::Malformed(error.to_string()))
}

fn streamed<T>(message: Streamed<T>) -> Result<T, StoreError> {
    match message {
        Streamed {
            result: Some(result),
            ..
        } => Ok(result),
        Streamed {
            error: Some(Failure { code, message }),
            ..
        } => Err(StoreError::Refused { code, message }),
        _ => Err(StoreError::Malformed("neither result nor error".to_owned())),
    }
}

/// A watch that goes on.
#[derive(Debug)]
pub struct Watch {
    response: Response,
    /// What came of the next message.
    said: Vec<u8>,
}

impl Watch {
    /// What changed next; the first message says only that the watch stands.
    pub async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.said) {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                return changes(&line);
            }
            if self.said.len() > MESSAGE_MOST {
                return Err(StoreError::Malformed("a message without an end".to_owned()));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.said.extend_from_slice(&chunk),
                None => return Err(StoreError::Ended),
            }
        }
    }
}

fn changes(line: &[u8]) -> Result<Changes, StoreError> {
    let message: Streamed<Watched> =
        serde_json::from_slice(line).map_err(|error| StoreError::Malformed(error.to_string()))?;
    let watched = streamed(message)?;
    if watched.compact_revision > 0 {
        return Err(StoreError::Compacted);
    }
    if watched.canceled {
        let (code, message) = (0, watched.cancel_reason);
        return Err(StoreError::Refused { code, message });
    }
    let mut changes = Changes {
        store_revision: watched.header.revision,
        ..Changes::default()
    };
    for event in watched.events {
        changes.revision = changes.revision.max(event.kv.mod_revision);
        // Of each key what happened last.
        let key = &event.kv.key;
        if event.kind == "DELETE" {
            changes.set.retain(|set| set.key != *key);
            changes.deleted.push(event.kv.key);
        } else {
            changes.deleted.retain(|deleted| deleted != key);
            changes.set.push(event.kv);
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_watch_is_read_and_a_compaction_is_told_from_other_ends() {
        let line = br#"{"result":{"header":{"cluster_id":"1","revision":"7"},"events":[
            {"kv":{"key":"L2EvYg==","create_revision":"6","mod_revision":"7","version":"2","value":"eA=="}},
            {"type":"DELETE","kv":{"key":"L2EvYw==","mod_revision":"7"}}]}}"#;
        let read = changes(line).expect("it is a message");
        assert_eq!((read.revision, &*read.deleted[0]), (7, "/a/c"));
        assert_eq!(read.store_revision, 7);
        let set = &read.set[0];
        assert_eq!((&*set.key, &*set.value, set.mod_revision), ("/a/b", "x", 7));
        let compacted =
            br#"{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"8"}}"#;
        assert!(matches!(changes(compacted), Err(StoreError::Compacted)));
        let canceled = br#"{"result":{"header":{},"canceled":true,"cancel_reason":"no"}}"#;
        assert!(matches!(changes(canceled), Err(StoreError::Refused { .. })));
        let error = br#"{"error":{"grpc_code":14,"message":"no leader"}}"#;
        assert!(changes(error).is_err_and(|error| error.is_of_endpoint()));
        assert!(matches!(changes(b"{}"), Err(StoreError::Malformed(_))));
    }

    #[test]
    fn what_came_and_went_in_one_message_is_gone() {
        let put = r#"{"kv":{"key":"L2EvYg==","mod_revision":"6"}}"#;
        let delete = r#"{"type":"DELETE","kv":{"key":"L2EvYg==","mod_revision":"7"}}"#;
        let message = |first: &str, then: &str| {
            let text = format!(r#"{{"result":{{"header":{{}},"events":[{first},{then}]}}}}"#);
            changes(text.as_bytes()).expect("it is a message")
        };
        let gone = message(put, delete);
        assert!(gone.set.is_empty() && gone.deleted == ["/a/b"]);
        let back = message(delete, put);
        assert!(back.deleted.is_empty() && back.set.len() == 1);
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(STANDARD.decode(end_of("/a/")), Ok(b"/a0".to_vec()));
    }
}
