//! Draws rows of coloured text on a terminal, in place, and gives the terminal back as it was. Knows no table.

use std::io::{self, Write, stdout};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Color;
use crossterm::style::{Print, ResetColor, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, size,
};
use crossterm::{execute, queue};

use crate::info::Status;

/// A piece of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub colour: Option<Color>,
}

pub type Row = Vec<Span>;

pub fn span(text: impl Into<String>, colour: Option<Color>) -> Span {
    Span {
        text: text.into(),
        colour,
    }
}

/// What a status looks like.
pub fn status_colour(status: &Status) -> Color {
    match status {
        Status::Up => Color::Green,
        Status::Draining => Color::Yellow,
        Status::Overloaded => Color::Magenta,
        Status::Down => Color::Red,
        Status::Other(_) => Color::DarkGrey,
    }
}

/// Pads each cell to its column's width, two spaces between.
pub fn align<const COLUMNS: usize>(cells: Vec<[Span; COLUMNS]>) -> Vec<Row> {
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].text.chars().count())
            .max()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let pad = |(cell, width): (Span, usize)| span(format!("{:<width$}  ", cell.text), cell.colour);
    cells
        .into_iter()
        .map(|row| row.into_iter().zip(widths).map(pad).collect())
        .collect()
}

/// What a terminal has that does not tell its size.
const UNKNOWN: (u16, u16) = (80, 24);

/// The terminal's second page, while it lives.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    pub fn open() -> io::Result<Screen> {
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(Screen(()))
    }

    /// Shows the rows, cut to the terminal's present size, and nothing else.
    pub fn draw(&self, rows: &[Row]) -> io::Result<()> {
        let (width, height) = size().unwrap_or(UNKNOWN);
        let mut out = Vec::new();
        queue!(out, BeginSynchronizedUpdate)?;
        for (line, row) in (0..).zip(fit(rows, width.into(), height.into())) {
            // Before the text: behind a full line the cursor stands on its last character.
            queue!(out, MoveTo(0, line), Clear(ClearType::CurrentLine))?;
            for Span { text, colour } in row {
                match colour {
                    Some(colour) => {
                        queue!(out, SetForegroundColor(colour), Print(text), ResetColor)?;
                    }
                    None => queue!(out, Print(text))?,
                }
            }
        }
        if let Some(below) = u16::try_from(rows.len())
            .ok()
            .filter(|below| *below < height)
        {
            queue!(out, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        let mut terminal = stdout().lock();
        terminal.write_all(&out)?;
        terminal.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
    }
}

/// Cuts rows to the width, and to the height with a last line that says how many are not shown.
fn fit(rows: &[Row], width: usize, height: usize) -> Vec<Row> {
    let mut shown: Vec<Row> = rows
        .iter()
        .take(height)
        .map(|row| cut(row, width))
        .collect();
    if rows.len() > height && height > 0 {
        let text = format!("... {} more", rows.len() - height + 1);
        shown[height - 1] = cut(&vec![Span { text, colour: None }], width);
    }
    shown
}

fn cut(row: &Row, width: usize) -> Row {
    let mut left = width;
    let mut kept = Row::new();
    for Span { text, colour } in row {
        let text: String = text.chars().take(left).collect();
        left -= text.chars().count();
        kept.push(Span {
            text,
            colour: *colour,
        });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: &[&str]) -> Row {
        let span = |text: &&str| Span {
            text: (*text).to_owned(),
            colour: None,
        };
        texts.iter().map(span).collect()
    }

    fn text(rows: &[Row]) -> Vec<String> {
        let line = |row: &Row| row.iter().map(|span| span.text.as_str()).collect();
        rows.iter().map(line).collect()
    }

    #[test]
    fn rows_are_cut_to_the_terminal() {
        let rows = [row(&["██░", "abc"]), row(&["d"]), row(&["e"])];
        assert_eq!(text(&fit(&rows, 5, 9)), ["██░ab", "d", "e"]);
        assert_eq!(text(&fit(&rows, 80, 2)), ["██░abc", "... 2 more"]);
        assert_eq!(text(&fit(&rows, 2, 1)), [".."]);
        assert_eq!(fit(&rows, 0, 0), Vec::<Row>::new());
    }
}
