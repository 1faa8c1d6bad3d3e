//! Pictures, as SVG: latency by percentile and arrivals over time of one run or several, and a figure against the
//! number of subscribers. Measures nothing.

mod table;

use std::fs;
use std::io;
use std::path::Path;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::CoordTranslate;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::{Shift, cartesian::Cartesian2d};
use plotters::prelude::*;

pub use table::{BadTable, Table};

use crate::curves::Curves;

const SIZE: (u32, u32) = (900, 780);
const FONT: &str = "sans-serif";
const TITLE: (&str, u32) = (FONT, 18);
/// Told apart also by those who see fewer colours (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<io::Error>;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("nothing was measured that could be drawn")]
    Nothing,
    #[error("{0}")]
    Draw(#[from] DrawError),
    #[error("{0}")]
    File(#[from] io::Error),
}

/// Latency by percentile above arrivals over time, of each run.
pub fn runs(path: &Path, title: &str, runs: &[(String, Curves)]) -> Result<(), Failure> {
    if runs.iter().all(|(_, run)| run.percentiles.is_empty()) {
        return Err(Failure::Nothing);
    }
    let over_time = runs.iter().any(|(_, run)| !run.arrivals.counts.is_empty());
    draw(path, |area| {
        let area = area.titled(title, TITLE)?;
        if !over_time {
            return percentiles(&area, runs);
        }
        let (upper, lower) = area.split_vertically(430);
        percentiles(&upper, runs)?;
        arrivals(&lower, runs)
    })
}

/// Draws into memory first: a picture is whole or not there.
fn draw(path: &Path, paint: impl FnOnce(&Area) -> Result<(), DrawError>) -> Result<(), Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        paint(&area)?;
        area.present()?;
    }
    Ok(fs::write(path, text)?)
}

/// The usual axis of HDR histograms: as much room for 90 to 99 % as for 99 to 99.9 %.
fn percentiles(area: &Area, runs: &[(String, Curves)]) -> Result<(), DrawError> {
    let points = || runs.iter().flat_map(|(_, run)| &run.percentiles);
    let nines = points().filter(|point| point.0 < 1.0);
    let most = nines.map(|point| nines_of(point.0)).fold(2.0, f64::max);
    let least = points().map(|point| ms(point.1)).fold(f64::MAX, f64::min);
    let greatest = points().map(|point| ms(point.1)).fold(0.0, f64::max);
    let mut chart = builder(area)
        .build_cartesian_2d(0.0..most, (least.max(1e-3)..greatest * 1.1).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(most as usize + 1)
        .x_desc("percentile")
        .y_desc("latency, ms")
        .x_label_formatter(&|nines| percentile_of(*nines))
        .y_label_formatter(&|ms| number(*ms))
        .draw()?;
    for (at, (label, run)) in runs.iter().enumerate() {
        let line = run.percentiles.iter().map(|&(quantile, us)| {
            // All of them is infinitely many nines.
            let nines = if quantile < 1.0 {
                nines_of(quantile)
            } else {
                most
            };
            (nines, ms(us).max(1e-3))
        });
        line_of(&mut chart, at, label, line)?;
    }
    match runs {
        [_] => Ok(()),
        _ => legend(&mut chart, SeriesLabelPosition::LowerRight),
    }
}

fn arrivals(area: &Area, runs: &[(String, Curves)]) -> Result<(), DrawError> {
    let rate = |run: &Curves, count: u64| count as f64 * 1e3 / run.arrivals.bin_ms.max(1) as f64;
    let seconds = |run: &Curves, bins: usize| (bins as u64 * run.arrivals.bin_ms) as f64 / 1e3;
    let drawn = || {
        runs.iter()
            .filter(|(_, run)| !run.arrivals.counts.is_empty())
    };
    let longest = drawn().map(|(_, run)| seconds(run, run.arrivals.counts.len()));
    let rates = drawn().flat_map(|(_, run)| run.arrivals.counts.iter().map(|&n| rate(run, n)));
    let (longest, highest) = (longest.fold(0.01, f64::max), rates.fold(1.0, f64::max));
    let mut chart = builder(area).build_cartesian_2d(0.0..longest, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("time since measuring began, s")
        .y_desc("NOTIFYs a second")
        .y_label_formatter(&|rate| number(*rate))
        .draw()?;
    for (at, (label, run)) in runs.iter().enumerate() {
        let line = run
            .arrivals
            .counts
            .iter()
            .enumerate()
            .flat_map(|(bin, &count)| {
                [
                    (seconds(run, bin), rate(run, count)),
                    (seconds(run, bin + 1), rate(run, count)),
                ]
            });
        line_of(&mut chart, at, label, line)?;
    }
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(72);
    builder
}

fn color(at: usize) -> RGBColor {
    COLORS[at % COLORS.len()]
}

fn line_of<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    at: usize,
    label: &str,
    points: impl Iterator<Item = (f64, f64)>,
) -> Result<(), DrawError>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let style = color(at).stroke_width(2);
    chart
        .draw_series(LineSeries::new(points, style))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    Ok(())
}

fn legend<'a, 'b: 'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), DrawError>
where
    Cartesian2d<X, Y>: CoordTranslate,
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.9))
        .label_font((FONT, 14))
        .draw()
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

fn nines_of(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn percentile_of(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    let digits = (nines - 2.0).round().max(0.0) as usize;
    format!("{percent:.digits$}%")
}

/// A power of ten in full, the rest as short as it can be said.
fn number(value: f64) -> String {
    if value >= 10.0 {
        let text = format!("{value:.0}");
        let groups: Vec<_> = text.as_bytes().rchunks(3).rev().collect();
        String::from_utf8_lossy(&groups.join(&b","[..])).into_owned()
    } else {
        format!("{}", (value * 1e3).round() / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_say_percentiles_and_numbers_as_people_do() {
        let shown: Vec<_> = [0.0, nines_of(0.5), 1.0, 2.0, 3.0, 4.0]
            .into_iter()
            .map(percentile_of)
            .collect();
        assert_eq!(shown, ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]);
        let shown: Vec<_> = [0.1, 1.0, 10.0, 20_000.0, 1e6]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(shown, ["0.1", "1", "10", "20,000", "1,000,000"]);
    }
}
