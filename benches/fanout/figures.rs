//! Figures of runs, and what they come to: medians with their spread, ratios of runs that stood side by side.

use std::collections::BTreeMap;
use std::fmt;

/// The figures of one run, by name.
pub type Figures = BTreeMap<&'static str, f64>;

/// A median between the least and the most.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
    count: usize,
}

impl Spread {
    /// `None` without figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut all: Vec<f64> = figures
            .into_iter()
            .filter(|figure| figure.is_finite())
            .collect();
        all.sort_by(f64::total_cmp);
        Some(Spread {
            median: (all.get((all.len().checked_sub(1)?) / 2)? + all.get(all.len() / 2)?) / 2.0,
            least: *all.first()?,
            most: *all.last()?,
            count: all.len(),
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = |value: f64| match value.abs() {
            value if value >= 1000.0 => format!("{value:.0}"),
            value if value >= 100.0 => format!("{value:.1}"),
            value => format!("{value:.2}"),
        };
        write!(f, "{}", digits(self.median))?;
        if self.count > 1 {
            write!(f, " ({} to {})", digits(self.least), digits(self.most))?;
        }
        Ok(())
    }
}

/// One figure of one variant over that of another (or the same figure of another name), run by run.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    pub says: &'static str,
    pub figure: &'static str,
    pub of: &'static str,
    pub over: &'static str,
    pub over_figure: &'static str,
    /// How many of the latter one of the former is held against.
    pub times: f64,
    pub most: f64,
}

impl Comparison {
    pub fn ratio(&self, runs: &BTreeMap<&'static str, Vec<Figures>>) -> Option<Spread> {
        let (of, over) = (runs.get(self.of)?, runs.get(self.over)?);
        Spread::of(of.iter().zip(over).filter_map(|(of, over)| {
            Some(of.get(self.figure)? / (self.times * over.get(self.over_figure)?))
        }))
    }
}
