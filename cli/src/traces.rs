//! Traces of a local plane: a small OTLP receiver that keeps every span in a file per trace, and their tree.
//!
//! It stands in for a collector on one machine, so that a turn can be followed without installing one. Metrics
//! and logs are accepted and dropped: `/metrics` and the terminal have them. Not made for production.

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

pub use self::{receiver::Receiver, tree::render};

/// Traces kept from one start to the next.
const KEPT: usize = 500;
/// Longest file: a trace beyond it loses its latest spans.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// One finished span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; empty at the root.
    pub parent_span_id: String,
    /// `service.name` of the process that made it.
    pub service: String,
    /// `service.instance.id` of that process.
    #[serde(default)]
    pub instance: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// What went wrong, if something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Trace and span it names as its cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Attributes, as text.
    #[serde(default)]
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// Traces on disk: one file each, one span a line.
#[derive(Debug, Clone)]
pub struct Traces {
    directory: PathBuf,
    writing: Arc<Mutex<()>>,
}

impl Traces {
    /// The traces of a directory.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory, writing: Arc::default() }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes all but the newest.
    pub fn prune(&self) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort();
        for (_, path) in files.iter().rev().skip(KEPT) {
            fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Adds spans.
    pub fn add(&self, spans: &[Span]) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans {
            let path = self.file(&span.trace_id)?;
            let mut file = File::options().create(true).append(true).open(&path)?;
            if file.metadata()?.len() < MOST_BYTES {
                let mut line = serde_json::to_string(span)?;
                line.push('\n');
                file.write_all(line.as_bytes()).with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Every span of a trace, oldest first; none if it is unknown.
    pub fn spans(&self, trace_id: &str) -> Result<Vec<Span>> {
        let path = self.file(trace_id)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let parse =
            |line: &str| serde_json::from_str(line).with_context(|| format!("read {}", path.display()));
        let mut spans: Vec<Span> = text.lines().map(parse).collect::<Result<_>>()?;
        spans.sort_by_key(|span| span.start_ns);
        Ok(spans)
    }

    fn file(&self, trace_id: &str) -> Result<PathBuf> {
        if trace_id.len() != 32 || !trace_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("{trace_id:?} is not a trace id: 32 hex digits");
        }
        Ok(self.directory.join(format!("{}.jsonl", trace_id.to_ascii_lowercase())))
    }
}
