//! Output of the benchmarks: one line with our value, the value of a baseline from the same run, their ratio,
//! the floor (the bound of the ratio) and the verdict.
//!
//! `fsync` takes almost no time on the disk of a test machine, so our value and the baseline are both better
//! than in production if they write rows.

/// Number of rounds of each measurement. Ours and the baseline alternate, and their medians are compared.
pub const ROUNDS: usize = 5;

/// A ratio that misses its floor by less than this share still passes, as noise of the machine.
const NOISE: f64 = 0.2;

/// Bound of the ratio of our value to the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Floor {
    /// Our value is at most this share of the baseline.
    AtMost(f64),
    /// Our value is at least this share of the baseline.
    AtLeast(f64),
}

impl Floor {
    fn value(self) -> f64 {
        let (Self::AtMost(value) | Self::AtLeast(value)) = self;
        value
    }

    fn is_met(self, ratio: f64, noise: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most * (1.0 + noise),
            Self::AtLeast(least) => ratio >= least * (1.0 - noise),
        }
    }
}

/// Prints the line. Returns whether the floor is met, allowing for noise. `show` formats a value with its
/// unit.
#[expect(clippy::print_stdout, reason = "a benchmark talks to a person")]
pub fn compare(
    what: &str,
    ours: &mut [f64],
    (name, baseline): (&str, &mut [f64]),
    floor: Floor,
    show: impl Fn(f64) -> String,
) -> bool {
    let (ours, baseline) = (median(ours), median(baseline));
    let ratio = ours / baseline;
    let verdict = if floor.is_met(ratio, 0.0) { "ok" } else { "miss" };
    println!(
        "{what}: {}, {name} {}, ratio {ratio:.3}, floor {:.3}, {verdict}",
        show(ours),
        show(baseline),
        floor.value()
    );
    floor.is_met(ratio, NOISE)
}

/// Returns the median.
///
/// # Panics
/// If `values` is empty.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    *values.get(values.len() / 2).expect("a value")
}

pub fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}
