//! `steward token create`: API tokens of accounts, and the operator's own.
//!
//! A token of an account is asked for through the public door, with the operator's token. That one is made in the
//! registry's database, by whoever holds its configuration: somebody has to be first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use registry_svc::operator::Operator;
use secrecy::ExposeSecret;
use serde_json::json;
use svc_core::data::pg::Pool;

use super::api::{ADMIN_TOKEN_FILE, Api, Target};
use steward_stack::terminal::say;

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Create an API token; its secret is printed alone on standard output, once.
    #[command(after_help = "Examples:
  TOKEN=$(steward token create --name ci --scope sessions:read --ttl 30d)
  ADMIN=$(steward token create --admin --config /etc/steward/registry.toml)")]
    Create(CreateArgs),
}

/// The token to create.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// The account it belongs to; without one, a new account of this token's name is created.
    #[arg(long, conflicts_with = "admin")]
    account: Option<String>,
    /// What it is called.
    #[arg(long, default_value = "operator")]
    name: String,
    /// What it allows, as "sessions:read"; repeat for more. Without any: everything of the account.
    #[arg(long = "scope", conflicts_with = "admin")]
    scopes: Vec<String>,
    /// It stops working after this long, as "30d"; without it, never.
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
pub async fn run(home: &Path, command: &TokenCommand) -> Result<()> {
    let TokenCommand::Create(args) = command;
    if args.admin {
        let config = args.config.clone().unwrap_or_else(|| home.join("config/registry.toml"));
        let config = registry_svc::Config::load(Some(&config))?;
        let issued = Operator::new(Pool::connect(&config.pg).await?).create_admin_token(&args.name).await?;
        return Ok(say(issued.secret.expose_secret())?);
    }
    let api = Api::open(home, &args.target, ADMIN_TOKEN_FILE)?;
    let account = match &args.account {
        Some(account) => account.clone(),
        None => create_account(&api, &args.name).await?,
    };
    let ttl = args.ttl.map(|ttl| format!("{}s", ttl.as_secs()));
    Ok(say(create_token(&api, &account, &args.name, &args.scopes, ttl.as_deref()).await?)?)
}

/// Creates an account and returns its id.
pub async fn create_account(api: &Api, name: &str) -> Result<String> {
    let answer = api.post("/v1/accounts", &json!({ "name": name })).await?;
    Ok(answer["account"]["accountId"].as_str().context("the answer names no account")?.to_owned())
}

/// Creates a token and returns its secret.
pub async fn create_token(
    api: &Api,
    account: &str,
    name: &str,
    scopes: &[String],
    ttl: Option<&str>,
) -> Result<String> {
    let mut body = json!({ "name": name, "scopes": scopes });
    if let Some(ttl) = ttl {
        body["ttl"] = json!(ttl);
    }
    let answer = api.post(&format!("/v1/accounts/{account}/tokens"), &body).await?;
    let secret = answer["secret"].as_str().filter(|secret| !secret.is_empty());
    Ok(secret.context("the answer holds no secret")?.to_owned())
}
