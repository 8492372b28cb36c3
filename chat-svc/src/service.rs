//! The composition root: only this file builds the parts of chat-svc and starts its background tasks.

use std::{collections::BTreeMap, sync::Arc};

use svc_core::{
    base::{ServiceConfig, StartError, Starting},
    custody::server::CustodianHandler,
    run::{backoff::Backoff, lifecycle::Lifecycle, telemetry::Metrics},
    wire::{auth::remote::RegistryTokens, client::Peer},
};
use tokio::sync::Semaphore;

use crate::{
    app::{
        claims::Claims, custodian::Custodian, notice::Notices, run::Runs, running::RunningTurns,
        sessions::Sessions, stops::CallStops, turns::Turns,
    },
    backend::{
        native::{Native, NativeConfig},
        route::{RouteModel, Routes},
        tools::Toolbox,
    },
    client::sandbox::Sandboxes,
    config::{Config, ModelSection, Settings},
    domain::{failover::RetryPolicy, step::ClockLimits},
    grpc::{chat::ChatHandler, stream::Streams},
    journal::Journal,
    model::{
        breakers::Breakers, capabilities::Capabilities, demo::Demo, model_client::ModelClient,
        observed::Observed, openai::OpenAi,
    },
    store::MIGRATOR,
    worker::{self, claimer::Claimer, driver::Driver, stops::StopWorker},
};

/// The service's name in assertions and telemetry.
pub const NAME: &str = Settings::NAME;

/// Starts chat-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] names the part that could not start.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    let (starting, settings) = Starting::new(config, lifecycle, metrics).await?;
    let signer = starting.signer()?;
    let registry = Peer::lazy("registry-svc", &settings.peers.registry, signer.clone())?;
    let sandbox = Peer::lazy("sandbox-svc", &settings.peers.sandbox, signer)?;
    let routes = routes(&settings)?;
    let base = starting.open(&MIGRATOR).await?;
    let (pool, clock, lifecycle, wake) = (&base.pool, &base.clock, &base.lifecycle, base.wake());

    let journal = Journal::start(settings.journal.clone(), pool.clone(), wake.clone(), lifecycle);
    let notices = Notices::start(wake, lifecycle);
    let sandboxes = Sandboxes::new(sandbox, settings.sandbox.clone());
    let backend = Arc::new(Native {
        config: native(&settings),
        routes: routes.clone(),
        breakers: Breakers::new(settings.breaker, clock.clone()),
        toolbox: Toolbox::new(sandboxes.clone()),
    });

    let runs = Runs {
        pool: pool.clone(),
        clock: clock.clone(),
        journal: journal.clone(),
        notices: notices.clone(),
        stopping: lifecycle.soft(),
    };
    let driver = Driver { runs, backend, max_no_progress: settings.worker.max_barren_claims };
    let running = RunningTurns::new(pool.clone());
    let (ttl, renew_period) = (settings.worker.lease_ttl, settings.worker.renew_period);
    worker::leases::start(running.clone(), ttl, renew_period, lifecycle);
    let claims = Claims {
        pool: pool.clone(),
        owner: base.lease_holder().into(),
        lease_ttl: ttl,
        max_running_per_account: settings.worker.max_running_per_account,
    };
    let claimer = Claimer {
        config: settings.worker.clone(),
        claims,
        notices: notices.clone(),
        running,
        driver,
        lifecycle: lifecycle.clone(),
        slots: Arc::new(Semaphore::new(settings.worker.max_running)),
    };
    claimer.start();
    let stops = CallStops::new(pool.clone(), sandboxes);
    StopWorker::new(stops, lifecycle.clone()).start(settings.worker.scan_period);
    base.delete_expired_keys(&settings.retention);

    let names = routes.names().map(str::to_owned).collect();
    let sessions = Sessions::new(pool.clone(), clock.clone(), names);
    let custodian = Custodian::new(pool.clone(), clock.clone(), journal.clone(), notices.clone());
    let turns = Turns { pool: pool.clone(), clock: clock.clone(), journal, notices, limits: settings.turns };
    let streams = Streams::new(lifecycle.clone(), settings.journal.slow_reader);
    base.serve(RegistryTokens::new(registry), settings.tokens.remembered, |server| {
        server
            .service(ChatHandler::new(sessions, turns, streams).into_server())
            .service(CustodianHandler::new(NAME, custodian).into_server())
    })
}

fn native(settings: &Settings) -> NativeConfig {
    let section = &settings.native;
    NativeConfig {
        system: Some(section.system.clone()).filter(|system| !system.is_empty()),
        max_steps: section.max_steps,
        retry: RetryPolicy {
            retries: section.retries,
            backoff: Backoff::new(section.first_delay, section.longest_delay),
            longest_wait: section.longest_wait,
        },
        clocks: ClockLimits {
            bytes: section.bytes_timeout,
            liveness: section.liveness_timeout,
            progress: section.progress_timeout,
        },
        breaker: settings.breaker,
    }
}

/// Builds the configured routes, with a client for every model. [`Settings`] has checked that the models
/// exist.
fn routes(settings: &Settings) -> Result<Routes, StartError> {
    let mut models = BTreeMap::new();
    for (name, section) in &settings.models {
        models.insert(name.as_str(), model(name, section, settings.capture_content)?);
    }
    let route = |names: &Vec<String>| {
        names.iter().filter_map(|name| models.get(name.as_str()).cloned()).collect::<Vec<_>>()
    };
    Ok(Routes::new(settings.routes.iter().map(|(name, names)| (name.clone(), route(names))).collect()))
}

fn model(name: &str, section: &ModelSection, capture_content: bool) -> Result<RouteModel, StartError> {
    let (id, prefill, max_output_tokens, client): (&str, _, _, Arc<dyn ModelClient>) = match section {
        ModelSection::Demo { pace, prefill } => ("demo", *prefill, None, Arc::new(Demo::new(*pace))),
        ModelSection::OpenAi { model, endpoint, max_output_tokens, prefill } => {
            let client =
                OpenAi::new(endpoint).map_err(|error| StartError::part(format!("models.{name}"), error))?;
            (model, *prefill, *max_output_tokens, Arc::new(client))
        }
    };
    let capabilities = Capabilities::of(id);
    Ok(RouteModel {
        name: name.to_owned(),
        id: id.to_owned(),
        prefill: prefill.unwrap_or(capabilities.prefill),
        tools: capabilities.tools,
        max_output_tokens,
        client: Arc::new(Observed::new(client, capture_content)),
    })
}
