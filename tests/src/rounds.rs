//! How often the fault suites try, what they leave to chance, and what they say at the end.
//!
//! `make test` runs each suite's small default; `make soak` sets larger counts through the environment. Chance is
//! seeded, so that a run can be repeated; what the machine does in between of course cannot.

use std::{env, fmt::Display, fs::File, io::Write};

use rand::{SeedableRng, rngs::StdRng};

/// Prefix of the variables with the number of rounds: `STEWARD_ROUNDS_KILLS`.
const ROUNDS: &str = "STEWARD_ROUNDS_";
/// Variable with the seed of every suite's chance.
const SEED: &str = "STEWARD_SEED";
/// Variable with a file that gets each suite's line as well.
const REPORT: &str = "STEWARD_ROUNDS_REPORT";

/// How many rounds `suite` runs: what `STEWARD_ROUNDS_<SUITE>` says, or `default`.
///
/// # Panics
/// If the variable is set and no number above zero.
pub fn rounds(suite: &str, default: usize) -> usize {
    let name = format!("{ROUNDS}{}", suite.to_uppercase());
    number(&name).map_or(default, |rounds| {
        assert!(rounds > 0, "{name} must be above zero");
        usize::try_from(rounds).unwrap()
    })
}

/// What decides where chance does, and the seed to say.
///
/// # Panics
/// If `STEWARD_SEED` is set and no number.
pub fn chance() -> (StdRng, u64) {
    let seed = number(SEED).unwrap_or(1);
    (StdRng::seed_from_u64(seed), seed)
}

/// Says what `suite` has done: one line on the standard output, and in the report if there is one.
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
