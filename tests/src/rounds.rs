//! Round counts, random seeds and report lines of the fault suites.
//!
//! `make test` runs each suite with its small default count; `make soak` sets larger counts through the
//! environment. The random choices have a seed, so that a run can be repeated, except for the timing of the
//! machine.

use std::{env, fmt::Display, fs::File, io::Write};

use rand::{SeedableRng, rngs::StdRng};

/// Prefix of the variables with the number of rounds, as in `STEWARD_ROUNDS_KILLS`.
const ROUNDS: &str = "STEWARD_ROUNDS_";
/// Variable with the seed of every suite's random choices.
const SEED: &str = "STEWARD_SEED";
/// Variable with the path of a file to which each suite adds its line.
const REPORT: &str = "STEWARD_ROUNDS_REPORT";

/// Returns the number of rounds of `suite`: the value of `STEWARD_ROUNDS_<SUITE>`, or `default`.
///
/// # Panics
/// If the variable is set and not a number above zero.
pub fn rounds(suite: &str, default: usize) -> usize {
    let name = format!("{ROUNDS}{}", suite.to_uppercase());
    number(&name).map_or(default, |rounds| {
        assert!(rounds > 0, "{name} must be above zero");
        usize::try_from(rounds).unwrap()
    })
}

/// Returns a random generator, and its seed for the report.
///
/// # Panics
/// If `STEWARD_SEED` is set and not a number.
pub fn chance() -> (StdRng, u64) {
    let seed = number(SEED).unwrap_or(1);
    (StdRng::seed_from_u64(seed), seed)
}

/// Writes the counts of `suite` as one line to standard output, and to the report file if there is one.
///
/// # Panics
/// If the report cannot be written.
#[expect(clippy::print_stdout, reason = "what a fault suite counted is its result")]
pub fn report(suite: &str, done: impl Display) {
    let line = format!("{suite}: {done}");
    println!("{line}");
    if let Some(path) = env::var_os(REPORT) {
        let mut report = File::options().create(true).append(true).open(path).unwrap();
        writeln!(report, "{line}").unwrap();
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name}={text} is no number"),
    }
}
