//! Tests the event journal alone: a worker stores no event after another one claimed its turn; before, it
//! stores each event once and in order; and the queue is bounded, even while Postgres fails.

use std::{sync::Arc, time::Duration};

use chat_svc::{
    MIGRATOR,
    testing::{Journal, JournalConfig, StoredEvent, TurnEvent, TurnLog, last_seq, list_after, take_over},
};
use sqlx::Connection;
use svc_core::{
    data::{pg::Pool, wake::Wake},
    id::{AccountId, SessionId, TurnId},
    run::lifecycle::Lifecycle,
    testing::{FaultProxy, TestDb, TestRedis},
};
use tokio_util::sync::CancellationToken;

use crate::plane::{TIMEOUT, eventually};

pub(crate) struct Fixture {
    pub(crate) db: TestDb,
    pub(crate) pool: Pool,
    pub(crate) journal: Journal,
    lifecycle: Lifecycle,
    redis: TestRedis,
}

pub(crate) fn config() -> JournalConfig {
    JournalConfig {
        max_batch_events: 2000,
        max_queued_bytes: 1 << 20,
        retry_pause: Duration::from_millis(20),
        poll: Duration::from_millis(200),
        page_events: 100,
        hub_batches: 64,
        slow_reader: Duration::from_secs(5),
    }
}

pub(crate) fn journal(
    config: JournalConfig,
    pool: &Pool,
    redis: &TestRedis,
    lifecycle: &Lifecycle,
) -> Journal {
    Journal::start(config, pool.clone(), Wake::start(&redis.redis(), lifecycle), lifecycle)
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
        let pool = db.pool("chat");
        Self::over(db, pool, config())
    }

    pub(crate) fn over(db: TestDb, pool: Pool, config: JournalConfig) -> Self {
        crate::plane::metrics();
        let (redis, lifecycle) = (TestRedis::new(), Lifecycle::new());
        let journal = journal(config, &pool, &redis, &lifecycle);
        Self { db, pool, journal, lifecycle, redis }
    }

    pub(crate) fn replica(&self, config: JournalConfig) -> Journal {
        journal(config, &self.pool, &self.redis, &self.lifecycle)
    }

    /// Inserts a running turn with epoch 1 and a lease that has just expired.
    pub(crate) async fn turn(&self) -> TurnId {
        let (account, session, turn) = (AccountId::new(), SessionId::new(), TurnId::new());
        let mut db = self.db.owner("chat").await;
        sqlx::query(
            "INSERT INTO sessions (id, account_id, title, input_policy, route, created_at, updated_at)
             VALUES ($1, $2, '', 'queue', 'default', now(), now())",
        )
        .bind(session.0)
        .bind(account.0)
        .execute(&mut db)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO turns (
                 id, account_id, session_id, ordinal, status, epoch, lease_until, created_at, deadline_at
             )
             VALUES ($1, $2, $3, 1, 'running', 1, now(), now(), now() + interval '1 hour')",
        )
        .bind(turn.0)
        .bind(account.0)
        .bind(session.0)
        .execute(&mut db)
        .await
        .unwrap();
        turn
    }

    pub(crate) fn log(&self, turn: TurnId, epoch: i64, last_seq: i64) -> (TurnLog, CancellationToken) {
        let fenced = CancellationToken::new();
        (self.journal.open(turn, epoch, last_seq, fenced.clone()), fenced)
    }

    /// Number of processes that subscribe to hints about the turn.
    pub(crate) async fn listeners(&self, turn: TurnId) -> u64 {
        self.redis.listeners(&format!("chat.turn:{turn}")).await
    }

    pub(crate) async fn stored(&self, turn: TurnId) -> Vec<StoredEvent> {
        let mut db = self.db.owner("chat").await;
        list_after(&mut db, turn, 0, 1_000_000).await.unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.lifecycle.hard().cancel();
    }
}

pub(crate) fn text(text: impl Into<String>) -> TurnEvent {
    TurnEvent::TextDelta { step: 1, text: text.into() }
}

