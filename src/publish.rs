//! `fanfare publish`: keeps a server's entry published until it is stopped, then removes it. Joins the publisher's core to
//! a socket and to this machine's load. Knows nothing of the protocol.

mod address;

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use crate::client::Chance;
use crate::info::{Address, Format, Server, Stamp, Status, is_id, publication_body};
use crate::load::Gauge;
use crate::publisher::{Event, Publisher};
use crate::session::{Happening, Session};
use crate::tool::{self, ToolError, TransportArgument, say};
use crate::wire::Transport;

/// A PUBLISH with a larger body does not fit the 1,300 bytes of RFC 3261 18.1.1 with its head.
const UDP_BODY_MOST: usize = 800;

/// How long this machine is looked at before the first publication.
const FIRST_SAMPLE: Duration = Duration::from_millis(200);

/// Flags of `fanfare publish`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Notifier to publish to; of several nodes of one cluster another is asked where one fails (repeatable, or with commas). A
    /// domain is looked up by NAPTR and SRV
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1:5060",
        value_delimiter = ','
    )]
    to: Vec<String>,
    /// Domain that the server belongs to
    #[arg(long, value_name = "NAME", value_parser = tool::domain)]
    domain: String,
    /// Name of the server, unique in its domain: 1 to 64 of letters, digits, '.', '_', '-'
    #[arg(long, value_parser = id)]
    id: String,
    /// Address that the server is reached at (repeatable); transports are udp, tcp, tls, ws, wss
    #[arg(
        long,
        value_name = "IP:PORT/TRANSPORT[,host=NAME][,service=NAME]",
        required = true,
        value_parser = address::parse
    )]
    address: Vec<Address>,
    /// Service that the server offers (repeatable)
    #[arg(long, value_name = "NAME", value_parser = id)]
    service: Vec<String>,
    /// Whether the server takes new work: up, draining, overloaded, down
    #[arg(long, default_value = "up", value_parser = status)]
    status: Status,
    /// As in DNS SRV: the lowest is tried first
    #[arg(long, default_value_t = Server::DEFAULT_PRIORITY)]
    priority: u16,
    /// As in DNS SRV: the share of the work among servers of one priority
    #[arg(long, default_value_t = Server::DEFAULT_WEIGHT)]
    weight: u16,
    /// Load in per cent of capacity; auto: this machine's CPU use or pressure, whichever is greater
    #[arg(long, value_name = "auto|0-100", default_value = "auto", value_parser = load)]
    load: Load,
    /// Attribute of the server (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
    /// Lease to ask for, in seconds: how soon the entry goes down when this process dies
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    expires: u32,
    /// Transport of the PUBLISH requests [default: udp; tcp for an entry too large for a datagram]
    #[arg(long)]
    transport: Option<TransportArgument>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Auto,
    Fixed(u8),
}

fn id(text: &str) -> Result<String, &'static str> {
    let allowed = "allowed: 1 to 64 of letters, digits, '.', '_', '-'";
    is_id(text).then(|| text.to_owned()).ok_or(allowed)
}

fn status(text: &str) -> Result<Status, &'static str> {
    text.parse()
        .map_err(|_| "allowed: up, draining, overloaded, down")
}

fn load(text: &str) -> Result<Load, &'static str> {
    let number = || {
        text.parse()
            .ok()
            .filter(|load| *load <= 100)
            .map(Load::Fixed)
    };
    let auto = (text == "auto").then_some(Load::Auto);
    auto.or_else(number).ok_or("allowed: auto, or 0 to 100")
}

