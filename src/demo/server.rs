//! A SIP server of the demonstration: takes every call, and publishes a load that moves. Knows no other process.

use std::cell::Cell;
use std::f64::consts::TAU;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Args;
use siphasher::sip::SipHasher13;
use tokio::net::UdpSocket;
use tokio::task::LocalSet;

use crate::client::Chance;
use crate::info::{Address, AddressTransport, Server, Status};
use crate::publisher::{Event, Publisher};
use crate::session::link::Link;
use crate::session::{Happening, Session};
use crate::sip::request::{Method, Request};
use crate::sip::scan::{Name, scan};
use crate::sip::write::{Responder, answer_to};
use crate::tool::{ToolError, say};
use crate::wire::Transport;

/// The load moves up and down once in so many seconds, between these bounds, and by what is called beside.
const PERIOD_S: f64 = 12.0;
const LEAST: f64 = 10.0;
const SWING: f64 = 50.0;
/// Calls a second that would fill a server.
const CAPACITY: f64 = 1_000.0;
/// The largest datagram.
const DATAGRAM_MOST: usize = 65_535;

/// Flags of `fanfare demo server`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[arg(long)]
    pub id: String,
    /// The nodes to publish to
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<SocketAddr>,
    #[arg(long)]
    pub domain: String,
    #[arg(long)]
    pub service: String,
    /// Lease, in seconds
    #[arg(long)]
    pub expires: u32,
    #[arg(long)]
    pub weight: u16,
    /// Where in its period the load begins, in hundredths; without it the load stands still
    #[arg(long)]
    pub phase: Option<u32>,
}

/// Serves until a signal comes.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let socket = UdpSocket::bind("127.0.0.1:0").await;
    let socket = socket.map_err(ToolError::io("socket"))?;
    let at = socket.local_addr().map_err(ToolError::io("socket"))?;
    let taken = Rc::new(Cell::new(0));
    let tasks = LocalSet::new();
    let calls = Rc::clone(&taken);
    tasks.spawn_local(serve(socket, at, calls));
    tasks.run_until(publish(arguments, at, taken)).await
}

/// Publishes until a signal comes.
async fn publish(
    arguments: Arguments,
    at: SocketAddr,
    taken: Rc<Cell<u64>>,
) -> Result<(), ToolError> {
    let Arguments {
        id,
        to,
        domain,
        service,
        expires,
        weight,
        phase,
    } = arguments;
    let mut server = Server::new(
        id.as_str().into(),
        Status::Up,
        vec![Address::new(at, AddressTransport::Udp)],
    );
    server.services = vec![service.as_str().into()];
    server.weight = weight;
    server.load = Some(load(phase, 0, 0));
    let first = to.first().copied().unwrap_or(at);
    let link = Link::open(first, Transport::Udp).await;
    let link = link.map_err(ToolError::io("socket"))?;
    let local = link.local();
    let publisher = Publisher::new(&domain, server, expires, local, Chance::new(rand::random()));
    let session = Session::new(publisher.among(to), link);
    let mut session = session.map_err(ToolError::io("signals"))?;
    let mut seconds = 0;
    loop {
        match session.next().await {
            Happening::Event(Event::Published { .. }) => say(format_args!("server ready udp={at}")),
            Happening::Event(Event::Rejected(refusal)) => {
                let peer = session.peer().to_string();
                return Err(ToolError::Refused { peer, refusal });
            }
            Happening::Event(Event::Failing(trouble)) => tracing::warn!(%trouble, "publishing"),
            Happening::Tick => {
                seconds += 1;
                let load = load(phase, seconds, taken.replace(0));
                let now_ms = session.now_ms();
                session.agent.set_load(now_ms, Some(load));
            }
            Happening::Event(_) | Happening::Resized => {}
            Happening::Over | Happening::Killed => return Ok(()),
        }
    }
}

/// In per cent, after so many seconds, with so many calls in the last.
fn load(phase: Option<u32>, seconds: u64, calls: u64) -> u8 {
    let Some(phase) = phase else {
        return LEAST as u8;
    };
    let turns = seconds as f64 / PERIOD_S + f64::from(phase) / 100.0;
    let own = SWING * (0.5 - 0.5 * (TAU * turns).cos());
    (LEAST + own + 100.0 * calls as f64 / CAPACITY).min(100.0) as u8
}

async fn serve(socket: UdpSocket, at: SocketAddr, taken: Rc<Cell<u64>>) {
    let mut buffer = vec![0; DATAGRAM_MOST];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "not received");
                continue;
            }
        };
        let request = &buffer[..length];
        taken.set(taken.get() + u64::from(request.starts_with(b"INVITE ")));
        if let Some((to, answer)) = answer(at, source, request)
            && let Err(error) = socket.send_to(&answer, to).await
        {
            tracing::debug!(%error, "not sent");
        }
    }
}

/// What a server at `at` says to a request from `source`, and where: it takes every call. An ACK is not answered.
pub(super) fn answer(
    at: SocketAddr,
    source: SocketAddr,
    bytes: &[u8],
) -> Option<(SocketAddr, Vec<u8>)> {
    let message = scan(bytes).ok()?;
    let request = Request::parse(&message).ok()?;
    let status = match request.method {
        Method::Ack => return None,
        Method::Invite | Method::Bye | Method::Options => 200,
        _ => 501,
    };
    let tag = SipHasher13::new().hash(message.first(Name::CallId)?);
    let tag = format!("{tag:016x}");
    let mut out = Vec::new();
    let responder = Responder::to_request(&request, status, source).to_tag(tag.as_bytes());
    let mut response = responder.record_route().begin(&mut out).ok()?;
    response.header("Contact", format!("<sip:{at}>").as_bytes());
    response.finish();
    Some((answer_to(&message, source), out))
}
