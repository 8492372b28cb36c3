//! Tests the custody annotations of the schema, and the labels of its enums.

use registry_svc::{
    MIGRATOR,
    testing::{DeliveryMode, State, Status, TABLES, TokenKind, Version},
};
use svc_core::{
    data::{
        data_map,
        pg_enum::{self, PgEnum},
    },
    testing::TestDb,
};

async fn assert_same_labels<E: PgEnum>(db: &TestDb) {
    let stored = pg_enum::labels(&mut db.owner("registry").await, E::TYPE).await.unwrap();
    let ours: Vec<&str> = E::LABELS.iter().map(|(_, label)| *label).collect();
    assert_eq!(stored, ours, "{}", E::TYPE);
}

#[tokio::test]
async fn every_table_and_column_has_a_custody_annotation() {
    let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
    let places = data_map::unannotated(&mut db.owner("registry").await).await.unwrap();
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test]
async fn an_erasure_covers_the_annotated_tables() {
    let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
    let differences = TABLES.differences(&mut db.owner("registry").await).await.unwrap();
    assert!(differences.is_empty(), "{differences:?}");
}

#[tokio::test]
async fn every_enum_has_the_labels_of_the_database() {
    let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
    assert_same_labels::<TokenKind>(&db).await;
    assert_same_labels::<Status>(&db).await;
    assert_same_labels::<DeliveryMode>(&db).await;
    assert_same_labels::<State>(&db).await;
    assert_same_labels::<Version>(&db).await;
}
