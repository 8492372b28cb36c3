//! `steward trace`: prints a trace of the development plane as a tree.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use steward_stack::terminal::show;

use crate::{
    api::{Api, TOKEN_FILE, Target},
    traces::{Traces, render},
};

/// Show a turn's trace, or any trace, as a tree.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of a turn or of a trace.
    id: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let trace = if is_trace_id(&args.id) { args.id.clone() } else { trace_of(home, args).await? };
    let spans = Traces::at(home.join("traces")).spans(&trace)?;
    if spans.is_empty() {
        bail!("no span of trace {trace} has arrived; processes send their spans every few seconds");
    }
    show(render(&spans))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the plane for the trace id of a turn.
async fn trace_of(home: &Path, args: &Args) -> Result<String> {
    let api = Api::open(home, &args.target, TOKEN_FILE)?;
    let turn = api.get(&format!("/v1/turns/{}", args.id)).await?;
    let trace = turn["turn"]["traceId"].as_str().filter(|trace| !trace.is_empty());
    Ok(trace.context("the turn is not traced")?.to_owned())
}

fn is_trace_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