pub(crate) fn texts(events: &[StoredEvent]) -> String {
    events
        .iter()
        .map(|event| match serde_json::from_slice(&event.payload).unwrap() {
            TurnEvent::TextDelta { text, .. } => text,
            other => panic!("{other:?}"),
        })
        .collect()
}

pub(crate) fn assert_gapless(events: &[StoredEvent]) {
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_of_many_turns_are_stored_in_order_without_a_gap() {
    let fixture = Fixture::new().await;
    let mut logs = Vec::new();
    for _ in 0..20 {
        let turn = fixture.turn().await;
        logs.push((turn, Arc::new(fixture.log(turn, 1, 0).0)));
    }
    let appends = logs.iter().map(|(_, log)| {
        let log = log.clone();
        async move {
            for number in 0..200 {
                log.append(text(format!("{number} "))).await.unwrap();
                if number % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            log.flush().await.unwrap()
        }
    });
    let last = futures::future::join_all(appends).await;
    let want: String = (0..200).map(|number| format!("{number} ")).collect();
    for ((turn, _), last) in logs.iter().zip(last) {
        let stored = fixture.stored(*turn).await;
        assert_gapless(&stored);
        assert_eq!(texts(&stored), want);
        assert_eq!(stored.last().unwrap().seq, last);
        assert!(stored.len() <= 200, "adjacent deltas of one batch are one event");
    }
}

#[tokio::test]
async fn a_fenced_worker_commits_nothing_and_is_signalled() {
    let fixture = Fixture::new().await;
    let (turn, other) = (fixture.turn().await, fixture.turn().await);
    let (stale, fenced) = fixture.log(turn, 1, 0);
    let (healthy, _) = fixture.log(other, 1, 0);
    stale.append(text("before")).await.unwrap();
    stale.flush().await.unwrap();

    let mut db = fixture.pool.acquire().await.unwrap();
    sqlx::query("UPDATE turns SET lease_until = now() - interval '1 second'")
        .execute(&mut *db)
        .await
        .unwrap();
    let taken = take_over(&mut db, "other", Duration::from_secs(9), true, 10).await.unwrap();
    assert_eq!(taken.len(), 2);
    // Sets the second turn back to epoch 1, so that its worker is not fenced.
    sqlx::query("UPDATE turns SET epoch = 1 WHERE id = $1").bind(other.0).execute(&mut *db).await.unwrap();

    stale.append(text("after")).await.unwrap();
    healthy.append(text("untouched")).await.unwrap();
    assert!(stale.flush().await.is_err());
    tokio::time::timeout(TIMEOUT, fenced.cancelled()).await.expect("the worker is signalled");
    assert!(stale.append(text("more")).await.is_err());
    healthy.flush().await.unwrap();
    assert_eq!(texts(&fixture.stored(turn).await), "before");
    assert_eq!(texts(&fixture.stored(other).await), "untouched");

    // The new worker continues after the old one's last committed event.
    let (new, _) = fixture.log(turn, 2, 1);
    new.append(text(" and on")).await.unwrap();
    assert_eq!(new.flush().await.unwrap(), 2);
    assert_eq!(texts(&fixture.stored(turn).await), "before and on");
}

#[tokio::test]
async fn a_takeover_during_writes_leaves_one_gapless_sequence() {
    let fixture = Fixture::new().await;
    let turn = fixture.turn().await;
    let (old, _) = fixture.log(turn, 1, 0);
    let old = Arc::new(old);
    let writing = {
        let old = old.clone();
        fixture.lifecycle.spawn("old worker", async move {
            for number in 0.. {
                let event = TurnEvent::TextDelta { step: number, text: "old".to_owned() };
                if old.append(event).await.is_err() {
                    return number;
                }
                tokio::task::yield_now().await;
            }
            0
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut db = fixture.pool.acquire().await.unwrap();
    sqlx::query("UPDATE turns SET lease_until = now() - interval '1 second'")
        .execute(&mut *db)
        .await
        .unwrap();
    let taken = eventually("the turn is taken", async || {
        let taken = take_over(&mut db, "other", Duration::from_secs(9), true, 1).await.unwrap();
        taken.into_iter().next()
    })
    .await;
    let last = last_seq(&mut db, turn).await.unwrap();
    let (new, _) = fixture.log(turn, taken.standing.epoch, last);
    for number in 0..500 {
        new.append(TurnEvent::TextDelta { step: number, text: "new".to_owned() }).await.unwrap();
    }
    new.flush().await.unwrap();
    writing.await.unwrap().unwrap();
    let stored = fixture.stored(turn).await;
    assert_gapless(&stored);
    let old_after_new = stored
        .iter()
        .skip_while(|event| !String::from_utf8_lossy(&event.payload).contains("new"))
        .any(|event| String::from_utf8_lossy(&event.payload).contains("old"));
    assert!(!old_after_new && stored[usize::try_from(last).unwrap()].seq == last + 1);
}

#[tokio::test]
async fn a_locked_turn_waits_and_does_not_delay_another() {
    let fixture = Fixture::new().await;
    let (locked, free) = (fixture.turn().await, fixture.turn().await);
    let mut holder = fixture.db.owner("chat").await;
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM turns WHERE id = $1 FOR UPDATE")
        .bind(locked.0)
        .execute(&mut *tx)
        .await
        .unwrap();
    let (waits, fenced) = fixture.log(locked, 1, 0);
    let (goes, _) = fixture.log(free, 1, 0);
    waits.append(text("late")).await.unwrap();
    goes.append(text("now")).await.unwrap();
    tokio::time::timeout(TIMEOUT, goes.flush()).await.expect("the free turn is written").unwrap();
    assert!(fixture.stored(locked).await.is_empty());
    tx.commit().await.unwrap();
    tokio::time::timeout(TIMEOUT, waits.flush()).await.expect("it follows").unwrap();
    assert_eq!(texts(&fixture.stored(locked).await), "late");
    assert!(!fenced.is_cancelled());
}

#[tokio::test]
async fn a_postgres_outage_loses_and_repeats_no_event() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let proxy = FaultProxy::start(db.address()).await;
    let mut through = db.config_through("chat", proxy.address());
    through.acquire_timeout = Duration::from_millis(500);
    let pool = Pool::lazy(&through).unwrap();
    let fixture = Fixture::over(db, pool, config());
    let turn = fixture.turn().await;
    let (log, _) = fixture.log(turn, 1, 0);
    let mut want = String::new();
    for round in 0..5 {
        for number in 0..50 {
            let piece = format!("{round}.{number} ");
            log.append(text(piece.clone())).await.unwrap();
            want.push_str(&piece);
            if number == 25 {
                // Cuts the connection in the middle of a batch, so that answers of some commits are lost.
                proxy.cut();
                proxy.refuse();
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxy.pass();
    }
    tokio::time::timeout(TIMEOUT, log.flush()).await.expect("the journal recovers").unwrap();
    let stored = fixture.stored(turn).await;
    assert_gapless(&stored);
    assert_eq!(texts(&stored), want);
}

#[tokio::test]
async fn a_full_queue_makes_the_worker_wait() {
    let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
    let proxy = FaultProxy::start(db.address()).await;
    let pool = Pool::lazy(&db.config_through("chat", proxy.address())).unwrap();
    let fixture = Fixture::over(db, pool, JournalConfig { max_queued_bytes: 4096, ..config() });
    let turn = fixture.turn().await;
    let (log, _) = fixture.log(turn, 1, 0);
    log.append(text("first")).await.unwrap();
    log.flush().await.unwrap();
    proxy.stall();
    let mut accepted = 0;
    let full = async {
        loop {
            log.append(text("x".repeat(200))).await.unwrap();
            accepted += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), full).await.is_err());
    assert!((1..40).contains(&accepted), "{accepted} events of 300 bytes fit into 4 KiB");
    proxy.pass();
    tokio::time::timeout(TIMEOUT, log.flush()).await.expect("the queue drains").unwrap();
    assert_eq!(texts(&fixture.stored(turn).await).len(), 5 + accepted * 200);
}
