//! `/healthz`, `/readyz` and `/metrics`.
//!
//! Liveness depends on nothing but this process. Readiness means that requests are worth sending here: every
//! service answered its health check once since the start, at least one still does, and the process is not
//! stopping. One service being away later makes its own routes fail and leaves the others served: taking every
//! gateway out of the balancer would make one outage a whole one.

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

/// How often the services are asked.
const PERIOD: Duration = Duration::from_secs(2);

/// Longest time for one of them to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this process wants requests.
#[derive(Debug, Clone)]
pub struct Readiness {
    seen: Arc<Mutex<Seen>>,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Seen {
    /// Services as last seen, by name; none before the first look.
    serving: BTreeMap<String, bool>,
    /// Services that answered at least once.
    answered: BTreeSet<String>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Report {
    ready: bool,
    draining: bool,
    services: BTreeMap<String, &'static str>,
}

impl Readiness {
    /// Watches `peers` until the lifecycle stops.
    #[must_use]
    pub fn watch(peers: Vec<(String, Peer)>, lifecycle: &Lifecycle) -> Self {
        let readiness = Self { seen: Arc::default(), stopping: lifecycle.soft() };
        let watched = readiness.clone();
        lifecycle.every("readiness", PERIOD, move || {
            let (peers, watched) = (peers.clone(), watched.clone());
            async move {
                watched.note(join_all(peers.into_iter().map(look)).await);
                Ok(())
            }
        });
        readiness
    }

    fn note(&self, looked: Vec<(String, bool)>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.answered.extend(looked.iter().filter(|(_, serving)| *serving).map(|(name, _)| name.clone()));
        seen.serving = looked.into_iter().collect();
    }

    fn report(&self) -> Report {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = self.stopping.is_cancelled();
        let started =
            !seen.serving.is_empty() && seen.serving.keys().all(|name| seen.answered.contains(name));
        let any = seen.serving.values().any(|serving| *serving);
        let word = |serving: &bool| if *serving { "serving" } else { "away" };
        Report {
            ready: started && any && !draining,
            draining,
            services: seen.serving.iter().map(|(name, serving)| (name.clone(), word(serving))).collect(),
        }
    }
}

async fn look((name, peer): (String, Peer)) -> (String, bool) {
    let mut client = HealthClient::new(peer.acting_for(None).by(Deadline::after(PATIENCE)));
    // Unobserved: traces of these would outnumber all others.
    let unobserved = tracing::subscriber::NoSubscriber::new();
    let serving =
        match client.check(HealthCheckRequest { service: String::new() }).with_subscriber(unobserved).await {
            Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
            Err(status) => {
                tracing::debug!(service = name, error = %status, "service does not answer its health check");
                false
            }
        };
    (name, serving)
}

/// Liveness.
pub async fn healthz() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(serde_json::json!({ "status": "ok" }))).into_response()
}

/// Readiness, and what it lacks.
pub async fn readyz(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report();
    let no_store = (header::CACHE_CONTROL, "no-store");
    match report.ready {
        true => ([no_store], Json(report)).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, [no_store, (header::RETRY_AFTER, "2")], Json(report))
            .into_response(),
    }
}

/// The operators' door: the same, and the process's metrics.
pub fn operators(readiness: Readiness, metrics: Metrics) -> Router {
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
        (Readiness { seen: Arc::default(), stopping: lifecycle.soft() }, lifecycle)
    }

    fn looked(chat: bool, purge: bool) -> Vec<(String, bool)> {
        vec![("chat".to_owned(), chat), ("purge".to_owned(), purge)]
    }

    #[test]
    fn it_takes_every_service_to_become_ready_and_one_to_stay_so() {
        let (readiness, _lifecycle) = readiness();
        assert!(!readiness.report().ready);
        for (looked, ready) in [
            (looked(true, false), false),
            (looked(false, true), true),
            (looked(true, true), true),
            (looked(true, false), true),
            (looked(false, false), false),
            (looked(false, true), true),
        ] {
            readiness.note(looked);
            assert_eq!(readiness.report().ready, ready);
        }
    }

    #[test]
    fn a_stopping_process_is_not_ready() {
        let (readiness, lifecycle) = readiness();
        readiness.note(looked(true, true));
        lifecycle.stop();
        let report = readiness.report();
        assert!(!report.ready && report.draining);
        assert_eq!(report.services["chat"], "serving");
    }
}
