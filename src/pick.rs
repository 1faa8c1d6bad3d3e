//! `fanfare pick`: fetches the table and says which server gets a piece of work, as many times as asked. Knows nothing of
//! the protocol and of how servers are chosen.

use std::io::{self, BufWriter, Write, stdout};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::client::Chance;
use crate::info::{AddressTransport, Table};
use crate::subscriber::{Follower, News};
use crate::subscription::{Pick, Picker, Work};
use crate::tool::{self, Source, ToolError, VIEW_WITHIN, over};

/// One that may lack servers is picked from when no better one has come so much later.
const BETTER_WITHIN: Duration = Duration::from_secs(2);

/// Flags of `fanfare pick`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
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
    let services = arguments.service.iter().cloned().collect();
    // RFC 6665 4.4.3: a fetch.
    let settings = arguments.source.settings(services, 0).await?;
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
    Err(arguments.source.silent())
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
        arguments.source.domain
    )
}
