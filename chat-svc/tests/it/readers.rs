//! Tests readers of the event journal: they see committed events only, and miss none.

use std::time::Duration;

use chat_svc::{
    MIGRATOR,
    testing::{Journal, JournalConfig, Reader, TurnEvent, TurnLog},
};
use svc_core::{
    data::pg::Pool,
    id::TurnId,
    testing::{FaultProxy, TestDb},
};
use tokio_util::sync::CancellationToken;

use crate::{
    journal::{Fixture, assert_gapless, config, text, texts},
    plane::{TIMEOUT, eventually},
};

async fn subscribed(fixture: &Fixture, turn: TurnId, processes: u64) {
    let there = async || (fixture.listeners(turn).await == processes).then_some(());
    eventually("the number of subscribers", there).await;
}

#[tokio::test]
async fn a_reader_sees_only_committed_events() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let proxy = FaultProxy::start(db.address()).await;
    let pool = Pool::lazy(&db.config_through("chat", proxy.address())).unwrap();
    let fixture = Fixture::over(db, pool, config());
    let turn = fixture.turn().await;
    let mut reader = fixture.journal.reader(turn, 0);
    let (log, _) = fixture.log(turn, 1, 0);
    log.append(text("seen")).await.unwrap();
    let first = tokio::time::timeout(TIMEOUT, reader.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(texts(&first), "seen");
    proxy.stall();
    log.append(text("in flight")).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(150), reader.next()).await.is_err());
    proxy.pass();
    let second = tokio::time::timeout(TIMEOUT, reader.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(texts(&second), "in flight");
}

#[tokio::test]
async fn a_slow_reader_reads_postgres_and_misses_nothing() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let pool = db.pool("chat");
    let fixture = Fixture::over(db, pool, JournalConfig { hub_batches: 2, page_events: 3, ..config() });
    let turn = fixture.turn().await;
    let mut reader = fixture.journal.reader(turn, 0);
    let (log, _) = fixture.log(turn, 1, 0);
    for number in 0..50 {
        log.append(TurnEvent::TextDelta { step: number, text: "x".to_owned() }).await.unwrap();
        log.flush().await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let more = tokio::time::timeout(TIMEOUT, reader.next()).await.unwrap().unwrap().unwrap();
        seen.extend(more);
    }
    assert_gapless(&seen);
    assert_eq!(seen, fixture.stored(turn).await, "byte for byte");
}

/// The poll period is long, so that the reader gets events only through the hub or after a hint.
#[tokio::test]
async fn a_reader_subscribes_to_hints_only_for_remote_turns() {
    let config = JournalConfig { poll: Duration::from_mins(10), ..config() };
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let pool = db.pool("chat");
    let fixture = Fixture::over(db, pool, config.clone());
    let other = fixture.replica(config);
    let turn = fixture.turn().await;
    let open = |journal: &Journal, last_seq| journal.open(turn, 1, last_seq, CancellationToken::new());
    let mut reader = fixture.journal.reader(turn, 0);
    let heard = async |reader: &mut Reader, log: &TurnLog, said: &str| {
        log.append(text(said)).await.unwrap();
        let next = tokio::time::timeout(TIMEOUT, reader.next()).await.expect(said).unwrap().unwrap();
        assert_eq!(texts(&next), said);
    };
    let asks_for_hints = async |reader: &mut Reader| {
        tokio::select! {
            next = reader.next() => panic!("unexpected events: {next:?}"),
            () = subscribed(&fixture, turn, 1) => {}
        }
    };
    // No worker runs the turn yet, as when a client asks for a new turn's events.
    asks_for_hints(&mut reader).await;

    let log = open(&fixture.journal, 0);
    heard(&mut reader, &log, "here").await;
    heard(&mut reader, &log, "here again").await;
    subscribed(&fixture, turn, 0).await;

    drop(log);
    asks_for_hints(&mut reader).await;
    let log = open(&other, 2);
    heard(&mut reader, &log, "there").await;
    heard(&mut reader, &log, "there again").await;
    drop(log);

    let log = open(&fixture.journal, 4);
    heard(&mut reader, &log, "back").await;
    assert_gapless(&fixture.stored(turn).await);
}
