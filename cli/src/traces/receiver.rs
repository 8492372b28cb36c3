//! An OTLP receiver: takes exports over gRPC and hands them to a [`Sink`].

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::{
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
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span as WireSpan, status::StatusCode},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use super::{Span, Traces};

const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Stores exports. An error is sent to the exporter.
pub trait Sink: Clone + Send + Sync + 'static {
    fn spans(&self, export: ExportTraceServiceRequest) -> Result<()>;

    /// Drops the logs unless the sink stores them.
    fn logs(&self, _: ExportLogsServiceRequest) -> Result<()> {
        Ok(())
    }

    /// Drops the metrics unless the sink stores them.
    fn metrics(&self, _: ExportMetricsServiceRequest) -> Result<()> {
        Ok(())
    }
}

impl Sink for Traces {
    fn spans(&self, export: ExportTraceServiceRequest) -> Result<()> {
        self.add(&export.resource_spans.into_iter().flat_map(spans).collect::<Vec<_>>())
    }
}

/// An OTLP endpoint on the loopback address.
#[derive(Debug)]
pub struct Receiver<S> {
    address: SocketAddr,
    listener: TcpListener,
    sink: S,
}

impl<S: Sink> Receiver<S> {
    /// Listens on `port`; if it is 0, on any free port.
    pub async fn bind(port: u16, sink: S) -> Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listen for telemetry on port {port}"))?;
        Ok(Self { address: listener.local_addr()?, listener, sink })
    }

    /// Returns the endpoint, for an exporter's configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Receives until `stop` fires.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let [spans, logs, metrics] = [(); 3].map(|()| Exports(self.sink.clone()));
        Server::builder()
            .add_service(TraceServiceServer::new(spans).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .add_service(LogsServiceServer::new(logs).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .add_service(MetricsServiceServer::new(metrics).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .serve_with_incoming_shutdown(TcpListenerStream::new(self.listener), stop.cancelled_owned())
            .await
            .context("receive telemetry")
    }
}

/// The three gRPC services.
struct Exports<S>(S);

fn answer<T: Default>(stored: Result<()>) -> Result<Response<T>, Status> {
    stored.map_err(|error| Status::internal(format!("{error:#}")))?;
    Ok(Response::new(T::default()))
}

#[tonic::async_trait]
impl<S: Sink> TraceService for Exports<S> {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        answer(self.0.spans(request.into_inner()))
    }
}

#[tonic::async_trait]
impl<S: Sink> LogsService for Exports<S> {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        answer(self.0.logs(request.into_inner()))
    }
}

#[tonic::async_trait]
impl<S: Sink> MetricsService for Exports<S> {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        answer(self.0.metrics(request.into_inner()))
    }
}

fn spans(group: ResourceSpans) -> Vec<Span> {
    let resource = texts(group.resource.map(|resource| resource.attributes).unwrap_or_default());
    let service = resource.get("service.name").cloned().unwrap_or_default();
    let instance = resource.get("service.instance.id").cloned().unwrap_or_default();
    let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(|span| from_wire(span, &service, &instance)).collect()
}

fn from_wire(span: WireSpan, service: &str, instance: &str) -> Span {
    let failed = span.status.filter(|status| status.code() == StatusCode::Error);
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        service: service.to_owned(),
        instance: instance.to_owned(),
        name: span.name,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        error: failed
            .map(|status| if status.message.is_empty() { "error".to_owned() } else { status.message }),
        links: span
            .links
            .iter()
            .map(|link| format!("{}-{}", hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        attributes: texts(span.attributes),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    };
    attributes.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::trace::v1::trace_service_client::TraceServiceClient, resource::v1::Resource,
        trace::v1::ScopeSpans,
    };

    use super::*;

    #[tokio::test]
    async fn an_exported_span_is_found_by_its_trace_id() {
        let directory = tempfile::tempdir().unwrap();
        let traces = Traces::at(directory.path().to_owned());
        let receiver = Receiver::bind(0, traces.clone()).await.unwrap();
        let (url, stop) = (receiver.url(), CancellationToken::new());
        let sent = async {
            let service = KeyValue {
                key: "service.name".to_owned(),
                value: Some(AnyValue { value: Some(Value::StringValue("chat-svc".to_owned())) }),
                ..Default::default()
            };
            let span = WireSpan {
                trace_id: vec![0xab; 16],
                span_id: vec![1; 8],
                name: "turn.run".to_owned(),
                end_time_unix_nano: 5,
                ..Default::default()
            };
            let group = ResourceSpans {
                resource: Some(Resource { attributes: vec![service], ..Default::default() }),
                scope_spans: vec![ScopeSpans { spans: vec![span], ..Default::default() }],
                ..Default::default()
            };
            let mut client = TraceServiceClient::connect(url).await.unwrap();
            client.export(ExportTraceServiceRequest { resource_spans: vec![group] }).await.unwrap();
            stop.cancel();
        };
        let (received, ()) = tokio::join!(receiver.run(stop.clone()), sent);
        received.unwrap();
        let spans = traces.spans(&"ab".repeat(16)).unwrap();
        assert_eq!(
            (spans.len(), spans[0].service.as_str(), spans[0].name.as_str()),
            (1, "chat-svc", "turn.run")
        );
        assert!(traces.spans(&"0".repeat(32)).unwrap().is_empty());
        traces.spans("../../etc/passwd").unwrap_err();
    }
}
