//! Arguments -> config -> run.

use std::process::ExitCode;

use clap::Parser;
use fanfare::config::{Arguments, Config};
use fanfare::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A SIP event-notification publisher for server clusters.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Run a node.
    Serve(Arguments),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let Command::Serve(arguments) = Command::parse();
    let config = match Config::new(&arguments) {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_configuration() => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &dyn std::error::Error, status: u8) -> ExitCode {
    eprintln!("fanfare: {error}");
    ExitCode::from(status)
}
