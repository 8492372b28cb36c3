//! Tests leases against a real Postgres and Redis: one of two processes gets the lease, the holder keeps the
//! lease while it renews it, and a process that has lost the lease can no longer write.

use std::time::Duration;

use sqlx::{
    PgConnection, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{item, *};
use crate::{
    data::{
        pg::{self, Pool, Tx},
        redis::Redis,
    },
    run::lifecycle::Lifecycle,
    testing::{FaultProxy, TestDb, TestRedis},
};

crate::item_lease! {
    /// Leases on the table `jobs`, which these tests create.
    struct Jobs: "jobs", "job_id"
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// TTL of the singleton leases in these tests.
const TTL: Duration = Duration::from_millis(900);

fn jobs() -> Migrator {
    Migrator::with_migrations(vec![Migration::new(
        20_260_101_000_000,
        "jobs".into(),
        MigrationType::Simple,
        "CREATE TABLE jobs (
             job_id uuid PRIMARY KEY,
             lease_owner text,
             lease_until timestamptz,
             epoch bigint NOT NULL DEFAULT 0
         );
         CREATE TABLE results (writer text NOT NULL)"
            .into_sql_str(),
        false,
    )])
}

struct Fixture {
    pool: Pool,
    redis: TestRedis,
    lifecycle: Lifecycle,
    _db: TestDb,
}

impl Fixture {
    async fn new() -> Self {
        let db = TestDb::new(&[("chat", &jobs())]).await;
        let config = pg::PgConfig { max_connections: 8, ..db.config("chat") };
        Self {
            pool: Pool::lazy(&config).unwrap(),
            redis: TestRedis::new(),
            lifecycle: Lifecycle::new(),
            _db: db,
        }
    }

    async fn connection(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        self.pool.acquire().await.unwrap()
    }

    async fn job(&self) -> Uuid {
        let id = crate::id::new_id();
        sqlx::query("INSERT INTO jobs (job_id) VALUES ($1)")
            .bind(id)
            .execute(self.pool.inner())
            .await
            .unwrap();
        id
    }

    fn singleton(&self, redis: &Redis) -> Singleton {
        Singleton::new("test.sweep", TTL, redis, &self.pool, &self.lifecycle)
    }

    async fn held(&self) -> Held {
        self.singleton(&self.redis.redis()).acquire().await.unwrap().unwrap()
    }

    async fn results(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT writer FROM results").fetch_all(self.pool.inner()).await.unwrap()
    }
}

async fn write(connection: &mut PgConnection, writer: &str) {
    sqlx::query("INSERT INTO results VALUES ($1)").bind(writer).execute(connection).await.unwrap();
}

/// Acquires the lease as soon as the previous one was released or has expired.
async fn acquire_soon(singleton: &Singleton) -> Held {
    let asked = Instant::now();
    loop {
        if let Some(held) = singleton.acquire().await.unwrap() {
            return held;
        }
        assert!(asked.elapsed() < TTL * 5, "no replica can take the lease");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_two_takers_one_gets_the_row() {
    let at = Fixture::new().await;
    let id = at.job().await;
    let (mut one, mut other) = (at.connection().await, at.connection().await);
    let (a, b) = tokio::join!(
        item::take::<Jobs>(&mut one, id, 0, "a", LONG),
        item::take::<Jobs>(&mut other, id, 0, "b", LONG)
    );
    let taken: Vec<ItemLease> = [a.unwrap(), b.unwrap()].into_iter().flatten().collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!(taken[0].epoch, 1);
}

#[tokio::test]
async fn only_an_expired_lease_can_be_claimed() {
    let at = Fixture::new().await;
    let id = at.job().await;
    let mut connection = at.connection().await;
    let first = item::take::<Jobs>(&mut connection, id, 0, "a", SHORT).await.unwrap().unwrap();
    assert_eq!(item::take::<Jobs>(&mut connection, id, 1, "b", LONG).await.unwrap(), None);
    sleep(SHORT * 2).await;
    // This epoch was read before another process claimed the row, so the claim fails.
    assert_eq!(item::take::<Jobs>(&mut connection, id, 0, "b", LONG).await.unwrap(), None);
    let second = item::take::<Jobs>(&mut connection, id, 1, "b", LONG).await.unwrap().unwrap();
    assert_eq!(second.epoch, 2);
    for outcome in [
        item::renew::<Jobs>(&mut connection, &first, LONG).await,
        item::hold::<Jobs>(&mut connection, &first).await,
    ] {
        assert!(matches!(outcome, Err(pg::Error::Fenced(_))), "{outcome:?}");
    }
    item::release::<Jobs>(&mut connection, &first).await.unwrap();
    item::renew::<Jobs>(&mut connection, &second, LONG).await.unwrap();
}

#[tokio::test]
async fn a_holder_may_renew_an_expired_unclaimed_lease() {
    let at = Fixture::new().await;
    let id = at.job().await;
    let mut connection = at.connection().await;
    let lease = item::take::<Jobs>(&mut connection, id, 0, "a", SHORT).await.unwrap().unwrap();
    sleep(SHORT * 2).await;
    item::renew::<Jobs>(&mut connection, &lease, LONG).await.unwrap();
    assert_eq!(item::take::<Jobs>(&mut connection, id, 1, "b", LONG).await.unwrap(), None);
}

#[tokio::test]
async fn a_released_lease_can_be_claimed_but_not_renewed() {
    let at = Fixture::new().await;
    let id = at.job().await;
    let mut connection = at.connection().await;
    let lease = item::take::<Jobs>(&mut connection, id, 0, "a", LONG).await.unwrap().unwrap();
    item::release::<Jobs>(&mut connection, &lease).await.unwrap();
    assert!(item::renew::<Jobs>(&mut connection, &lease, LONG).await.is_err());
    assert!(item::take::<Jobs>(&mut connection, id, 1, "b", LONG).await.unwrap().is_some());
}

#[tokio::test]
async fn a_held_row_is_claimed_after_the_holder_has_written() {
    let at = Fixture::new().await;
    let id = at.job().await;
    let mut connection = at.connection().await;
    let lease = item::take::<Jobs>(&mut connection, id, 0, "a", Duration::ZERO).await.unwrap().unwrap();
    let mut tx = Tx::system(&at.pool).await.unwrap();
    item::hold::<Jobs>(&mut tx, &lease).await.unwrap();
    let taking = item::take::<Jobs>(&mut connection, id, 1, "b", LONG);
    tokio::pin!(taking);
    assert!(timeout(SHORT, &mut taking).await.is_err(), "taken under a writer");
    write(&mut tx, "a").await;
    tx.commit().await.unwrap();
    assert_eq!(taking.await.unwrap().unwrap().epoch, 2);
    let mut late = Tx::system(&at.pool).await.unwrap();
    assert!(item::hold::<Jobs>(&mut late, &lease).await.is_err());
}

#[tokio::test]
async fn one_replica_runs_and_the_next_follows_when_it_ends() {
    let at = Fixture::new().await;
    let first = at.held().await;
    let other = at.singleton(&at.redis.redis());
    assert!(other.acquire().await.unwrap().is_none());
    let epoch = first.epoch();
    drop(first);
    let asked = Instant::now();
    let second = acquire_soon(&other).await;
    assert!(asked.elapsed() < TTL, "it was not given back");
    assert_eq!(second.epoch(), epoch + 1);
}

#[tokio::test]
async fn a_lease_is_kept_for_as_long_as_it_is_held() {
    let at = Fixture::new().await;
    let held = at.held().await;
    let other = at.singleton(&at.redis.redis());
    let until = Instant::now() + TTL * 3;
    while Instant::now() < until {
        assert!(other.acquire().await.unwrap().is_none(), "taken from a living holder");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!held.lost().is_cancelled());
    held.tx().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_holder_without_redis_writes_nothing_after_a_takeover() {
    let at = Fixture::new().await;
    let proxy = FaultProxy::start(at.redis.address()).await;
    let stale = at.singleton(&at.redis.redis_through(proxy.address())).acquire().await.unwrap().unwrap();
    proxy.stall();
    let fresh = acquire_soon(&at.singleton(&at.redis.redis())).await;

    // As after SIGSTOP and SIGCONT, the old holder may not know that it lost the lease; Postgres refuses its
    // write.
    let error = stale.tx().await.unwrap_err();
    assert!(matches!(error, pg::Error::Fenced(_)), "{error:?}");
    timeout(TTL, stale.lost().cancelled()).await.unwrap();
    let mut tx = fresh.tx().await.unwrap();
    write(&mut tx, "fresh").await;
    tx.commit().await.unwrap();
    assert_eq!(at.results().await, ["fresh"]);

    // The old holder does not release a lease that another replica now holds.
    proxy.pass();
    drop(stale);
    sleep(TTL / 2).await;
    assert!(at.singleton(&at.redis.redis()).acquire().await.unwrap().is_none());
    fresh.tx().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_holder_without_redis_stops_by_itself() {
    let at = Fixture::new().await;
    let proxy = FaultProxy::start(at.redis.address()).await;
    let held = at.singleton(&at.redis.redis_through(proxy.address())).acquire().await.unwrap().unwrap();
    proxy.refuse();
    timeout(TTL * 2, held.lost().cancelled()).await.unwrap();
    // No other replica has acquired the lease yet, so the check in Postgres alone would pass.
    let error = held.check().await.unwrap_err();
    assert_eq!(error.to_string(), "lease test.sweep is lost");
}

#[tokio::test]
async fn a_taker_waits_for_the_write_in_flight() {
    let at = Fixture::new().await;
    let proxy = FaultProxy::start(at.redis.address()).await;
    let old = at.singleton(&at.redis.redis_through(proxy.address())).acquire().await.unwrap().unwrap();
    let mut tx = old.tx().await.unwrap();
    proxy.stall();
    sleep(TTL + SHORT).await;
    let new = at.singleton(&at.redis.redis());
    let taking = new.acquire();
    tokio::pin!(taking);
    assert!(timeout(SHORT * 2, &mut taking).await.is_err(), "taken under a writer");
    write(&mut tx, "old").await;
    tx.commit().await.unwrap();
    assert!(taking.await.unwrap().is_some());
    assert!(old.tx().await.is_err());
    assert_eq!(at.results().await, ["old"]);
}

#[tokio::test]
async fn a_taker_that_loses_redis_on_the_way_does_not_act() {
    let at = Fixture::new().await;
    let (old_way, new_way) =
        (FaultProxy::start(at.redis.address()).await, FaultProxy::start(at.redis.address()).await);
    let old = at.singleton(&at.redis.redis_through(old_way.address())).acquire().await.unwrap().unwrap();
    // This open transaction locks the lease's row, so the new holder, which already has the Redis lock, waits
    // in its Postgres step.
    let tx = old.tx().await.unwrap();
    old_way.stall();
    sleep(TTL + SHORT).await;
    let taker = at.singleton(&at.redis.redis_through(new_way.address()));
    let taking = taker.acquire();
    tokio::pin!(taking);
    assert!(timeout(SHORT * 2, &mut taking).await.is_err());
    new_way.refuse();
    tx.commit().await.unwrap();
    assert!(taking.await.unwrap().is_none());
}

#[tokio::test]
async fn without_redis_there_is_no_pass() {
    let at = Fixture::new().await;
    let proxy = FaultProxy::start(at.redis.address()).await;
    let redis = at.redis.redis_through(proxy.address());
    for fail in [FaultProxy::stall, FaultProxy::refuse] {
        fail(&proxy);
        let asked = Instant::now();
        assert!(at.singleton(&redis).acquire().await.unwrap().is_none());
        assert!(asked.elapsed() < Duration::from_secs(2), "took {:?}", asked.elapsed());
    }
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM leases").fetch_one(at.pool.inner()).await.unwrap();
    assert_eq!(rows, 0, "Postgres knows a lease without a holder");
}

#[tokio::test]
async fn singletons_of_other_names_do_not_meet() {
    let at = Fixture::new().await;
    let _sweep = at.held().await;
    let probe = Singleton::new("test.probe", TTL, &at.redis.redis(), &at.pool, &at.lifecycle);
    assert!(probe.acquire().await.unwrap().is_some());
}
