//! `steward token create`: makes API tokens of accounts, and of operators.
//!
//! A token of an account is created through the public API, which requires an operator's token. An operator's
//! token is created directly in the registry's database, which requires registry-svc's configuration.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Subcommand;
use registry_svc::operator::Operator;
use secrecy::ExposeSecret;
use steward_stack::terminal::say;
use svc_core::data::pg::Pool;

use crate::api::{ADMIN_TOKEN_FILE, Api, Target, create_account, create_token};

/// Create API tokens of accounts and of operators.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Create an API token; its secret is printed alone on standard output, once.
    #[command(after_help = "Examples:
  TOKEN=$(steward token create --name ci --scope sessions:read --ttl 30d)
  ADMIN=$(steward token create --admin --config /etc/steward/registry.toml)")]
    Create(CreateArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The account of the token; by default a new account with the token's name.
    #[arg(long, conflicts_with = "admin")]
    account: Option<String>,
    /// Name of the token, shown in lists.
    #[arg(long, default_value = "operator")]
    name: String,
    /// A scope, as "sessions:read"; repeat for more. Without any, the token may use the whole account.
    #[arg(long = "scope", conflicts_with = "admin")]
    scopes: Vec<String>,
    /// Lifetime of the token, as "30d"; by default it never expires.
    #[arg(long, conflicts_with = "admin")]
    ttl: Option<humantime::Duration>,
    /// Create an operator's token, directly in the registry's database.
    #[arg(long)]
    admin: bool,
    /// registry-svc's configuration, for --admin; by default the development plane's.
    #[arg(long, requires = "admin")]
    config: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Creates the token and prints its secret.
pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let TokenCommand::Create(args) = &args.command;
    let secret = match args.admin {
        true => create_admin_token(home, args).await?,
        false => {
            let api = Api::open(home, &args.target, ADMIN_TOKEN_FILE)?;
            let account = match &args.account {
                Some(account) => account.clone(),
                None => create_account(&api, &args.name).await?,
            };
            let ttl = args.ttl.map(|ttl| format!("{}s", ttl.as_secs()));
            create_token(&api, &account, &args.name, &args.scopes, ttl.as_deref()).await?
        }
    };
    say(secret)?;
    Ok(ExitCode::SUCCESS)
}

async fn create_admin_token(home: &Path, args: &CreateArgs) -> Result<String> {
    let config = args.config.clone().unwrap_or_else(|| home.join("config/registry.toml"));
    let config = registry_svc::Config::load(Some(&config))?;
    let issued = Operator::new(Pool::connect(&config.base.pg).await?).create_admin_token(&args.name).await?;
    Ok(issued.secret.expose_secret().to_owned())
}
