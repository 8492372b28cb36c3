//! The program `registry-svc [configuration file]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    svc_core::run::process::main(registry_svc::start)
}
