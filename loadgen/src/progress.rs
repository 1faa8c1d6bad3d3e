//! How far a run is, on standard error: a bar on a terminal, else lines. Knows no phase by name.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How far a phase is: a bar on a terminal, else a line every few seconds.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    phase: &'static str,
    total: u64,
    shown: Instant,
}

impl Progress {
    const REDRAW: Duration = Duration::from_millis(100);
    const LINE: Duration = Duration::from_secs(5);

    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:14} {bar:40} {pos}/{len} {elapsed}")
                .expect("the template is well formed");
            ProgressBar::new(0).with_style(style)
        });
        Progress {
            bar,
            phase: "",
            total: 0,
            shown: Instant::now(),
        }
    }

    pub fn begin(&mut self, phase: &'static str, total: u64) {
        (self.phase, self.total, self.shown) = (phase, total, Instant::now());
        match &self.bar {
            Some(bar) => {
                bar.set_message(phase);
                bar.set_length(total);
                bar.reset();
            }
            None => eprintln!("{phase} ({total})"),
        }
    }

    /// Cheap enough to be called every turn.
    pub fn at(&mut self, position: u64) {
        let pause = if self.bar.is_some() {
            Self::REDRAW
        } else {
            Self::LINE
        };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        match &self.bar {
            Some(bar) => bar.set_position(position),
            None => eprintln!("{} {position}/{}", self.phase, self.total),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
