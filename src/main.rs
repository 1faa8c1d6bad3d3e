//! `fanfare`: arguments -> configuration -> run. Knows no protocol; says every error in one line.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use fanfare::config::{self, Config};
use fanfare::{adapt, demo, log, pick, publish, server, tool, watch};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Service information of a server cluster over SIP: servers publish what they are and how loaded they are, and every
/// subscribed SIP entity hears it at once when it changes.
///
/// FANFARE_LOG sets what is logged to standard error: error, warn, info (the default), debug, trace.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a notifier: take publications and subscriptions, notify
    Serve(config::Arguments),
    /// Publish a server's entry and refresh it until stopped, then remove it
    Publish(publish::Arguments),
    /// Subscribe and show the table of servers as it changes
    Watch(watch::Arguments),
    /// Say which server new work should go to, by status, priority, weight and load
    Pick(pick::Arguments),
    /// Show on this machine what happens when servers and nodes die: nodes, servers, entities and calls, in half a minute
    Demo(demo::Arguments),
    /// Let equipment profit that knows nothing of service information
    Adapt(adapt::Arguments),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error(transparent)]
    Tool(#[from] tool::ToolError),
}

impl Failure {
    /// 2: what was asked cannot be done here; 1: it was begun and failed; 3: a tool's peer was silent.
    fn exit_status(&self) -> u8 {
        match self {
            Failure::Config(_) => 2,
            Failure::Server(error) if error.is_configuration() => 2,
            Failure::Server(_) => 1,
            Failure::Tool(error) => error.exit_status(),
        }
    }
}

fn main() -> ExitCode {
    log::start();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return help(&error),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fanfare: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => {
            let config = Config::new(&arguments)?;
            for caution in config.cautions() {
                tracing::warn!("{caution}");
            }
            server::run(config)?;
        }
        Command::Publish(arguments) => tool::drive(publish::run(arguments))?,
        Command::Watch(arguments) => tool::drive(watch::run(arguments))?,
        Command::Demo(arguments) => tool::drive(demo::run(arguments))?,
        Command::Adapt(arguments) => tool::drive(adapt::run(arguments))?,
        Command::Pick(arguments) => tool::drive(pick::run(arguments))?,
    }
    Ok(())
}

/// Help where it was asked for or nothing was; else what is wrong with the arguments.
fn help(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => eprintln!("fanfare: {}", tool::one_line(&error.to_string())),
    }
    ExitCode::from(2)
}
