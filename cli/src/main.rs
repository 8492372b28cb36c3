//! `steward`: see [`steward::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    steward::run()
}
