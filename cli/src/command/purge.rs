//! `steward purge`: erases a session and waits for the receipt.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use steward_stack::terminal::say;

use crate::api::{Api, TOKEN_FILE, Target};

const POLL: Duration = Duration::from_millis(500);

/// Erase a session everywhere and wait for the receipt.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session: everything about it is erased, everywhere, and cannot be brought back.
    session: String,
    /// Return once the job is accepted, without waiting for its receipt.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let api = Api::open(home, &args.target, TOKEN_FILE)?;
    let answer = api.post(&format!("/v1/sessions/{}:purge", args.session), &json!({})).await?;
    let mut purge = answer["purge"].clone();
    let id = purge["purgeId"].as_str().context("the answer names no job")?.to_owned();
    say(format_args!("purge {id}"))?;
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let mut seen = String::new();
    loop {
        let state = state(&purge);
        if state != seen {
            let cause = purge["cause"].as_str().filter(|cause| !cause.is_empty());
            say(format_args!("  {state}{}", cause.map(|cause| format!(" ({cause})")).unwrap_or_default()))?;
            seen.clone_from(&state);
        }
        match state.as_str() {
            "committed" => {
                receipt(&purge["receipt"])?;
                return Ok(ExitCode::SUCCESS);
            }
            "thawed" => bail!("nothing was erased: the job was canceled before it began to erase"),
            "dead_lettered" => bail!("the job waits for an operator's decision: see /v1/purges/{id}"),
            _ => {}
        }
        tokio::time::sleep(POLL).await;
        purge = api.get(&format!("/v1/purges/{id}")).await?["purge"].clone();
    }
}

/// Shortens `PURGE_STATE_DEAD_LETTERED` to `dead_lettered`.
fn state(purge: &Value) -> String {
    purge["state"].as_str().unwrap_or_default().trim_start_matches("PURGE_STATE_").to_lowercase()
}

fn receipt(receipt: &Value) -> Result<()> {
    let hash = receipt["hash"].as_str().context("the job is committed but has no receipt")?;
    say(format_args!("receipt {} {hash}", receipt["seq"].as_str().unwrap_or("?")))?;
    for custodian in receipt["custodians"].as_array().into_iter().flatten() {
        let service = custodian["service"].as_str().unwrap_or("?");
        let at = custodian["verifiedAt"].as_str().unwrap_or("?");
        say(format_args!("  {service} read back nothing at {at}"))?;
    }
    Ok(())
}
