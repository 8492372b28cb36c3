//! Tests pools, transactions, errors, migrations and the set-up against a real Postgres.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    error::{ErrorKind, ServiceError},
    subject::SubjectKind,
    testing::{FaultProxy, TestDb},
};

fn migration(version: i64, sql: &'static str) -> Migration {
    Migration::new(version, "made for a test".into(), MigrationType::Simple, sql.into_sql_str(), false)
}

fn things() -> Migrator {
    Migrator::with_migrations(vec![migration(
        20_260_101_000_000,
        "CREATE TABLE things (
             id bigint PRIMARY KEY,
             parent bigint CONSTRAINT things_parent REFERENCES things (id) DEFERRABLE,
             size int CONSTRAINT things_size CHECK (size > 0)
         );
         INSERT INTO things VALUES (1, NULL, 1), (2, NULL, 1)",
    )])
}

async fn db() -> (TestDb, Pool) {
    let db = TestDb::new(&[("chat", &things())]).await;
    let pool = db.pool("chat");
    (db, pool)
}

async fn fails(pool: &Pool, sql: &'static str) -> Error {
    Error::from(sqlx::raw_sql(sql).execute(pool.inner()).await.unwrap_err())
}

#[tokio::test]
async fn a_broken_constraint_is_named() {
    let (_db, pool) = db().await;
    for (sql, constraint, want) in [
        ("INSERT INTO things VALUES (1)", "things_pkey", ErrorKind::AlreadyExists),
        ("INSERT INTO things VALUES (3, 99)", "things_parent", ErrorKind::FailedPrecondition),
        ("INSERT INTO things VALUES (3, NULL, 0)", "things_size", ErrorKind::Internal),
    ] {
        let error = fails(&pool, sql).await;
        assert!(error.violates(constraint), "{error:?}");
        assert_eq!(error.kind(), want, "{error:?}");
        assert!(!error.public_message().contains("things"), "{}", error.public_message());
    }
}

