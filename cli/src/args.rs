//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};

/// Steward, the control plane for AI agents: its services, a development stack, and operator commands.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Args {
    /// Directory for the development stack's data, keys and tokens.
    #[arg(long, env = "STEWARD_HOME", default_value = ".steward", global = true)]
    pub home: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Postgres, Redis and Docker for tests and experiments.
    Stack {
        /// What to do with them.
        #[command(subcommand)]
        command: StackCommand,
    },
    /// Remove the development stack's data, and say what was removed.
    Clean,
}

/// What to do with the servers that Steward stands on.
#[derive(Debug, Subcommand)]
pub enum StackCommand {
    /// Start the servers, run a command with their addresses in its environment, stop them again.
    ///
    /// The command finds STEWARD_DATABASE_URL, STEWARD_REDIS_URL and DOCKER_HOST set. Where one of them is set
    /// already, that server is used as it is and not stopped. The exit code is the command's.
    #[command(after_help = "Example:\n  steward stack exec -- cargo nextest run -p chat-svc")]
    Exec {
        /// Begin with an empty database cluster.
        #[arg(long)]
        fresh: bool,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}
