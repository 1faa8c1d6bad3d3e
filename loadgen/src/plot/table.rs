//! A figure against the number of subscribers, both axes logarithmic: tab-separated text to a picture.

use std::path::Path;

use plotters::prelude::*;

use super::{Area, DrawError, Failure, builder, color, draw, legend, line_of, number};

/// One line of the text: whose, at how many, how much.
type Row = (String, f64, f64);

/// The first three columns of a tab-separated table: label, x and y; several y at one x are several runs.
#[derive(Debug)]
pub struct Table {
    x: String,
    y: String,
    rows: Vec<Row>,
}

/// Which line of a table is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTable {
    #[error("line 1: the names of three columns are expected, with tabs between: label, x, y")]
    Head,
    #[error("line {0}: a label and two numbers above 0 are expected, with tabs between")]
    Row(usize),
}

impl Table {
    pub fn parse(text: &str) -> Result<Table, BadTable> {
        let mut lines = text.lines().enumerate();
        let head = lines.next().and_then(|(_, line)| three(line));
        let (_, x, y) = head.ok_or(BadTable::Head)?;
        let rows = lines
            .filter(|(_, line)| !line.is_empty())
            .map(|(at, line)| row(line).ok_or(BadTable::Row(at + 1)))
            .collect::<Result<_, _>>()?;
        Ok(Table {
            x: x.to_owned(),
            y: y.to_owned(),
            rows,
        })
    }

    /// Every run a point, and a line through the medians.
    pub fn draw(&self, path: &Path, title: &str) -> Result<(), Failure> {
        if self.rows.is_empty() {
            return Err(Failure::Nothing);
        }
        draw(path, |area| self.paint(&area.titled(title, super::TITLE)?))
    }

    fn paint(&self, area: &Area) -> Result<(), DrawError> {
        let (xs, ys) = (
            span(self.rows.iter().map(|row| row.1)),
            span(self.rows.iter().map(|row| row.2)),
        );
        let mut chart = builder(area).build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| one_two_five(*x))
            .y_label_formatter(&|y| one_two_five(*y))
            .draw()?;
        for (at, label) in self.labels().into_iter().enumerate() {
            let of_it = || self.rows.iter().filter(|row| row.0 == label);
            let points = of_it().map(|row| Circle::new((row.1, row.2), 3, color(at).filled()));
            chart.draw_series(points)?;
            line_of(&mut chart, at, label, medians(of_it()).into_iter())?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    }

    /// In the order of their first line.
    fn labels(&self) -> Vec<&str> {
        let mut labels: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !labels.contains(&row.0.as_str()) {
                labels.push(&row.0);
            }
        }
        labels
    }
}

fn three(line: &str) -> Option<(&str, &str, &str)> {
    let mut columns = line.split('\t');
    Some((columns.next()?, columns.next()?, columns.next()?))
}

fn row(line: &str) -> Option<Row> {
    let (label, x, y) = three(line)?;
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|&value: &f64| value > 0.0 && value.is_finite())
    };
    Some((label.to_owned(), number(x)?, number(y)?))
}

/// Names every third or so of the lines of a logarithmic axis: more would cover one another.
fn one_two_five(value: f64) -> String {
    let text = number(value);
    let leading = text.trim_start_matches(['0', '.']).bytes().next();
    match leading {
        Some(b'1' | b'2' | b'5') => text,
        _ => String::new(),
    }
}

/// With some room at both ends.
fn span(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::MAX, f64::min);
    least / 1.5..values.fold(0.0, f64::max) * 1.5
}

fn medians<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = rows.map(|row| (row.1, row.2)).collect();
    points.sort_by(|one, other| one.partial_cmp(other).expect("numbers were checked"));
    points
        .chunk_by(|one, other| one.0 == other.0)
        .map(|runs| runs[(runs.len() - 1) / 2])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_one_number_have_a_median() {
        let text = "server\tsubscribers\tms\tmore\na\t10\t3\tx\na\t10\t1\tx\na\t10\t2\tx\na\t5\t7\tx\nb\t5\t1\tx\n";
        let table = Table::parse(text).unwrap();
        assert_eq!(table.labels(), ["a", "b"]);
        assert_eq!(medians(table.rows[..4].iter()), [(5.0, 7.0), (10.0, 2.0)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(Table::parse("a\tb\n").unwrap_err(), BadTable::Head);
        assert_eq!(
            Table::parse("a\tb\tc\nx\t1\t2\nx\t0\t2\n").unwrap_err(),
            BadTable::Row(3)
        );
    }
}
