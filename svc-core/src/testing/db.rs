//! A database for each test, cloned from a template. A template is migrated once for each set of migrations.
//!
//! At most eight test databases exist at once on a server, for all test processes together; with more, tests
//! would only wait for each other (`CREATE DATABASE` takes 0.04 s with 8 at once, 0.34 s with 32). A test
//! takes one of eight slots, which are advisory locks, and first drops the database that a killed test left
//! in the slot. A test takes *one* `TestDb`, with all schemas that it needs: if tests held one and waited for
//! a second, they could wait for each other without end.

use std::{thread, time::Duration};

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{Migration, Migrator},
};
use tokio::sync::oneshot;
use url::Url;

use super::server_url;
use crate::data::pg::{self, PgConfig, Pool, bootstrap};

/// Environment variable with the URL of a superuser on the test server; `steward stack exec` sets it.
const SERVER: &str = "STEWARD_DATABASE_URL";

/// Maximum number of test databases at once.
pub(super) const SLOTS: i32 = 8;

/// First half of the key of a slot's advisory lock; the second half is the slot's number.
const SLOT_CLASS: i32 = 0x5354_5744;

/// Time between two attempts of a test to get a slot.
const POLL: Duration = Duration::from_millis(50);

/// Maximum time that a test waits until its database is dropped. Postgres 15's `DROP DATABASE` waits for
/// every connection to the server that is just authenticating with a password, for at most
/// `authentication_timeout`, a minute. The test itself may have such a connection, which cannot finish
/// authenticating while the test's thread blocks here.
const DROP_TIMEOUT: &str = "2s";

/// SQLSTATE of a statement that ran into its time limit (`query_canceled`).
const CANCELLED: &str = "57014";

/// A database for one test, dropped with this value. It has every schema and role of [`bootstrap`]; the
/// requested schemas are migrated.
#[derive(Debug)]
pub struct TestDb {
    server: Url,
    name: String,
    stop: Option<oneshot::Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl TestDb {
    /// Clones a database in which these schemas are migrated, for example `[("chat", &MIGRATOR)]`.
    pub async fn new(schemas: &[(&str, &Migrator)]) -> Self {
        let server = server_url(SERVER);
        let wanted = Template::of(schemas);
        let (ready, made) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let admin = server.clone();
        // The keeper has a thread and a runtime of its own, because it outlives the test's runtime: it holds
        // the slot until the database is dropped.
        let keeper = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("build a runtime");
            runtime.block_on(keep(admin, wanted, ready, stopped));
        });
        let name = made.await.expect("the test server gives a database; is it running?");
        Self { server, name, stop: Some(stop), keeper: Some(keeper) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the server's address, as `127.0.0.1:5432`, for a [`FaultProxy`](super::FaultProxy).
    pub fn address(&self) -> String {
        let host = self.server.host_str().expect("the test server is reached over TCP");
        format!("{host}:{}", self.server.port().unwrap_or(5432))
    }

    /// Returns the URL of a schema's run role.
    pub fn url(&self, schema: &str) -> String {
        url_as(&self.server, &self.name, &format!("steward_{schema}"), schema)
    }

    /// Returns the URL of a schema's owner role.
    pub fn owner_url(&self, schema: &str) -> String {
        url_as(&self.server, &self.name, &format!("steward_{schema}_owner"), schema)
    }

    /// Returns the URL of the superuser in this database.
    pub fn superuser_url(&self) -> String {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        url.into()
    }

    /// Returns the configuration of a service with this schema. It has no owner role, so the service does not
    /// migrate.
    pub fn config(&self, schema: &str) -> PgConfig {
        PgConfig { max_connections: 4, ..PgConfig::new(SecretString::from(self.url(schema))) }
    }

    /// Returns the same configuration as [`Self::config`], but reaches the server through `address`.
    pub fn config_through(&self, schema: &str, address: std::net::SocketAddr) -> PgConfig {
        let mut url = Url::parse(&self.url(schema)).expect("made here");
        url.set_ip_host(address.ip()).expect("the URL has a host");
        url.set_port(Some(address.port())).expect("the URL has a host");
        PgConfig { url: SecretString::from(String::from(url)), ..self.config(schema) }
    }

    /// Opens a pool of the schema's run role with four connections.
    pub fn pool(&self, schema: &str) -> Pool {
        Pool::lazy(&self.config(schema)).expect("made here")
    }

    /// Opens a connection of the schema's owner role.
    pub async fn owner(&self, schema: &str) -> PgConnection {
        PgConnection::connect(&self.owner_url(schema)).await.expect("connect as owner")
    }

    /// Opens a connection of the superuser to this database.
    pub async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.superuser_url()).await.expect("connect as superuser")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // If the keeper has ended, it has dropped the database.
            let _asked = stop.send(());
        }
        let failed = self.keeper.take().is_some_and(|keeper| keeper.join().is_err());
        assert!(!failed || thread::panicking(), "the test's database was not dropped");
    }
}

/// Name and migrations of a template database.
struct Template {
    name: String,
    schemas: Vec<(String, Vec<Migration>)>,
}

