//! The program `purge-svc [configuration file]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    svc_core::run::process::main(purge_svc::start)
}
