//! The HTTP listener for operators: `/healthz` answers 200 while the process runs, `/readyz` names the checks
//! that fail, and `/metrics` has the metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::Error;
use crate::run::{lifecycle::Lifecycle, readiness::Check, telemetry::Metrics};

/// Period of the readiness checks behind the gRPC health service.
const HEALTH_PERIOD: Duration = Duration::from_secs(2);

/// Time for which the listener stays open after the process was asked to stop, so that an operator can watch
/// it drain.
const AFTER_STOP: Duration = Duration::from_secs(2);

/// Maximum time of one readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Operator {
    service: &'static str,
    checks: Arc<[Arc<dyn Check>]>,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

pub(super) fn start(
    service: &'static str,
    listener: TcpListener,
    checks: Vec<Arc<dyn Check>>,
    health: HealthReporter,
    metrics: Metrics,
    lifecycle: &Lifecycle,
) {
    let operator = Operator { service, checks: checks.into(), metrics, lifecycle: lifecycle.clone() };
    let watch = operator.clone();
    lifecycle.every("health", HEALTH_PERIOD, move || {
        let (watch, health) = (watch.clone(), health.clone());
        async move {
            let status = if watch.missing().await.is_empty() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            health.set_service_status("", status).await;
            Ok(())
        }
    });
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(operator);
    let hard = lifecycle.hard();
    let soft = lifecycle.soft();
    let drained = async move {
        soft.cancelled().await;
        tokio::select! {
            () = hard.cancelled() => {}
            () = tokio::time::sleep(AFTER_STOP) => {}
        }
    };
    lifecycle.spawn_essential("operators' port", async move {
        tokio::select! {
            served = axum::serve(listener, router).into_future() => served.map_err(Error::Operator),
            () = drained => Ok(()),
        }
    });
}

impl Operator {
    /// Returns the problem of each check that fails, by the check's name. While the process is stopping,
    /// `draining` is one of them.
    async fn missing(&self) -> Map<String, Value> {
        let looked = self.checks.iter().map(|check| async move {
            let verdict = match tokio::time::timeout(CHECK_TIMEOUT, check.check()).await {
                Ok(verdict) => verdict,
                Err(_) => Err("no answer".to_owned()),
            };
            (check.name(), verdict)
        });
        let mut missing = Map::new();
        for (name, verdict) in futures::future::join_all(looked).await {
            if let Err(problem) = verdict {
                missing.insert(name.to_owned(), problem.into());
            }
        }
        if self.lifecycle.soft().is_cancelled() {
            missing.insert("draining".to_owned(), "the process is stopping".into());
        }
        missing
    }
}

async fn healthz(State(operator): State<Operator>) -> Json<Value> {
    let loops: Map<String, Value> = operator
        .lifecycle
        .loops()
        .into_iter()
        .map(|health| {
            let state = json!({
                "healthy": health.healthy,
                "failures": health.failures,
                "seconds_since_last_tick": health.since_last_tick.map(|time| time.as_secs_f64()),
            });
            (health.name.to_owned(), state)
        })
        .collect();
    Json(json!({ "status": "ok", "service": operator.service, "loops": loops }))
}

async fn readyz(State(operator): State<Operator>) -> Response {
    let missing = operator.missing().await;
    if missing.is_empty() {
        Json(json!({ "ready": true })).into_response()
    } else {
        let body = Json(json!({ "ready": false, "missing": missing }));
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")], body).into_response()
    }
}

async fn metrics_text(State(operator): State<Operator>) -> Response {
    match operator.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
