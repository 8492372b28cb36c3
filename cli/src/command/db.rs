//! `steward db`: sets up the plane's database.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;
use steward_stack::{stack::DATABASE_URL, terminal::say};

use crate::plane::{
    Service,
    database::{self, Database},
};

/// Set up the plane's database.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Make the database, and a schema and two roles for each service. Safe to repeat.
    Init(Target),
    /// Bring every schema up to date. Services with an owner's URL do it themselves when they start.
    Migrate(Target),
    /// Print, for each service, its directory, the variable its build reads, and its owner's URL.
    Urls(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// URL of the cluster, with a role that may create databases and roles.
    #[arg(long, env = DATABASE_URL, hide_env_values = true)]
    url: String,
    /// Name of the plane's database in the cluster.
    #[arg(long, default_value = database::NAME)]
    database: String,
    /// Password of the services' roles; by default the one in the URL, if there is one.
    #[arg(long, env = "STEWARD_ROLE_PASSWORD", hide_env_values = true)]
    role_password: Option<String>,
}

pub(crate) async fn run(_: &Path, args: &Args) -> Result<ExitCode> {
    match &args.command {
        DbCommand::Init(target) => target.open()?.init().await?,
        DbCommand::Migrate(target) => target.open()?.migrate().await?,
        DbCommand::Urls(target) => {
            let database = target.open()?;
            for service in Service::OWNERS {
                let variable = format!("{}_DATABASE_URL", service.name().to_uppercase());
                say(format_args!("{} {variable} {}", service.full_name(), database.owner_url(service)?))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Target {
    fn open(&self) -> Result<Database> {
        let database = Database::at(&self.url, &self.database)?;
        Ok(match &self.role_password {
            Some(password) => database.with_role_password(password),
            None => database,
        })
    }
}
