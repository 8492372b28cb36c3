//! Tests the schema: its custody annotations, and its enums.

use chat_svc::{
    MIGRATOR,
    testing::{InputPolicy, Role, StopOutcome, TABLES, ToolCallState, TurnStatus},
};
use svc_core::{
    data::{
        data_map,
        pg_enum::{self, PgEnum},
    },
    testing::TestDb,
};

async fn assert_same_labels<E: PgEnum>(db: &TestDb) {
    let stored = pg_enum::labels(&mut db.owner("chat").await, E::TYPE).await.unwrap();
    let ours: Vec<&str> = E::LABELS.iter().map(|(_, label)| *label).collect();
    assert_eq!(stored, ours, "{}", E::TYPE);
}

#[tokio::test]
async fn every_table_and_column_has_a_custody_annotation() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let places = data_map::unannotated(&mut db.owner("chat").await).await.unwrap();
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test]
async fn the_tables_of_an_erasure_are_the_annotated_ones() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let differences = TABLES.differences(&mut db.owner("chat").await).await.unwrap();
    assert!(differences.is_empty(), "{differences:?}");
}

#[tokio::test]
async fn every_enum_has_the_values_of_the_database() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    assert_same_labels::<TurnStatus>(&db).await;
    assert_same_labels::<InputPolicy>(&db).await;
    assert_same_labels::<Role>(&db).await;
    assert_same_labels::<ToolCallState>(&db).await;
    assert_same_labels::<StopOutcome>(&db).await;
}
