//! Traces, metrics and logs of a process: sent by OTLP, metrics also as Prometheus text on request, logs also
//! as lines on stderr.
//!
//! Names follow OpenTelemetry's semantic conventions. The trace context has W3C's format; it is carried in
//! HTTP headers and gRPC metadata, and stored with queued work. The process in which a trace begins, usually
//! the gateway, decides whether it is sampled; every later process follows that decision.

mod sql;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue, global,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider as _},
};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use prometheus::{Encoder, TextEncoder};
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// W3C header that contains the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Crates that log while telemetry is sent. Their lines are not sent, because sending them would make the
/// crates log again.
const EXPORT_PATH: &str = "h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,opentelemetry=off,\
    opentelemetry_sdk=off,opentelemetry_otlp=off,reqwest=off";

/// Maximum wait for the collector when the process ends, for each of traces, logs and metrics.
const FLUSH: Duration = Duration::from_secs(1);

/// Telemetry of a process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// OTLP/gRPC endpoint, for example `http://127.0.0.1:4317`; if empty, nothing is sent.
    pub otlp_endpoint: String,
    /// Form of the log lines on stderr: `text` or `json`.
    pub log_format: LogFormat,
    /// Filter of the log, for example `info,chat_svc=debug`.
    pub log_filter: String,
    /// Share of the traces beginning here that are sampled, 0 to 1. For a trace that began elsewhere, the
    /// sender's decision applies.
    pub sample_ratio: f64,
    /// Time between two exports of metrics.
    #[serde(with = "humantime_serde")]
    pub metrics_period: Duration,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    /// One JSON object for each line, for programs.
    Json,
}

/// Telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter does not parse.
    #[error("log filter {filter:?}")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    /// An exporter could not be built.
    #[error("build an OTLP exporter")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The Prometheus registry refused its exporter.
    #[error("register metrics: {0}")]
    Prometheus(String),
    /// A subscriber is installed already.
    #[error("install the log subscriber")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Exporters that must be flushed before the process ends.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    logger: Option<SdkLoggerProvider>,
    meter: SdkMeterProvider,
    metrics: Metrics,
}

/// Renders the metrics of the process.
#[derive(Debug, Clone)]
pub struct Metrics(prometheus::Registry);

impl Metrics {
    /// Returns every metric in Prometheus text format.
    ///
    /// # Errors
    /// An error if a metric cannot be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Starts the telemetry of the process `service` (its `service.name`).
///
/// # Errors
/// [`Error`] if the configuration cannot be used, or telemetry has been started before.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<Telemetry, Error> {
    let filter = |text: &str| {
        EnvFilter::try_new(text).map_err(|source| Error::Filter { filter: text.to_owned(), source })
    };
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "steward"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", crate::id::new_id().to_string()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ])
        .build();
    let endpoint = Some(config.otlp_endpoint.as_str()).filter(|endpoint| !endpoint.is_empty());
    global::set_text_map_propagator(TraceContextPropagator::new());

    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|error| Error::Prometheus(error.to_string()))?;
    let mut meter = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader);
    let (mut tracer, mut logger) = (None, None);
    if let Some(endpoint) = endpoint {
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let metrics = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let logs = LogExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let reader = opentelemetry_sdk::metrics::PeriodicReader::builder(metrics)
            .with_interval(config.metrics_period)
            .build();
        meter = meter.with_reader(reader);
        tracer = Some(
            SdkTracerProvider::builder()
                .with_resource(resource.clone())
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio))))
                .with_batch_exporter(spans)
                .build(),
        );
        logger = Some(SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(logs).build());
    }
    let meter = meter.build();
    global::set_meter_provider(meter.clone());

    // Only a terminal gets colours; a file or a log collector gets plain text.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let lines = match config.log_format {
        LogFormat::Text => lines.with_target(true).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans = match &tracer {
        None => None,
        Some(provider) => {
            global::set_tracer_provider(provider.clone());
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("steward"));
            Some(layer.with_filter(filter(&format!("{},{EXPORT_PATH}", config.log_filter))?))
        }
    };
    let statements = tracer.as_ref().map(|provider| sql::layer(provider.tracer("steward")));
    let bridge = match &logger {
        None => None,
        Some(provider) => Some(
            OpenTelemetryTracingBridge::new(provider)
                .with_filter(filter(&format!("{},{EXPORT_PATH}", config.log_filter))?),
        ),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter(&config.log_filter)?))
        .with(spans)
        .with(statements)
        .with(bridge)
        .try_init()?;
    Ok(Telemetry { tracer, logger, meter, metrics: Metrics(registry) })
}

impl Telemetry {
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends the buffered telemetry and waits for the collector. Call it last, and not on a worker thread of
    /// the runtime except in `spawn_blocking`.
    pub fn shutdown(self) {
        let tracer = self.tracer.map(|provider| provider.shutdown_with_timeout(FLUSH));
        let logger = self.logger.map(|provider| provider.shutdown_with_timeout(FLUSH));
        let meter = self.meter.shutdown_with_timeout(FLUSH);
        for result in [tracer, logger, Some(meter)].into_iter().flatten() {
            if let Err(error) = result {
                tracing::warn!(%error, "telemetry was not flushed completely");
            }
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes the caller's span, which the headers name, the parent of `span`.
pub fn follow_headers(span: &Span, headers: &HeaderMap) {
    adopt(span, TraceContextPropagator::new().extract(&Headers(headers)));
}

/// Writes `span`'s context into outgoing headers.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut HeadersMut(headers));
}

/// Returns the context of `span` as a `traceparent`, which can be stored with queued work; `None` if `span`
/// belongs to no trace.
pub fn traceparent(span: &Span) -> Option<String> {
    let mut headers = HeaderMap::new();
    inject(span, &mut headers);
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Makes the span in a stored `traceparent` the parent of `span`, so that the work belongs to that trace.
pub fn follow(span: &Span, traceparent: Option<&str>) {
    adopt(span, remote(traceparent));
}

/// Renames a span that has begun, for example after the route of a request is known. The field `otel.name`
/// cannot do that, because it is read only when a span begins.
pub fn rename(span: &Span, name: &str) {
    span.context().span().update_name(name.to_owned());
}

/// Links `span` to the span in a stored `traceparent`, which caused it. Unlike with [`follow`], `span` stays
/// in its own trace.
pub fn link(span: &Span, traceparent: Option<&str>) {
    let cause = remote(traceparent).span().span_context().clone();
    if cause.is_valid() {
        span.add_link(cause);
    }
}

/// Returns the trace id of a `traceparent`, 32 hex digits; `None` if the text is malformed.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

fn remote(traceparent: Option<&str>) -> Context {
    let mut headers = HeaderMap::new();
    if let Some(value) = traceparent.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(TRACEPARENT, value);
    }
    TraceContextPropagator::new().extract(&Headers(&headers))
}

fn adopt(span: &Span, parent: Context) {
    if parent.span().span_context().is_valid()
        && let Err(error) = span.set_parent(parent)
    {
        // Happens only if traces are not exported, or if the span was entered before.
        tracing::trace!(%error, "span keeps its own parent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_read_from_a_traceparent() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(text), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in ["", "00", "00-xyz-1-01", "00-0af7651916cd43dd8448eb211c80319-b7-01"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
