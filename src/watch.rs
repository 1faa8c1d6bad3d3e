//! `fanfare watch`: subscribes and shows the table, on a terminal, as lines of text or as JSON. Joins the subscription's
//! core to a socket and to standard output. Knows nothing of the protocol.

mod json;
mod screen;
mod text;

use std::io::{self, IsTerminal, Write, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::time::Instant;

use crate::client::Chance;
use crate::info::{Filter, is_id};
use crate::session::{Happening, Session};
use crate::subscriber::{Event, Subscription, Wish};
use crate::tool::{self, ToolError, TransportArgument};
use crate::wire::Transport;
use screen::Screen;
use text::Header;

/// How long `--once` waits for its view: four sendings of a SUBSCRIBE, the last at 7.5 s.
const ONCE_MOST: Duration = Duration::from_secs(8);

/// Flags of `fanfare watch`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Notifier, or proxy on the way to it, to subscribe at
    #[arg(long, value_name = "HOST[:PORT]", default_value = "127.0.0.1:5060")]
    via: String,
    /// Domain whose servers are shown
    #[arg(long, value_name = "NAME", value_parser = tool::domain)]
    domain: String,
    /// Show only servers that offer this service (repeatable: one of these)
    #[arg(long, value_name = "NAME", value_parser = service)]
    service: Vec<Box<str>>,
    /// Write one JSON object a view, a line each
    #[arg(long)]
    json: bool,
    /// Show the table once and end; exits 3 when no view came within 8 s
    #[arg(long)]
    once: bool,
    /// Life to ask for at each refresh, in seconds; a silent notifier is noticed no later than that
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    expires: u32,
    /// Transport of the subscription
    #[arg(long, default_value = "udp")]
    transport: TransportArgument,
}

fn service(text: &str) -> Result<Box<str>, &'static str> {
    let allowed = "allowed: 1 to 64 of letters, digits, '.', '_', '-'";
    is_id(text).then(|| text.into()).ok_or(allowed)
}

impl Arguments {
    fn wish(&self) -> Result<Wish, ToolError> {
        let filter = Filter::new(self.service.clone(), Vec::new(), Vec::new(), None);
        let filter = filter.map_err(|error| ToolError::Argument {
            flag: "--service",
            value: self.service.join(" "),
            problem: error.to_string(),
        })?;
        Ok(Wish {
            domain: self.domain.clone(),
            filter: Some(filter).filter(|filter| !filter.is_empty()),
            expires_s: if self.once { 0 } else { self.expires },
        })
    }
}

/// Where views go.
#[derive(Debug)]
enum Output {
    Json,
    /// Plain lines, the whole table each time.
    Lines,
    Screen(Screen),
}

/// Watches until a signal comes, standard output closes, or the notifier refuses.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    let wish = arguments.wish()?;
    let transport = Transport::from(arguments.transport);
    let link = tool::open("--via", &arguments.via, transport).await?;
    let subscription = Subscription::new(wish, link.local(), Chance::new(rand::random()));
    let session = Session::new(subscription, link).map_err(ToolError::io("signals"))?;
    let output = match (arguments.json, arguments.once || !stdout().is_terminal()) {
        (true, _) => Output::Json,
        (false, true) => Output::Lines,
        (false, false) => Output::Screen(Screen::open().map_err(ToolError::io("terminal"))?),
    };
    let watch = Watch {
        session,
        output,
        notified: None,
        trouble: None,
        arguments,
    };
    watch.run().await
}

struct Watch {
    arguments: Arguments,
    session: Session<Subscription>,
    output: Output,
    /// When the last NOTIFY came.
    notified: Option<Instant>,
    /// What goes wrong at present, for the screen.
    trouble: Option<String>,
}

impl Watch {
    async fn run(mut self) -> Result<(), ToolError> {
        let begun = Instant::now();
        let peer = self.arguments.via.clone();
        loop {
            let written = match self.session.next().await {
                Happening::Event(Event::Refused(refusal)) => {
                    return Err(ToolError::Refused { peer, refusal });
                }
                Happening::Event(Event::Terminated(ending)) => {
                    return Err(ToolError::Terminated { peer, ending });
                }
                Happening::Event(Event::Over) | Happening::Over | Happening::Killed => {
                    return Ok(());
                }
                Happening::Event(event) => self.event(event),
                Happening::Tick if self.arguments.once && begun.elapsed() >= ONCE_MOST => {
                    let seconds = ONCE_MOST.as_secs();
                    return Err(ToolError::Silent { peer, seconds });
                }
                Happening::Tick | Happening::Resized => self.draw(),
            };
            match written {
                Ok(()) => {}
                // Nobody reads any more: no reason to complain.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.session.stop(),
                Err(error) => return Err(ToolError::io("standard output")(error)),
            }
        }
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::View => return self.view(),
            Event::Notified => self.notified = Some(Instant::now()),
            Event::Failing(trouble) => {
                let trouble = format!("{}: {trouble}; trying until it works", self.arguments.via);
                match self.output {
                    Output::Screen(_) => self.trouble = Some(trouble),
                    Output::Json | Output::Lines => eprintln!("fanfare: {trouble}"),
                }
            }
            Event::Restored => {
                self.trouble = None;
                if !matches!(self.output, Output::Screen(_)) {
                    eprintln!("fanfare: {}: works again", self.arguments.via);
                }
            }
            Event::Refused(_) | Event::Terminated(_) | Event::Over => {}
        }
        self.draw()
    }

    /// Shows a view that was not shown.
    fn view(&mut self) -> io::Result<()> {
        let table = self.session.agent.table();
        let now_ms = unix_ms();
        let text = match self.output {
            Output::Screen(_) => return self.draw(),
            Output::Json => json::line(table, now_ms)?,
            Output::Lines => text::plain(table, &self.header(), now_ms),
        };
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn draw(&mut self) -> io::Result<()> {
        let Output::Screen(screen) = &self.output else {
            return Ok(());
        };
        let table = self.session.agent.table();
        screen.draw(&text::rows(table, &self.header(), unix_ms()))
    }

    fn header(&self) -> Header<'_> {
        Header {
            domain: &self.arguments.domain,
            via: &self.arguments.via,
            since_notify_s: self.notified.map(|at| at.elapsed().as_secs()),
            trouble: self.trouble.as_deref(),
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
