//! This machine's load, 0 to 100, from the texts of /proc/stat and /proc/pressure/cpu; and how busy this process's shards
//! are. Knows not who asks for it.

use std::fs;
use std::io;
use std::time::Instant;

const STAT: &str = "/proc/stat";
/// Missing where the kernel was built without PSI.
const PRESSURE: &str = "/proc/pressure/cpu";
/// The weight of the newest sample, in per cent: taken once a second, a step is told to two thirds after two.
const NEWEST: u32 = 40;

/// The kernel's ticks of all cores since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl Ticks {
    /// proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
    fn parse(stat: &str) -> Option<Ticks> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields = line.split_ascii_whitespace().take(8);
        let ticks: Vec<u64> = fields
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
        let total = ticks.iter().sum::<u64>();
        Some(Ticks {
            busy: total - idle,
            total,
        })
    }
}

/// `some avg10`: the share of the last ten seconds in which a task waited for a core, in per cent.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let avg10 = some
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    avg10
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
}

/// The mean of samples, the newest weighing most.
#[derive(Debug, Default)]
struct Smooth(Option<f64>);

impl Smooth {
    /// Takes one more, and gives the mean as a whole number of 0 to 100.
    fn take(&mut self, sample: f64) -> u8 {
        let newest = f64::from(NEWEST) / 100.0;
        let mean = self
            .0
            .map_or(sample, |mean| mean + newest * (sample - mean));
        self.0 = Some(mean);
        mean.round().clamp(0.0, 100.0) as u8
    }
}

/// Smoothed load from one sample after another.
#[derive(Debug, Default)]
pub struct Gauge {
    last: Option<Ticks>,
    smooth: Smooth,
}

impl Gauge {
    /// Reads the machine's present load, in per cent of all cores; `None` before the second sample.
    pub fn sample(&mut self) -> io::Result<Option<u8>> {
        let stat = fs::read_to_string(STAT)?;
        let pressure = fs::read_to_string(PRESSURE).ok();
        Ok(self.take(&stat, pressure.as_deref()))
    }

    /// The greater of CPU use since the last sample and pressure: a machine whose cores are given to others (steal, a
    /// container's quota) shows it in the second.
    fn take(&mut self, stat: &str, pressure_text: Option<&str>) -> Option<u8> {
        let now = Ticks::parse(stat)?;
        let last = self.last.replace(now)?;
        let total = now
            .total
            .checked_sub(last.total)
            .filter(|total| *total > 0)?;
        let busy = now.busy.saturating_sub(last.busy);
        let used = 100.0 * busy as f64 / total as f64;
        let load = pressure_text.and_then(pressure).unwrap_or(0.0).max(used);
        Some(self.smooth.take(load))
    }
}

/// Names of the shards' threads begin so.
pub const SHARD_THREADS: &str = "shard-";
const TASKS: &str = "/proc/self/task";

/// How busy this process's shards are: the time they ran of the time that passed.
#[derive(Debug, Default)]
pub struct Shards {
    last: Option<(Instant, u64)>,
    smooth: Smooth,
}

impl Shards {
    /// In per cent of the shards' cores, smoothed over the last samples; `None` for the first.
    pub fn sample(&mut self, now: Instant) -> Option<u8> {
        let ran: Vec<u64> = shard_times().unwrap_or_default();
        let total = ran.iter().sum();
        let (then, before) = self.last.replace((now, total))?;
        let passed = now.saturating_duration_since(then).as_nanos() as f64 * ran.len() as f64;
        let busy = total.saturating_sub(before) as f64;
        if passed <= 0.0 {
            return None;
        }
        let load = 100.0 * busy / passed;
        Some(self.smooth.take(load))
    }
}

/// Nanoseconds that each shard's thread has run.
fn shard_times() -> io::Result<Vec<u64>> {
    let mut times = Vec::new();
    for task in fs::read_dir(TASKS)? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.starts_with(SHARD_THREADS) {
            let text = fs::read_to_string(task.join("schedstat"))?;
            times.extend(text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()));
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_shard_is_seen_and_others_are_not() {
        let mut shards = Shards::default();
        let start = Instant::now();
        assert_eq!(shards.sample(start), None);
        let spin = std::thread::Builder::new()
            .name("shard-0".to_owned())
            .spawn(move || {
                let mut shards = Shards::default();
                shards.sample(Instant::now());
                let begun = Instant::now();
                while shard_times().is_ok_and(|times| times.iter().max() < Some(&50_000_000)) {
                    std::hint::spin_loop();
                }
                let wall = begun.elapsed();
                (shards.sample(Instant::now()), wall)
            });
        let (load, wall) = spin.unwrap().join().unwrap();
        // It ran 50 ms of the time that passed, whatever else ran meanwhile.
        let expected = 100.0 * 0.05 / wall.as_secs_f64();
        let load = f64::from(load.unwrap());
        assert!(
            load > 0.0 && load + 1.0 >= expected.min(99.0) * 0.5,
            "{load} {expected}"
        );
    }

    const STAT_TEXT: &str = "cpu  1393280 32966 572056 13343292 6130 0 17875 4523 23933 0\n\
        cpu0 700000 16000 286000 6671000 3000 0 9000 2200 12000 0\nintr 199292954 0\nctxt 38014093\n";
    const PRESSURE_TEXT: &str = "some avg10=12.50 avg60=4.09 avg300=1.85 total=157656722\n\
        full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

    fn stat(busy: u64, idle: u64) -> String {
        format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n")
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let busy = 1_393_280 + 32_966 + 572_056 + 17_875 + 4_523;
        let total = busy + 13_343_292 + 6_130;
        assert_eq!(Ticks::parse(STAT_TEXT), Some(Ticks { busy, total }));
        assert_eq!(pressure(PRESSURE_TEXT), Some(12.5));
    }

    #[test]
    fn other_texts_give_nothing() {
        for text in ["", "cpu0 1 2 3 4", "cpu  1 2", "cpu  a b c d"] {
            assert_eq!(Ticks::parse(text), None, "{text}");
        }
        for text in [
            "",
            "some",
            "some avg60=1.00",
            "some avg10=x",
            "some avg10=101.0",
            "full avg10=1.0",
        ] {
            assert_eq!(pressure(text), None, "{text}");
        }
    }

    #[test]
    fn load_is_the_greater_of_use_and_pressure() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.take(&stat(0, 0), Some(PRESSURE_TEXT)), None);
        assert_eq!(gauge.take(&stat(5, 95), Some(PRESSURE_TEXT)), Some(13));
        let mut gauge = Gauge::default();
        gauge.take(&stat(0, 0), None);
        assert_eq!(gauge.take(&stat(60, 40), Some(PRESSURE_TEXT)), Some(60));
    }

    #[test]
    fn a_step_is_followed_within_seconds() {
        let mut gauge = Gauge::default();
        let (mut busy, mut idle) = (0, 0);
        let mut loads = Vec::new();
        for second in 0..12 {
            if second <= 2 {
                idle += 100
            } else {
                busy += 100
            }
            loads.extend(gauge.take(&stat(busy, idle), None));
        }
        assert_eq!(loads[..2], [0, 0]);
        assert_eq!(loads[2], 40);
        assert!(loads.is_sorted() && loads[10] >= 98, "{loads:?}");
    }

    #[test]
    fn a_clock_that_stands_gives_nothing() {
        let mut gauge = Gauge::default();
        gauge.take(&stat(5, 5), None);
        assert_eq!(gauge.take(&stat(5, 5), None), None);
    }
}
