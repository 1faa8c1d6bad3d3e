//! `fanfare pick`: fetches the table and says which server gets a piece of work, as many times as asked. Knows nothing of
//! the protocol and of how servers are chosen.

use std::io::{self, BufWriter, Write, stdout};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::client::Chance;
use crate::info::{AddressTransport, Filter, Table};
use crate::subscriber::{Follower, News, Settings};
use crate::subscription::{Pick, Picker, Wish, Work};
use crate::tool::{self, ToolError, TransportArgument, over};
use crate::wire::Transport;

/// How long a view is waited for: four sendings of a SUBSCRIBE, the last at 7.5 s.
const VIEW_WITHIN: Duration = Duration::from_secs(8);
/// One that may lack servers is picked from when no better one has come so much later.
const BETTER_WITHIN: Duration = Duration::from_secs(2);

/// Flags of `fanfare pick`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Notifier to ask; of several all are asked (repeatable, or with commas). A domain is looked up by NAPTR and SRV
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1:5060",
        value_delimiter = ','
    )]
    via: Vec<String>,
    /// Domain whose servers are picked from
    #[arg(long, value_name = "NAME", value_parser = tool::domain)]
    domain: String,
    /// Service that the server must offer
    #[arg(long, value_name = "NAME", value_parser = tool::service)]
    service: Option<Box<str>>,
    /// Work of one key goes to one server as long as that takes any
    #[arg(long)]
    key: Option<String>,
    /// Transport that the server must be reached by
    #[arg(long, value_name = "udp|tcp|tls|ws|wss", value_parser = by)]
    by: Option<AddressTransport>,
    /// How many picks, a line each
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    number: u32,
    /// Write each pick as JSON
    #[arg(long)]
    json: bool,
    /// Transport of the subscription
    #[arg(long, default_value = "udp")]
    transport: TransportArgument,
}

fn by(text: &str) -> Result<AddressTransport, &'static str> {
    text.parse().map_err(|_| "allowed: udp, tcp, tls, ws, wss")
}

#[derive(Serialize)]
struct Line<'p> {
    id: &'p str,
    address: String,
}

/// Picks and ends.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let transport = Transport::from(arguments.transport);
    let services = arguments.service.iter().cloned().collect();
    let filter = Filter::new(services, Vec::new(), Vec::new(), None);
    let settings = Settings {
        via: tool::notifiers("--via", &arguments.via, transport).await?,
        transport,
        wish: Wish {
            domain: arguments.domain.clone(),
            filter: filter.ok().filter(|filter| !filter.is_empty()),
            // RFC 6665 4.4.3: a fetch.
            expires_s: 0,
        },
        notifiers: arguments.via.len(),
    };
    let mut follower = Follower::new(settings);
    wait(&mut follower, &arguments).await?;
    match write(follower.table(), &arguments) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ToolError::NothingToPick(what(&arguments))),
        // Nobody reads any more: no reason to complain.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(ToolError::io("standard output")(error)),
    }
}

/// Until there is a view that is whole, or nothing better comes.
async fn wait(follower: &mut Follower, arguments: &Arguments) -> Result<(), ToolError> {
    let mut until = Instant::now() + VIEW_WITHIN;
    loop {
        let Ok(news) = timeout_at(until, follower.next()).await else {
            break;
        };
        match news {
            Some(News::View) if !follower.table().is_stale() => return Ok(()),
            Some(News::View) => until = until.min(Instant::now() + BETTER_WITHIN),
            Some(News::Over(at, loss)) => return Err(over(at, loss)),
            Some(News::Failing(at, trouble)) => eprintln!("fanfare: {at}: {trouble}"),
            Some(_) => {}
            None => break,
        }
    }
    if follower.table().view().is_some() {
        return Ok(());
    }
    Err(ToolError::Silent {
        peer: arguments.via.join(", "),
        seconds: VIEW_WITHIN.as_secs(),
    })
}

/// False where there is nothing to pick.
fn write(table: &Table, arguments: &Arguments) -> io::Result<bool> {
    let mut picker = Picker::new(Chance::new(rand::random()));
    let work = Work {
        service: arguments.service.as_deref(),
        key: arguments.key.as_deref(),
        transport: arguments.by,
    };
    let mut out = BufWriter::new(stdout().lock());
    for _ in 0..arguments.number {
        let Some(Pick { id, address }) = picker.pick(table, work, 0) else {
            return Ok(false);
        };
        let at = std::net::SocketAddr::new(address.ip, address.port);
        let address = format!("{at}/{}", address.transport.as_str());
        if arguments.json {
            let line = Line { id: &id, address };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            writeln!(out, "{id} {address}")?;
        }
    }
    out.flush()?;
    Ok(true)
}

fn what(arguments: &Arguments) -> String {
    let service = arguments.service.as_deref();
    let service = service.map_or("any service".to_owned(), |name| format!("service {name}"));
    format!(
        "no server of {} offers {service} and is not down",
        arguments.domain
    )
}
