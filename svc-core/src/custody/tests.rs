//! Tests custody against a real Postgres: a freeze and the subject's writers, repeated and concurrent steps,
//! stale epochs, cancellation, and the permissions of the run role.

use std::time::Duration;

use sqlx::migrate::Migrator;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::{data::data_map, id::SessionId, testing::TestDb};

const SOON: Duration = Duration::from_millis(200);

struct Fixture {
    pool: Pool,
    account: AccountId,
    session: Subject,
    db: TestDb,
}

impl Fixture {
    /// Builds a service that knows one session of one account.
    async fn new() -> Self {
        let db = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
        let config = crate::data::pg::PgConfig { max_connections: 12, ..db.config("chat") };
        let pool = Pool::lazy(&config).unwrap();
        let account = AccountId::new();
        let session = Subject::Session { account, session: SessionId::new() };
        let mut tx = Tx::system(&pool).await.unwrap();
        create(&mut tx, Subject::Account { account }).await.unwrap();
        create(&mut tx, session).await.unwrap();
        tx.commit().await.unwrap();
        Self { pool, account, session, db }
    }

    async fn open(&self, step: Step) -> StepTx {
        match begin(&self.pool, step).await.unwrap() {
            Begin::Open(open) => open,
            Begin::Replay(reply) => panic!("{step:?} was answered before: {reply:?}"),
        }
    }

    async fn done(&self, step: Step) {
        self.open(step).await.finish(step.kind.name().as_bytes()).await.unwrap();
    }

    async fn refused(&self, step: Step) -> Refused {
        match begin(&self.pool, step).await.unwrap_err() {
            Error::Refused(refused) => refused,
            Error::Pg(error) => panic!("{step:?}: {error:?}"),
        }
    }

    async fn state(&self) -> CustodyState {
        record(&mut self.pool.acquire().await.unwrap(), self.session).await.unwrap().unwrap().state
    }
}

fn step(subject: Subject, purge_id: PurgeId, epoch: i64, kind: StepKind) -> Step {
    Step { purge_id, epoch, subject, kind }
}

#[tokio::test]
async fn a_freeze_waits_for_the_writer_and_admits_no_other() {
    let at = Fixture::new().await;
    let mut writer = Tx::for_subject(&at.pool, at.session).await.unwrap();
    let freeze = begin(&at.pool, step(at.session, PurgeId::new(), 1, StepKind::Freeze));
    tokio::pin!(freeze);
    assert!(timeout(SOON, &mut freeze).await.is_err(), "froze over a writer");

    let late = Tx::for_subject(&at.pool, at.session).await.unwrap_err();
    assert!(matches!(late, pg::Error::SubjectFrozen(SubjectKind::Session)), "{late:?}");
    assert!(timeout(SOON, &mut freeze).await.is_err(), "froze over a writer");

    sqlx::query("SELECT 1").execute(&mut *writer).await.unwrap();
    writer.commit().await.unwrap();
    let Begin::Open(open) = freeze.await.unwrap() else { panic!("answered before it was asked") };
    open.finish(b"frozen").await.unwrap();
    let late = Tx::for_subject(&at.pool, at.session).await.unwrap_err();
    assert!(matches!(late, pg::Error::SubjectFrozen(SubjectKind::Session)), "{late:?}");
}

