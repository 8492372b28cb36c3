//! The `steward` program; [`steward::run`] does the work.

use std::process::ExitCode;

fn main() -> ExitCode {
    steward::run()
}
