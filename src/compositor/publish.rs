//! One PUBLISH: the steps of RFC 3903 6, in their order, and the response. Knows no lease's end.

use std::net::SocketAddr;
use std::sync::Arc;

use super::record::{Lease, MAX_RECORD_BYTES, Record};
use super::table::Answer;
use super::{Compositor, Now};
use crate::info::{self, DocumentError, Entry, Format, Server};
use crate::sip::EVENT_PACKAGE;
use crate::sip::header::MediaRange;
use crate::sip::request::{Malformed, Request};
use crate::sip::scan::{Elements, Message, Name};
use crate::sip::uri::Host;
use crate::sip::write::{Responder, Response, Unanswerable};

/// Who speaks in a Warning.
const WARN_AGENT: &str = "fanfare";
/// When a publisher that found the table full may come again, in seconds (RFC 3903 9).
const FULL_RETRY_AFTER_S: u64 = 60;
/// The same while what keeps publications is away, in seconds: they are retried until it is back.
const UNKEPT_RETRY_AFTER_S: u64 = 2;
/// Two stamps of the longest kind.
const HEADROOM: usize = 256;
const ACCEPT: &str = "application/serverinfo+xml, application/serverinfo+json";

/// What a publisher is given.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) kind: Kind,
    tag: String,
    expires_s: u32,
    /// What is then known of the server; `None`: what is known already.
    pub(super) change: Option<Change>,
}

/// What a publication changes once it is granted.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) place: usize,
    pub(super) record: Record,
    pub(super) answer: Answer,
}

/// What a PUBLISH does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Initial { is_take_over: bool },
    Modified,
    Refreshed,
    Removed,
    Repeated,
}

/// Why a publication failed.
#[derive(Debug)]
pub(super) enum Refusal {
    Malformed(Malformed),
    Request(&'static str),
    UnknownDomain,
    BadEvent,
    TagMismatch,
    TooBrief {
        min_expires_s: u32,
    },
    MediaType,
    Encoding,
    Body(DocumentError),
    Contested,
    /// The id is the name of a node of the cluster.
    NodeName,
    Full,
    /// Its record is too long for the way to other nodes.
    TooLong,
    /// The nodes of the cluster cannot be told now.
    Unkept,
}

pub(super) type Outcome = Result<Granted, Refusal>;

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Malformed(malformed)
    }
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        Refusal::Body(error)
    }
}

/// The canonical text of a host: an address as the standard library writes it, a name in lower case without its dot.
pub(super) fn domain_of(host: &[u8]) -> Option<String> {
    Host::parse(host).map(canonical)
}

fn canonical(host: Host<'_>) -> String {
    match host {
        Host::Ip(address) => address.to_string(),
        Host::Name(name) => {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            name.strip_suffix('.').map(Into::into).unwrap_or(name)
        }
    }
}

/// Why a PUBLISH has no answer yet.
#[derive(Debug)]
pub(super) enum Wait {
    /// The entity-tag is of a lease that this node has not heard of, for this domain and id; its stamp says which node gave
    /// it.
    Unheard {
        node: Arc<str>,
        place: (Arc<str>, Arc<str>),
    },
    /// Another PUBLISH for this server is not done yet.
    Busy,
}

/// Why the steps go no further.
enum Stop {
    Refused(Refusal),
    Waits(Wait),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

/// One PUBLISH on its way through the steps.
struct Call<'m, 'a> {
    now: Now,
    request: Request<'m, 'a>,
    transaction: u64,
    /// The Request-URI's host.
    domain: String,
    /// Its table.
    place: usize,
}

impl Compositor {
    /// The steps of RFC 3903 6, each of which may refuse. Nothing is changed yet.
    pub(super) fn judge(
        &mut self,
        now: Now,
        request: Request<'_, '_>,
        transaction: u64,
    ) -> Result<Outcome, Wait> {
        match self.steps(now, request, transaction) {
            Ok(granted) => Ok(Ok(granted)),
            Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
            Err(Stop::Waits(wait)) => Err(wait),
        }
    }

