//! Output of the benchmarks: one line with ours, the baseline of the same run, their ratio, the floor and the
//! verdict.
//!
//! `fsync` is nearly free on a test disk, which flatters both ours and the baseline if they write rows.

/// Rounds of each measurement; ours and its baseline take turns, and the medians are compared.
pub const ROUNDS: usize = 5;

/// A miss by less than this share counts as noise of the machine.
const NOISE: f64 = 0.2;

/// Bound of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Floor {
    /// Ours takes at most this share of the baseline.
    AtMost(f64),
    /// Ours reaches at least this share of the baseline.
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

/// Prints the line. Returns whether the floor is met, allowing for noise. `show` writes a value with its
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
