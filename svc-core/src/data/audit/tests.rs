//! Tests the audit log against a real Postgres: an act is recorded once, and the run role cannot change rows.

use sqlx::migrate::Migrator;

use super::*;
use crate::{
    run::clock::{Clock, SystemClock},
    testing::TestDb,
};

fn act(subject: SubjectHash, generation: i64) -> Act<'static> {
    Act { act: "session.tombstoned", subject, generation, principal_id: "purge-svc", at: SystemClock.now() }
}

#[tokio::test]
async fn recording_an_act_twice_fails_the_transaction() {
    let db = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
    let pool = db.pool("chat");
    let subject = SubjectHash::of("session", crate::id::new_id());
    for generation in [1, 2] {
        let mut tx = Tx::system(&pool).await.unwrap();
        record(&mut tx, &act(subject, generation)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = Tx::system(&pool).await.unwrap();
    let error = record(&mut tx, &act(subject, 2)).await.unwrap_err();
    assert!(error.violates("audit_log_pkey"), "{error:?}");
    assert!(tx.commit().await.is_err());
}

#[tokio::test]
async fn the_run_role_only_adds() {
    let db = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
    for sql in ["UPDATE audit_log SET act = ''", "DELETE FROM audit_log", "TRUNCATE audit_log"] {
        let error = sqlx::raw_sql(sql).execute(db.pool("chat").inner()).await.unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    }
}

#[test]
fn a_hash_tells_kinds_apart() {
    let id = crate::id::new_id();
    assert_ne!(SubjectHash::of("session", id), SubjectHash::of("account", id));
    assert_eq!(SubjectHash::of("session", id), SubjectHash::of("session", id));
}
