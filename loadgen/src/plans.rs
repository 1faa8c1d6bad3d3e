//! Named plans: small TOML files whose keys are the names of `loadgen run`'s flags. Turns a file and what the command
//! line says beside it into those flags; knows none of them by name.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use clap::builder::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, Args, Command, FromArgMatches};
use toml::de::{DeTable, DeValue};

use crate::plan::Flags;

/// Name and text of the plans that come with loadgen.
const PLANS: &[(&str, &str)] = &[
    ("steady", include_str!("../plans/steady.toml")),
    ("storm", include_str!("../plans/storm.toml")),
    ("herd", include_str!("../plans/herd.toml")),
    ("churn", include_str!("../plans/churn.toml")),
    ("lossy", include_str!("../plans/lossy.toml")),
    ("million", include_str!("../plans/million.toml")),
];

/// What an error of the command line calls it.
const NAME: &str = "loadgen plan";

/// Arguments of `loadgen plan`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// Name the plans that come with loadgen, and what each is for.
    #[arg(long, exclusive = true)]
    pub list: bool,
    /// Print a plan that comes with loadgen, to be changed and kept.
    #[arg(long, value_name = "NAME", exclusive = true)]
    pub show: Option<String>,
    /// A plan that comes with loadgen, or a file; its keys are the names of `loadgen run`'s flags.
    #[arg(value_name = "NAME|FILE.toml")]
    pub plan: Option<String>,
    /// Flags of `loadgen run`; they override the plan's. `--target` at least is wanted.
    #[arg(
        value_name = "FLAGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub flags: Vec<String>,
}

/// Why a plan is none.
#[derive(Debug, thiserror::Error)]
pub enum BadPlan {
    #[error(
        "no plan is named `{name}`; there are {}, and a file's name ends in .toml",
        names()
    )]
    Name { name: String },
    #[error("{file}: {error}")]
    File { file: String, error: io::Error },
    #[error("{file} line {line}: {reason}")]
    Syntax {
        file: String,
        line: usize,
        reason: String,
    },
    #[error(
        "{file} line {line}: {key}: no flag of `loadgen run` has this name; there are {allowed}"
    )]
    Key {
        file: String,
        line: usize,
        key: String,
        allowed: String,
    },
    #[error("{file} line {line}: {key} = {value}: {allowed}")]
    Value {
        file: String,
        line: usize,
        key: String,
        value: String,
        allowed: String,
    },
    #[error("{0}")]
    Flags(#[from] clap::Error),
}

fn names() -> String {
    let names: Vec<_> = PLANS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// A line a plan: its name and its first comment.
pub fn list() -> String {
    let line = |(name, text): &(&str, &str)| {
        let purpose = text.lines().next().unwrap_or_default();
        format!("{name:9}{}\n", purpose.trim_start_matches("# "))
    };
    PLANS.iter().map(line).collect()
}

pub fn show(name: &str) -> Result<&'static str, BadPlan> {
    let plan = PLANS.iter().find(|(known, _)| *known == name);
    plan.map(|(_, text)| *text).ok_or_else(|| BadPlan::Name {
        name: name.to_owned(),
    })
}

/// The flags of a plan, overridden by those that the command line gives.
pub fn flags(plan: &str, given: &[String]) -> Result<Flags, BadPlan> {
    let text = if Path::new(plan).extension().is_some_and(|end| end == "toml") {
        fs::read_to_string(plan).map_err(|error| BadPlan::File {
            file: plan.to_owned(),
            error,
        })?
    } else {
        show(plan)?.to_owned()
    };
    let settings = settings(plan, &text)?;
    let overridden = overridden(given)?;
    let of_plan = settings
        .into_iter()
        .filter(|setting| !overridden.contains(&setting.key))
        .flat_map(|setting| setting.arguments);
    let arguments = std::iter::once(NAME.to_owned())
        .chain(of_plan)
        .chain(given.iter().cloned());
    let mut matches = command().try_get_matches_from(arguments)?;
    Ok(Flags::from_arg_matches_mut(&mut matches)?)
}

fn command() -> Command {
    Flags::augment_args(Command::new(NAME))
}

/// The flags with none of them required, to look at a few by themselves.
fn lenient() -> Command {
    command().mut_args(|flag| flag.required(false))
}

/// Names of the flags that the command line gives, and of those that contradict them.
fn overridden(given: &[String]) -> Result<BTreeSet<String>, BadPlan> {
    let mut command = lenient();
    command.build();
    let arguments = std::iter::once(NAME).chain(given.iter().map(String::as_str));
    let matches = command.clone().try_get_matches_from(arguments)?;
    let is_given =
        |flag: &Arg| matches.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine);
    let contradicts = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|flag| flag.get_id() == other.get_id())
    };
    let given: Vec<&Arg> = command
        .get_arguments()
        .filter(|flag| is_given(flag))
        .collect();
    Ok(command
        .get_arguments()
        .filter(|flag| {
            is_given(flag)
                || given
                    .iter()
                    .any(|other| contradicts(flag, other) || contradicts(other, flag))
        })
        .filter_map(|flag| flag.get_long().map(str::to_owned))
        .collect())
}

