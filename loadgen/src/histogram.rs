//! HDR histograms as files that the standard tools read: interval logs with compressed V2 histograms, and back. Knows
//! not what is measured; values are microseconds.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

/// Steps to each halving of what is left to 100 %.
const STEPS: u32 = 5;

/// Writes a log of one interval, `lasted` long from `began` on.
pub fn write(
    path: &Path,
    what: &str,
    histogram: &Histogram<u64>,
    began: SystemTime,
    lasted: Duration,
) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    // As the files of HdrHistogram's own HistogramLogWriter begin.
    writeln!(file, "#[Histogram log format version 1.3]")?;
    let mut serializer = V2DeflateSerializer::new();
    let since_epoch = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    IntervalLogWriterBuilder::new()
        .add_comment(&format!(
            "[{what}, in microseconds; the column of maxima in milliseconds]"
        ))
        .with_start_time(began)
        .with_max_value_divisor(1e3)
        .begin_log_with(&mut file, &mut serializer)?
        .write_histogram(histogram, since_epoch, lasted, None)
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    file.flush()
}

/// Why a file is no histogram log.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is no HDR interval log")]
    Log,
    #[error("it has no histogram")]
    Empty,
}

/// The sum of all intervals of a log.
pub fn read(path: &Path) -> Result<Histogram<u64>, Unreadable> {
    let text = fs::read(path)?;
    let mut sum: Option<Histogram<u64>> = None;
    for entry in IntervalLogIterator::new(&text) {
        if let LogEntry::Interval(interval) = entry.map_err(|_| Unreadable::Log)? {
            let histogram = decode(&interval)?;
            match &mut sum {
                Some(sum) => sum.add(histogram).map_err(|_| Unreadable::Log)?,
                None => sum = Some(histogram),
            }
        }
    }
    sum.ok_or(Unreadable::Empty)
}

fn decode(interval: &IntervalLogHistogram<'_>) -> Result<Histogram<u64>, Unreadable> {
    let bytes = STANDARD
        .decode(interval.encoded_histogram())
        .map_err(|_| Unreadable::Log)?;
    let mut histogram = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|_| Unreadable::Log)?;
    histogram.auto(true);
    Ok(histogram)
}

/// Value by quantile, as many points as a picture needs.
pub fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    histogram
        .iter_quantiles(STEPS)
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in 1..100_000 {
            histogram.record(value * 7).unwrap();
        }
        let path = std::env::temp_dir().join(format!("loadgen-{}.hlog", std::process::id()));
        write(
            &path,
            "test",
            &histogram,
            SystemTime::now(),
            Duration::from_secs(3),
        )
        .unwrap();
        let read = read(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), histogram);
    }

    #[test]
    fn percentiles_grow_to_the_greatest_value() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in 1..=1_000 {
            histogram.record(value).unwrap();
        }
        let points = percentiles(&histogram);
        assert!(points.is_sorted());
        assert_eq!(points.last(), Some(&(1.0, 1_000)));
    }
}
