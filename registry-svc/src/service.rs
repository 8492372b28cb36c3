//! The composition root: the only place that wires and spawns.

use std::{collections::BTreeSet, sync::Arc};

use svc_core::{
    assertion::{LoadError, Verifier},
    auth::{Authenticator, CachedTokens, ContractError, Methods},
    clock::{SharedClock, SystemClock},
    lifecycle::Lifecycle,
    outbound::{self, Outbound},
    pg::{self, MigrateError, Pool},
    server::{self, Bound, Server},
    telemetry::Metrics,
};

use crate::{
    app::{
        accounts::Accounts,
        agents::{Agents, Limits},
        register::Register,
        tokens::Tokens,
    },
    config::Config,
    grpc::{accounts::AccountHandler, agents::AgentHandler, auth::AuthHandler},
    store::MIGRATOR,
    worker,
};

/// The service's name, as assertions and telemetry have it.
pub const NAME: &str = "registry-svc";

/// Why registry-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract cannot be enforced.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// The keys of the other processes could not be loaded.
    #[error("load the trusted keys")]
    Identity(#[from] LoadError),
    /// The database is not as it should be.
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// Agents cannot be called.
    #[error(transparent)]
    Outbound(#[from] outbound::BuildError),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
}

/// Starts registry-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] says why there is none.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    // A taken port shows before anything is changed.
    let bound = Bound::bind(&config.server).await?;
    let clock = SystemClock::shared();
    let methods = Methods::from_contract()?;
    let verifier = Verifier::load(NAME, &config.identity, clock.clone())?;
    pg::migrate(&MIGRATOR, &config.pg).await?;
    let pool = Pool::connect(&config.pg).await?;

    let app = App::new(&config, &methods, &pool, &clock)?;
    let resolver = CachedTokens::new(Arc::new(app.tokens.clone()), config.tokens.remembered);
    let authenticator = Authenticator::new(Arc::new(methods), verifier, Arc::new(resolver));

    worker::retention::start(pool.clone(), &config.retention, &lifecycle);
    Server::new(NAME, config.server, authenticator)
        .service(AccountHandler::new(app.accounts, app.tokens.clone()).into_server())
        .service(AuthHandler::new(app.tokens).into_server())
        .service(AgentHandler::new(app.agents, app.register).into_server())
        .ready_when(pool)
        .start(bound, metrics, &lifecycle)?;
    Ok(())
}

/// The use cases.
struct App {
    accounts: Accounts,
    tokens: Tokens,
    agents: Agents,
    register: Register,
}

impl App {
    fn new(config: &Config, methods: &Methods, pool: &Pool, clock: &SharedClock) -> Result<Self, StartError> {
        let (pool, clock) = (|| pool.clone(), || clock.clone());
        let limits = Limits {
            max_per_account: config.agents.max_per_account,
            enrolment_ttl: config.agents.enrolment_ttl,
        };
        Ok(Self {
            accounts: Accounts::new(pool(), clock()),
            tokens: Tokens::new(pool(), clock(), scopes_of(methods), config.tokens.max_live_per_account),
            agents: Agents::new(pool(), clock(), limits),
            register: Register::new(pool(), clock(), Outbound::new(&config.outbound)?),
        })
    }
}

/// Every scope that some method asks for.
fn scopes_of(methods: &Methods) -> BTreeSet<String> {
    let scopes = methods.paths().filter_map(|path| methods.get(path)).map(|method| &method.auth.scope);
    scopes.filter(|scope| !scope.is_empty()).cloned().collect()
}
