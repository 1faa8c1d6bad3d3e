//! `[[probe]]`: the servers that do not publish. Each is checked like a file of its own.

use std::path::Path;

use super::layers::Layers;
use super::setting::{self, Setting};
use super::value::Given;
use super::{ConfigError, address};
use crate::info;
use crate::probe::Probed;

const PROBES_MOST: usize = 1_024;

/// The servers of the file at `path`; of each its line and what is given.
pub fn probes(path: &Path, given: &[(usize, Vec<Given>)]) -> Result<Vec<Probed>, ConfigError> {
    let mut probes: Vec<Probed> = Vec::new();
    for (line, given) in given {
        let layers = Layers::new(&[], given);
        let probe = probe(path, *line, &layers)?;
        let is_known = probes.iter().any(|other| other.id == probe.id);
        if is_known || probes.len() == PROBES_MOST {
            let given = layers.given(&setting::PROBE_ID).remove(0).into();
            return Err(match is_known {
                true => ConfigError::NotAllowed {
                    given,
                    allowed: setting::PROBE_ID.allowed(),
                },
                false => ConfigError::TooMany {
                    given,
                    allowed: format!("at most {PROBES_MOST} servers"),
                },
            });
        }
        probes.push(probe);
    }
    Ok(probes)
}

fn probe(path: &Path, line: usize, layers: &Layers<'_>) -> Result<Probed, ConfigError> {
    let lacks = |setting: &'static Setting| ConfigError::Lacks {
        path: path.to_owned(),
        line,
        table: "probe",
        key: setting.key,
        allowed: setting.allowed(),
    };
    let id = layers.one(&setting::PROBE_ID, |value| {
        value.text().filter(|id| info::is_id(id)).map(Into::into)
    })?;
    let address = layers.one(&setting::PROBE_ADDRESS, address::nameserver)?;
    let services = layers.list(&setting::PROBE_SERVICES, info::MAX_SERVICES, |value| {
        value
            .text()
            .filter(|name| info::is_id(name))
            .map(Box::<str>::from)
    })?;
    Ok(Probed {
        id: id.ok_or_else(|| lacks(&setting::PROBE_ID))?,
        address: address.ok_or_else(|| lacks(&setting::PROBE_ADDRESS))?,
        services,
        priority: layers.number(&setting::PROBE_PRIORITY)?,
        weight: layers.number(&setting::PROBE_WEIGHT)?,
        interval_ms: layers.number(&setting::PROBE_INTERVAL)?,
        down_after: layers.number(&setting::PROBE_DOWN_AFTER)?,
        up_after: layers.number(&setting::PROBE_UP_AFTER)?,
    })
}
