//! `/healthz`, `/readyz` and `/metrics`.
//!
//! A running process is live. It is ready if every service has passed a health check at least once since the
//! start, at least one service passed the last check, and the process is not stopping. If one service fails
//! later, only its routes fail and the gateway stays ready: otherwise every gateway would leave the load
//! balancer, and the outage of one service would become an outage of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::join_all;
use http::{StatusCode, header};
use serde::Serialize;
use svc_core::{
    run::{lifecycle::Lifecycle, telemetry::Metrics},
    wire::{client::Peer, deadline::Deadline},
};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing::instrument::WithSubscriber;

/// Period of the health checks.
const PERIOD: Duration = Duration::from_secs(2);

/// Maximum time for one service to answer a check.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    services: Arc<Mutex<Services>>,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Services {
    /// Whether each service, by name, passed its last check; empty before the first check.
    serving: BTreeMap<String, bool>,
    /// Services that passed at least one check.
    answered: BTreeSet<String>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Report {
    ready: bool,
    draining: bool,
    services: BTreeMap<String, &'static str>,
}

impl Readiness {
    /// Checks `peers` periodically until the lifecycle stops.
    pub(crate) fn watch(peers: Vec<(String, Peer)>, lifecycle: &Lifecycle) -> Self {
        let readiness = Self { services: Arc::default(), stopping: lifecycle.soft() };
        let watched = readiness.clone();
        lifecycle.every("readiness", PERIOD, move || {
            let (peers, watched) = (peers.clone(), watched.clone());
            async move {
                watched.record(join_all(peers.into_iter().map(check)).await);
                Ok(())
            }
        });
        readiness
    }

    fn record(&self, checked: Vec<(String, bool)>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = checked.iter().filter(|(_, serving)| *serving).map(|(name, _)| name.clone());
        services.answered.extend(passed);
        services.serving = checked.into_iter().collect();
    }

    fn report(&self) -> Report {
        let Services { serving, answered } = &*self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = self.stopping.is_cancelled();
        let started = !serving.is_empty() && serving.keys().all(|name| answered.contains(name));
        let any = serving.values().any(|serving| *serving);
        let word = |serving: &bool| if *serving { "serving" } else { "away" };
        Report {
            ready: started && any && !draining,
            draining,
            services: serving.iter().map(|(name, serving)| (name.clone(), word(serving))).collect(),
        }
    }
}

async fn check((name, peer): (String, Peer)) -> (String, bool) {
    let mut client = HealthClient::new(peer.acting_for(None).by(Deadline::after(TIMEOUT)));
    // Makes no spans, because they would outnumber all other traces.
    let untraced = tracing::subscriber::NoSubscriber::new();
    let serving =
        match client.check(HealthCheckRequest { service: String::new() }).with_subscriber(untraced).await {
            Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
            Err(status) => {
                tracing::debug!(service = name, error = %status, "service does not answer its health check");
                false
            }
        };
    (name, serving)
}

pub(crate) async fn healthz() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(serde_json::json!({ "status": "ok" }))).into_response()
}

pub(crate) async fn readyz(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report();
    let no_store = (header::CACHE_CONTROL, "no-store");
    match report.ready {
        true => ([no_store], Json(report)).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, [no_store, (header::RETRY_AFTER, "2")], Json(report))
            .into_response(),
    }
}

/// Returns the routes of the operator port.
pub(crate) fn operators(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics_text).with_state(metrics))
}

async fn metrics_text(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness() -> (Readiness, Lifecycle) {
        let lifecycle = Lifecycle::new();
        (Readiness { services: Arc::default(), stopping: lifecycle.soft() }, lifecycle)
    }

    fn checked(chat: bool, purge: bool) -> Vec<(String, bool)> {
        vec![("chat".to_owned(), chat), ("purge".to_owned(), purge)]
    }

    #[test]
    fn every_service_must_answer_first_and_one_later() {
        let (readiness, _lifecycle) = readiness();
        assert!(!readiness.report().ready);
        for (checked, ready) in [
            (checked(true, false), false),
            (checked(false, true), true),
            (checked(true, true), true),
            (checked(true, false), true),
            (checked(false, false), false),
            (checked(false, true), true),
        ] {
            readiness.record(checked);
            assert_eq!(readiness.report().ready, ready);
        }
    }

    #[test]
    fn a_stopping_process_is_not_ready() {
        let (readiness, lifecycle) = readiness();
        readiness.record(checked(true, true));
        lifecycle.stop();
        let report = readiness.report();
        assert!(!report.ready && report.draining);
        assert_eq!(report.services["chat"], "serving");
    }
}