fn attribute(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("allowed: NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Arguments {
    fn server(&self) -> Result<Server, ToolError> {
        let boxed = |text: &String| text.as_str().into();
        let server = Server {
            id: self.id.as_str().into(),
            status: self.status.clone(),
            load: match self.load {
                Load::Auto => None,
                Load::Fixed(load) => Some(load),
            },
            priority: self.priority,
            weight: self.weight,
            // The notifier gives the real one.
            updated: Stamp {
                ms: 0,
                counter: 0,
                node: "-".into(),
            },
            addresses: self.address.clone(),
            services: self.service.iter().map(boxed).collect(),
            attributes: self
                .attribute
                .iter()
                .map(|(name, value)| (boxed(name), boxed(value)))
                .collect(),
        };
        match server.check() {
            Ok(()) => Ok(server),
            Err(error) => Err(ToolError::Argument {
                flag: "--id",
                value: self.id.clone(),
                problem: error.to_string(),
            }),
        }
    }

    fn transport(&self, server: &Server) -> Result<Transport, ToolError> {
        let length = publication_body(&self.domain, server, Format::Xml).len();
        match self.transport {
            None if length > UDP_BODY_MOST => Ok(Transport::Tcp),
            None => Ok(Transport::Udp),
            Some(TransportArgument::Udp) if length > UDP_BODY_MOST => Err(ToolError::Argument {
                flag: "--transport",
                value: "udp".to_owned(),
                problem: format!(
                    "an entry of {length} bytes does not fit a datagram; allowed: tcp"
                ),
            }),
            Some(transport) => Ok(transport.into()),
        }
    }
}

/// Publishes until a signal comes or the notifier refuses.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let mut server = arguments.server()?;
    let transport = arguments.transport(&server)?;
    let notifiers = tool::notifiers("--to", &arguments.to, transport).await?;
    let link = tool::open("--to", &arguments.to, &notifiers, transport).await?;
    let mut gauge = Gauge::default();
    if arguments.load == Load::Auto {
        server.load = first_load(&mut gauge).await;
    }
    let local = link.local();
    let chance = Chance::new(rand::random());
    let Arguments {
        domain,
        id,
        expires,
        ..
    } = &arguments;
    let to = arguments.to.join(", ");
    let publisher = Publisher::new(domain, server, *expires, local, chance).among(notifiers);
    let mut session = Session::new(publisher, link).map_err(ToolError::io("signals"))?;
    let mut is_removed = false;
    loop {
        match session.next().await {
            Happening::Event(Event::Published { expires_s }) => {
                say(format_args!(
                    "published {id} in {domain} at {}, lease {expires_s} s",
                    session.peer()
                ));
            }
            Happening::Event(Event::Restored { expires_s }) => {
                say(format_args!(
                    "published {id} in {domain} at {} again, lease {expires_s} s",
                    session.peer()
                ));
            }
            Happening::Event(Event::Removed) => {
                is_removed = true;
                say(format_args!(
                    "removed {id} from {domain} at {}",
                    session.peer()
                ));
            }
            Happening::Event(Event::Failing(trouble)) => {
                eprintln!("fanfare: publishing {id} at {to}: {trouble}; trying until it works");
            }
            Happening::Event(Event::Rejected(refusal)) => {
                let peer = session.peer().to_string();
                return Err(ToolError::Refused { peer, refusal });
            }
            Happening::Tick if arguments.load == Load::Auto => weigh(&mut gauge, &mut session),
            Happening::Tick | Happening::Resized => {}
            Happening::Over | Happening::Killed => {
                if !is_removed {
                    eprintln!(
                        "fanfare: {id} was not removed at {to}: it goes down when its lease ends"
                    );
                }
                return Ok(());
            }
        }
    }
}

/// A value for the first publication; the next samples come with the ticks.
async fn first_load(gauge: &mut Gauge) -> Option<u8> {
    weighed(gauge);
    sleep(FIRST_SAMPLE).await;
    weighed(gauge)
}

fn weighed(gauge: &mut Gauge) -> Option<u8> {
    let sampled = gauge.sample();
    sampled.unwrap_or_else(|error| {
        tracing::warn!(%error, "load cannot be read");
        None
    })
}

fn weigh(gauge: &mut Gauge, session: &mut Session<Publisher>) {
    if let Some(load) = weighed(gauge) {
        let now_ms = session.now_ms();
        session.agent.set_load(now_ms, Some(load));
    }
}
