//! Leases on turns: renewed by their holder even while a row is locked, and never by a former holder.

use std::time::Duration;

use chat_svc::store::{claims, turns};
use svc_core::{data::pg::Tx, id::TurnId};
use tokio::time::timeout;

use crate::journal::Fixture;

#[tokio::test]
async fn a_released_turn_is_not_renewed_by_its_last_holder() {
    let fixture = Fixture::new().await;
    let turn = fixture.turn().await;
    let mut db = fixture.pool.acquire().await.unwrap();
    let ttl = Duration::from_secs(60);
    let epoch = claims::take_over(&mut db, "first", ttl, true, 1).await.unwrap()[0].standing.epoch;
    assert_eq!(turns::renew(&mut db, &[(turn, epoch)], ttl).await.unwrap().kept, [turn]);
    assert!(turns::release(&mut db, turn, epoch).await.unwrap());
    // A renewal that was sent before the release, with the same epoch.
    assert_eq!(turns::renew(&mut db, &[(turn, epoch)], ttl).await.unwrap().lost, [turn]);
    // Any worker may claim it at once, without waiting for a lease.
    let heir = claims::take_over(&mut db, "second", ttl, false, 1).await.unwrap();
    assert_eq!(heir[0].standing.epoch, epoch + 1);
}

#[tokio::test]
async fn a_locked_turn_delays_no_renewal_of_another() {
    let fixture = Fixture::new().await;
    let (locked, other) = (fixture.turn().await, fixture.turn().await);
    let mut db = fixture.pool.acquire().await.unwrap();
    let ttl = Duration::from_secs(60);
    let held: Vec<_> = claims::take_over(&mut db, "worker", ttl, true, 2)
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
    let renewed = timeout(Duration::from_secs(2), turns::renew(&mut db, &held, ttl)).await;
    let renewed = renewed.expect("it waited for the lock").unwrap();
    assert_eq!((renewed.kept, renewed.lost), (vec![other], vec![]), "both are held");
    let after = [lease(&mut db, locked).await, lease(&mut db, other).await];
    assert!(after[0] == before[0] && after[1] > before[1]);
    freeze.commit().await.unwrap();
    assert_eq!(turns::renew(&mut db, &held, ttl).await.unwrap().kept.len(), 2);
    assert!(lease(&mut db, locked).await > before[0]);
}
