//! A telemetry collector that keeps every export as received. The residue search needs all of it, but the
//! plane's own receiver keeps only parts of spans, and neither logs nor metrics.

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

/// Directory of a cluster's home with a file for each signal.
pub(crate) const DIRECTORY: &str = "captured";
/// Names of the files.
pub(crate) const SIGNALS: [&str; 3] = ["spans", "logs", "metrics"];
const MOST_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// An OTLP endpoint on the loopback address.
#[derive(Debug)]
pub(crate) struct Collector {
    listener: TcpListener,
    files: Files,
}

impl Collector {
    pub(crate) async fn bind(directory: PathBuf) -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { listener, files: Files(directory) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    pub(crate) async fn run(self, stop: CancellationToken) -> Result<()> {
        let files = self.files;
        Server::builder()
            .add_service(TraceServiceServer::new(files.clone()).max_decoding_message_size(MOST_MESSAGE_BYTES))
            .add_service(LogsServiceServer::new(files.clone()).max_decoding_message_size(MOST_MESSAGE_BYTES))
            .add_service(MetricsServiceServer::new(files).max_decoding_message_size(MOST_MESSAGE_BYTES))
            .serve_with_incoming_shutdown(TcpListenerStream::new(self.listener), stop.cancelled_owned())
            .await
            .context("receive telemetry")
    }
}

#[derive(Debug, Clone)]
struct Files(PathBuf);

impl Files {
    fn keep(&self, signal: &str, export: &impl Message) -> Result<(), Status> {
        let file = File::options().create(true).append(true).open(self.0.join(signal));
        file.and_then(|mut file| file.write_all(&export.encode_to_vec()))
            .map_err(|error| Status::internal(format!("keep {signal}: {error}")))
    }
}

#[tonic::async_trait]
impl TraceService for Files {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep("spans", request.get_ref())?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Files {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep("logs", request.get_ref())?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Files {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep("metrics", request.get_ref())?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
