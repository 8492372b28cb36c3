//! `steward`: every service as a subcommand, the development stack, and operator commands.
//!
//! Apart from installing packages (`scripts/packages`), `steward` does all that a developer's machine needs
//! to run the plane. The crate also plans the local plane that the end-to-end suites start. It has no
//! business rule and no SQL.
//!
//! | Module | Contents |
//! |---|---|
//! | `command` | the subcommands, one file each |
//! | [`api`] | client of a plane's HTTP API |
//! | [`plane`] | the processes of a plane on one machine: addresses, keys, configuration |
//! | [`traces`] | receiver and store of a local plane's spans |

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub mod api;
mod command;
pub mod plane;
pub mod traces;

use command::{Command, serve};

/// Steward, the control plane for AI agents: its services, a development stack, and operator commands.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Args {
    /// Directory for the development stack's data, keys and tokens.
    #[arg(long, env = "STEWARD_HOME", default_value = ".steward", global = true)]
    home: PathBuf,
    #[command(subcommand)]
    command: Either,
}

// `serve` is separate because it starts a runtime of its own, as the services' programs do.
#[derive(Debug, Subcommand)]
enum Either {
    Serve(serve::Args),
    #[command(flatten)]
    Command(Command),
}

/// Parses the command line, runs the command, and reports an error as one line on standard error.
pub fn run() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Either::Serve(serve) => serve::run(&serve),
        Either::Command(command) => steward_stack::run("steward", command.run(&args.home)),
    }
}
