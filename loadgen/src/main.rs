//! loadgen: simulates thousands of SIP entities that subscribe to a notifier, and measures and checks what
//! reaches them. Arguments in, exit status out; the work is the swarm's.

mod curves;
mod dialogs;
mod document;
mod entity;
mod histogram;
mod picture;
mod plan;
mod plans;
mod plot;
mod progress;
mod publication;
mod publisher;
mod pubsub;
mod report;
mod rounds;
mod sip;
mod socket;
mod swarm;
mod timeline;
mod wheel;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

use crate::plan::{Flags, Plan};
use crate::plans::BadPlan;
use crate::progress::Progress;
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
    /// Run by a named plan, or by one kept in a file.
    Plan(plans::Arguments),
    /// The same measured with Redis or NATS: subscribers over TCP, and nothing is acknowledged.
    Pubsub(pubsub::Arguments),
    /// Draw recorded runs in one picture, or a table of figures.
    Plot(picture::Arguments),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(flags) => run(*flags),
        Command::Plan(arguments) => run_plan(&arguments),
        Command::Pubsub(arguments) => match pubsub::run(&arguments) {
            Ok(right) => ExitCode::from(u8::from(!right)),
            Err(failure) => refuse(failure, 3),
        },
        Command::Plot(arguments) => match picture::draw(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => refuse(failure, 2),
        },
    }
}

fn refuse(reason: impl Display, status: u8) -> ExitCode {
    eprintln!("loadgen: {reason}");
    ExitCode::from(status)
}

fn run_plan(arguments: &plans::Arguments) -> ExitCode {
    let text = match (&arguments.show, &arguments.plan) {
        (Some(name), _) => plans::show(name).map(str::to_owned),
        (None, Some(plan)) => match plans::flags(plan, &arguments.flags) {
            Ok(flags) => return run(flags),
            Err(BadPlan::Flags(error)) => error.exit(),
            Err(refusal) => Err(refusal),
        },
        (None, None) => Ok(plans::list()),
    };
    match text {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(refusal) => refuse(refusal, 2),
    }
}

fn run(flags: Flags) -> ExitCode {
    let plan = match Plan::check(flags) {
        Ok(plan) => plan,
        Err(refusal) => return refuse(refusal, 2),
    };
    match carry_out(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => refuse(failure, 3),
    }
}

/// Whether all was right.
fn carry_out(plan: &Plan) -> Result<bool, Failure> {
    if let Some(folder) = &plan.report {
        // Before the run: a report that cannot be kept is found out at once.
        std::fs::create_dir_all(folder).map_err(plot::Failure::from)?;
    }
    let report = swarm::run(plan, Progress::new())?;
    report
        .write(plan.json.as_deref())
        .map_err(plot::Failure::from)?;
    if let Some(folder) = &plan.report {
        report.keep(folder)?;
    }
    Ok(report.is_right())
}
