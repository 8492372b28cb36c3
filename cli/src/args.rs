//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use steward_stack::exec::ExecArgs;

use crate::{
    db::DbCommand,
    dev::run::DevArgs,
    operator::{chat::ChatArgs, purge::PurgeArgs, token::TokenCommand, trace::TraceArgs},
    serve::ServeArgs,
};

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
    /// Run one service, as its own program does.
    Serve(ServeArgs),
    /// Run the whole plane on this machine until Ctrl-C.
    ///
    /// Postgres, Redis and a Docker engine are started unless STEWARD_DATABASE_URL, STEWARD_REDIS_URL or
    /// DOCKER_HOST name yours. `make dev` builds what this needs and calls it.
    Dev(DevArgs),
    /// Talk to an agent: one turn, as it happens.
    #[command(
        after_help = "Examples:\n  steward chat 'run uname -a'\n  steward chat --session 0192… 'and again'"
    )]
    Chat(ChatArgs),
    /// Erase a session everywhere and wait for the receipt.
    Purge(PurgeArgs),
    /// Show which processes of the development plane are ready.
    Status,
    /// Show a turn's trace, or any trace, as a tree.
    Trace(TraceArgs),
    /// API tokens.
    Token {
        /// What to do with them.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// The plane's database.
    Db {
        /// What to do with it.
        #[command(subcommand)]
        command: DbCommand,
    },
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
    Exec(ExecArgs),
}
