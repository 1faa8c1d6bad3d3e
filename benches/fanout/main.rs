//! The fan-out over the kernel, beside its yardsticks: Fanfare and the minimal notifier by turns on the first core, both
//! facing loadgen's swarm on the second. Each ratio is one of runs that stood next to each other.
//!
//! `cargo bench --bench fanout` is a short run; `-- --runs 9 --into results own shared` records.

mod figures;
mod kernel;
mod minimal;
mod process;
mod record;
mod run;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use scenario::Size;

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Yardstick>,
    /// Which scenarios. Without any: the first two, and where they are recorded all that need no million.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(scenario::NAMES))]
    scenarios: Vec<String>,
    /// Interleaved runs of each.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    #[arg(long, default_value_t = 20_000)]
    entities: u32,
    /// Entities where a figure is asked for a million.
    #[arg(long, default_value_t = 1_000_000)]
    million: u32,
    /// Changes measured in a run.
    #[arg(long, default_value_t = 5)]
    changes: u32,
    /// Keep everything in a new folder in here.
    #[arg(long)]
    into: Option<PathBuf>,
    /// cargo says so when it benches.
    #[arg(long, hide = true)]
    bench: bool,
    /// Only see that it works.
    #[arg(long)]
    test: bool,
}

#[derive(Debug, Subcommand)]
enum Yardstick {
    /// Be the minimal notifier.
    Minimal(minimal::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Yardstick::Minimal(flags)) => minimal::serve(flags).map(|()| true),
        None => measure(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fanout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> std::io::Result<bool> {
    // Without --bench cargo only wants to see that it runs.
    let quick = cli.test || !cli.bench;
    let size = if quick {
        Size {
            entities: 300,
            million: 1_000,
            changes: 1,
        }
    } else {
        Size {
            entities: cli.entities,
            million: cli.million,
            changes: cli.changes,
        }
    };
    let names: Vec<&str> = match (&cli.scenarios[..], &cli.into) {
        ([], None) => vec!["own", "shared"],
        ([], Some(_)) => vec![
            "own",
            "shared",
            "subscribing",
            "lossy",
            "storm",
            "herd",
            "shards",
        ],
        (named, _) => named.iter().map(String::as_str).collect(),
    };
    let runs = if quick { 1 } else { cli.runs };
    let record = record::Record::open(cli.into.as_deref())?;
    let mut reached = true;
    for name in names {
        let mut scenario = scenario::scenario(name, size).expect("clap lets no other name pass");
        if quick {
            // A run that is over in a second says nothing of speed, but it must be right.
            scenario.comparisons.clear();
        }
        reached &= run::run(&scenario, runs, &record)?;
    }
    Ok(reached)
}
