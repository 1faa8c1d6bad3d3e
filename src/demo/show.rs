//! Shows the demonstration: on a terminal the table in place, what happened below it; else what happens, a line each. Knows
//! no process.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, stdout};
use std::sync::Arc;

use crossterm::style::Color;

use super::report::Report;
use crate::info::{DocumentEntry, Server, Status, Table};
use crate::screen::{Row, Screen, align, span, status_colour};
use crate::subscription::shares;
use crate::tool::say;

const TITLES: [&str; 7] = [
    "ID", "STATUS", "LOAD", "WEIGHT", "CALLS/s", "SHARE", "INTENDED",
];

/// Where it is shown.
#[derive(Debug)]
pub struct Show {
    screen: Option<Screen>,
    /// Nothing is shown.
    is_quiet: bool,
    /// What has happened so far.
    events: Vec<String>,
}

impl Show {
    /// In place where standard output is a terminal; nothing at all where it is to be quiet.
    pub fn open(is_quiet: bool) -> io::Result<Show> {
        let in_place = !is_quiet && stdout().is_terminal();
        let screen = in_place.then(Screen::open).transpose()?;
        Ok(Show {
            screen,
            is_quiet,
            events: Vec::new(),
        })
    }

    /// Something happened.
    pub fn event(&mut self, text: String) {
        if self.screen.is_none() && !self.is_quiet {
            say(format_args!("{text}"));
        }
        self.events.push(text);
    }

    /// The table and the calls of the last second, where there is a screen.
    pub fn draw(
        &self,
        table: &Table,
        called: &BTreeMap<Arc<str>, u64>,
        report: &Report,
    ) -> io::Result<()> {
        let Some(screen) = &self.screen else {
            return Ok(());
        };
        let facts = format!(
            "  {} entities, {} with the whole table, {} subscribed at as many nodes as they want; {} calls lost",
            report.entities,
            report.whole,
            report.settled,
            report.lost()
        );
        let mut rows = vec![vec![
            span("example.com", Some(Color::Cyan)),
            span(facts, None),
        ]];
        rows.extend(table_rows(table, called));
        rows.push(Row::new());
        rows.extend(
            self.events
                .iter()
                .map(|event| vec![span(event.as_str(), None)]),
        );
        screen.draw(&rows)
    }

    /// The table as lines, where there is no screen.
    pub fn print(&self, table: &Table, called: &BTreeMap<Arc<str>, u64>) {
        if self.screen.is_some() || self.is_quiet {
            return;
        }
        for row in table_rows(table, called) {
            let line: String = row.iter().map(|span| span.text.as_str()).collect();
            say(format_args!("  {}", line.trim_end()));
        }
    }

    /// Gives the terminal back; what happened stays on it.
    pub fn close(self) {
        let Show { screen, events, .. } = self;
        if let Some(screen) = screen {
            drop(screen);
            events.iter().for_each(|event| say(format_args!("{event}")));
        }
    }
}

fn table_rows(table: &Table, called: &BTreeMap<Arc<str>, u64>) -> Vec<Row> {
    let servers = table.entries().filter_map(|entry| match entry {
        DocumentEntry::Server(server) => Some(server),
        DocumentEntry::Deleted { .. } | DocumentEntry::Left { .. } => None,
    });
    let servers: Vec<&Server> = servers.collect();
    let takes = |server: &&Server| server.status == Status::Up && !server.is_notifier();
    let up: Vec<&Server> = servers.iter().copied().filter(takes).collect();
    let shares = shares(&up);
    let whole: u64 = shares.iter().sum();
    let intended = |server: &Server| {
        let place = up.iter().position(|one| one.id == server.id)?;
        Some(shares[place] * 100 / whole.max(1))
    };
    let calls: u64 = called.values().sum();
    let mut cells = vec![TITLES.map(|title| span(title, Some(Color::DarkGrey)))];
    cells.extend(servers.iter().map(|server| {
        let own = called.get(&server.id).copied();
        let own = own.filter(|_| !server.is_notifier());
        let percent =
            |value: Option<u64>| value.map_or(String::new(), |value| format!("{value} %"));
        let load = server.load.map(u64::from);
        [
            span(&*server.id, None),
            span(server.status.as_str(), Some(status_colour(&server.status))),
            span(percent(load), None),
            span(server.weight.to_string(), None),
            span(own.map_or(String::new(), |own| own.to_string()), None),
            span(percent(own.map(|own| own * 100 / calls.max(1))), None),
            span(percent(intended(server)), None),
        ]
    }));
    align(cells)
}
