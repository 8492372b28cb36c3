//! `gateway [configuration file]`.

use std::{path::PathBuf, process::ExitCode};

use gateway::Config;
use svc_core::run::process;

fn main() -> ExitCode {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config = match Config::load(file.as_deref()) {
        Ok(config) => config,
        Err(error) => return process::complain("gateway", &error, ExitCode::from(process::EXIT_CONFIG)),
    };
    let (process, telemetry) = (config.process.clone(), config.telemetry.clone());
    process::run("gateway", &process, &telemetry, |lifecycle, metrics| {
        gateway::run(config, lifecycle, metrics)
    })
}
