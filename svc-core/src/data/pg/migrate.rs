//! Migrations of a service's schema, run as its owner role.
//!
//! Every schema gets the tables of [`COMMON`] first, then the service's own. Replicas that start together
//! take turns by an advisory lock on the schema, which they poll. sqlx's own lock is not used: it is one lock
//! for the whole database, and a replica that waits for it *inside* a statement holds a snapshot open, for
//! which other statements may have to wait.
//!
//! At start only migrations that run in a transaction are allowed. A statement that must run outside one
//! (`CREATE INDEX CONCURRENTLY`) can dead-lock when replicas start together; such a migration is refused here
//! and has to be run separately.
//!
//! A schema that is newer than the program is no error: during a rolling update the older program must be
//! able to restart. A release therefore removes from the schema only what the release before it no longer
//! used.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, Migration, Migrator},
};

use super::{Error, PgConfig, Pool, Result, connect_once};

/// Migrations of the tables that every schema has: custody, leases, idempotency keys, audit log. Versions 1
/// to 99 are reserved for them.
pub static COMMON: Migrator = sqlx::migrate!("./migrations-common");

/// Time between two attempts to get the lock while another replica migrates.
const POLL: Duration = Duration::from_millis(100);

/// A schema that could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Postgres did not run a statement.
    #[error(transparent)]
    Database(#[from] Error),
    /// A migration failed or was changed after it was applied.
    #[error("migration of schema {schema} failed")]
    Failed {
        schema: String,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A migration must run outside a transaction.
    #[error("migration {0} runs outside a transaction, which start-up does not allow")]
    NotTransactional(i64),
    /// Two migrations have the same version.
    #[error("migration version {0} is used twice")]
    DuplicateVersion(i64),
    /// The role's `search_path` names no existing schema.
    #[error("role has no schema in its search_path: run `steward db init` first")]
    NoSchema,
    /// The schema is older than this program, and no owner role is configured to migrate it.
    #[error("schema {schema} lacks migration {version}: migrate it with the owner role first")]
    Behind { schema: String, version: i64 },
}

/// Migrates the schema as the owner role (`migrate_url`). Without an owner role, checks that the schema has
/// every migration.
///
/// # Errors
/// [`MigrateError`]; the failed migration is rolled back.
pub async fn migrate(service: &Migrator, config: &PgConfig) -> Result<(), MigrateError> {
    let Some(owner) = config.owner_options()? else {
        return check_migrated(service, &Pool::lazy(config)?).await;
    };
    let mut connection = connect_once(&owner).await?;
    let done = apply(service, &mut connection).await;
    // Closing the connection also releases the lock.
    let closed = connection.close().await;
    done?;
    closed.map_err(|error| MigrateError::Database(error.into()))
}

/// Checks that the schema has every migration that this program was built with.
///
/// # Errors
/// [`MigrateError::Behind`] if a migration is missing.
pub async fn check_migrated(service: &Migrator, pool: &Pool) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await?;
    let schema = schema_of(&mut connection).await?;
    let there: Option<bool> = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(Error::from)?;
    let applied: BTreeSet<i64> = if there == Some(true) {
        let rows: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut *connection)
            .await
            .map_err(Error::from)?;
        rows.into_iter().collect()
    } else {
        BTreeSet::new()
    };
    match all(service)?.iter().map(|migration| migration.version).find(|version| !applied.contains(version)) {
        Some(version) => Err(MigrateError::Behind { schema, version }),
        None => Ok(()),
    }
}

/// Applies the missing migrations over a connection of the owner role.
pub(crate) async fn apply(service: &Migrator, connection: &mut PgConnection) -> Result<(), MigrateError> {
    let schema = schema_of(connection).await?;
    let mut migrator = Migrator::with_migrations(all(service)?);
    migrator.set_ignore_missing(true);
    migrator.set_locking(false);
    let table = format!("{schema}._sqlx_migrations");
    let _: &Migrator = migrator.dangerous_set_table_name(table.clone());

    while !try_lock(connection).await? {
        tokio::time::sleep(POLL).await;
    }
    let failed = |source| MigrateError::Failed { schema: schema.clone(), source };
    connection.ensure_migrations_table(&table).await.map_err(failed)?;
    // The run role may read the list of migrations, but not change it.
    sqlx::raw_sql(include_str!("migrate/protect.sql"))
        .execute(&mut *connection)
        .await
        .map_err(Error::from)?;
    let done = migrator.run_direct(None, connection, false).await.map_err(failed);
    sqlx::query("SELECT pg_advisory_unlock(hashtextextended('steward.migrate.' || current_schema(), 0))")
        .execute(&mut *connection)
        .await
        .map_err(Error::from)?;
    done
}

/// Returns the common migrations and the service's own, in order.
pub(crate) fn all(service: &Migrator) -> Result<Vec<Migration>, MigrateError> {
    let mut versions = BTreeSet::new();
    COMMON
        .iter()
        .chain(service.iter())
        .map(|migration| {
            if migration.no_tx {
                return Err(MigrateError::NotTransactional(migration.version));
            }
            if !versions.insert(migration.version) {
                return Err(MigrateError::DuplicateVersion(migration.version));
            }
            Ok(migration.clone())
        })
        .collect()
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT pg_try_advisory_lock(hashtextextended('steward.migrate.' || current_schema(), 0))",
    )
    .fetch_one(connection)
    .await?)
}

async fn schema_of(connection: &mut PgConnection) -> Result<String, MigrateError> {
    let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(connection)
        .await
        .map_err(Error::from)?;
    schema.ok_or(MigrateError::NoSchema)
}
