//! Tests that the schema in Postgres agrees with the code.

use sandbox_svc::{
    MIGRATOR,
    testing::{
        domain::{
            exec::ExecState,
            pool::PoolState,
            sandbox::{Cause, State},
            shape::Network,
        },
        store::erasure::TABLES,
    },
};
use svc_core::{
    data::{
        data_map,
        pg_enum::{PgEnum, labels},
    },
    testing::TestDb,
};

#[tokio::test]
async fn every_table_and_column_has_a_custody_annotation() {
    let db = TestDb::new(&[("sandbox", &MIGRATOR)]).await;
    let unannotated = data_map::unannotated(&mut db.owner("sandbox").await).await.unwrap();
    assert!(unannotated.is_empty(), "{unannotated:?}");
    let differences = TABLES.differences(&mut db.owner("sandbox").await).await.unwrap();
    assert!(differences.is_empty(), "{differences:?}");
}

#[tokio::test]
async fn enums_have_the_labels_of_the_database() {
    async fn check<E: PgEnum>(db: &TestDb) {
        let stored = labels(&mut db.owner("sandbox").await, E::TYPE).await.unwrap();
        let ours: Vec<_> = E::LABELS.iter().map(|(_, label)| (*label).to_owned()).collect();
        assert_eq!(stored, ours, "{}", E::TYPE);
    }
    let db = TestDb::new(&[("sandbox", &MIGRATOR)]).await;
    check::<State>(&db).await;
    check::<Cause>(&db).await;
    check::<PoolState>(&db).await;
    check::<Network>(&db).await;
    check::<ExecState>(&db).await;
    assert_eq!(State::LABELS.len(), State::ALL.len());
}
