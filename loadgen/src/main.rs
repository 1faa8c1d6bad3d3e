//! loadgen: simulates thousands of SIP entities that subscribe to a notifier, and measures and checks what
//! reaches them. Arguments in, exit status out; the work is the swarm's.

mod dialogs;
mod document;
mod entity;
mod plan;
mod publication;
mod publisher;
mod report;
mod rounds;
mod sip;
mod socket;
mod swarm;
mod wheel;

use std::process::ExitCode;

use clap::Parser;

use crate::plan::{Flags, Plan};
use crate::report::Progress;
use crate::swarm::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load generator and checker for SIPserver notifiers.
///
/// Exit status: 0 all right; 1 an entity missed a change, lost its subscription, or the notifier broke an order;
/// 2 wrong usage; 3 the target did not answer or does not take what a run needs.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Subscribe, change, measure, check, unsubscribe, report.
    Run(Box<Flags>),
}

fn main() -> ExitCode {
    let Command::Run(flags) = Cli::parse().command;
    let plan = match Plan::check(*flags) {
        Ok(plan) => plan,
        Err(refusal) => {
            eprintln!("loadgen: {refusal}");
            return ExitCode::from(2);
        }
    };
    match run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            ExitCode::from(3)
        }
    }
}

/// Whether all was right.
fn run(plan: &Plan) -> Result<bool, Failure> {
    let report = swarm::run(plan, Progress::new())?;
    report
        .write(plan.json.as_deref())
        .map_err(Failure::Report)?;
    Ok(report.is_right())
}
