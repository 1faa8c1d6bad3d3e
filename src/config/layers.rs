//! Flags over file over defaults, and a typed look at each setting. Knows no setting's meaning.

use super::ConfigError;
use super::arguments::default_values;
use super::setting::Setting;
use super::value::{Given, Value};

/// The values given, the stronger layer first.
#[derive(Debug)]
pub struct Layers<'a> {
    flags: &'a [Given],
    file: &'a [Given],
}

impl<'a> Layers<'a> {
    pub fn new(flags: &'a [Given], file: &'a [Given]) -> Self {
        Layers { flags, file }
    }

    /// The values of the strongest layer that names the setting.
    pub fn given(&self, setting: &'static Setting) -> Vec<Given> {
        [self.flags, self.file]
            .into_iter()
            .map(|layer| of_key(layer, setting.key))
            .find(|given| !given.is_empty())
            .unwrap_or_else(|| default_values(setting))
    }

    /// The setting's value as `parse` understands it; `None` where neither flag, file nor table give one.
    pub fn one<T>(
        &self,
        setting: &'static Setting,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.given(setting).pop() {
            Some(given) => read(setting, given, parse).map(|(_, value)| Some(value)),
            None => Ok(None),
        }
    }

    /// At most `most` values, no two equal.
    pub fn list<T: PartialEq>(
        &self,
        setting: &'static Setting,
        most: usize,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        self.distinct(setting, most, parse, T::eq)
    }

    /// At most `most` values, none of which `covers` an earlier one.
    pub fn distinct<T>(
        &self,
        setting: &'static Setting,
        most: usize,
        parse: impl Fn(&Value) -> Option<T>,
        covers: impl Fn(&T, &T) -> bool,
    ) -> Result<Vec<T>, ConfigError> {
        let mut values: Vec<(Given, T)> = Vec::new();
        for given in self.given(setting) {
            let (given, value) = read(setting, given, &parse)?;
            let allowed = || setting.allowed();
            if let Some((other, _)) = values.iter().find(|(_, other)| covers(&value, other)) {
                return Err(ConfigError::Repeated {
                    given: given.into(),
                    other: other.clone().into(),
                    allowed: allowed(),
                });
            }
            if values.len() == most {
                return Err(ConfigError::TooMany {
                    given: given.into(),
                    allowed: allowed(),
                });
            }
            values.push((given, value));
        }
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }

    /// A number that the setting's bounds allow; those bounds fit `N`.
    pub fn number<N: TryFrom<u64>>(&self, setting: &'static Setting) -> Result<N, ConfigError> {
        let number = self.optional_number(setting)?;
        Ok(number.expect("a number that is not optional has a default"))
    }

    pub fn optional_number<N: TryFrom<u64>>(
        &self,
        setting: &'static Setting,
    ) -> Result<Option<N>, ConfigError> {
        self.one(setting, |value| N::try_from(setting.number(value)?).ok())
    }

    pub fn switch(&self, setting: &'static Setting) -> Result<bool, ConfigError> {
        let switch = self.one(setting, Value::switch)?;
        Ok(switch.expect("a switch has a default"))
    }

    /// The place of the word given among those allowed.
    pub fn word(&self, setting: &'static Setting) -> Result<usize, ConfigError> {
        let place = self.one(setting, |value| setting.word(value))?;
        Ok(place.expect("a choice has a default"))
    }

    /// Holds numbers of one unit to their order: each is at least the one before.
    pub fn ascending<const N: usize>(
        &self,
        settings: [&'static Setting; N],
    ) -> Result<(), ConfigError> {
        for pair in settings.windows(2) {
            let (lesser, greater) = (self.given(pair[0]).pop(), self.given(pair[1]).pop());
            let (Some(lesser), Some(greater)) = (lesser, greater) else {
                continue;
            };
            if pair[0].number(&lesser.value) > pair[1].number(&greater.value) {
                let (greater, lesser) = (greater.into(), lesser.into());
                return Err(ConfigError::BelowLesser { greater, lesser });
            }
        }
        Ok(())
    }
}

fn of_key(layer: &[Given], key: &str) -> Vec<Given> {
    layer
        .iter()
        .filter(|given| given.key == key)
        .cloned()
        .collect()
}

fn read<T>(
    setting: &Setting,
    given: Given,
    parse: impl Fn(&Value) -> Option<T>,
) -> Result<(Given, T), ConfigError> {
    match parse(&given.value) {
        Some(value) => Ok((given, value)),
        None => Err(ConfigError::NotAllowed {
            given: given.into(),
            allowed: setting.allowed(),
        }),
    }
}
