//! Builds purge-svc's use cases and drivers for a test, with a database of their own and three simulated
//! custodians.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use purge_svc::{
    MIGRATOR,
    testing::{
        Metrics,
        app::{
            dead_letters::DeadLetters,
            drive::{Driver, Progress},
            holds::Holds,
            jobs::{Jobs, PurgeRequest, PurgeView},
            ledger::Ledger,
        },
        client::{Roster, custodian::CustodianClient},
        domain::{
            custodian::Custodian,
            job::{Job, State},
            receipt::Receipt,
            schedule::Policy,
            trigger::Trigger,
        },
        fake::{FakeCustodian, Serving},
        store::{
            claims::{self, Claim, Due},
            jobs, receipts,
        },
    },
};
use svc_core::{
    custody::StepKind,
    data::{idempotency::Once, pg::Pool, wake::Wake},
    id::{AccountId, PurgeId, SessionId},
    run::{
        backoff::Backoff,
        clock::{Clock, MockClock, SharedClock, SystemClock},
        lifecycle::Lifecycle,
    },
    subject::Subject,
    testing::{TestDb, TestRedis},
    wire::{
        assertion::{self, Signer, TrustedKey, Verifier},
        client::{Peer, PeerConfig, Sessions},
    },
};

use crate::chat::FakeSessions;

/// The retry policy of these tests parks a job at the third failure.
pub(crate) const POLICY: Policy = Policy {
    backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(60)),
    max_failures: 3,
    parked: Duration::from_secs(3600),
};

/// Maximum time for a custodian to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Plane {
    pub(crate) pool: Pool,
    pub(crate) clock: Arc<MockClock>,
    pub(crate) chat: FakeCustodian,
    pub(crate) registry: FakeCustodian,
    pub(crate) sandbox: FakeCustodian,
    pub(crate) jobs: Jobs,
    pub(crate) holds: Holds,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) ledger: Ledger,
    pub(crate) wake: Wake,
    _lifecycle: Lifecycle,
    pub(crate) roster: Roster,
    pub(crate) servings: Vec<Serving>,
    _redis: TestRedis,
    /// Last field, because fields are dropped in order and the pool uses the database.
    pub(crate) db: TestDb,
}

/// Keys of purge-svc, and a verifier of its assertions.
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) trusted: TrustedKey,
}

impl Keys {
    pub(crate) fn new(issuer: &str) -> Self {
        let (private, public_key) = assertion::generate_key().unwrap();
        let trusted = TrustedKey { id: issuer.to_owned(), issuer: issuer.to_owned(), public_key };
        Self { private, trusted }
    }

    pub(crate) fn signer(&self) -> Signer {
        let key = BASE64.decode(&self.private).unwrap();
        Signer::new(&self.trusted.issuer, &self.trusted.id, &key, SystemClock::shared()).unwrap()
    }

    pub(crate) fn verifier(&self, audience: &str) -> Verifier {
        Verifier::new(audience, std::slice::from_ref(&self.trusted), SystemClock::shared()).unwrap()
    }
}

impl Plane {
    pub(crate) async fn new() -> Self {
        Self::requiring(&[]).await
    }

