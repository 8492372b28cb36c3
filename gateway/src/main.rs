//! The program: `gateway [configuration file]`.

use std::{path::PathBuf, process::ExitCode};

use gateway::{Config, NAME};
use svc_core::run::process;

fn main() -> ExitCode {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config = match Config::load(file.as_deref()) {
        Ok(config) => config,
        Err(error) => return process::complain(NAME, &error, ExitCode::from(process::EXIT_CONFIG)),
    };
    let (process, telemetry) = (config.process.clone(), config.telemetry.clone());
    process::run(NAME, &process, &telemetry, |lifecycle, metrics| gateway::start(config, lifecycle, metrics))
}
