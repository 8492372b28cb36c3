//! Makes a span for every SQL statement of a sampled trace, by OpenTelemetry's conventions for database
//! clients.
//!
//! sqlx logs an event after each statement, with the statement's text but without its parameters, which may
//! be personal data. This layer turns each event into a span that has already ended. A statement outside
//! every span gets no span: otherwise each scan of a worker would begin a trace.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, filter::Targets, layer, registry::LookupSpan};

/// Target of sqlx's events. Their level is DEBUG, or WARN if a statement is slow.
const REPORTS: &str = "sqlx::query";
/// Maximum bytes of a summary, which is the name of a span.
const SUMMARY_BYTES: usize = 120;

/// Builds the layer; it makes its spans with `tracer`.
pub(super) fn layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    SqlSpans { tracer }.with_filter(Targets::new().with_target(REPORTS, Level::DEBUG))
}

struct SqlSpans {
    tracer: SdkTracer,
}

impl<S: Subscriber> Layer<S> for SqlSpans {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        // While a `tracing` span is entered, tracing-opentelemetry makes its OpenTelemetry context the
        // current one.
        let context = Context::current();
        if !context.span().span_context().is_sampled() {
            return;
        }
        let mut report = Report::default();
        event.record(&mut report);
        let ended = SystemTime::now();
        let text = if report.text.is_empty() { &report.summary } else { &report.text };
        let summary = summary(text);
        let mut attributes = vec![
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.query.text", text.split_whitespace().collect::<Vec<_>>().join(" ")),
            KeyValue::new("db.query.summary", summary.clone()),
            KeyValue::new("db.response.returned_rows", report.returned),
        ];
        let operation = summary.split(' ').next().unwrap_or_default().to_owned();
        attributes.push(KeyValue::new("db.operation.name", operation));
        let span = self
            .tracer
            .span_builder(summary)
            .with_kind(SpanKind::Client)
            .with_start_time(ended.checked_sub(report.took).unwrap_or(ended))
            .with_attributes(attributes);
        self.tracer.build_with_context(span, &context).end_with_timestamp(ended);
    }
}

#[derive(Debug, Default)]
struct Report {
    summary: String,
    text: String,
    returned: i64,
    took: Duration,
}

impl Visit for Report {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.text),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.returned = i64::try_from(value).unwrap_or(i64::MAX);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.took = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Summarizes a statement by its verbs and tables, for example `INSERT turns SELECT sessions`. There are few
/// different summaries, so spans can be grouped by them. A statement without a known verb or table gives its
/// last word in upper case.
fn summary(text: &str) -> String {
    let mut summary = String::new();
    let mut before = String::new();
    for word in
        text.split(|c: char| c.is_whitespace() || c == '(' || c == ')').filter(|word| !word.is_empty())
    {
        let upper = word.to_ascii_uppercase();
        let verb = match upper.as_str() {
            // The UPDATE in FOR UPDATE, FOR NO KEY UPDATE and DO UPDATE is no statement.
            "UPDATE" => !matches!(before.as_str(), "FOR" | "KEY" | "DO"),
            "SELECT" | "INSERT" | "DELETE" | "COMMIT" | "LOCK" => true,
            _ => false,
        };
        let table = matches!(before.as_str(), "FROM" | "INTO" | "JOIN" | "UPDATE")
            && !matches!(upper.as_str(), "UNNEST" | "SELECT" | "LATERAL" | "SET" | "SKIP" | "OF" | "NOWAIT");
        let part = if verb {
            upper.as_str()
        } else if table {
            word.trim_end_matches([',', ';'])
        } else {
            ""
        };
        if !part.is_empty() && summary.len() + part.len() < SUMMARY_BYTES {
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(part);
        }
        before = upper;
    }
    if summary.is_empty() { before } else { summary }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };
    use secrecy::SecretString;
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::data::pg::{PgConfig, Pool, Tx};

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn a_summary_names_verbs_and_tables() {
        for (text, want) in [
            ("SELECT 1", "SELECT"),
            ("COMMIT", "COMMIT"),
            ("SELECT id FROM turns WHERE id = $1 FOR UPDATE", "SELECT turns"),
            (
                "SELECT kind\n FROM custody c JOIN sessions ON true FOR NO KEY UPDATE SKIP LOCKED",
                "SELECT custody sessions",
            ),
            ("INSERT INTO turns (id) SELECT i FROM unnest($1) AS u (i)", "INSERT turns SELECT"),
            ("INSERT INTO a (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = 1", "INSERT a"),
            ("WITH w AS (SELECT id FROM q) UPDATE turns SET s = 1 FROM w", "SELECT q UPDATE turns w"),
            ("DELETE FROM blobs; ", "DELETE blobs"),
            ("SET lock_timeout = 1", "1"),
        ] {
            assert_eq!(summary(text), want, "{text}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_statement_in_a_span_is_a_span_below_it_without_its_values() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let subscriber = tracing_subscriber::registry()
            .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")))
            .with(layer(provider.tracer("test")));
        let _subscribed = tracing::subscriber::set_default(subscriber);
        let url = std::env::var("STEWARD_DATABASE_URL").unwrap();
        let pool = Pool::connect(&PgConfig::new(SecretString::from(url))).await.unwrap();

        let work = async {
            let mut tx = Tx::system(&pool).await.unwrap();
            let said: String = sqlx::query_scalar("SELECT $1 || ' there' FROM pg_database LIMIT 1")
                .bind("hunter2")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            said
        };
        assert_eq!(work.instrument(tracing::info_span!("work")).await, "hunter2 there");

        let spans = kept.0.lock().unwrap();
        let work = spans.iter().find(|span| span.name == "work").unwrap();
        let statement = spans.iter().find(|span| span.name == "SELECT pg_database").unwrap();
        let commit = spans.iter().find(|span| span.name == "COMMIT").unwrap();
        for span in [statement, commit] {
            assert_eq!(span.parent_span_id, work.span_context.span_id());
            assert_eq!(span.span_context.trace_id(), work.span_context.trace_id());
            assert_eq!(span.span_kind, SpanKind::Client);
            assert!(span.start_time >= work.start_time && span.end_time <= work.end_time);
        }
        let attribute = |key: &str| {
            statement.attributes.iter().find(|a| a.key.as_str() == key).map(|a| a.value.to_string()).unwrap()
        };
        assert_eq!(attribute("db.system.name"), "postgresql");
        assert_eq!(attribute("db.operation.name"), "SELECT");
        assert_eq!(attribute("db.query.text"), "SELECT $1 || ' there' FROM pg_database LIMIT 1");
        assert_eq!(attribute("db.response.returned_rows"), "1");
        // `Pool::connect` ran its test query before the span "work" began, so that query got no span.
        assert!(
            !spans
                .iter()
                .any(|span| span.parent_span_id == opentelemetry::trace::SpanId::INVALID
                    && span.name != "work")
        );
    }
}
