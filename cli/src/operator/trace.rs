//! `steward trace`: a trace of the development plane as a tree.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use steward_stack::terminal::show;

use super::api::{Api, TOKEN_FILE, Target};
use crate::traces::{Traces, render};

/// Which trace.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// A turn's id, or a trace's.
    pub id: String,
    #[command(flatten)]
    target: Target,
}

/// Prints the tree.
pub async fn run(home: &Path, args: &TraceArgs) -> Result<()> {
    let trace = if is_trace_id(&args.id) { args.id.clone() } else { trace_of(home, args).await? };
    let spans = Traces::at(home.join("traces")).spans(&trace)?;
    if spans.is_empty() {
        bail!("no span of trace {trace} has arrived; processes send theirs every few seconds");
    }
    Ok(show(render(&spans))?)
}

/// The trace that a turn's spans share.
async fn trace_of(home: &Path, args: &TraceArgs) -> Result<String> {
    let api = Api::open(home, &args.target, TOKEN_FILE)?;
    let turn = api.get(&format!("/v1/turns/{}", args.id)).await?;
    let trace = turn["turn"]["traceId"].as_str().filter(|trace| !trace.is_empty());
    Ok(trace.context("the turn is not traced")?.to_owned())
}

fn is_trace_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