#[tokio::test]
async fn long_waits_ask_to_come_back() {
    let (db, _) = db().await;
    let config = PgConfig {
        lock_timeout: Duration::from_millis(50),
        statement_timeout: Duration::from_millis(200),
        idle_in_transaction_session_timeout: Duration::from_millis(400),
        ..db.config("chat")
    };
    let pool = Pool::lazy(&config).unwrap();
    let mut holder = Tx::system(&pool).await.unwrap();
    sqlx::query("SELECT FROM things WHERE id = 1 FOR UPDATE").execute(&mut *holder).await.unwrap();

    let error = fails(&pool, "UPDATE things SET size = 2 WHERE id = 1").await;
    assert!(matches!(error, Error::LockTimeout(_)), "{error:?}");
    let error = fails(&pool, "SELECT pg_sleep(9)").await;
    assert!(matches!(error, Error::StatementTimeout(_)), "{error:?}");
    assert!(error.kind() == ErrorKind::Unavailable && error.retry_after().is_some());

    sleep(Duration::from_millis(500)).await;
    // Postgres sends an error code or closes the connection, depending on which is read first.
    let error = holder.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::IdleInTransaction(_) | Error::Unavailable { .. } | Error::CommitUnknown(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn one_of_two_dead_locked_transactions_must_redo() {
    let (_db, pool) = db().await;
    let touch = async |first: i64, second: i64| {
        let mut tx = Tx::system(&pool).await?;
        for id in [first, second] {
            sqlx::query("UPDATE things SET size = size + 1 WHERE id = $1").bind(id).execute(&mut *tx).await?;
            sleep(Duration::from_millis(100)).await;
        }
        tx.commit().await
    };
    let (one, other) = tokio::join!(touch(1, 2), touch(2, 1));
    let error = one.err().or(other.err()).unwrap();
    assert!(error.is_race() && error.kind() == ErrorKind::Aborted, "{error:?}");
}

#[tokio::test]
async fn a_guarded_write_that_misses_is_a_lost_race() {
    let (_db, pool) = db().await;
    let done = sqlx::query("UPDATE things SET size = 2 WHERE id = 1 AND size = 7")
        .execute(pool.inner())
        .await
        .unwrap();
    let error = ensure_affected(&done, 1).unwrap_err();
    assert!(matches!(error, Error::Stale { expected: 1, affected: 0 }));
    assert_eq!(error.kind(), ErrorKind::Aborted);
}

#[tokio::test]
async fn a_column_that_cannot_be_read_is_an_inconsistency() {
    let (_db, pool) = db().await;
    let error = Error::from(
        sqlx::query_scalar::<_, i32>("SELECT parent::int FROM things WHERE id = 1")
            .fetch_one(pool.inner())
            .await
            .unwrap_err(),
    );
    assert!(matches!(error, Error::Inconsistency { .. }), "{error:?}");
    let error = Error::inconsistent("things", "size", 7, "is too large");
    assert_eq!(error.to_string(), "row of things cannot be read at size (7)");
}

#[tokio::test]
async fn a_server_that_is_shutting_down_or_full_is_unavailable() {
    let (db, pool) = db().await;
    let mut connection = pool.acquire().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(pid)
        .execute(&mut db.superuser().await)
        .await
        .unwrap();
    let error = Error::from(sqlx::query("SELECT 1").execute(&mut *connection).await.unwrap_err());
    assert!(error.is_outage() && error.kind() == ErrorKind::Unavailable, "{error:?}");
    drop(connection);
    // The pool does not hand out this connection again.
    sleep(TRUSTED_IDLE).await;
    pool.ping().await.unwrap();

    let narrow =
        PgConfig { max_connections: 1, acquire_timeout: Duration::from_millis(100), ..db.config("chat") };
    let pool = Pool::lazy(&narrow).unwrap();
    let _all = pool.acquire().await.unwrap();
    let error = pool.acquire().await.unwrap_err();
    assert!(error.is_outage() && error.retry_after().is_some(), "{error:?}");
}

#[tokio::test]
async fn an_outage_is_reported_at_once_and_ends_by_itself() {
    let (db, _) = db().await;
    let proxy = FaultProxy::start(db.address()).await;
    let config = PgConfig {
        acquire_timeout: Duration::from_millis(500),
        ..db.config_through("chat", proxy.address())
    };
    let pool = Pool::connect(&config).await.unwrap();
    for fail in [FaultProxy::refuse, FaultProxy::stall] {
        fail(&proxy);
        sleep(TRUSTED_IDLE).await;
        let asked = Instant::now();
        let error = pool.ping().await.unwrap_err();
        assert!(error.is_outage(), "{error:?}");
        assert!(asked.elapsed() < Duration::from_secs(2), "took {:?}", asked.elapsed());
        proxy.pass();
        proxy.cut();
        pool.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_without_an_answer_has_an_unknown_outcome() {
    let (db, direct) = db().await;
    let proxy = FaultProxy::start(db.address()).await;
    let pool = Pool::lazy(&db.config_through("chat", proxy.address())).unwrap();
    let mut tx = Tx::system(&pool).await.unwrap();
    sqlx::query("INSERT INTO things VALUES (7, NULL, 1)").execute(&mut *tx).await.unwrap();
    // The delay gives the test time to see the row and cut the connection before the answer to COMMIT
    // arrives.
    proxy.delay(Duration::from_millis(500));
    let (outcome, ()) = tokio::join!(tx.commit(), async {
        let there = "SELECT EXISTS (SELECT FROM things WHERE id = 7)";
        while !sqlx::query_scalar::<_, bool>(there).fetch_one(direct.inner()).await.unwrap() {
            sleep(Duration::from_millis(10)).await;
        }
        proxy.cut();
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown(_)), "{error:?}");
    assert_eq!((error.kind(), &*error.reason()), (ErrorKind::DeadlineExceeded, "OUTCOME_UNKNOWN"));
}

#[tokio::test]
async fn a_swallowed_error_does_not_pass_as_a_commit() {
    let (_db, pool) = db().await;
    let mut tx = Tx::system(&pool).await.unwrap();
    let _swallowed = sqlx::query("INSERT INTO things VALUES (1)").execute(&mut *tx).await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::Poisoned(_)), "{error:?}");
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back() {
    let (_db, pool) = db().await;
    for explicit in [true, false] {
        let mut tx = Tx::system(&pool).await.unwrap();
        sqlx::query("DELETE FROM things").execute(&mut *tx).await.unwrap();
        if explicit {
            tx.rollback().await.unwrap();
        } else {
            drop(tx);
        }
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(pool.inner()).await.unwrap();
        assert_eq!(count, 2);
    }
}

#[tokio::test]
async fn limits_reach_the_server() {
    let (_db, pool) = db().await;
    for (name, want) in [
        ("statement_timeout", "15s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "1min"),
    ] {
        let set: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(pool.inner())
            .await
            .unwrap();
        assert_eq!(set, want, "{name}");
    }
}

#[tokio::test]
async fn the_error_of_the_work_outlives_a_failed_rollback() {
    let (db, _) = db().await;
    let proxy = FaultProxy::start(db.address()).await;
    let pool = Pool::lazy(&db.config_through("chat", proxy.address())).unwrap();
    let tx = Tx::system(&pool).await.unwrap();
    proxy.refuse();
    let work = Error::SubjectFrozen(SubjectKind::Session);
    let error = tx.end(Err::<(), _>(work)).await.unwrap_err();
    assert!(matches!(error, Error::SubjectFrozen(_)), "{error:?}");
}

fn owner_config(db: &TestDb, schema: &str) -> PgConfig {
    PgConfig { migrate_url: Some(SecretString::from(db.owner_url(schema))), ..db.config(schema) }
}

#[tokio::test]
async fn instances_that_start_together_migrate_once() {
    let db = TestDb::new(&[]).await;
    let migrator = Migrator::with_migrations(vec![
        migration(20_260_101_000_000, "CREATE TABLE slow (id int); SELECT pg_sleep(0.3)"),
        migration(20_260_102_000_000, "ALTER TABLE slow ADD COLUMN more int"),
    ]);
    let config = owner_config(&db, "purge");
    let (a, b, c) =
        tokio::join!(migrate(&migrator, &config), migrate(&migrator, &config), migrate(&migrator, &config));
    a.and(b).and(c).unwrap();
    let ran: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(db.pool("purge").inner())
        .await
        .unwrap();
    assert_eq!(ran, [1, 2, 3, 4, 5, 20_260_101_000_000, 20_260_102_000_000]);
    // The run role may read the list of migrations and may not change it.
    let error = fails(&db.pool("purge"), "DELETE FROM _sqlx_migrations").await;
    assert!(matches!(error, Error::Driver(_)), "{error:?}");
}

#[tokio::test]
async fn a_failed_migration_leaves_no_trace_and_no_lock() {
    let db = TestDb::new(&[]).await;
    let config = owner_config(&db, "purge");
    let broken = Migrator::with_migrations(vec![migration(
        20_260_101_000_000,
        "CREATE TABLE half (id int); SELECT 1/0",
    )]);
    let error = migrate(&broken, &config).await.unwrap_err();
    assert!(matches!(error, MigrateError::Failed { .. }), "{error:?}");
    let mended = Migrator::with_migrations(vec![migration(20_260_101_000_000, "CREATE TABLE half (id int)")]);
    migrate(&mended, &config).await.unwrap();
}

#[tokio::test]
async fn without_an_owner_role_the_schema_must_be_new_enough() {
    let db = TestDb::new(&[]).await;
    let (old, new) = (
        Migrator::with_migrations(vec![migration(20_260_101_000_000, "CREATE TABLE one (id int)")]),
        Migrator::with_migrations(vec![
            migration(20_260_101_000_000, "CREATE TABLE one (id int)"),
            migration(20_260_102_000_000, "CREATE TABLE two (id int)"),
        ]),
    );
    let error = migrate(&old, &db.config("purge")).await.unwrap_err();
    assert!(matches!(error, MigrateError::Behind { version: 1, .. }), "{error:?}");
    migrate(&old, &owner_config(&db, "purge")).await.unwrap();
    migrate(&old, &db.config("purge")).await.unwrap();
    let error = migrate(&new, &db.config("purge")).await.unwrap_err();
    assert!(matches!(error, MigrateError::Behind { version: 20_260_102_000_000, .. }), "{error:?}");
    migrate(&new, &owner_config(&db, "purge")).await.unwrap();
    // An older program must be able to start on a newer schema during a rolling update.
    migrate(&old, &owner_config(&db, "purge")).await.unwrap();
    migrate(&old, &db.config("purge")).await.unwrap();
}

#[tokio::test]
async fn a_migration_outside_a_transaction_is_refused() {
    let db = TestDb::new(&[]).await;
    let mut concurrent = migration(20_260_101_000_000, "CREATE INDEX CONCURRENTLY i ON leases (holder)");
    concurrent.no_tx = true;
    let migrator = Migrator::with_migrations(vec![concurrent]);
    let error = migrate(&migrator, &owner_config(&db, "purge")).await.unwrap_err();
    assert!(matches!(error, MigrateError::NotTransactional(20_260_101_000_000)), "{error:?}");
    let migrator = Migrator::with_migrations(vec![migration(1, "SELECT 1")]);
    let error = migrate(&migrator, &owner_config(&db, "purge")).await.unwrap_err();
    assert!(matches!(error, MigrateError::DuplicateVersion(1)), "{error:?}");
}

#[tokio::test]
async fn a_cluster_can_be_set_up_again_and_concurrently() {
    let db = TestDb::new(&[]).await;
    let admin = SecretString::from(db.superuser_url());
    // This database is not a clone that [`TestDb`] drops, so the test drops it itself.
    let name = format!("{}_init", db.name());
    let (a, b) = tokio::join!(bootstrap::init(&admin, &name, &[]), bootstrap::init(&admin, &name, &[]));
    a.and(b).unwrap();
    bootstrap::init(&admin, &name, &[]).await.unwrap();

    let mut url = url::Url::parse(&db.superuser_url()).unwrap();
    url.set_path(&name);
    url.query_pairs_mut().append_pair("options", "-crole=steward_chat");
    let mut chat = PgConnection::connect(url.as_str()).await.unwrap();
    for sql in [
        "CREATE TABLE chat.mine (id int)",
        "CREATE TABLE public.ours (id int)",
        "CREATE TEMPORARY TABLE short (id int)",
        "CREATE SCHEMA other",
    ] {
        let error = sqlx::raw_sql(sql).execute(&mut chat).await.unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    }
    chat.close().await.unwrap();

    let mut superuser = db.superuser().await;
    let inside: bool = sqlx::query_scalar("SELECT has_database_privilege('public', $1, 'CONNECT')")
        .bind(&name)
        .fetch_one(&mut superuser)
        .await
        .unwrap();
    assert!(!inside, "every role may connect");
    let paths: i64 = sqlx::query_scalar(
        "SELECT count(*)
         FROM pg_db_role_setting s
         JOIN pg_database d ON d.oid = s.setdatabase
         WHERE d.datname = $1",
    )
    .bind(&name)
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    assert_eq!(paths, 8, "search paths of eight roles");
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name}"))).execute(&mut superuser).await.unwrap();
}

#[tokio::test]
async fn one_service_does_not_see_the_tables_of_another() {
    let db = TestDb::new(&[("chat", &things()), ("sandbox", &Migrator::DEFAULT)]).await;
    let error = fails(&db.pool("sandbox"), "SELECT * FROM chat.things").await;
    assert!(
        error.to_string() == "database error"
            && crate::error::Chain(&error).to_string().contains("schema chat")
    );
    // sandbox finds its own `leases`, although chat has a table of the same name.
    sqlx::query("SELECT FROM leases").execute(db.pool("sandbox").inner()).await.unwrap();
}
