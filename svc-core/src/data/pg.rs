//! Access to Postgres: a pool with time limits, migrations, typed errors, and the transaction that
//! application code begins and commits.
//!
//! * All services use one database. Each service has a schema, an owner role that migrates it, and a run role
//!   that cannot change tables ([`bootstrap`] creates them). SQL names tables without a schema: the role's
//!   `search_path` determines the schema.
//! * [`Tx::for_subject`] and [`Tx::for_subject_or_new`] begin the only transactions that may write a
//!   subject's content. Such a transaction locks the subject's custody row (`custody.rs`): an erasure
//!   waits until the transaction ends, and no new one can begin during the erasure.
//! * Stores return database errors as [`Error`]; its variants say what the caller should do.
//!
//! Postgres enforces the limits on statements, locks and idle transactions. If the server's host vanishes
//! without closing its connections, only the kernel notices, after minutes. A caller with a deadline
//! therefore applies it to the whole transaction; dropping a transaction is always safe.
//!
//! SQL in this crate is checked when it runs, not when the crate is built: the tables that it names
//! (`custody`, `leases`, `idempotency_keys`, `audit_log`) exist in the schema of *each* service, so sqlx's
//! checking macros have no single schema to check against. Instead, tests run every statement against a
//! migrated schema.

use std::time::Duration;

use opentelemetry::KeyValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub mod bootstrap;
mod error;
mod migrate;
mod tx;

#[cfg(any(test, feature = "test-util"))]
pub(crate) use self::migrate::{all, apply};
pub use self::{
    error::{ConflictKind, Error, Result, ensure_affected},
    migrate::{COMMON, MigrateError, check_migrated, migrate},
    tx::Tx,
};

/// Idle time after which a connection is pinged before a caller gets it. Without a ping the first query after
/// a restart of Postgres fails; with a ping each time, every transaction takes one more round trip.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Address and limits of a service's Postgres. Only `url` has no default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgConfig {
    /// URL of the run role, for example `postgres://steward_chat:…@db/steward`.
    pub url: SecretString,
    /// URL of the owner role. With it the service migrates its schema when it starts; without it the service
    /// refuses to start on a schema older than the program.
    #[serde(default)]
    pub migrate_url: Option<SecretString>,
    /// Maximum number of connections of one process.
    #[serde(default = "defaults::max_connections")]
    pub max_connections: u32,
    /// Maximum wait for a connection.
    #[serde(default = "defaults::acquire_timeout", with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// Maximum time of one statement.
    #[serde(default = "defaults::statement_timeout", with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Maximum wait for a lock.
    #[serde(default = "defaults::lock_timeout", with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Maximum time that a transaction may be idle between two statements.
    #[serde(default = "defaults::idle_in_transaction_session_timeout", with = "humantime_serde")]
    pub idle_in_transaction_session_timeout: Duration,
}

mod defaults {
    use std::time::Duration;

    pub(super) const fn max_connections() -> u32 {
        16
    }
    pub(super) const fn acquire_timeout() -> Duration {
        Duration::from_secs(5)
    }
    pub(super) const fn statement_timeout() -> Duration {
        Duration::from_secs(15)
    }
    pub(super) const fn lock_timeout() -> Duration {
        Duration::from_secs(5)
    }
    pub(super) const fn idle_in_transaction_session_timeout() -> Duration {
        Duration::from_secs(60)
    }
}

impl PgConfig {
    /// Builds the default configuration with this URL.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            migrate_url: None,
            max_connections: defaults::max_connections(),
            acquire_timeout: defaults::acquire_timeout(),
            statement_timeout: defaults::statement_timeout(),
            lock_timeout: defaults::lock_timeout(),
            idle_in_transaction_session_timeout: defaults::idle_in_transaction_session_timeout(),
        }
    }

    /// Returns the connection options of the owner role; `None` if the configuration has no `migrate_url`.
    ///
    /// # Errors
    /// [`Error::Driver`] if `migrate_url` cannot be read.
    pub(crate) fn owner_options(&self) -> Result<Option<PgConnectOptions>> {
        self.migrate_url.as_ref().map(|url| self.options(url, true)).transpose()
    }

    /// Returns the options of a connection at `url` with these limits. `unlimited` removes the limit on the
    /// time of a statement.
    fn options(&self, url: &SecretString, unlimited: bool) -> Result<PgConnectOptions> {
        let options: PgConnectOptions = url.expose_secret().parse().map_err(Error::from)?;
        let statement = if unlimited { Duration::ZERO } else { self.statement_timeout };
        // Hides the notice "already exists, skipping", which every start would log.
        let options = options.options([("client_min_messages", "warning")]);
        Ok(options.options([
            ("statement_timeout", statement.as_millis()),
            ("lock_timeout", self.lock_timeout.as_millis()),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction_session_timeout.as_millis()),
        ]))
    }
}