    /// Builds a plane in which chat-svc must declare these kinds.
    pub(crate) async fn requiring(kinds: &[&str]) -> Self {
        let db = TestDb::new(&[("purge", &MIGRATOR)]).await;
        let pool = db.pool("purge");
        let redis = TestRedis::new();
        let lifecycle = Lifecycle::new();
        let wake = Wake::start(&redis.redis(), &lifecycle);
        let clock = MockClock::at(SystemClock.now());
        let shared: SharedClock = clock.clone();
        let [chat, registry, sandbox] = Custodian::ALL.map(FakeCustodian::new);

        let keys = Keys::new("purge-svc");
        let signer = Arc::new(keys.signer());
        let peer = |name: &'static str, url: String| {
            let config = PeerConfig { urls: vec![url], timeout: CALL_TIMEOUT };
            Peer::lazy(name, &config, signer.clone()).unwrap()
        };
        let at = FakeSessions::serve(chat.clone(), keys.verifier("chat-svc"), &lifecycle).await;
        let chat_peer = peer("chat-svc", format!("http://{at}"));
        let registry_at = registry.serve(&lifecycle).await.unwrap();
        let sandbox_at = sandbox.serve(&lifecycle).await.unwrap();
        let remote = |custodian, peer, kinds: &[&str]| {
            let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            CustodianClient::new(custodian, peer, kinds, CALL_TIMEOUT)
        };
        let roster = Roster {
            chat: remote(Custodian::Chat, chat_peer.clone(), kinds),
            registry: remote(Custodian::Registry, peer("registry-svc", registry_at.url()), &[]),
            sandbox: remote(Custodian::Sandbox, peer("sandbox-svc", sandbox_at.url()), &[]),
        };
        let sessions = Sessions::new(chat_peer);
        Self {
            jobs: Jobs {
                pool: pool.clone(),
                sessions,
                wake: wake.clone(),
                clock: shared.clone(),
                enabled: Trigger::ALL.into(),
            },
            holds: Holds::new(pool.clone(), wake.clone(), shared.clone()),
            dead_letters: DeadLetters::new(pool.clone(), wake.clone(), shared),
            ledger: Ledger::new(pool.clone()),
            servings: vec![registry_at, sandbox_at],
            _redis: redis,
            db,
            pool,
            clock,
            chat,
            registry,
            sandbox,
            wake,
            _lifecycle: lifecycle,
            roster,
        }
    }

    pub(crate) fn owners(&self) -> [&FakeCustodian; 3] {
        [&self.chat, &self.registry, &self.sandbox]
    }

    pub(crate) fn driver(&self) -> Driver {
        self.driver_in(self.pool.clone())
    }

    pub(crate) fn driver_in(&self, pool: Pool) -> Driver {
        Driver::new(pool, self.roster.clone(), self.clock.clone(), POLICY, Metrics::default())
    }

    /// Makes a session with data at every custodian.
    pub(crate) fn session(&self) -> Subject {
        self.session_of(AccountId::new())
    }

    pub(crate) fn session_of(&self, account: AccountId) -> Subject {
        let session = SessionId::new();
        let subject = Subject::Session { account, session };
        self.chat.seed(subject, 250, &[&format!("file-{session}")]);
        self.registry.seed(subject, 3, &[]);
        self.sandbox.seed(subject, 2, &[&format!("box-{session}"), &format!("volume-{session}")]);
        subject
    }

    pub(crate) fn demand(subject: Subject) -> PurgeRequest {
        PurgeRequest {
            account: subject.account(),
            session: subject.session().unwrap(),
            principal_id: subject.account().to_string(),
            traceparent: None,
            once: Once::unkeyed(),
        }
    }

    /// Accepts the erasure of a session.
    pub(crate) async fn accept(&self, subject: Subject) -> PurgeView {
        self.jobs.accept(&Self::demand(subject)).await.unwrap()
    }

    /// Makes a session and accepts its erasure.
    pub(crate) async fn accepted(&self) -> (Subject, PurgeId) {
        let subject = self.session();
        let shown = self.accept(subject).await;
        (subject, shown.job.purge_id)
    }

    /// Claims one due job, if there is one.
    pub(crate) async fn claim(&self) -> Option<Claim> {
        self.claim_of(&Trigger::ALL).await
    }

    pub(crate) async fn claim_of(&self, triggers: &[Trigger]) -> Option<Claim> {
        let due = Due { holder: "test", ttl: Duration::from_secs(60), triggers, expired: true, limit: 1 };
        let mut tx = svc_core::data::pg::Tx::system(&self.pool).await.unwrap();
        let claim = claims::claim(&mut tx, due, self.clock.now()).await.unwrap().pop();
        tx.commit().await.unwrap();
        claim
    }

    /// Runs a claimed job until it waits, is final, or another worker has it. Unless another worker has it,
    /// expires the leases afterwards.
    pub(crate) async fn drive(&self, claim: &mut Claim) -> Progress {
        let driver = self.driver();
        loop {
            match driver.advance(claim).await.unwrap() {
                Progress::Advanced => {}
                Progress::Lost => return Progress::Lost,
                rest @ (Progress::Waits | Progress::Final) => {
                    self.end_leases().await;
                    return rest;
                }
            }
        }
    }

    /// Claims a due job and runs it. It tries for two seconds: the transaction of a worker that a test
    /// dropped may still lock the job's row, and claims skip locked rows.
    pub(crate) async fn run(&self) -> Progress {
        for _ in 0..200 {
            if let Some(mut claim) = self.claim().await {
                return self.drive(&mut claim).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no job is due")
    }

    /// Claims and drives due jobs until this job is committed, thawed or dead-lettered, and returns it.
    /// Before each further attempt it advances the clock by two hours.
    pub(crate) async fn run_to_the_end(&self, purge_id: PurgeId) -> Job {
        for _ in 0..30 {
            if let Some(mut claim) = self.claim().await {
                self.drive(&mut claim).await;
            }
            let job = self.job(purge_id).await;
            if matches!(job.record.state, State::Committed | State::Thawed | State::DeadLettered) {
                return job;
            }
            self.clock.advance(Duration::from_secs(7200));
        }
        panic!("{:?} does not come to an end", self.job(purge_id).await)
    }

    /// Expires every lease, as if its worker had died some time ago.
    pub(crate) async fn end_leases(&self) {
        let mut db = self.pool.acquire().await.unwrap();
        sqlx::query(
            "UPDATE purge_jobs SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL",
        )
        .execute(&mut *db)
        .await
        .unwrap();
    }

    pub(crate) async fn job(&self, purge_id: PurgeId) -> Job {
        let mut db = self.pool.acquire().await.unwrap();
        jobs::find(&mut db, None, purge_id).await.unwrap().unwrap()
    }

    pub(crate) async fn receipts(&self) -> Vec<Receipt> {
        let mut db = self.pool.acquire().await.unwrap();
        receipts::page(&mut db, 0, 1000).await.unwrap()
    }

    /// Returns the acts in the audit log, in order.
    pub(crate) async fn acts(&self) -> Vec<String> {
        let mut db = self.pool.acquire().await.unwrap();
        sqlx::query_scalar("SELECT act FROM audit_log ORDER BY generation, act")
            .fetch_all(&mut *db)
            .await
            .unwrap()
    }

    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        let mut db = self.pool.acquire().await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut *db)
            .await
            .unwrap()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Checks that no custodian has data of the subject, that the job has one receipt, and that the ledger is
    /// intact.
    pub(crate) async fn assert_erased(&self, subject: Subject, purge_id: PurgeId) {
        for owner in self.owners() {
            assert!(owner.is_erased(subject), "{} still has something", owner.custodian());
        }
        let job = self.job(purge_id).await;
        assert_eq!((job.record.state, job.subject), (State::Committed, None));
        let receipts = self.receipts().await;
        let ours: Vec<_> = receipts.iter().filter(|receipt| receipt.body.purge_id == purge_id).collect();
        assert_eq!(ours.len(), 1, "one receipt");
        assert_eq!(ours[0].body.custodians.len(), 3);
        assert_eq!(self.ledger.check().await.unwrap().broken, None);
    }
}

/// Waits until a custodian was called `calls` times for a step.
pub(crate) async fn until_called(owner: &FakeCustodian, step: StepKind, calls: usize) {
    while owner.count(step) < calls {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
