//! The schema's custody annotations are complete, and its enums equal those of the program.

use chat_svc::{
    MIGRATOR,
    domain::{message::Role, session::InputPolicy, tool_call::ToolCallState, turn::TurnStatus},
};
use svc_core::{
    custody::data_map,
    data::pg_enum::{self, PgEnum},
    testing::TestDb,
};

async fn assert_same_labels<E: PgEnum>(db: &TestDb) {
    let stored = pg_enum::labels(&mut db.owner("chat").await, E::TYPE).await.unwrap();
    let ours: Vec<&str> = E::LABELS.iter().map(|(_, label)| *label).collect();
    assert_eq!(stored, ours, "{}", E::TYPE);
}

#[tokio::test]
async fn every_table_and_column_says_what_an_erasure_does_to_it() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let places = data_map::unannotated(&mut db.owner("chat").await).await.unwrap();
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test]
async fn every_enum_has_the_values_that_the_database_has() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    assert_same_labels::<TurnStatus>(&db).await;
    assert_same_labels::<InputPolicy>(&db).await;
    assert_same_labels::<Role>(&db).await;
    assert_same_labels::<ToolCallState>(&db).await;
}

#[tokio::test]
async fn the_claim_walks_the_partial_indexes() {
    let test_db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let mut db = test_db.owner("chat").await;
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