#[tokio::test]
async fn a_busy_subject_can_still_be_frozen() {
    let at = Fixture::new().await;
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let (pool, subject) = (at.pool.clone(), at.session);
        writers.spawn(async move {
            let mut written = 0_u32;
            // Each of the eight writers holds the row most of the time, so that at every moment some writer
            // holds it.
            loop {
                match Tx::for_subject(&pool, subject).await {
                    Ok(tx) => {
                        sleep(Duration::from_millis(30)).await;
                        tx.commit().await.unwrap();
                        written += 1;
                    }
                    Err(pg::Error::SubjectFrozen(_)) => return written,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    sleep(Duration::from_millis(300)).await;
    let asked = Instant::now();
    at.done(step(at.session, PurgeId::new(), 1, StepKind::Freeze)).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "took {:?}", asked.elapsed());
    let written: u32 = writers.join_all().await.iter().sum();
    assert!(written > 8, "only {written} writes");
}

#[tokio::test]
async fn writers_of_one_subject_do_not_wait_for_each_other() {
    let at = Fixture::new().await;
    let first = Tx::for_subject(&at.pool, at.session).await.unwrap();
    let second = timeout(SOON, Tx::for_subject(&at.pool, at.session)).await.unwrap().unwrap();
    first.commit().await.unwrap();
    second.commit().await.unwrap();
}

#[tokio::test]
async fn the_freeze_of_an_account_stops_the_writers_of_its_sessions() {
    let at = Fixture::new().await;
    let account = Subject::Account { account: at.account };
    at.done(step(account, PurgeId::new(), 1, StepKind::Freeze)).await;
    let error = Tx::for_subject(&at.pool, at.session).await.unwrap_err();
    assert!(matches!(error, pg::Error::SubjectFrozen(SubjectKind::Account)), "{error:?}");
    let new = Subject::Session { account: at.account, session: SessionId::new() };
    let error = Tx::for_subject_or_new(&at.pool, new).await.unwrap_err();
    assert!(matches!(error, pg::Error::SubjectFrozen(SubjectKind::Account)), "{error:?}");
}

#[tokio::test]
async fn a_freeze_that_times_out_still_stops_new_writers() {
    let at = Fixture::new().await;
    let config = crate::data::pg::PgConfig { lock_timeout: SOON, ..at.db.config("chat") };
    let impatient = Pool::lazy(&config).unwrap();
    let writer = Tx::for_subject(&at.pool, at.session).await.unwrap();
    let freeze = step(at.session, PurgeId::new(), 1, StepKind::Freeze);
    let error = begin(&impatient, freeze).await.unwrap_err();
    assert!(matches!(error, Error::Pg(pg::Error::LockTimeout(_))), "{error:?}");
    assert!(error.retry_after().is_some() && error.kind() == ErrorKind::Unavailable);
    writer.commit().await.unwrap();
    assert!(Tx::for_subject(&at.pool, at.session).await.is_err());
    at.done(freeze).await;
}

#[tokio::test]
async fn an_answer_is_repeated_exactly_also_to_a_higher_epoch() {
    let at = Fixture::new().await;
    let purge = PurgeId::new();
    let reply = [0, 159, 146, 150];
    at.open(step(at.session, purge, 3, StepKind::Freeze)).await.finish(&reply).await.unwrap();
    for epoch in [3, 7] {
        match begin(&at.pool, step(at.session, purge, epoch, StepKind::Freeze)).await.unwrap() {
            Begin::Replay(again) => assert_eq!(again, reply),
            Begin::Open(_) => panic!("done twice"),
        }
    }
    assert_eq!(
        at.refused(step(at.session, purge, 6, StepKind::Freeze)).await,
        Refused::StaleEpoch { seen: 7 }
    );
}

#[tokio::test]
async fn the_same_step_at_the_same_time_is_done_once() {
    let at = Fixture::new().await;
    let freeze = step(at.session, PurgeId::new(), 1, StepKind::Freeze);
    let first = at.open(freeze).await;
    let second = begin(&at.pool, freeze);
    tokio::pin!(second);
    assert!(timeout(SOON, &mut second).await.is_err(), "two at once");
    first.finish(b"once").await.unwrap();
    assert!(matches!(second.await.unwrap(), Begin::Replay(reply) if reply == b"once"));
}

#[tokio::test]
async fn a_step_of_a_stale_epoch_changes_nothing() {
    let at = Fixture::new().await;
    let (old, new) = (PurgeId::new(), PurgeId::new());
    at.done(step(at.session, old, 1, StepKind::Freeze)).await;
    at.done(step(at.session, new, 2, StepKind::Freeze)).await;
    for kind in [StepKind::Thaw, StepKind::Erase, StepKind::Commit, StepKind::Freeze] {
        assert_eq!(
            at.refused(step(at.session, old, 1, kind)).await,
            Refused::StaleEpoch { seen: 2 },
            "{kind:?}"
        );
    }
    // A step of another purge with the same epoch changes nothing either.
    assert_eq!(at.refused(step(at.session, old, 2, StepKind::Erase)).await, Refused::OtherPurge);
    assert_eq!(at.state().await, CustodyState::Frozen);
}

#[tokio::test]
async fn after_a_thaw_writers_continue_and_a_freeze_is_refused() {
    let at = Fixture::new().await;
    let purge = PurgeId::new();
    at.done(step(at.session, purge, 1, StepKind::Freeze)).await;
    at.done(step(at.session, purge, 1, StepKind::Thaw)).await;
    Tx::for_subject(&at.pool, at.session).await.unwrap().commit().await.unwrap();

    assert_eq!(at.refused(step(at.session, purge, 1, StepKind::Freeze)).await, Refused::Thawed);
    assert_eq!(at.refused(step(at.session, purge, 9, StepKind::Freeze)).await, Refused::Thawed);
    assert_eq!(at.state().await, CustodyState::Live);
    Tx::for_subject(&at.pool, at.session).await.unwrap().commit().await.unwrap();

    at.done(step(at.session, PurgeId::new(), 2, StepKind::Freeze)).await;
    assert_eq!(at.state().await, CustodyState::Frozen);
}

#[tokio::test]
async fn a_freeze_after_its_own_thaw_is_refused_without_effect() {
    let at = Fixture::new().await;
    let purge = PurgeId::new();
    let thaw = at.open(step(at.session, purge, 1, StepKind::Thaw)).await;
    // The purge is canceled before it began, and its freeze arrives late: the freeze waits for the thaw's
    // lock.
    let late = begin(&at.pool, step(at.session, purge, 1, StepKind::Freeze));
    tokio::pin!(late);
    assert!(timeout(Duration::from_millis(300), &mut late).await.is_err(), "it overtook the thaw");
    thaw.finish(b"").await.unwrap();
    assert!(matches!(late.await, Err(Error::Refused(Refused::Thawed))));
    assert_eq!(at.state().await, CustodyState::Live);
    Tx::for_subject(&at.pool, at.session).await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_purge_is_canceled_before_its_freeze_without_waiting() {
    let at = Fixture::new().await;
    let writer = Tx::for_subject(&at.pool, at.session).await.unwrap();
    let purge = PurgeId::new();
    timeout(SOON * 10, at.done(step(at.session, purge, 1, StepKind::Thaw))).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(at.refused(step(at.session, purge, 1, StepKind::Freeze)).await, Refused::Thawed);
}

#[tokio::test]
async fn an_erased_subject_stays_erased() {
    let at = Fixture::new().await;
    let purge = PurgeId::new();
    let at_step = |kind| step(at.session, purge, 1, kind);
    at.done(at_step(StepKind::Freeze)).await;
    assert_eq!(at.refused(at_step(StepKind::Commit)).await, Refused::NotErased);
    // Deleting takes several calls, with other work between them.
    at.open(at_step(StepKind::Erase)).await.pause().await.unwrap();
    assert_eq!(at.refused(at_step(StepKind::Thaw)).await, Refused::ErasureStarted);
    at.done(at_step(StepKind::Erase)).await;
    // The first `Verify` finds residue, so the answer of `Erase` is no longer valid.
    at.open(at_step(StepKind::Verify)).await.found_residue().await.unwrap();
    assert_eq!(at.refused(at_step(StepKind::Commit)).await, Refused::NotVerified);
    at.done(at_step(StepKind::Erase)).await;
    at.done(at_step(StepKind::Verify)).await;
    at.done(at_step(StepKind::Commit)).await;

    assert_eq!(at.state().await, CustodyState::Erased);
    for tx in
        [Tx::for_subject(&at.pool, at.session).await, Tx::for_subject_or_new(&at.pool, at.session).await]
    {
        let error = tx.unwrap_err();
        assert!(matches!(error, pg::Error::SubjectNotFound { erased: true, .. }), "{error:?}");
    }
    // Only the session is erased, so the list still contains the account.
    let listed = list(&mut at.pool.acquire().await.unwrap(), None, 10).await.unwrap();
    assert_eq!(listed, [Subject::Account { account: at.account }]);
}

#[tokio::test]
async fn a_subject_frozen_before_it_is_known_is_refused() {
    let at = Fixture::new().await;
    let session = Subject::Session { account: AccountId::new(), session: SessionId::new() };
    at.done(step(session, PurgeId::new(), 1, StepKind::Freeze)).await;
    let error = Tx::for_subject_or_new(&at.pool, session).await.unwrap_err();
    assert!(matches!(error, pg::Error::SubjectFrozen(SubjectKind::Session)), "{error:?}");
}

#[tokio::test]
async fn concurrent_first_writers_make_one_row() {
    let at = Fixture::new().await;
    let session = Subject::Session { account: AccountId::new(), session: SessionId::new() };
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let pool = at.pool.clone();
        writers.spawn(async move { Tx::for_subject_or_new(&pool, session).await?.commit().await });
    }
    for written in writers.join_all().await {
        written.unwrap();
    }
    let known = record(&mut at.pool.acquire().await.unwrap(), session).await.unwrap().unwrap();
    assert_eq!(known, Record { state: CustodyState::Live, epoch: 0, purge_id: None });
}

#[tokio::test]
async fn another_tenants_session_does_not_exist() {
    let at = Fixture::new().await;
    let Subject::Session { session, .. } = at.session else { panic!("the fixture has a session") };
    let foreign = Subject::Session { account: AccountId::new(), session };
    for tx in [Tx::for_subject(&at.pool, foreign).await, Tx::for_subject_or_new(&at.pool, foreign).await] {
        assert!(matches!(tx.unwrap_err(), pg::Error::SubjectNotFound { erased: false, .. }));
    }
    let freeze = begin(&at.pool, step(foreign, PurgeId::new(), 1, StepKind::Freeze)).await.unwrap_err();
    assert_eq!(freeze.kind(), ErrorKind::NotFound);
    assert_eq!(at.state().await, CustodyState::Live);
}

#[tokio::test]
async fn a_purge_is_of_one_subject() {
    let at = Fixture::new().await;
    let purge = PurgeId::new();
    at.done(step(at.session, purge, 1, StepKind::Freeze)).await;
    let account = Subject::Account { account: at.account };
    assert_eq!(at.refused(step(account, purge, 1, StepKind::Freeze)).await, Refused::OtherSubject);
}

#[tokio::test]
async fn states_and_kinds_are_the_same_here_and_in_postgres() {
    let at = Fixture::new().await;
    let mut connection = at.pool.acquire().await.unwrap();
    let states: Vec<CustodyState> = sqlx::query_scalar("SELECT unnest(enum_range(NULL::custody_state))")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert_eq!(states, CustodyState::ALL);
    let kinds: Vec<SubjectKind> = sqlx::query_scalar("SELECT unnest(enum_range(NULL::subject_kind))")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert_eq!(kinds, [SubjectKind::Account, SubjectKind::Session]);
}

#[tokio::test]
async fn every_common_table_and_column_has_a_custody_class() {
    let at = Fixture::new().await;
    let mut connection = at.pool.acquire().await.unwrap();
    assert_eq!(data_map::unannotated(&mut connection).await.unwrap(), []);
    assert!(data_map::read(&mut connection).await.unwrap().len() > 20);
    let mut owner = at.db.owner("chat").await;
    sqlx::raw_sql("CREATE TABLE notes (body text); COMMENT ON TABLE notes IS 'custody=session; Notes'")
        .execute(&mut owner)
        .await
        .unwrap();
    let missing = data_map::unannotated(&mut connection).await.unwrap();
    assert_eq!(missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["notes.body"]);
}

#[tokio::test]
async fn the_run_role_cannot_remove_a_tombstone() {
    let at = Fixture::new().await;
    for sql in ["DELETE FROM custody", "TRUNCATE custody CASCADE", "UPDATE custody_steps SET reply = ''"] {
        let error = sqlx::raw_sql(sql).execute(at.pool.inner()).await.unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    }
}