/// One key of a plan as arguments.
#[derive(Debug)]
struct Setting {
    key: String,
    arguments: Vec<String>,
}

fn settings(file: &str, text: &str) -> Result<Vec<Setting>, BadPlan> {
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| BadPlan::Syntax {
        file: file.to_owned(),
        line: line_of(error.span().map_or(0, |span| span.start)),
        reason: error.message().replace('\n', ", "),
    })?;
    let command = lenient();
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let name = key.get_ref().as_ref();
        let flag = command
            .get_arguments()
            .find(|flag| flag.get_long() == Some(name));
        let flag = flag.ok_or_else(|| BadPlan::Key {
            file: file.to_owned(),
            line,
            key: name.to_owned(),
            allowed: keys(&command),
        })?;
        let arguments = arguments(flag, name, value.get_ref()).and_then(|arguments| {
            accept(&command, &arguments)?;
            Ok(arguments)
        });
        let arguments = arguments.map_err(|allowed| BadPlan::Value {
            file: file.to_owned(),
            line,
            key: name.to_owned(),
            value: text[value.span()].to_owned(),
            allowed,
        })?;
        settings.push(Setting {
            key: name.to_owned(),
            arguments,
        });
    }
    Ok(settings)
}

fn keys(command: &Command) -> String {
    let keys: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
    keys.join(", ")
}

/// A key and its value as the command line would have them; what is allowed, where they cannot be.
fn arguments(flag: &Arg, name: &str, value: &DeValue) -> Result<Vec<String>, String> {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return match value {
            DeValue::Boolean(true) => Ok(vec![format!("--{name}")]),
            DeValue::Boolean(false) => Ok(Vec::new()),
            _ => Err("true or false is allowed".to_owned()),
        };
    }
    let values = match value {
        DeValue::Array(values) => values.iter().map(|value| scalar(value.get_ref())).collect(),
        value => vec![scalar(value)],
    };
    values
        .into_iter()
        .map(|value| Some(format!("--{name}={}", value?)))
        .collect::<Option<_>>()
        .ok_or_else(|| "a number or a string is allowed".to_owned())
}

fn scalar(value: &DeValue) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// Whether the command line would take these; what is allowed, where not.
fn accept(command: &Command, arguments: &[String]) -> Result<(), String> {
    let arguments = std::iter::once(NAME).chain(arguments.iter().map(String::as_str));
    let Err(error) = command.clone().try_get_matches_from(arguments) else {
        return Ok(());
    };
    Err(match (error.kind(), error.get(ContextKind::ValidValue)) {
        (_, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            format!("one of {} is allowed", values.join(", "))
        }
        (ErrorKind::ArgumentConflict, _) => "one value is allowed".to_owned(),
        (kind, _) => match error.source() {
            Some(source) => source.to_string(),
            None => kind.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn given(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn refused(text: &str) -> String {
        settings("x.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn every_plan_needs_a_target_and_no_more() {
        for (name, text) in PLANS {
            let flags = flags(name, &given("--target 127.0.0.1:5060")).unwrap();
            assert!(Plan::check(flags).is_ok(), "{name}");
            assert!(super::flags(name, &[]).is_err(), "{name}");
            assert!(text.starts_with("# "), "{name} says what it is for");
        }
    }

    #[test]
    fn the_command_line_overrides_the_plan() {
        let line = "--target 127.0.0.1:5060 --hops 7 --entities=50";
        let plan = Plan::check(flags("steady", &given(line)).unwrap()).unwrap();
        assert_eq!((plan.entities, plan.hops, plan.sockets), (50, Some(7), 16));
    }

    #[test]
    fn a_bad_key_is_named_with_its_line() {
        let refusal = refused("# purpose\n\nentitys = 5\n");
        assert!(
            refusal.starts_with("x.toml line 3: entitys: no flag of `loadgen run` has this name; there are target, publish-to, entities, "),
            "{refusal}"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (text, refusal) in [
            ("loss = 1.5", "loss = 1.5: a share from 0 to 1 is allowed"),
            (
                "sockets = \"many\"",
                "sockets = \"many\": a whole number from 1 to 1024 is allowed",
            ),
            (
                "sockets = 0",
                "sockets = 0: a whole number from 1 to 1024 is allowed",
            ),
            ("sockets = [1, 2]", "sockets = [1, 2]: one value is allowed"),
            (
                "own-address = 1",
                "own-address = 1: true or false is allowed",
            ),
            (
                "format = \"cbor\"",
                "format = \"cbor\": one of xml, json is allowed",
            ),
            ("grace = {}", "grace = {}: a number or a string is allowed"),
        ] {
            assert_eq!(refused(text), format!("x.toml line 1: {refusal}"));
        }
        assert!(refused("a = 1\nb = = 2").starts_with("x.toml line 2: "));
    }

    #[test]
    fn an_unknown_plan_is_answered_with_the_known() {
        let refusal = flags("stedy", &[]).unwrap_err().to_string();
        assert!(
            refusal.contains("`stedy`") && refusal.contains("steady, storm"),
            "{refusal}"
        );
    }
}