/// A connection of a [`Pool`]; returns to the pool when it is dropped.
pub type Connection = PoolConnection<Postgres>;

/// The connections of a process to Postgres; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(PgPool);

impl Pool {
    /// Builds a pool that connects at its first use, so that a service can start before its database does.
    ///
    /// # Errors
    /// [`Error::Driver`] if the URL cannot be read.
    pub fn lazy(config: &PgConfig) -> Result<Self> {
        let options = config.options(&config.url, false)?;
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        observe(&pool, options.get_username());
        Ok(Self(pool))
    }

    /// Builds a pool as [`Self::lazy`] does, and checks that Postgres answers.
    ///
    /// # Errors
    /// [`Error`] if Postgres does not answer.
    pub async fn connect(config: &PgConfig) -> Result<Self> {
        let pool = Self::lazy(config)?;
        pool.ping().await?;
        Ok(pool)
    }

    /// Returns a connection for statements that need no transaction.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is free in time.
    pub async fn acquire(&self) -> Result<Connection> {
        Ok(self.0.acquire().await?)
    }

    /// Checks that Postgres answers.
    ///
    /// # Errors
    /// [`Error`] if Postgres does not answer.
    pub async fn ping(&self) -> Result<()> {
        let mut connection = self.acquire().await?;
        sqlx::query("SELECT 1").execute(&mut *connection).await?;
        Ok(())
    }

    /// Returns the sqlx pool, for single statements of a store.
    pub const fn inner(&self) -> &PgPool {
        &self.0
    }

    /// Closes every connection; those in use are closed when their users return them.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

#[tonic::async_trait]
impl crate::run::readiness::Check for Pool {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn check(&self) -> crate::run::readiness::CheckResult {
        self.ping().await.map_err(|error| {
            tracing::debug!(error = %crate::error::Chain(&error), "Postgres does not answer");
            "does not answer".to_owned()
        })
    }
}

/// Reports the numbers of idle, used and allowed connections, under OpenTelemetry's names for database
/// clients.
fn observe(pool: &PgPool, name: &str) {
    let meter = opentelemetry::global::meter("steward");
    let label = |state: Option<&'static str>| {
        let state = state.map(|state| KeyValue::new("db.client.connection.state", state));
        state
            .into_iter()
            .chain([KeyValue::new("db.client.connection.pool.name", name.to_owned())])
            .collect::<Vec<_>>()
    };
    let (idle, used, all) = (label(Some("idle")), label(Some("used")), label(None));
    let counted = pool.clone();
    meter
        .i64_observable_up_down_counter("db.client.connection.count")
        .with_unit("{connection}")
        .with_description("Connections to Postgres that are open")
        .with_callback(move |observer| {
            let free = i64::try_from(counted.num_idle()).unwrap_or(i64::MAX);
            observer.observe(free, &idle);
            observer.observe(i64::from(counted.size()).saturating_sub(free), &used);
        })
        .build();
    let most = i64::from(pool.options().get_max_connections());
    meter
        .i64_observable_up_down_counter("db.client.connection.max")
        .with_unit("{connection}")
        .with_description("Connections to Postgres that may be open")
        .with_callback(move |observer| observer.observe(most, &all))
        .build();
}

/// Opens a connection outside the pool, without a limit on statements, for migrations and set-up.
async fn connect_once(options: &PgConnectOptions) -> Result<PgConnection> {
    Ok(PgConnection::connect_with(options).await?)
}

#[cfg(test)]
mod tests;
