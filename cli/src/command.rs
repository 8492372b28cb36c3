//! The subcommands of `steward`, one file each.
//!
//! A command's file has `Args`, documented with the command's help text, and `async fn run(home: &Path, args:
//! &Args) -> Result<ExitCode>`. To add a command, add its file and a row below.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

mod chat;
mod clean;
mod db;
mod dev;
mod list;
mod purge;
pub(crate) mod serve;
mod stack;
mod status;
mod token;
mod trace;

macro_rules! commands {
    ($($command:ident => $module:ident,)+) => {
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $($command($module::Args),)+
        }

        impl Command {
            pub(crate) async fn run(self, home: &Path) -> Result<ExitCode> {
                match self {
                    $(Self::$command(args) => Box::pin($module::run(home, &args)).await,)+
                }
            }
        }
    };
}

commands! {
    Dev => dev,
    Chat => chat,
    List => list,
    Purge => purge,
    Status => status,
    Trace => trace,
    Token => token,
    Db => db,
    Stack => stack,
    Clean => clean,
}
