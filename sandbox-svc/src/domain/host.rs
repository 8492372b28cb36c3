//! The level of an engine's host, from what its kernel reports.
//!
//! One critical sample makes the level critical; two samples in a row that are worse than the level make it a
//! warning. The level improves one step at a time, each after two minutes of better samples. An input that
//! could not be read counts as fine.

use std::time::{Duration, Instant};

/// Bytes of available memory: below `.0` the level is `Critical`, below `.1` `Warning`.
const MEMORY: (u64, u64) = (512 << 20, 1 << 30);
/// Share of time in which all tasks stalled on memory (`full avg10` of `/proc/pressure/memory`): above `.0`
/// the level is `Critical`, above `.1` `Warning`.
const STALLED: (f64, f64) = (0.20, 0.05);
/// Free share of the engine's disk: below `.0` the level is `Critical`, below `.1` `Warning`.
const DISK: (f64, f64) = (0.05, 0.15);
/// Number of samples in a row, each worse than the level, that make it a warning. One bad sample may be a
/// short peak.
const BAD_SAMPLES: u32 = 2;
/// Time of better samples after which the level improves by one step.
const RECOVERY: Duration = Duration::from_secs(120);

/// How short of resources a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Sandboxes are created for sessions and for the pool.
    #[default]
    Fine,
    /// No sandbox is created for the pool.
    Warning,
    /// No queued sandbox is taken. Running ones, take-overs and claims from the pool are not affected.
    Critical,
}

/// One reading of the host; an input that could not be read is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Bytes of memory available without swapping.
    pub memory_available: Option<u64>,
    /// Share of the last ten seconds in which all tasks stalled on memory.
    pub memory_stalled: Option<f64>,
    /// Share of the engine's disk that is free.
    pub disk_free: Option<f64>,
}

impl Sample {
    /// Returns the level of this sample alone, which is the level of its worst input.
    pub fn level(&self) -> Level {
        let below = |value: f64, (critical, warning): (f64, f64)| match value {
            value if value < critical => Level::Critical,
            value if value < warning => Level::Warning,
            _ => Level::Fine,
        };
        #[expect(clippy::cast_precision_loss, reason = "compared with a few round numbers")]
        let bytes = |bytes: u64| bytes as f64;
        let memory = self.memory_available.map(|left| below(bytes(left), (bytes(MEMORY.0), bytes(MEMORY.1))));
        let stalled = self.memory_stalled.map(|share| below(-share, (-STALLED.0, -STALLED.1)));
        let disk = self.disk_free.map(|share| below(share, DISK));
        [memory, stalled, disk].into_iter().flatten().max().unwrap_or(Level::Fine)
    }
}

/// The level over time, with hysteresis.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    level: Level,
    /// Samples in a row that are worse than the level.
    bad: u32,
    clean_since: Option<Instant>,
}

impl Gauge {
    /// Adds a sample read at `now`, and returns the level after it.
    pub fn observe(&mut self, sample: &Sample, now: Instant) -> Level {
        let seen = sample.level();
        if seen >= self.level {
            self.clean_since = None;
        } else if now.duration_since(*self.clean_since.get_or_insert(now)) >= RECOVERY {
            self.level = if self.level == Level::Critical { Level::Warning } else { Level::Fine };
            self.clean_since = (self.level > seen).then_some(now);
        }
        self.bad = if seen > self.level { self.bad + 1 } else { 0 };
        if seen > self.level && (seen == Level::Critical || self.bad >= BAD_SAMPLES) {
            self.level = seen;
            self.bad = 0;
        }
        self.level
    }
}

/// Reads the available bytes of memory from the text of `/proc/meminfo`.
pub fn memory_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Reads the share of the last ten seconds in which all tasks stalled on memory, from the text of
/// `/proc/pressure/memory`.
pub fn memory_stalled(pressure: &str) -> Option<f64> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    let percent: f64 =
        line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(mebibytes: u64) -> Sample {
        Sample { memory_available: Some(mebibytes << 20), ..Sample::default() }
    }

    #[test]
    fn the_worst_input_decides_and_a_missing_one_is_ignored() {
        assert_eq!(Sample::default().level(), Level::Fine);
        for (mebibytes, level) in [(511, Level::Critical), (512, Level::Warning), (1024, Level::Fine)] {
            assert_eq!(memory(mebibytes).level(), level, "{mebibytes} MiB");
        }
        let disk = |free| Sample { disk_free: Some(free), ..memory(4000) };
        assert_eq!(
            [disk(0.04), disk(0.1), disk(0.5)].map(|s| s.level()),
            [Level::Critical, Level::Warning, Level::Fine]
        );
        let stalled = |share| Sample { memory_stalled: Some(share), ..memory(4000) };
        assert_eq!(
            [stalled(0.3), stalled(0.1), stalled(0.0)].map(|s| s.level()),
            [Level::Critical, Level::Warning, Level::Fine]
        );
    }

    #[test]
    fn a_warning_takes_two_samples_and_a_critical_one_takes_one() {
        let now = Instant::now();
        let mut gauge = Gauge::default();
        assert_eq!(gauge.observe(&memory(800), now), Level::Fine);
        assert_eq!(gauge.observe(&memory(4000), now), Level::Fine);
        assert_eq!(gauge.observe(&memory(800), now), Level::Fine);
        assert_eq!(gauge.observe(&memory(800), now), Level::Warning);
        assert_eq!(gauge.observe(&memory(100), now), Level::Critical);
    }

    #[test]
    fn levels_are_left_one_at_a_time_after_recovery() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gauge = Gauge::default();
        assert_eq!(gauge.observe(&memory(100), at(0)), Level::Critical);
        for (second, sample, level) in [
            (1, memory(4000), Level::Critical),
            (100, memory(100), Level::Critical),
            (101, memory(4000), Level::Critical),
            (220, memory(4000), Level::Critical),
            (221, memory(4000), Level::Warning),
            (340, memory(4000), Level::Warning),
            (341, memory(4000), Level::Fine),
        ] {
            assert_eq!(gauge.observe(&sample, at(second)), level, "at {second}");
        }
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(memory_available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2048 << 10));
        assert_eq!(memory_available("MemTotal: 9 kB\n"), None);
        let pressure =
            "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=12.50 avg60=0.00 total=5\n";
        assert_eq!(memory_stalled(pressure), Some(0.125));
        assert_eq!(memory_stalled(""), None);
    }
}