    fn steps(
        &mut self,
        now: Now,
        request: Request<'_, '_>,
        transaction: u64,
    ) -> Result<Granted, Stop> {
        // 1. "The ESC inspects the Request-URI".
        let domain = canonical(request.target.host);
        let place = self.place_of(&domain).ok_or(Refusal::UnknownDomain)?;
        // 2. "The ESC examines the Event header field".
        let is_ours = |package: &[u8]| package == EVENT_PACKAGE.as_bytes();
        if !request.event.is_some_and(|event| is_ours(event.package)) {
            return Err(Refusal::BadEvent.into());
        }
        let call = Call {
            now,
            request,
            transaction,
            domain,
            place,
        };
        // 3. "The ESC examines the SIP-If-Match header field".
        match request.if_match {
            Some(tag) => self.republish(&call, tag),
            None => self.initial(&call),
        }
    }

    fn place_of(&self, domain: &str) -> Option<usize> {
        match self.domains.is_empty() {
            true => Some(0),
            false => self.domains.iter().position(|served| served == domain),
        }
    }

    fn initial(&mut self, call: &Call<'_, '_>) -> Result<Granted, Stop> {
        let expires_s = self.expires_of(&call.request)?;
        if expires_s == 0 {
            return Err(Refusal::Request("Expires 0 without entity-tag").into());
        }
        // "If the request has no message body and contained no entity-tag, the ESC SHOULD reject the request".
        if call.request.body.is_empty() {
            return Err(Refusal::Request("no body and no entity-tag").into());
        }
        let server = server_of(call)?;
        self.wait_for(call.place, &server.id)?;
        if let Some(granted) = self.repeated(call, &server.id) {
            return Ok(granted);
        }
        // What a node says of itself is its own to say.
        if self.live.contains(&server.id) {
            return Err(Refusal::NodeName.into());
        }
        let table = &self.tables[call.place];
        let is_one_more = |(at, id): &&(usize, Arc<str>)| *at == call.place && !table.is_server(id);
        let expected = self.pending.iter().filter(is_one_more).count();
        if !table.has_room_for(&server.id, expected) {
            return Err(Refusal::Full.into());
        }
        let is_take_over = table.is_published(&server.id);
        if is_take_over && table.is_contested(&server.id, call.now.mono_ms) {
            return Err(Refusal::Contested.into());
        }
        self.store(call, server, expires_s, Kind::Initial { is_take_over })
    }

    fn republish(&mut self, call: &Call<'_, '_>, tag: &[u8]) -> Result<Granted, Stop> {
        let table = &self.tables[call.place];
        let (id, lease) = self
            .tags
            .read(&table.view().domain, tag)
            .ok_or(Refusal::TagMismatch)?;
        self.wait_for(call.place, id)?;
        if let Some(granted) = self.repeated(call, id) {
            return Ok(granted);
        }
        if !table.holds(id, &lease) {
            return Err(match table.is_unheard(id, &lease) {
                true => Stop::Waits(Wait::Unheard {
                    node: lease.node,
                    place: (Arc::clone(&table.view().domain), id.into()),
                }),
                false => Refusal::TagMismatch.into(),
            });
        }
        let expires_s = self.expires_of(&call.request)?;
        // "If the chosen expiration interval has a special value of "0", the event state identified by the entity-tag
        // MUST be immediately removed."
        if expires_s == 0 {
            return Ok(self.remove(call, id));
        }
        if call.request.body.is_empty() {
            return Ok(self.refresh(call, id, expires_s));
        }
        let server = server_of(call)?;
        if *server.id != *id {
            return Err(Refusal::Request("server id is not the entity-tag's").into());
        }
        match self.tables[call.place].says(&server) {
            true => Ok(self.refresh(call, id, expires_s)),
            false => self.store(call, server, expires_s, Kind::Modified),
        }
    }

    /// One PUBLISH after the other for each server: the next one is judged by what the former left.
    fn wait_for(&self, place: usize, id: &str) -> Result<(), Stop> {
        let is_pending = self
            .pending
            .iter()
            .any(|(at, pending)| *at == place && **pending == *id);
        match is_pending {
            true => Err(Stop::Waits(Wait::Busy)),
            false => Ok(()),
        }
    }

    /// 4. "The ESC processes the Expires header field value": the lease given, in seconds.
    fn expires_of(&self, request: &Request<'_, '_>) -> Result<u32, Refusal> {
        let config = &self.config;
        let asked = request.expires.unwrap_or(config.default_expires_s);
        if asked > 0 && asked < config.min_expires_s {
            let min_expires_s = config.min_expires_s;
            return Err(Refusal::TooBrief { min_expires_s });
        }
        Ok(asked.min(config.max_expires_s))
    }

