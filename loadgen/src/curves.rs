//! What of a run can be drawn: latency by percentile, arrivals over time. Read back from a report or a histogram log.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::histogram::{self, Unreadable};
use crate::timeline::OverTime;

/// The curves of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Quantile and microseconds.
    #[serde(serialize_with = "in_one_line")]
    pub percentiles: Vec<(f64, u64)>,
    #[serde(serialize_with = "in_one_line")]
    pub arrivals: OverTime,
}

/// A pretty report stays readable: hundreds of numbers do not take a line each.
fn in_one_line<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::value::to_raw_value(value)
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

/// The part of a report that is read back.
#[derive(Debug, Deserialize)]
struct Drawn {
    curves: Curves,
}

/// Why there are no curves in a file.
#[derive(Debug, thiserror::Error)]
pub enum NoCurves {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is no report of loadgen: {0}")]
    Report(#[from] serde_json::Error),
    #[error("{0}")]
    Log(#[from] Unreadable),
}

impl Curves {
    /// Of a histogram log if its name ends in `.hlog`, else of a report.
    pub fn read(path: &Path) -> Result<Curves, NoCurves> {
        if path.extension() == Some(OsStr::new("hlog")) {
            let histogram = histogram::read(path)?;
            return Ok(Curves {
                percentiles: histogram::percentiles(&histogram),
                arrivals: OverTime::default(),
            });
        }
        let drawn: Drawn = serde_json::from_slice(&fs::read(path)?)?;
        Ok(drawn.curves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_in_a_report_are_read_back() {
        let curves = Curves {
            percentiles: vec![(0.5, 12), (1.0, 99)],
            arrivals: OverTime {
                bin_ms: 10,
                counts: vec![3, 0, 4],
            },
        };
        let text = serde_json::to_string_pretty(&serde_json::json!({ "curves": curves })).unwrap();
        let drawn: Drawn = serde_json::from_str(&text).unwrap();
        assert_eq!(drawn.curves, curves);
        let text = serde_json::to_string_pretty(&curves).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
