//! The flags of `fanfare serve`, made from the table of settings: raw texts, unchecked. Knows no meaning of any.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};

use super::setting::{Preset, SETTINGS, Setting};
use super::value::{Given, Origin, Value};

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The file with further settings.
    pub file: Option<PathBuf>,
    pub given: Vec<Given>,
}

impl clap::Args for Arguments {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::FilePath)
            .help("TOML file with settings: keys as the flags are named, lists as arrays, a table's name before its keys (id in [cluster] is cluster-id), cluster-secret, etcd-user, etcd-password, etcd-ca and etcd-cert; flags override it");
        command.arg(file).args(SETTINGS.map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Preset::Text(text) | Preset::Found(text) => text,
    };
    let repeated = if setting.is_list { " (repeatable)" } else { "" };
    let action = if setting.is_list {
        ArgAction::Append
    } else {
        ArgAction::Set
    };
    Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.value_name)
        .action(action)
        // A value such as -1 reaches the check, which says what is allowed.
        .allow_hyphen_values(true)
        .help(format!("{}{repeated} [default: {default}]", setting.help))
        .long_help(format!(
            "{}{repeated}\n[default: {default}]\n[allowed: {}]",
            setting.help,
            setting.allowed()
        ))
}

impl clap::FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Arguments::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one("config").cloned();
        for setting in SETTINGS {
            let texts = matches
                .try_get_many::<String>(setting.key)
                .map_err(|_| clap::Error::new(ErrorKind::UnknownArgument))?
                .into_iter()
                .flatten();
            self.given
                .extend(texts.flat_map(|text| flag_values(setting, text)));
        }
        Ok(())
    }
}

/// The values in a flag's text: a list may stand between commas.
pub(super) fn flag_values(setting: &'static Setting, text: &str) -> Vec<Given> {
    values(setting, text, &Origin::Flag)
}

/// The values of a setting's default text.
pub(super) fn default_values(setting: &'static Setting) -> Vec<Given> {
    match setting.default {
        Preset::Text(text) => values(setting, text, &Origin::Default),
        Preset::Found(_) => Vec::new(),
    }
}

fn values(setting: &'static Setting, text: &str, origin: &Origin) -> Vec<Given> {
    let given = |text: &str| Given {
        key: setting.key,
        value: Value::Written(text.to_owned()),
        origin: origin.clone(),
    };
    if setting.is_list {
        text.split(',').map(given).collect()
    } else {
        vec![given(text)]
    }
}
