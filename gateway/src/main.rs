//! The program `gateway [configuration file]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    svc_core::run::process::main(gateway::start)
}
