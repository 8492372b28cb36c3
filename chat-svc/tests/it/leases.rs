//! Tests claims and leases of turns: a worker cannot renew a lease that it has released, a locked turn does
//! not delay the renewal of other leases, and queries like those of the claims use the partial indexes.

use std::time::Duration;

use chat_svc::testing::{release, renew, take_over};
use svc_core::{data::pg::Tx, id::TurnId};
use tokio::time::timeout;

use crate::journal::Fixture;

#[tokio::test]
async fn a_released_turn_is_not_renewed_by_its_last_holder() {
    let fixture = Fixture::new().await;
    let turn = fixture.turn().await;
    let mut db = fixture.pool.acquire().await.unwrap();
    let ttl = Duration::from_secs(60);
    let epoch = take_over(&mut db, "first", ttl, true, 1).await.unwrap()[0].standing.epoch;
    assert_eq!(renew(&mut db, &[(turn, epoch)], ttl).await.unwrap().kept, [turn]);
    assert!(release(&mut db, turn, epoch).await.unwrap());
    // A renewal that the last holder began before the release has the same epoch, and must not succeed.
    assert_eq!(renew(&mut db, &[(turn, epoch)], ttl).await.unwrap().lost, [turn]);
    // Any worker can still claim the turn without waiting for a lease.
    let heir = take_over(&mut db, "second", ttl, false, 1).await.unwrap();
    assert_eq!(heir[0].standing.epoch, epoch + 1);
}

#[tokio::test]
async fn a_locked_turn_does_not_block_another_renewal() {
    let fixture = Fixture::new().await;
    let (locked, other) = (fixture.turn().await, fixture.turn().await);
    let mut db = fixture.pool.acquire().await.unwrap();
    let ttl = Duration::from_secs(60);
    let held: Vec<_> = take_over(&mut db, "worker", ttl, true, 2)
        .await
        .unwrap()
        .into_iter()
        .map(|turn| (turn.id, turn.standing.epoch))
        .collect();
    let until = "SELECT lease_until FROM turns WHERE id = $1";
    let lease = async |db: &mut sqlx::PgConnection, turn: TurnId| -> chrono::DateTime<chrono::Utc> {
        sqlx::query_scalar(until).bind(turn.0).fetch_one(db).await.unwrap()
    };
    let before = [lease(&mut db, locked).await, lease(&mut db, other).await];
    let mut freeze = Tx::system(&fixture.pool).await.unwrap();
    sqlx::query("SELECT FROM turns WHERE id = $1 FOR UPDATE")
        .bind(locked.0)
        .execute(&mut *freeze)
        .await
        .unwrap();
    let renewed = timeout(Duration::from_secs(2), renew(&mut db, &held, ttl)).await;
    let renewed = renewed.expect("it waited for the lock").unwrap();
    assert_eq!((renewed.kept, renewed.lost), (vec![other], vec![]), "both are held");
    let after = [lease(&mut db, locked).await, lease(&mut db, other).await];
    assert!(after[0] == before[0] && after[1] > before[1]);
    freeze.commit().await.unwrap();
    assert_eq!(renew(&mut db, &held, ttl).await.unwrap().kept.len(), 2);
    assert!(lease(&mut db, locked).await > before[0]);
}

#[tokio::test]
async fn the_claim_uses_the_partial_indexes() {
    let fixture = Fixture::new().await;
    let mut db = fixture.db.owner("chat").await;
    sqlx::query(
        "INSERT INTO sessions (id, account_id, title, input_policy, route, created_at, updated_at)
         SELECT gen_random_uuid(), gen_random_uuid(), '', 'queue', 'default', now(), now()
           FROM generate_series(1, 5000)",
    )
    .execute(&mut db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO turns (id, account_id, session_id, ordinal, status, created_at, ended_at, deadline_at)
         SELECT gen_random_uuid(), account_id, id, n, 'completed', now(), now(), now()
           FROM sessions, generate_series(1, 4) n",
    )
    .execute(&mut db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO turns (id, account_id, session_id, ordinal, status, created_at, deadline_at)
         SELECT gen_random_uuid(), account_id, id, 5, 'queued', now(), now() FROM sessions LIMIT 50",
    )
    .execute(&mut db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO turns (id, account_id, session_id, ordinal, status, lease_until, created_at, deadline_at)
         SELECT gen_random_uuid(), account_id, id, 6, 'running', now() + interval '1 second', now(), now()
           FROM sessions LIMIT 2000",
    )
    .execute(&mut db)
    .await
    .unwrap();
    sqlx::query("ANALYZE turns").execute(&mut db).await.unwrap();
    let queued =
        "SELECT id FROM turns WHERE status = 'queued' AND id >= '00000000-0000-7000-8000-000000000000'
                   ORDER BY id LIMIT 64 FOR NO KEY UPDATE SKIP LOCKED";
    let leased = "SELECT id FROM turns WHERE status = 'running' AND lease_until < now()
                   ORDER BY lease_until LIMIT 64 FOR NO KEY UPDATE SKIP LOCKED";
    for (query, index) in [(queued, "turns_queued"), (leased, "turns_leased")] {
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {query}")))
            .fetch_all(&mut db)
            .await
            .unwrap();
        assert!(plan.join("\n").contains(index), "{plan:?}");
    }
}
