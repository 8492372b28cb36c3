//! Set-up of a cluster, once, as superuser, before any service starts: the database, a schema for each
//! service that keeps data, and two roles for each schema. `steward db init` runs it.
//!
//! `steward_<service>_owner` owns the schema and migrates it. `steward_<service>` runs the service: it reads
//! and writes rows and cannot change tables; migrations revoke its UPDATE and DELETE where a ledger must only
//! grow. Neither role sees another schema. The set-up can run again at any time, also several times at once,
//! and repairs what it finds.

use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{Error, Result};

/// Services that keep data; each has a schema of its name.
pub const SCHEMAS: [&str; 4] = ["chat", "sandbox", "registry", "purge"];

/// Creates the roles of the service in `steward.service`.
const ROLES: &str = include_str!("bootstrap/roles.sql");

/// Creates the schema of the service in `steward.service`, in the current database.
const SCHEMA: &str = include_str!("bootstrap/schema.sql");

/// A password for a role. A role without one keeps its present login: certificate, peer or trust.
#[derive(Debug, Clone)]
pub struct RolePassword {
    /// Name of the role, as `steward_chat`.
    pub role: String,
    pub password: SecretString,
}

/// Creates database, schemas and roles, or completes them. `superuser_url` names any other database of the
/// cluster, as `postgres`.
///
/// # Errors
/// [`Error`] if the cluster refuses; running the set-up again is safe.
pub async fn init(superuser_url: &SecretString, database: &str, passwords: &[RolePassword]) -> Result<()> {
    let options: PgConnectOptions = superuser_url.expose_secret().parse().map_err(Error::from)?;
    let mut admin = PgConnection::connect_with(&options).await?;
    // This connection holds the lock until it ends: a concurrent set-up waits, then finds everything in
    // place.
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('steward.bootstrap', 0))")
        .execute(&mut admin)
        .await?;
    roles(&mut admin).await?;
    for RolePassword { role, password } in passwords {
        // Roles take no parameters; the server itself quotes name and password.
        let alter: String =
            sqlx::query_scalar("SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)")
                .bind(role)
                .bind(password.expose_secret())
                .fetch_one(&mut admin)
                .await?;
        sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut admin).await?;
    }
    let create: Option<String> = sqlx::query_scalar(
        "SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING ''UTF8''', $1::text)
         WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)",
    )
    .bind(database)
    .fetch_optional(&mut admin)
    .await?;
    if let Some(create) = create {
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await?;
    }
    let mut inside = PgConnection::connect_with(&options.database(database)).await?;
    schemas(&mut inside).await?;
    inside.close().await?;
    Ok(admin.close().await?)
}

/// Creates the roles, which belong to the cluster.
pub(crate) async fn roles(superuser: &mut PgConnection) -> Result<()> {
    for service in SCHEMAS {
        run_for(superuser, service, ROLES).await?;
    }
    Ok(())
}

/// Creates the schemas in the current database.
pub(crate) async fn schemas(superuser: &mut PgConnection) -> Result<()> {
    for service in SCHEMAS {
        run_for(superuser, service, SCHEMA).await?;
    }
    Ok(())
}

async fn run_for(superuser: &mut PgConnection, service: &str, sql: &'static str) -> Result<()> {
    let mut tx = superuser.begin().await?;
    sqlx::query("SELECT set_config('steward.service', $1, true)").bind(service).execute(&mut *tx).await?;
    sqlx::raw_sql(sql).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Every statement of the set-up: a template database made by the same text can be reused.
#[cfg(any(test, feature = "test-util"))]
pub(crate) const TEXTS: [&str; 2] = [ROLES, SCHEMA];
