//! Configuration and start of every service with a database.
//!
//! A service declares its own configuration keys ([`ServiceConfig`]); [`Config`] adds the tables that all
//! services have. A service starts in three steps: [`Starting::new`] checks everything that can be checked
//! without changing data, [`Starting::open`] migrates the database and connects to it, and [`Base::serve`]
//! serves the gRPC services.

mod config;

use std::sync::Arc;

use sqlx::migrate::Migrator;

pub use self::config::{BaseConfig, Config, RetentionConfig, ServiceConfig};
use crate::{
    data::{
        idempotency,
        pg::{self, MigrateError, Pool},
        redis::{self, Redis},
        wake::Wake,
    },
    id::new_id,
    run::{
        clock::{SharedClock, SystemClock},
        config::Unusable,
        lifecycle::Lifecycle,
        telemetry::Metrics,
    },
    wire::{
        assertion::{LoadError, Signer, Verifier},
        auth::{Authenticator, CachedTokens, ContractError, Methods, TokenResolver},
        client,
        server::{self, Bound, Server},
    },
};

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot work, alone or together with another one.
    #[error(transparent)]
    Config(#[from] Unusable),
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract does not say who may call its methods.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// The process's key or the trust file could not be loaded.
    #[error("load the keys")]
    Identity(#[from] LoadError),
    /// The configured URLs of another service cannot be used.
    #[error("call the other services")]
    Peer(#[from] client::Error),
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
    /// The configuration of Redis does not work.
    #[error("use Redis")]
    Redis(#[from] redis::Error),
    /// A part that only this service has could not start.
    #[error("{part}")]
    Part {
        /// Name of the part, as `models.fast`.
        part: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    /// Builds the error of a part that only this service has.
    pub fn part(
        part: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Part { part: part.into(), source: source.into() }
    }
}

/// A service that has bound its ports and read the contract and the keys that verify its callers, but has not
/// yet changed any data.
#[derive(Debug)]
pub struct Starting {
    name: &'static str,
    config: BaseConfig,
    pool: Pool,
    redis: Redis,
    bound: Bound,
    clock: SharedClock,
    methods: Methods,
    verifier: Verifier,
    lifecycle: Lifecycle,
    metrics: Metrics,
}

impl Starting {
    /// Checks the configuration, binds the ports, and reads the contract and the keys that verify callers.
    /// Returns the starting service, and the values of the configuration keys that only this service has.
    ///
    /// # Errors
    /// [`StartError`] names what does not work. The configuration is checked first, then the ports, then the
    /// contract and the keys that verify callers.
    pub async fn new<S: ServiceConfig>(
        config: Config<S>,
        lifecycle: Lifecycle,
        metrics: Metrics,
    ) -> Result<(Self, S), StartError> {
        let Config { base: config, own } = config;
        own.check()?;
        // The parser's error is dropped, because it may show the URL, which contains a password.
        let unusable = |key: &'static str| Unusable::new(key, "is not a usable URL");
        let pool = Pool::lazy(&config.pg).map_err(|_| unusable("pg.url"))?;
        config.pg.owner_options().map_err(|_| unusable("pg.migrate_url"))?;
        let redis = Redis::lazy(&config.redis).map_err(|_| unusable("redis.url"))?;
        let bound = Bound::bind(&config.server).await?;
        let clock = SystemClock::shared();
        let methods = Methods::from_contract()?;
        let verifier = Verifier::load(S::NAME, &config.identity, clock.clone())?;
        let name = S::NAME;
        Ok((Self { name, config, pool, redis, bound, clock, methods, verifier, lifecycle, metrics }, own))
    }

    /// Loads the key that signs this service's calls to other services.
    ///
    /// # Errors
    /// [`StartError::Identity`] if the key cannot be loaded.
    pub fn signer(&self) -> Result<Arc<Signer>, StartError> {
        Ok(Arc::new(Signer::load(self.name, &self.config.identity, self.clock.clone())?))
    }

    /// Migrates the database and checks that it answers. The service connects to Redis at the first use.
    ///
    /// # Errors
    /// [`StartError`] names what failed.
    pub async fn open(self, migrator: &Migrator) -> Result<Base, StartError> {
        pg::migrate(migrator, &self.config.pg).await?;
        self.pool.ping().await?;
        let (pool, redis) = (self.pool.clone(), self.redis.clone());
        let (clock, lifecycle) = (self.clock.clone(), self.lifecycle.clone());
        Ok(Base { pool, redis, clock, lifecycle, starting: self })
    }
}

/// Parts of which every service is built, after its database was migrated.
#[derive(Debug)]
pub struct Base {
    pub pool: Pool,
    /// Redis, connected at the first use.
    pub redis: Redis,
    /// The clock that the service's use cases read.
    pub clock: SharedClock,
    pub lifecycle: Lifecycle,
    starting: Starting,
}

impl Base {
    /// Starts the task that receives wake-ups through Redis.
    pub fn wake(&self) -> Wake {
        Wake::start(&self.redis, &self.lifecycle)
    }

    /// Returns a name under which this process holds leases. Every call returns a new one.
    pub fn lease_holder(&self) -> String {
        format!("{}/{}", self.starting.name, new_id())
    }

    /// Returns every method of the contract with the callers that it admits.
    pub const fn methods(&self) -> &Methods {
        &self.starting.methods
    }

    /// Starts the task that deletes expired idempotency keys. Every replica runs it; each skips the rows that
    /// another replica has locked.
    pub fn delete_expired_keys(&self, config: &RetentionConfig) {
        let (pool, soft, batch) = (self.pool.clone(), self.lifecycle.soft(), i64::from(config.batch.get()));
        self.lifecycle.every("idempotency keys", config.period, move || {
            let (pool, soft) = (pool.clone(), soft.clone());
            async move {
                let mut db = pool.acquire().await?;
                loop {
                    let deleted = idempotency::sweep(&mut db, batch).await?;
                    if soft.is_cancelled() || i64::try_from(deleted).is_ok_and(|deleted| deleted < batch) {
                        return Ok(());
                    }
                }
            }
        });
    }

    /// Serves the gRPC services that `add` adds to the server. The service is ready while the database
    /// answers. `tokens` resolves API tokens; at most `remembered` of its answers are cached.
    ///
    /// # Errors
    /// [`StartError::Server`] if a service is not part of the contract.
    pub fn serve(
        self,
        tokens: impl TokenResolver + 'static,
        remembered: u64,
        add: impl FnOnce(Server) -> Server,
    ) -> Result<(), StartError> {
        let Starting { name, config, bound, methods, verifier, metrics, .. } = self.starting;
        let tokens = CachedTokens::new(Arc::new(tokens), remembered);
        let authenticator = Authenticator::new(Arc::new(methods), verifier, Arc::new(tokens));
        let server = add(Server::new(name, config.server, authenticator));
        Ok(server.ready_when(self.pool).start(bound, metrics, &self.lifecycle)?)
    }
}
