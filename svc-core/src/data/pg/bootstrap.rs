//! Set-up of a Postgres cluster. An operator runs it as superuser with `steward db init`, before any service
//! starts. It creates the database, a schema for each service that keeps data, and two roles for each schema.
//!
//! `steward_<service>_owner` owns the schema and migrates it. The service runs as `steward_<service>`, which
//! reads and writes rows and cannot change tables; migrations revoke its UPDATE and DELETE on tables that are
//! only appended to, such as the audit log. Neither role can use another schema. The set-up can run again at
//! any time, also several times at once, and creates or repairs what is missing.

use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{Error, Result};

/// Services that keep data; each has a schema with its name.
pub const SCHEMAS: [&str; 4] = ["chat", "sandbox", "registry", "purge"];

/// SQL that creates the two roles of the service named by the setting `steward.service`.
const ROLES: &str = include_str!("bootstrap/roles.sql");

/// SQL that creates the schema of the service named by the setting `steward.service`, in the current
/// database.
const SCHEMA: &str = include_str!("bootstrap/schema.sql");

/// A password to set for a role. A role that is not listed keeps its password, and may log in by certificate,
/// peer or trust.
#[derive(Debug, Clone)]
pub struct RolePassword {
    /// Name of the role, for example `steward_chat`.
    pub role: String,
    pub password: SecretString,
}

/// Creates what is missing of database, schemas and roles, and sets the passwords. `superuser_url` names an
/// existing database of the cluster, for example `postgres`.
///
/// # Errors
/// [`Error`] if Postgres refuses a statement; the set-up can then be run again.
pub async fn init(superuser_url: &SecretString, database: &str, passwords: &[RolePassword]) -> Result<()> {
    let options: PgConnectOptions = superuser_url.expose_secret().parse().map_err(Error::from)?;
    let mut admin = PgConnection::connect_with(&options).await?;
    // This connection holds the lock until it closes. A concurrent set-up waits for it, and then finds
    // everything created.
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('steward.bootstrap', 0))")
        .execute(&mut admin)
        .await?;
    roles(&mut admin).await?;
    for RolePassword { role, password } in passwords {
        // ALTER ROLE takes no parameters, so Postgres quotes name and password.
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

/// Creates the roles. They belong to the cluster, not to a database.
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

/// All SQL of the set-up. Tests reuse a template database only if it was made with the same text.
#[cfg(any(test, feature = "test-util"))]
pub(crate) const TEXTS: [&str; 2] = [ROLES, SCHEMA];
