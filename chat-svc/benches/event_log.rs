//! Compares the event journal with bare multi-row inserts of the same rows, in batches of the same size, over
//! as many connections; the inserts have no fencing, no order and no readers.
//!
//! Fails if the journal's rate is less than [`FLOOR`] times the rate of the inserts, by more than the noise
//! that [`compare`] allows for.

#![expect(clippy::expect_used, reason = "a benchmark may fail")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use chat_svc::{
    MIGRATOR,
    testing::{Journal, JournalConfig, TurnEvent},
};
use svc_core::{
    data::{pg::Pool, wake::Wake},
    id::{AccountId, SessionId, TurnId},
    run::lifecycle::Lifecycle,
    testing::{
        TestDb, TestRedis,
        bench::{Floor, ROUNDS, compare},
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TURNS: usize = 1000;
const EVENTS_A_TURN: usize = 100;
const BATCH: usize = 2000;
const WRITERS: usize = 2;
const FLOOR: Floor = Floor::AtLeast(0.7);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
        for _ in 0..ROUNDS {
            ours.push(journal(&db).await);
            bare.push(inserts(&db).await);
        }
    });
    let met =
        compare("event log", &mut ours, ("bare inserts", &mut bare), FLOOR, |rate| format!("{rate:.0}/s"));
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rate(began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown in four digits")]
    let events = (TURNS * EVENTS_A_TURN) as f64;
    events / began.elapsed().as_secs_f64()
}

/// Returns an event that does not merge with its neighbours, so that each is a row, as in the baseline.
fn event(number: usize) -> TurnEvent {
    let step = i32::try_from(number).expect("few events");
    TurnEvent::TextDelta { step, text: "a token or two".to_owned() }
}

async fn turns(db: &TestDb) -> Vec<TurnId> {
    let (account, session) = (AccountId::new(), SessionId::new());
    let ids: Vec<TurnId> = (0..TURNS).map(|_| TurnId::new()).collect();
    let mut owner = db.owner("chat").await;
    sqlx::query(
        "INSERT INTO sessions (id, account_id, title, input_policy, route, created_at, updated_at)
         SELECT id, $1, '', 'queue', 'default', now(), now() FROM unnest($2::uuid[]) AS id",
    )
    .bind(account.0)
    .bind(ids.iter().map(|id| id.0).chain([session.0]).collect::<Vec<Uuid>>())
    .execute(&mut owner)
    .await
    .expect("make sessions");
    sqlx::query(
        "INSERT INTO turns (
             id, account_id, session_id, ordinal, status, epoch, lease_until, created_at, deadline_at
         )
         SELECT id, $1, id, 1, 'running', 1, now(), now(), now() FROM unnest($2::uuid[]) AS id",
    )
    .bind(account.0)
    .bind(ids.iter().map(|id| id.0).collect::<Vec<Uuid>>())
    .execute(&mut owner)
    .await
    .expect("make turns");
    ids
}

async fn journal(db: &TestDb) -> f64 {
    let turns = turns(db).await;
    let (redis, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let config = JournalConfig {
        max_batch_events: BATCH,
        max_queued_bytes: 8 << 20,
        retry_pause: Duration::from_millis(200),
        poll: Duration::from_secs(1),
        page_events: 500,
        hub_batches: 256,
        slow_reader: Duration::from_secs(30),
    };
    let wake = Wake::start(&redis.redis(), &lifecycle);
    let journal = Journal::start(config, db.pool("chat"), wake, &lifecycle);
    let logs: Vec<_> =
        turns.iter().map(|id| Arc::new(journal.open(*id, 1, 0, CancellationToken::new()))).collect();
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for log in logs {
        workers.spawn(async move {
            for number in 0..EVENTS_A_TURN {
                log.append(event(number)).await.expect("append");
            }
            log.flush().await.expect("flush");
        });
    }
    workers.join_all().await;
    let rate = rate(began);
    lifecycle.hard().cancel();
    rate
}

async fn inserts(db: &TestDb) -> f64 {
    let turns = Arc::new(turns(db).await);
    let pool: Pool = db.pool("chat");
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (pool, turns) = (pool.clone(), turns.clone());
        writers.spawn(async move {
            let mut db = pool.acquire().await.expect("a connection");
            let rows: Vec<(Uuid, i64)> = (0..EVENTS_A_TURN)
                .flat_map(|number| {
                    let seq = i64::try_from(number).expect("few events") + 1;
                    turns.iter().skip(writer).step_by(WRITERS).map(move |turn| (turn.0, seq))
                })
                .collect();
            for batch in rows.chunks(BATCH) {
                let (ids, seqs): (Vec<Uuid>, Vec<i64>) = batch.iter().copied().unzip();
                let kinds = vec!["text.delta"; batch.len()];
                let payloads: Vec<Vec<u8>> = seqs
                    .iter()
                    .map(|seq| event(usize::try_from(*seq).expect("positive")).payload())
                    .collect();
                sqlx::query(
                    "INSERT INTO turn_events (turn_id, seq, kind, payload)
                     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])",
                )
                .bind(ids)
                .bind(seqs)
                .bind(kinds)
                .bind(payloads)
                .execute(&mut *db)
                .await
                .expect("insert");
            }
        });
    }
    writers.join_all().await;
    rate(began)
}
