//! What is wrong with a configuration, in one line: where, the key, the value, what is allowed. Knows no setting.

use std::io;
use std::path::PathBuf;

use super::value::Given;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: longer than a MiB, so no configuration", path.display())]
    TooLong { path: PathBuf },
    #[error("{}:{line}: no TOML: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("{}:{line}: unknown key {key}; the keys are those of `fanfare serve --help`", path.display())]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
    },
    #[error("{}:{line}: [[{table}]] without {key}; allowed: {allowed}", path.display())]
    Lacks {
        path: PathBuf,
        line: usize,
        table: &'static str,
        key: &'static str,
        allowed: String,
    },
    #[error("{}:{line}: one [[{table}]] too many; allowed: at most {most}", path.display())]
    TooManyTables {
        path: PathBuf,
        line: usize,
        table: &'static str,
        most: usize,
    },
    #[error("{given}: not allowed; allowed: {allowed}")]
    NotAllowed { given: Box<Given>, allowed: String },
    #[error("{given}: covered by {other}; allowed: {allowed}")]
    Repeated {
        given: Box<Given>,
        other: Box<Given>,
        allowed: String,
    },
    #[error("{given}: one too many; allowed: {allowed}")]
    TooMany { given: Box<Given>, allowed: String },
    #[error("{greater}: below {lesser}; allowed: no less than that")]
    BelowLesser {
        greater: Box<Given>,
        lesser: Box<Given>,
    },
    #[error("{given}: {source}")]
    NoFile {
        given: Box<Given>,
        source: io::Error,
    },
    #[error("{given}: a node is in one cluster, by {other} or by this")]
    Either {
        given: Box<Given>,
        other: &'static str,
    },
    #[error("{given}: means nothing without {other}")]
    Needs {
        given: Box<Given>,
        other: &'static str,
    },
    #[error(
        "{given}: no default route to learn its address from ({source}); set advertise to the address that others send to"
    )]
    NoRoute {
        given: Box<Given>,
        source: io::Error,
    },
}
