//! `loadgen plot`: arguments to pictures. Draws nothing itself.

use std::fs;
use std::path::PathBuf;

use crate::curves::{Curves, NoCurves};
use crate::plot::{self, BadTable, Table};

/// Arguments of `loadgen plot`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The picture, as SVG.
    #[arg(long, value_name = "FILE.svg")]
    out: PathBuf,
    #[arg(long, default_value = "")]
    title: String,
    /// Draw a tab-separated table, both axes logarithmic: label, x and y stand in its first three columns under their
    /// names. Lines of one label and x are runs of one thing; a line goes through their medians.
    #[arg(long, value_name = "FILE.tsv", conflicts_with = "runs")]
    table: Option<PathBuf>,
    /// Runs to be drawn in one picture: reports (latency and NOTIFYs over time) or HDR histogram logs (latency).
    #[arg(value_name = "LABEL=FILE", required_unless_present = "table", value_parser = labelled)]
    runs: Vec<(String, PathBuf)>,
}

#[derive(Debug, thiserror::Error)]
#[error("LABEL=FILE is expected")]
struct NoLabel;

fn labelled(text: &str) -> Result<(String, PathBuf), NoLabel> {
    let (label, file) = text.split_once('=').ok_or(NoLabel)?;
    Ok((label.to_owned(), file.into()))
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{path}: {1}", path = .0.display())]
    Run(PathBuf, NoCurves),
    #[error("{path}: {1}", path = .0.display())]
    Read(PathBuf, std::io::Error),
    #[error("{path}: {1}", path = .0.display())]
    Table(PathBuf, BadTable),
    #[error("{path}: {1}", path = .0.display())]
    Draw(PathBuf, plot::Failure),
}

pub fn draw(arguments: Arguments) -> Result<(), Failure> {
    let Arguments {
        out,
        title,
        table,
        runs,
    } = arguments;
    let drawn = match table {
        Some(path) => {
            let text =
                fs::read_to_string(&path).map_err(|error| Failure::Read(path.clone(), error))?;
            let table = Table::parse(&text).map_err(|error| Failure::Table(path, error))?;
            table.draw(&out, &title)
        }
        None => {
            let runs = runs
                .into_iter()
                .map(|(label, path)| match Curves::read(&path) {
                    Ok(curves) => Ok((label, curves)),
                    Err(error) => Err(Failure::Run(path, error)),
                });
            plot::runs(&out, &title, &runs.collect::<Result<Vec<_>, _>>()?)
        }
    };
    drawn.map_err(|error| Failure::Draw(out, error))
}