    fn store(
        &mut self,
        call: &Call<'_, '_>,
        mut server: Server,
        expires_s: u32,
        kind: Kind,
    ) -> Result<Granted, Stop> {
        // First what was said, then the lease: so `down` by lease is newer than what it ends.
        server.updated = self.clock.stamp(call.now.unix_ms);
        let deleted = false;
        let said = Arc::new(Entry { server, deleted });
        let granted = self.grant(call, said, expires_s, kind);
        // Its lease may say more later.
        let too_long =
            |change: &Change| change.record.to_string().len() > MAX_RECORD_BYTES - HEADROOM;
        match granted.change.as_ref().is_some_and(too_long) {
            true => Err(Refusal::TooLong.into()),
            false => Ok(granted),
        }
    }

    fn refresh(&mut self, call: &Call<'_, '_>, id: &str, expires_s: u32) -> Granted {
        let said = self.said(call, id);
        self.grant(call, said, expires_s, Kind::Refreshed)
    }

    fn remove(&mut self, call: &Call<'_, '_>, id: &str) -> Granted {
        let said = self.said(call, id);
        let mut granted = self.grant(call, said, 0, Kind::Removed);
        if let Some(change) = &mut granted.change {
            // The stamp of the deletion is the one in the tag.
            let said = Arc::make_mut(&mut change.record.said);
            said.server.updated = change.answer.lease.clone();
            said.deleted = true;
        }
        granted
    }

    /// What a lease is of.
    fn said(&self, call: &Call<'_, '_>, id: &str) -> Arc<Entry> {
        let said = self.tables[call.place].said(id);
        Arc::clone(said.expect("a lease is of something said"))
    }

    /// Gives a lease for what is said.
    fn grant(
        &mut self,
        call: &Call<'_, '_>,
        said: Arc<Entry>,
        expires_s: u32,
        kind: Kind,
    ) -> Granted {
        let answer = Answer {
            transaction: call.transaction,
            lease: self.clock.stamp(call.now.unix_ms),
            expires_s,
            at_ms: call.now.mono_ms,
        };
        let former = self.tables[call.place].lease(&said.server.id);
        let lease = Lease {
            granted: answer.lease.clone(),
            held: answer.lease.clone(),
            ended: None,
            since: former.and_then(|former| former.since.clone()),
            expires_s,
        };
        let domain = Arc::clone(&self.tables[call.place].view().domain);
        Granted {
            change: Some(Change {
                place: call.place,
                record: Record {
                    domain,
                    said: Arc::clone(&said),
                    lease: Some(lease),
                },
                answer: answer.clone(),
            }),
            ..self.granted(call, &said.server.id, &answer, kind)
        }
    }

    /// What a request got that is now repeated.
    fn repeated(&self, call: &Call<'_, '_>, id: &str) -> Option<Granted> {
        let table = &self.tables[call.place];
        let answer = table.answer(id, call.transaction, call.now.mono_ms)?;
        Some(self.granted(call, id, answer, Kind::Repeated))
    }

