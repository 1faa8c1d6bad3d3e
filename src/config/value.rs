//! Values as they were written, with where they stand. Knows what TOML and a command line can say, no setting.

use std::fmt;
use std::path::PathBuf;

/// One value as a flag or the file gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A flag's text, whatever it stands for.
    Written(String),
    Text(String),
    Number(String),
    Flag(bool),
    /// A text that no message shows.
    Secret(String),
    /// What no setting takes: the name of its type in TOML.
    Other(&'static str),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Written(text) | Value::Text(text) | Value::Secret(text) => Some(text),
            _ => None,
        }
    }

    pub fn count(&self) -> Option<u64> {
        match self {
            Value::Written(digits) | Value::Number(digits) => number(digits),
            _ => None,
        }
    }

    pub fn switch(&self) -> Option<bool> {
        match self {
            Value::Flag(flag) => Some(*flag),
            Value::Written(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A number with ms, s, m or h; a number alone counts seconds.
    pub fn time_ms(&self) -> Option<u64> {
        let text = match self {
            Value::Written(text) | Value::Text(text) => text,
            Value::Number(seconds) => return number(seconds)?.checked_mul(1_000),
            Value::Flag(_) | Value::Secret(_) | Value::Other(_) => return None,
        };
        let unit_at = text.find(|c: char| !c.is_ascii_digit());
        let (digits, unit) = text.split_at(unit_at.unwrap_or(text.len()));
        let unit_ms = match unit {
            "ms" => 1,
            "s" | "" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number(digits)?.checked_mul(unit_ms)
    }
}

fn number(digits: &str) -> Option<u64> {
    let numeric = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| numeric)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Written(text) => write!(f, "{}", text.escape_debug()),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Number(digits) => f.write_str(digits),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Secret(_) => f.write_str("(a secret)"),
            Value::Other(name) => write!(f, "({name})"),
        }
    }
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    Flag,
    /// The line counts from 1.
    File {
        path: PathBuf,
        line: usize,
    },
}

/// A value of the setting `key`, with where it was given. As it stands in a message:
/// `fanfare.toml:3: shards = 65`, or `--shards 65`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub key: &'static str,
    pub value: Value,
    pub origin: Origin,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Given { key, value, .. } = self;
        match &self.origin {
            Origin::File { path, line } => write!(f, "{}:{line}: {key} = {value}", path.display()),
            Origin::Flag => write!(f, "--{key} {value}"),
            Origin::Default => write!(f, "{key} = {value} (the default)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_counts_seconds() {
        let time = |text: &str| Value::Text(text.to_owned()).time_ms();
        assert_eq!(time("100ms"), Some(100));
        assert_eq!(time("2s"), Some(2_000));
        assert_eq!(time("2"), Some(2_000));
        assert_eq!(time("5m"), Some(300_000));
        assert_eq!(time("1h"), Some(3_600_000));
        assert_eq!(Value::Number("7".to_owned()).time_ms(), Some(7_000));
        for text in [
            "",
            "s",
            "1 s",
            "-1s",
            "+1s",
            "1.5s",
            "1d",
            "99999999999999999999h",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn what_the_file_says_keeps_its_type() {
        assert_eq!(Value::Text("4".to_owned()).count(), None);
        assert_eq!(Value::Number("4".to_owned()).count(), Some(4));
        assert_eq!(Value::Written("4".to_owned()).count(), Some(4));
        assert_eq!(Value::Text("true".to_owned()).switch(), None);
        assert_eq!(Value::Written("true".to_owned()).switch(), Some(true));
    }
}
