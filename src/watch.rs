//! `fanfare watch`: subscribes and shows the table, on a terminal, as lines of text or as JSON. Joins a follower to standard
//! output. Knows nothing of the protocol.

mod json;
mod text;

use std::io::{self, IsTerminal, Write, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::time::{Instant, interval};

use crate::screen::Screen;
use crate::session::{End, Signals};
use crate::subscriber::{Follower, Loss, News, STOP_WITHIN};
use crate::tool::{self, Source, ToolError, VIEW_WITHIN, over};
use text::Header;

/// Flags of `fanfare watch`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Show only servers that offer this service (repeatable: one of these)
    #[arg(long, value_name = "NAME", value_parser = tool::service)]
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
}

/// Where views go.
#[derive(Debug)]
enum Output {
    Json,
    /// Plain lines, the whole table each time.
    Lines,
    Screen(Screen),
}

/// Watches until a signal comes, standard output closes, or every notifier refuses.
pub async fn run(arguments: Arguments) -> Result<(), ToolError> {
    // RFC 6665 4.4.3: a life of 0 is a fetch.
    let expires_s = if arguments.once { 0 } else { arguments.expires };
    let services = arguments.service.clone();
    let settings = arguments.source.settings(services, expires_s).await?;
    let signals = Signals::new().map_err(ToolError::io("signals"))?;
    let output = match (arguments.json, arguments.once || !stdout().is_terminal()) {
        (true, _) => Output::Json,
        (false, true) => Output::Lines,
        (false, false) => Output::Screen(Screen::open().map_err(ToolError::io("terminal"))?),
    };
    let watch = Watch {
        follower: Follower::new(settings),
        signals,
        output,
        notified: None,
        trouble: None,
        peers: arguments.source.peers(),
        arguments,
    };
    watch.run().await
}

struct Watch {
    arguments: Arguments,
    /// Who was named to begin with.
    peers: String,
    follower: Follower,
    signals: Signals,
    output: Output,
    /// When the last NOTIFY came.
    notified: Option<Instant>,
    /// What goes wrong at present, for the screen.
    trouble: Option<String>,
}

impl Watch {
    async fn run(mut self) -> Result<(), ToolError> {
        let begun = Instant::now();
        let mut ticks = interval(Duration::from_secs(1));
        let mut stop_by: Option<Instant> = None;
        loop {
            if stop_by.is_some_and(|stop_by| Instant::now() >= stop_by) {
                return Ok(());
            }
            let written = tokio::select! {
                news = self.follower.next() => match news {
                    None => return Ok(()),
                    Some(News::View) => {
                        let shown = self.view();
                        if self.arguments.once && shown.is_ok() {
                            stop_by.get_or_insert(Instant::now() + STOP_WITHIN);
                            self.follower.stop();
                        }
                        shown
                    }
                    Some(News::Over(at, loss)) => return Err(over(at, loss)),
                    Some(news) => self.hear(news),
                },
                end = self.signals.next() => match end {
                    // A second signal: nothing more is to be waited for.
                    End::Stop if stop_by.is_some() => return Ok(()),
                    End::Stop => {
                        stop_by = Some(Instant::now() + STOP_WITHIN);
                        self.follower.stop();
                        Ok(())
                    }
                    End::Resized => self.draw(),
                },
                _ = ticks.tick() => {
                    if self.arguments.once && begun.elapsed() >= VIEW_WITHIN && stop_by.is_none() {
                        return Err(self.arguments.source.silent());
                    }
                    self.draw()
                }
            };
            match written {
                Ok(()) => {}
                // Nobody reads any more: no reason to complain.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    stop_by.get_or_insert(Instant::now() + STOP_WITHIN);
                    self.follower.stop();
                }
                Err(error) => return Err(ToolError::io("standard output")(error)),
            }
        }
    }

    fn hear(&mut self, news: News) -> io::Result<()> {
        match news {
            News::Notified(_) => self.notified = Some(Instant::now()),
            News::Failing(at, trouble) => {
                self.complain(format!("{at}: {trouble}; trying until it works"))
            }
            News::Lost(at, Loss::Unreachable(problem)) => {
                self.complain(format!("{at}: {problem}; trying until it works"))
            }
            News::Lost(at, Loss::Refused(refusal)) => {
                self.complain(format!("{at}: refused with {refusal}"))
            }
            News::Restored(at) => {
                self.trouble = None;
                if !matches!(self.output, Output::Screen(_)) {
                    eprintln!("fanfare: {at}: works again");
                }
            }
            News::View | News::Moved | News::Over(..) | News::Lost(..) => {}
        }
        self.draw()
    }

    fn complain(&mut self, trouble: String) {
        match self.output {
            Output::Screen(_) => self.trouble = Some(trouble),
            Output::Json | Output::Lines => eprintln!("fanfare: {trouble}"),
        }
    }

    /// Shows a view that was not shown.
    fn view(&mut self) -> io::Result<()> {
        let table = self.follower.table();
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
        let table = self.follower.table();
        screen.draw(&text::rows(table, &self.header(), unix_ms()))
    }

    fn header(&self) -> Header<'_> {
        Header {
            domain: &self.arguments.source.domain,
            via: &self.peers,
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