    /// 6. "The ESC MUST generate a new entity-tag for each successful publication".
    fn granted(&self, call: &Call<'_, '_>, id: &str, answer: &Answer, kind: Kind) -> Granted {
        let domain = &self.tables[call.place].view().domain;
        Granted {
            kind,
            tag: self.tags.write(domain, id, &answer.lease),
            expires_s: answer.expires_s,
            change: None,
        }
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        let counters = &mut self.counters;
        let counter = match outcome {
            Ok(granted) => match granted.kind {
                Kind::Initial { is_take_over } => {
                    counters.taken_over += u64::from(is_take_over);
                    &mut counters.initial
                }
                Kind::Modified => &mut counters.modified,
                Kind::Refreshed => &mut counters.refreshed,
                Kind::Removed => &mut counters.removed,
                Kind::Repeated => &mut counters.repeated,
            },
            Err(refusal) => match refusal.status() {
                403 => &mut counters.contested,
                404 => &mut counters.unknown_domain,
                412 => &mut counters.tag_mismatch,
                413 => &mut counters.too_large,
                415 => &mut counters.unsupported,
                416 => &mut counters.uri_scheme,
                423 => &mut counters.too_brief,
                489 => &mut counters.bad_event,
                503 if matches!(refusal, Refusal::Unkept) => &mut counters.unkept,
                503 => &mut counters.full,
                _ => &mut counters.malformed,
            },
        };
        *counter += 1;
    }
}

/// 5. "The ESC processes the published event state contained in the body".
fn server_of(call: &Call<'_, '_>) -> Result<Server, Refusal> {
    let request = &call.request;
    let format = request.content_type.and_then(format_of);
    let format = format.ok_or(Refusal::MediaType)?;
    let encodings = request.message.all(Name::ContentEncoding);
    let is_identity = |name: &[u8]| name.eq_ignore_ascii_case(b"identity");
    if !encodings.flat_map(Elements::of).all(is_identity) {
        return Err(Refusal::Encoding);
    }
    let publication = info::publication(request.body, format)?;
    if domain_of(publication.domain.as_bytes()).as_ref() != Some(&call.domain) {
        return Err(Refusal::Request("domain is not that of the Request-URI"));
    }
    Ok(publication.server)
}

fn format_of(content_type: MediaRange<'_>) -> Option<Format> {
    let is = |one: &[u8], other: &str| one.eq_ignore_ascii_case(other.as_bytes());
    [Format::Xml, Format::Json].into_iter().find(|format| {
        let (kind, subtype) = format.content_type().split_once('/').unwrap_or_default();
        is(content_type.kind, kind) && is(content_type.subtype, subtype)
    })
}

impl Refusal {
    fn status(&self) -> u16 {
        match self {
            // The one fault without a status, a response, never gets here: it has no Request-URI to judge.
            Refusal::Malformed(malformed) => malformed.status().unwrap_or(400),
            Refusal::Request(_) => 400,
            Refusal::UnknownDomain => 404,
            Refusal::BadEvent => 489,
            Refusal::TagMismatch => 412,
            Refusal::TooBrief { .. } => 423,
            Refusal::MediaType | Refusal::Encoding => 415,
            Refusal::Body(error) => error.status(),
            Refusal::Contested | Refusal::NodeName => 403,
            Refusal::TooLong => 413,
            Refusal::Full | Refusal::Unkept => 503,
        }
    }
}

/// Appends the response. `tag` goes to the To that has none.
pub(super) fn write(
    message: &Message<'_>,
    source: SocketAddr,
    tag: u64,
    outcome: &Outcome,
    out: &mut Vec<u8>,
) -> Result<(), Unanswerable> {
    let status = outcome.as_ref().map_or_else(Refusal::status, |_| 200);
    let tag = format!("{tag:016x}");
    let mut response = Responder::new(message, status, source)
        .to_tag(tag.as_bytes())
        .begin(out)?;
    match outcome {
        Ok(granted) => {
            response.header("SIP-ETag", granted.tag.as_bytes());
            response.number("Expires", granted.expires_s.into());
        }
        Err(refusal) => explain(refusal, &mut response),
    }
    response.finish();
    Ok(())
}

fn explain(refusal: &Refusal, response: &mut Response<'_>) {
    match refusal {
        Refusal::Malformed(malformed) => drop(response.warning(WARN_AGENT, malformed)),
        Refusal::Request(text) => drop(response.warning(WARN_AGENT, text)),
        Refusal::Body(error) => drop(response.warning(WARN_AGENT, error)),
        Refusal::Contested => drop(response.warning(WARN_AGENT, "taken over too often")),
        Refusal::NodeName => drop(response.warning(WARN_AGENT, "that is a node's name")),
        Refusal::BadEvent => drop(response.header("Allow-Events", EVENT_PACKAGE.as_bytes())),
        Refusal::TooBrief { min_expires_s } => {
            response.number("Min-Expires", (*min_expires_s).into());
        }
        Refusal::MediaType => drop(response.header("Accept", ACCEPT.as_bytes())),
        // RFC 3261 20.2: empty, it is equivalent to `identity`.
        Refusal::Encoding => drop(response.header("Accept-Encoding", b"")),
        Refusal::Full => drop(response.number("Retry-After", FULL_RETRY_AFTER_S)),
        Refusal::TooLong => drop(response.warning(WARN_AGENT, "too long for the cluster")),
        Refusal::Unkept => drop(response.number("Retry-After", UNKEPT_RETRY_AFTER_S)),
        Refusal::UnknownDomain | Refusal::TagMismatch => {}
    }
}
