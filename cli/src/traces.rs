//! Traces of a local plane: an OTLP receiver, a file with the spans of each trace, and their tree as text.
//!
//! They show a turn in every process without a separate collector. The receiver drops metrics and logs,
//! because `/metrics` and the terminal show them. Not meant for production.

mod receiver;
mod tree;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use steward_stack::home::read_if_exists;

pub use self::{
    receiver::{Receiver, Sink},
    tree::render,
};

/// Maximum traces kept when the plane starts; older ones are removed.
const MAX_TRACES: usize = 500;
/// Maximum size of a trace's file. Spans that arrive for a larger file are dropped.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// 32 hexadecimal digits, lower case.
    pub trace_id: String,
    /// 16 hexadecimal digits, lower case.
    pub span_id: String,
    /// 16 hexadecimal digits; empty at the root.
    pub parent_span_id: String,
    /// `service.name` of the process that made the span.
    pub service: String,
    /// `service.instance.id` of that process.
    #[serde(default)]
    pub instance: String,
    pub name: String,
    /// Start time, in nanoseconds since 1970.
    pub start_ns: u64,
    /// End time, in nanoseconds since 1970.
    pub end_ns: u64,
    /// The message of an error status; `None` for other statuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Linked spans, each as `<trace id>-<span id>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    #[serde(default)]
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// A directory of traces: one file for each trace, one line for each span.
#[derive(Debug, Clone)]
pub struct Traces {
    directory: PathBuf,
    writing: Arc<Mutex<()>>,
}

impl Traces {
    pub fn at(directory: PathBuf) -> Self {
        Self { directory, writing: Arc::default() }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes the oldest traces, so that [`MAX_TRACES`] are left.
    pub(crate) fn prune(&self) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort();
        for (_, path) in files.iter().rev().skip(MAX_TRACES) {
            fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    fn add(&self, spans: &[Span]) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans {
            let path = self.file(&span.trace_id)?;
            let mut file = File::options().create(true).append(true).open(&path)?;
            if file.metadata()?.len() < MAX_FILE_BYTES {
                let mut line = serde_json::to_string(span)?;
                line.push('\n');
                file.write_all(line.as_bytes()).with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Returns every span of a trace, oldest first; none if the trace is unknown.
    pub fn spans(&self, trace_id: &str) -> Result<Vec<Span>> {
        let path = self.file(trace_id)?;
        let text = read_if_exists(&path)?.unwrap_or_default();
        let parse =
            |line: &str| serde_json::from_str(line).with_context(|| format!("read {}", path.display()));
        let mut spans: Vec<Span> = text.lines().map(parse).collect::<Result<_>>()?;
        spans.sort_by_key(|span| span.start_ns);
        Ok(spans)
    }

    fn file(&self, trace_id: &str) -> Result<PathBuf> {
        if trace_id.len() != 32 || !trace_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("{trace_id:?} is not a trace id: a trace id has 32 hexadecimal digits");
        }
        Ok(self.directory.join(format!("{}.jsonl", trace_id.to_ascii_lowercase())))
    }
}
