//! The schema says what an erasure does to it, and its enums are the program's.

use registry_svc::{
    MIGRATOR,
    domain::{a2a::Version, agent::DeliveryMode, delivery::State, status::Status, token::TokenKind},
};
use svc_core::{
    custody::data_map,
    data::pg_enum::{self, PgEnum},
    testing::TestDb,
};

async fn assert_same_labels<E: PgEnum>(db: &TestDb) {
    let stored = pg_enum::labels(&mut db.owner("registry").await, E::TYPE).await.unwrap();
    let ours: Vec<&str> = E::LABELS.iter().map(|(_, label)| *label).collect();
    assert_eq!(stored, ours, "{}", E::TYPE);
}

#[tokio::test]
async fn every_table_and_column_says_what_an_erasure_does_to_it() {
    let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
    let places = data_map::unannotated(&mut db.owner("registry").await).await.unwrap();
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test]
async fn every_enum_has_the_values_that_the_database_has() {
    let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
    assert_same_labels::<TokenKind>(&db).await;
    assert_same_labels::<Status>(&db).await;
    assert_same_labels::<DeliveryMode>(&db).await;
    assert_same_labels::<State>(&db).await;
    assert_same_labels::<Version>(&db).await;
}
