//! Tests the fixtures: databases and keys are deleted with their test, and tests do not share data.

use sqlx::{AssertSqlSafe, migrate::Migrator};

use super::{TestDb, TestRedis, db::SLOTS};

async fn exists(superuser: &mut sqlx::PgConnection, name: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(superuser)
        .await
        .unwrap()
}

fn slot_of(name: &str) -> i32 {
    name.split('_').nth(2).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_database_is_dropped_with_its_test() {
    let watcher = TestDb::new(&[]).await;
    let gone = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
    let name = gone.name().to_owned();
    assert_ne!(slot_of(&name), slot_of(watcher.name()));
    // The test's database is dropped although a connection to it is open.
    let _open = gone.pool("chat").acquire().await.unwrap();
    let mut superuser = watcher.superuser().await;
    assert!(exists(&mut superuser, &name).await);
    drop(gone);
    assert!(!exists(&mut superuser, &name).await);
}

#[tokio::test]
async fn the_database_of_a_killed_test_is_dropped_by_the_next() {
    let first = TestDb::new(&[]).await;
    let mut superuser = first.superuser().await;
    let left = |slot| format!("steward_test_{slot}_left_{}", crate::id::new_id().simple());
    let left: Vec<String> = (0..SLOTS).map(left).collect();
    for name in &left {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut superuser)
            .await
            .unwrap();
    }
    let second = TestDb::new(&[]).await;
    let of_its_slot = usize::try_from(slot_of(second.name())).unwrap();
    assert!(!exists(&mut superuser, &left[of_its_slot]).await);
    for name in &left {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}")))
            .execute(&mut superuser)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn tests_share_a_template_and_nothing_else() {
    let db = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
    sqlx::query("INSERT INTO leases VALUES ('a', 1, gen_random_uuid())")
        .execute(db.pool("chat").inner())
        .await
        .unwrap();
    let other = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM leases")
        .fetch_one(other.pool("chat").inner())
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn keys_are_deleted_with_their_test() {
    let (one, other) = (TestRedis::new(), TestRedis::new());
    let (redis, watcher) = (one.redis(), other.redis());
    let key = format!("{}left", redis.prefix());
    redis.query::<()>(redis::cmd("SET").arg(&key).arg(1)).await.unwrap();
    let exists = async || watcher.query::<bool>(redis::cmd("EXISTS").arg(&key)).await.unwrap();
    assert!(exists().await);
    drop(one);
    assert!(!exists().await);
}
