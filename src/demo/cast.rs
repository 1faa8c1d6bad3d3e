//! The processes of the demonstration: this program again, in other parts. Each dies with the one that started it. Knows no SIP.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::tool::ToolError;

/// How long a process may take until it is ready; one that is told to end may take as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Flags of `fanfare demo part`.
#[derive(Debug, Clone, Args)]
pub struct Part {
    /// The process that it dies with
    #[arg(long)]
    with: i32,
    /// What to be: arguments of this program
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

/// Becomes what the arguments say, and dies with its parent. Returns where that cannot be.
pub fn become_part(part: &Part) -> ToolError {
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(error) = bound {
        return ToolError::io("parent's death signal")(error.into());
    }
    // It may have died before.
    if getppid().map(Pid::as_raw_pid) != Some(part.with) {
        return ToolError::io("parent")(io::ErrorKind::NotFound.into());
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return ToolError::io("own program")(error),
    };
    let error = std::process::Command::new(program)
        .args(&part.arguments)
        .exec();
    ToolError::io("exec")(error)
}

/// A process that plays a part.
#[derive(Debug)]
pub struct Player {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Player {
    pub fn start(arguments: &[&str]) -> Result<Player, ToolError> {
        let program = std::env::current_exe().map_err(ToolError::io("own program"))?;
        let with = std::process::id().to_string();
        let mut child = Command::new(program)
            .args(["demo", "part", "--with", &with, "--"])
            .args(arguments)
            // Only what goes wrong: deaths are part of the play.
            .env("FANFARE_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(ToolError::io("process"))?;
        let stdout = child.stdout.take().expect("it is piped");
        Ok(Player {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// The next line that it says. May be given up at any await.
    pub async fn line(&mut self) -> Result<String, ToolError> {
        let line = self
            .lines
            .next_line()
            .await
            .map_err(ToolError::io("process"))?;
        let gone = || ToolError::io("process")(io::ErrorKind::UnexpectedEof.into());
        line.ok_or_else(gone)
    }

    /// Waits until it says that it is ready, and gives the addresses that it names.
    pub async fn ready(&mut self) -> Result<Ready, ToolError> {
        let line = async {
            loop {
                let line = self.line().await?;
                if line.contains(" ready ") {
                    return Ok(Ready(line));
                }
            }
        };
        let late = |_| ToolError::io("process")(io::ErrorKind::TimedOut.into());
        timeout(PATIENCE, line).await.map_err(late)?
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<(), ToolError> {
        self.child.kill().await.map_err(ToolError::io("kill"))
    }

    /// SIGTERM.
    pub fn tell_to_end(&self) -> Result<(), ToolError> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let told = kill_process(pid.expect("it was not waited for"), Signal::TERM);
        told.map_err(|error| ToolError::io("kill")(error.into()))
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> Result<(), ToolError> {
        let late = |_| ToolError::io("process")(io::ErrorKind::TimedOut.into());
        let ended = timeout(PATIENCE, self.child.wait()).await.map_err(late)?;
        ended.map(drop).map_err(ToolError::io("process"))
    }
}

/// What a process says when it is ready.
#[derive(Debug)]
pub struct Ready(String);

impl Ready {
    /// The address under this name.
    pub fn at(&self, name: &str) -> Result<SocketAddr, ToolError> {
        let mut fields = self.0.split(' ').filter_map(|field| field.split_once('='));
        let value = fields
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse().ok());
        let missing =
            || ToolError::io("process")(io::Error::other(format!("no {name} in: {}", self.0)));
        value.ok_or_else(missing)
    }
}
