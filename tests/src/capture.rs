//! Stores every telemetry export as received, because the residue search must read all of it. The receiver
//! that a plane usually has keeps only parts of spans, and neither logs nor metrics.

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::Message;
use steward::traces::Sink;

/// Directory of a cluster's home with a file for each signal.
pub(crate) const DIRECTORY: &str = "captured";
/// Names of the files.
pub(crate) const SIGNALS: [&str; 3] = ["spans", "logs", "metrics"];

/// Appends the exports of each signal to a file in this directory.
#[derive(Debug, Clone)]
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    fn append(&self, signal: &str, export: &impl Message) -> Result<()> {
        let file = File::options().create(true).append(true).open(self.0.join(signal));
        let written = file.and_then(|mut file| file.write_all(&export.encode_to_vec()));
        written.with_context(|| format!("append {signal}"))
    }
}

impl Sink for Files {
    fn spans(&self, export: ExportTraceServiceRequest) -> Result<()> {
        self.append("spans", &export)
    }

    fn logs(&self, export: ExportLogsServiceRequest) -> Result<()> {
        self.append("logs", &export)
    }

    fn metrics(&self, export: ExportMetricsServiceRequest) -> Result<()> {
        self.append("metrics", &export)
    }
}
