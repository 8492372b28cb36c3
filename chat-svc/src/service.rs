//! The composition root: the only place that wires and spawns.

use std::{collections::BTreeMap, sync::Arc};

use svc_core::{
    custody::server::CustodianHandler,
    data::{
        pg::{self, MigrateError, Pool},
        redis::{self, Redis},
        wake::Wake,
    },
    id,
    run::{clock::SystemClock, lifecycle::Lifecycle, telemetry::Metrics},
    wire::{
        assertion::{LoadError, Signer, Verifier},
        auth::{Authenticator, CachedTokens, ContractError, Methods, remote::RegistryTokens},
        client::{self, Peer},
        server::{self, Bound, Server},
    },
};

use crate::{
    app::{
        custodian::Custodian,
        notice::Notices,
        sessions::Sessions,
        turns::{TurnLimits, Turns},
    },
    backend::{
        native::Native,
        route::{RouteModel, Routes},
        tools::Toolbox,
    },
    client::sandbox::Sandboxes,
    config::{Config, ConfigError, ModelSection},
    grpc::{chat::ChatHandler, stream::Streams},
    journal::Journal,
    model::{
        breakers::LocalBreakers,
        capabilities::Capabilities,
        demo::Demo,
        model_client::ModelClient,
        observed::Observed,
        openai::{self, OpenAi},
    },
    store::MIGRATOR,
    worker::{self, claimer::Claimer, driver::Driver, leases::InHand, stops::Stops},
};

/// The service's name, as assertions and telemetry have it.
pub const NAME: &str = "chat-svc";

/// Why chat-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys of the configuration do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model cannot be asked as it is configured.
    #[error("models.{name}")]
    Model {
        /// Its name.
        name: String,
        /// What is wrong.
        source: openai::ConfigError,
    },
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract cannot be enforced.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// The keys of this process or of the others could not be loaded.
    #[error("load the identity")]
    Identity(#[from] LoadError),
    /// A peer cannot be called.
    #[error(transparent)]
    Peer(#[from] client::Error),
    /// The database is not as it should be.
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
    /// Redis cannot be used, whether it is there or not.
    #[error("use Redis")]
    Redis(#[from] redis::Error),
}

/// Starts chat-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] says why there is none.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    config.check()?;
    // A taken port shows before anything is changed.
    let bound = Bound::bind(&config.server).await?;
    let clock = SystemClock::shared();
    let signer = Arc::new(Signer::load(NAME, &config.identity, clock.clone())?);
    let verifier = Verifier::load(NAME, &config.identity, clock.clone())?;
    let registry = Peer::lazy("registry-svc", &config.peers.registry, signer.clone())?;
    let sandbox = Peer::lazy("sandbox-svc", &config.peers.sandbox, signer)?;
    pg::migrate(&MIGRATOR, &config.pg).await?;
    let pool = Pool::connect(&config.pg).await?;
    let wake = Wake::start(&Redis::lazy(&config.redis)?, &lifecycle);

    let resolver = Arc::new(RegistryTokens::new(registry));
    let tokens = Arc::new(CachedTokens::new(resolver, config.tokens.remembered));
    let authenticator = Authenticator::new(Arc::new(Methods::from_contract()?), verifier, tokens);

    let journal = Journal::start(config.journal.clone(), pool.clone(), wake.clone(), &lifecycle);
    let notices = Notices::start(wake, &lifecycle);
    let routes = routes(&config)?;
    let breakers = Arc::new(LocalBreakers::new(config.breaker, clock.clone()));
    let sandboxes = Sandboxes::new(sandbox, config.sandbox.clone());
    let toolbox = Toolbox::new(sandboxes.clone());
    let backend = Arc::new(Native::new(config.native(), routes.clone(), breakers, Some(toolbox)));

    let driver = Driver::new(
        pool.clone(),
        clock.clone(),
        journal.clone(),
        notices.clone(),
        backend,
        config.worker.max_barren_claims,
        &lifecycle,
    );
    let in_hand = InHand::default();
    worker::leases::start(
        in_hand.clone(),
        pool.clone(),
        config.worker.lease_ttl,
        config.worker.renew_period,
        &lifecycle,
    );
    Claimer::new(
        Arc::new(config.worker.clone()),
        &format!("{NAME}/{}", id::new_id()),
        pool.clone(),
        notices.clone(),
        in_hand,
        driver,
        lifecycle.clone(),
    )
    .start();
    Stops::new(pool.clone(), sandboxes, lifecycle.clone()).start(config.worker.scan_period);
    worker::retention::start(pool.clone(), &config.retention, &lifecycle);

    let names = routes.names().map(str::to_owned).collect();
    let sessions = Sessions::new(pool.clone(), clock.clone(), names);
    let limits = TurnLimits { deadline: config.turns.deadline, max_open: config.turns.max_open };
    let custodian = Custodian::new(pool.clone(), clock.clone(), journal.clone(), notices.clone());
    let turns = Turns::new(pool.clone(), clock, journal, notices, limits);
    let streams = Streams::new(lifecycle.clone(), config.journal.slow_reader);
    Server::new(NAME, config.server, authenticator)
        .service(ChatHandler::new(sessions, turns, streams).into_server())
        .service(CustodianHandler::new(NAME, custodian).into_server())
        .ready_when(pool)
        .start(bound, metrics, &lifecycle)?;
    Ok(())
}

/// The configured routes, with a client for every model; [`Config::check`] has seen that the names fit.
fn routes(config: &Config) -> Result<Routes, StartError> {
    let mut models = BTreeMap::new();
    for (name, section) in &config.models {
        models.insert(name.as_str(), model(name, section, config.capture_content)?);
    }
    let route = |names: &Vec<String>| {
        names.iter().filter_map(|name| models.get(name.as_str()).cloned()).collect::<Vec<_>>()
    };
    Ok(Routes::new(config.routes.iter().map(|(name, names)| (name.clone(), route(names))).collect()))
}

fn model(name: &str, section: &ModelSection, capture_content: bool) -> Result<RouteModel, StartError> {
    let (id, prefill, max_output_tokens, client): (&str, _, _, Arc<dyn ModelClient>) = match section {
        ModelSection::Demo { pace, prefill } => ("demo", *prefill, None, Arc::new(Demo::new(*pace))),
        ModelSection::OpenAi { model, endpoint, max_output_tokens, prefill } => {
            let client = OpenAi::new(endpoint)
                .map_err(|source| StartError::Model { name: name.to_owned(), source })?;
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