impl Template {
    fn of(schemas: &[(&str, &Migrator)]) -> Self {
        let mut hash = Sha256::new();
        bootstrap::TEXTS.iter().for_each(|text| hash.update(text));
        for (schema, migrator) in schemas {
            hash.update(schema);
            for migration in pg::all(migrator).expect("migrations are well-formed") {
                hash.update(migration.version.to_be_bytes());
                hash.update(&migration.checksum);
            }
        }
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: format!("steward_template_{digest}"),
            schemas: schemas
                .iter()
                .map(|(schema, migrator)| ((*schema).to_owned(), migrator.iter().cloned().collect()))
                .collect(),
        }
    }
}

/// Creates the test's database in a slot, waits until the test ends, and drops the database.
async fn keep(
    server: Url,
    template: Template,
    ready: oneshot::Sender<String>,
    stopped: oneshot::Receiver<()>,
) {
    let mut admin = PgConnection::connect(server.as_str()).await.expect("connect to the test server");
    let slot = take_slot(&mut admin).await;
    drop_leftovers(&mut admin, slot).await;
    ensure_template(&server, &mut admin, &template).await;
    let name = format!("steward_test_{slot}_{}", crate::id::new_id().simple());
    execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {} STRATEGY WAL_LOG", template.name)).await;
    if ready.send(name.clone()).is_ok() {
        // Waits until the test drops its `TestDb`, which sends the signal, or drops only the sender, because
        // the test was canceled in [`TestDb::new`].
        let _end = stopped.await;
    }
    leave(&mut admin, &name).await;
}

/// Drops the database. If that takes too long, the next test in the slot drops it.
async fn leave(admin: &mut PgConnection, name: &str) {
    execute(admin, format!("SET statement_timeout = '{DROP_TIMEOUT}'")).await;
    match try_execute(admin, drop_database(name)).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(CANCELLED) => {}
        dropped => dropped.unwrap_or_else(|error| panic!("drop {name}: {error}")),
    }
}

async fn take_slot(admin: &mut PgConnection) -> i32 {
    loop {
        for slot in 0..SLOTS {
            let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
                .bind(SLOT_CLASS)
                .bind(slot)
                .fetch_one(&mut *admin)
                .await
                .expect("ask for a slot");
            if taken {
                return slot;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn drop_leftovers(admin: &mut PgConnection, slot: i32) {
    let left: Vec<String> =
        sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)")
            .bind(format!("steward_test_{slot}_"))
            .fetch_all(&mut *admin)
            .await
            .expect("list databases");
    for name in left {
        execute(admin, drop_database(&name)).await;
    }
}

/// Creates the template unless it exists. Only a complete template has the flag `datistemplate`.
async fn ensure_template(server: &Url, admin: &mut PgConnection, template: &Template) {
    if is_whole(admin, &template.name).await {
        return;
    }
    sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))")
        .bind(&template.name)
        .execute(&mut *admin)
        .await
        .expect("lock the template");
    if !is_whole(admin, &template.name).await {
        bootstrap::roles(admin).await.expect("make the roles");
        execute(admin, drop_database(&template.name)).await;
        execute(admin, format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", template.name)).await;
        let mut url = server.clone();
        url.set_path(&template.name);
        let mut inside = PgConnection::connect(url.as_str()).await.expect("connect to the template");
        bootstrap::schemas(&mut inside).await.expect("make the schemas");
        inside.close().await.expect("leave the template");
        for (schema, migrations) in &template.schemas {
            let url = url_as(server, &template.name, &format!("steward_{schema}_owner"), schema);
            let mut owner = PgConnection::connect(&url).await.expect("connect to the template as owner");
            let migrator = Migrator::with_migrations(migrations.clone());
            if let Err(error) = pg::apply(&migrator, &mut owner).await {
                panic!("migrate schema {schema}: {}", crate::error::Chain(&error));
            }
            owner.close().await.expect("leave the template");
        }
        execute(admin, format!("ALTER DATABASE {} IS_TEMPLATE true", template.name)).await;
    }
    sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))")
        .bind(&template.name)
        .execute(&mut *admin)
        .await
        .expect("unlock the template");
}

async fn is_whole(admin: &mut PgConnection, template: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)")
        .bind(template)
        .fetch_one(admin)
        .await
        .expect("look for the template")
}

/// Runs a statement without parameters. The names in it come from this module, so they need no quotes.
async fn execute(admin: &mut PgConnection, sql: String) {
    if let Err(error) = try_execute(admin, sql.clone()).await {
        panic!("{sql}: {error}");
    }
}

async fn try_execute(admin: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.map(|_| ())
}

fn drop_database(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")
}

/// Returns a URL with which the superuser logs in and then acts as `role`. The session has only the rights of
/// the role, and the role's password need not be known. A clone does not inherit the role's search path,
/// which is set for each database, so the URL sets it.
fn url_as(server: &Url, database: &str, role: &str, schema: &str) -> String {
    let mut url = server.clone();
    url.set_path(database);
    url.query_pairs_mut().append_pair("options", &format!("-c role={role} -c search_path={schema}"));
    // Writes spaces as %20, because the driver does not read `+` as a space.
    String::from(url).replace('+', "%20")
}
