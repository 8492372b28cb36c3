//! The program: `sandbox-svc [configuration file]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    svc_core::run::process::main(sandbox_svc::start)
}
