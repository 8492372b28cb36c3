//! Tests the schema: every column is annotated, enums match the code, ledgers cannot be changed, and claims
//! use an index.

use purge_svc::{
    MIGRATOR,
    testing::domain::{
        job::{Phase, StateLabel},
        receipt::Broken,
        trigger::Trigger,
    },
};
use svc_core::{
    data::{
        data_map,
        pg_enum::{self, PgEnum},
    },
    subject::SubjectKind,
    testing::TestDb,
};

use crate::plane::Plane;

#[tokio::test]
async fn every_table_and_column_says_what_an_erasure_does_to_it() {
    let db = TestDb::new(&[("purge", &MIGRATOR)]).await;
    let mut owner = db.owner("purge").await;
    let unannotated = data_map::unannotated(&mut owner).await.unwrap();
    let ours: Vec<_> = unannotated.iter().filter(|place| place.table != "_sqlx_migrations").collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test]
async fn enums_have_the_labels_that_the_database_has() {
    async fn check<E: PgEnum>(connection: &mut sqlx::PgConnection) {
        let code: Vec<_> = E::LABELS.iter().map(|(_, label)| (*label).to_owned()).collect();
        assert_eq!(pg_enum::labels(connection, E::TYPE).await.unwrap(), code, "{}", E::TYPE);
    }
    let db = TestDb::new(&[("purge", &MIGRATOR)]).await;
    let mut owner = db.owner("purge").await;
    check::<SubjectKind>(&mut owner).await;
    check::<Trigger>(&mut owner).await;
    check::<Phase>(&mut owner).await;
    check::<StateLabel>(&mut owner).await;
    for trigger in Trigger::ALL {
        let (_, label) = Trigger::LABELS.iter().find(|(labelled, _)| *labelled == trigger).unwrap();
        assert_eq!(*label, trigger.name());
    }
}

#[tokio::test]
async fn the_run_role_cannot_change_what_was_written_to_a_ledger() {
    let plane = Plane::new().await;
    let (_, purge_id) = plane.accepted().await;
    plane.run_to_the_end(purge_id).await;
    for statement in [
        "UPDATE receipts SET epoch = 9",
        "DELETE FROM receipts",
        "TRUNCATE receipts CASCADE",
        "UPDATE receipt_custodians SET verified_at = now()",
        "DELETE FROM receipt_custodians",
        "DELETE FROM audit_log",
        "UPDATE audit_log SET act = 'x'",
        "DELETE FROM purge_jobs",
        "DELETE FROM dead_letters",
        "DELETE FROM holds",
    ] {
        let mut db = plane.pool.acquire().await.unwrap();
        let refused = sqlx::query(statement).execute(&mut *db).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code()).unwrap().into_owned();
        assert_eq!(code, "42501", "{statement}");
    }
}

#[tokio::test]
async fn a_changed_ledger_is_found_out() {
    let plane = Plane::new().await;
    for _ in 0..3 {
        let (_, purge_id) = plane.accepted().await;
        plane.run_to_the_end(purge_id).await;
    }
    let mut owner = plane.db.owner("purge").await;
    for (tamper, undo) in [
        (
            "UPDATE receipts SET epoch = epoch + 1 WHERE seq = 2",
            "UPDATE receipts SET epoch = epoch - 1 WHERE seq = 2",
        ),
        (
            "UPDATE receipt_custodians SET verified_at = verified_at + interval '1 microsecond'
             WHERE seq = 2 AND custodian = 'chat-svc'",
            "UPDATE receipt_custodians SET verified_at = verified_at - interval '1 microsecond'
             WHERE seq = 2 AND custodian = 'chat-svc'",
        ),
    ] {
        sqlx::query(tamper).execute(&mut owner).await.unwrap();
        let checked = plane.ledger.check().await.unwrap();
        assert_eq!((checked.head.seq, checked.broken), (1, Some(Broken::Changed(2))), "{tamper}");
        sqlx::query(undo).execute(&mut owner).await.unwrap();
        assert_eq!(plane.ledger.check().await.unwrap().broken, None);
    }
    sqlx::query("DELETE FROM receipt_custodians WHERE seq = 2").execute(&mut owner).await.unwrap();
    sqlx::query("DELETE FROM receipts WHERE seq = 2").execute(&mut owner).await.unwrap();
    let broken = plane.ledger.check().await.unwrap().broken;
    assert_eq!(broken, Some(Broken::Gap { expected: 2, found: 3 }));
}

#[tokio::test]
async fn claims_walk_the_index_of_what_is_due() {
    let plane = Plane::new().await;
    let mut owner = plane.db.owner("purge").await;
    // Stores many final jobs, which would make a scan of the whole table slow.
    sqlx::query(
        "INSERT INTO purge_jobs
             (purge_id, account_id, subject_kind, subject_hash, trigger, priority, state, phase,
              next_attempt_at, generation, created_at, committed_at)
         SELECT gen_random_uuid(), gen_random_uuid(), 'session', sha256(n::text::bytea), 'user_erasure', 1,
                'committed', NULL, now(), 9, now(), now()
         FROM generate_series(1, 5000) n",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    sqlx::query("ANALYZE purge_jobs").execute(&mut owner).await.unwrap();
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT purge_id FROM purge_jobs
         WHERE state NOT IN ('dead_lettered', 'committed', 'thawed') AND next_attempt_at <= now()
           AND trigger = ANY ('{user_erasure}') AND (lease_until IS NULL OR lease_until < now())
         ORDER BY priority, next_attempt_at, purge_id LIMIT 4 FOR UPDATE SKIP LOCKED",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(plan.iter().any(|line| line.contains("purge_jobs_due")), "{}", plan.join("\n"));
}
