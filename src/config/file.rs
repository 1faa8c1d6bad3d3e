//! The configuration file: TOML into values with their lines. Knows which keys there are, not what they mean.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::setting::{ADAPTER_SETTINGS, Allowed, FILE_SETTINGS, PROBE_SETTINGS, SETTINGS, Setting};
use super::value::{Given, Origin, Value};

/// A file larger than this is no configuration.
const FILE_MOST: u64 = 1 << 20;

/// What a file says.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its settings, in the order of their keys.
    pub given: Vec<Given>,
    /// Those of each `[[probe]]`, and its line.
    pub probes: Vec<(usize, Vec<Given>)>,
    /// Those of each `[[adapter]]`, and its line.
    pub adapters: Vec<(usize, Vec<Given>)>,
}

/// The keys of tables of which there may be several.
const PROBE: &str = "probe";
const ADAPTER: &str = "adapter";

pub fn read(path: &Path) -> Result<Contents, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_MOST {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
        });
    }
    parse(path, &fs::read_to_string(path).map_err(unreadable)?)
}

/// The settings in the text of the file at `path`.
pub fn parse(path: &Path, text: &str) -> Result<Contents, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', "; "),
    })?;
    let mut contents = Contents {
        given: Vec::new(),
        probes: tables(path, text, &table, PROBE, &PROBE_SETTINGS)?,
        adapters: tables(path, text, &table, ADAPTER, &ADAPTER_SETTINGS)?,
    };
    let known: Vec<&'static Setting> = SETTINGS.into_iter().chain(FILE_SETTINGS).collect();
    read_table(path, text, "", &known, table.get_ref(), &mut contents.given)?;
    Ok(contents)
}

/// What each table of this name says, and its line.
fn tables(
    path: &Path,
    text: &str,
    whole: &Spanned<DeTable<'_>>,
    name: &str,
    known: &[&'static Setting],
) -> Result<Vec<(usize, Vec<Given>)>, ConfigError> {
    let mut found = Vec::new();
    let Some(DeValue::Array(tables)) = whole.get_ref().get(name).map(Spanned::get_ref) else {
        return Ok(found);
    };
    for table in tables {
        let line = line_of(text, table.span().start);
        let mut given = Vec::new();
        if let DeValue::Table(table) = table.get_ref() {
            read_table(path, text, &format!("{name}-"), known, table, &mut given)?;
        }
        found.push((line, given));
    }
    Ok(found)
}

/// A table's keys have its name in front of theirs: `secret` in `[cluster]` is `cluster-secret`.
fn read_table(
    path: &Path,
    text: &str,
    prefix: &str,
    known: &[&'static Setting],
    table: &DeTable<'_>,
    given: &mut Vec<Given>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let line = line_of(text, key.span().start);
        let mut name = format!("{prefix}{}", key.get_ref());
        if prefix.starts_with(PROBE) || prefix.starts_with(ADAPTER) {
            // Its keys are written either way where servers are listed.
            name = name.replace('_', "-");
        }
        let setting = known.iter().find(|setting| setting.key == name);
        if let (None, DeValue::Table(inner)) = (setting, value.get_ref()) {
            read_table(path, text, &format!("{name}-"), known, inner, given)?;
            continue;
        }
        let are_tables =
            || matches!(value.get_ref(), DeValue::Array(array) if array.iter().all(is_table));
        if [PROBE, ADAPTER].contains(&&*name) && are_tables() {
            continue;
        }
        let setting = setting.ok_or(ConfigError::UnknownKey {
            path: path.to_owned(),
            line,
            key: name.escape_debug().to_string(),
        })?;
        let elements = match value.get_ref() {
            DeValue::Array(array) if setting.is_list => array.iter().collect(),
            _ => vec![value],
        };
        given.extend(elements.into_iter().map(|element| Given {
            key: setting.key,
            value: value_of(element, setting),
            origin: Origin::File {
                path: path.to_owned(),
                line: line_of(text, element.span().start),
            },
        }));
    }
    Ok(())
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

fn value_of(value: &Spanned<DeValue<'_>>, setting: &Setting) -> Value {
    match value.get_ref() {
        DeValue::String(text) if matches!(setting.allowed, Allowed::Secret(_)) => {
            Value::Secret(text.to_string())
        }
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Number(number.to_string()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(_) => Value::Other("an array"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// The line, from 1, of a byte of the text.
fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
