//! Tests idempotency keys against a real Postgres: repetitions, reuse, concurrent requests, expiry and
//! erasure.

use sqlx::migrate::Migrator;

use super::*;
use crate::{data::pg::Pool, testing::TestDb};

const METHOD: &str = "steward.test.v1.TestService/Make";

struct Fixture {
    pool: Pool,
    account: AccountId,
    key: Key,
    _db: TestDb,
}

impl Fixture {
    async fn new() -> Self {
        let db = TestDb::new(&[("chat", &Migrator::DEFAULT)]).await;
        Self { pool: db.pool("chat"), account: AccountId::new(), key: "k-1".parse().unwrap(), _db: db }
    }

    fn request(&self, body: &str) -> Asked {
        let hash = RequestHash::of(&body.to_owned());
        Asked { account: Some(self.account), method: METHOD, key: self.key.clone(), hash }
    }

    /// Does a request and commits it. Returns whether it was new, and the id that the request has made.
    async fn run(&self, request: &Asked, made: Uuid) -> Result<(bool, Uuid), Error> {
        let mut tx = Tx::system(&self.pool).await?;
        match request.begin(&mut tx).await? {
            Begin::Replay(id) => Ok((false, id)),
            Begin::First(slot) => {
                slot.finish(&mut tx, &made).await?;
                tx.commit().await?;
                Ok((true, made))
            }
        }
    }
}

/// A request of an account.
struct Asked {
    account: Option<AccountId>,
    method: &'static str,
    key: Key,
    hash: RequestHash,
}

impl Asked {
    fn once(&self) -> Once {
        Once::new(self.method, self.key.clone(), self.hash)
    }

    async fn begin(&self, tx: &mut Tx) -> Result<Begin<Uuid>, Error> {
        self.once().begin(tx, self.account).await
    }
}

#[tokio::test]
async fn a_repeated_request_gets_what_the_first_one_made() {
    let at = Fixture::new().await;
    let (first, second) = (crate::id::new_id(), crate::id::new_id());
    assert_eq!(at.run(&at.request("a"), first).await.unwrap(), (true, first));
    assert_eq!(at.run(&at.request("a"), second).await.unwrap(), (false, first));
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_account_and_method() {
    let at = Fixture::new().await;
    let id = crate::id::new_id();
    at.run(&at.request("a"), id).await.unwrap();
    let error = at.run(&at.request("b"), id).await.unwrap_err();
    assert!(matches!(error, Error::Reused), "{error:?}");
    assert_eq!((error.kind().row().http_status, &*error.reason()), (409, "IDEMPOTENCY_KEY_REUSED"));
    for other in [
        Asked { account: Some(AccountId::new()), ..at.request("b") },
        Asked { account: None, ..at.request("b") },
        Asked { method: "steward.test.v1.TestService/Other", ..at.request("b") },
    ] {
        assert!(at.run(&other, crate::id::new_id()).await.unwrap().0);
    }
}

#[tokio::test]
async fn scopes_of_a_key_are_separate() {
    let at = Fixture::new().await;
    let once = at.request("a").once();
    for scope in ["one", "two"] {
        let opened = once.scoped(scope).open::<Uuid>(&at.pool, Some(at.account)).await.unwrap();
        let Opened::First(mut tx, slot) = opened else { panic!("{scope}") };
        slot.finish(&mut tx, &crate::id::new_id()).await.unwrap();
        tx.end(Ok::<_, pg::Error>(())).await.unwrap();
        let again = once.scoped(scope).open::<Uuid>(&at.pool, Some(at.account)).await.unwrap();
        assert!(matches!(again, Opened::Replay(_)), "{scope}");
    }
}

#[tokio::test]
async fn a_request_under_way_is_refused_at_once_and_answered_later() {
    let at = Fixture::new().await;
    let request = at.request("a");
    let made = crate::id::new_id();
    let mut tx = Tx::system(&at.pool).await.unwrap();
    let Begin::First(slot) = request.begin(&mut tx).await.unwrap() else { panic!("done before") };

    let asked = tokio::time::Instant::now();
    let error = at.run(&request, crate::id::new_id()).await.unwrap_err();
    assert!(matches!(error, Error::InFlight), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "it waited");
    let row = error.kind().row();
    assert_eq!((row.http_status, row.retryable, &*error.reason()), (409, true, "IDEMPOTENCY_IN_FLIGHT"));
    assert!(error.retry_after().is_some());

    slot.finish(&mut tx, &made).await.unwrap();
    // The first request is recorded, but not committed.
    assert!(matches!(at.run(&request, crate::id::new_id()).await.unwrap_err(), Error::InFlight));
    tx.commit().await.unwrap();
    assert_eq!(at.run(&request, crate::id::new_id()).await.unwrap(), (false, made));
}

#[tokio::test]
async fn a_request_without_a_key_is_always_the_first() {
    let at = Fixture::new().await;
    for _ in 0..2 {
        let opened = Once::unkeyed().open::<Uuid>(&at.pool, Some(at.account)).await.unwrap();
        let Opened::First(mut tx, slot) = opened else { panic!("it has no key") };
        slot.finish(&mut tx, &crate::id::new_id()).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn an_opened_replay_holds_no_lock() {
    let at = Fixture::new().await;
    let made = crate::id::new_id();
    at.run(&at.request("a"), made).await.unwrap();
    let (same, other) = (at.request("a").once(), at.request("b").once());
    for _ in 0..2 {
        let opened = same.open::<Uuid>(&at.pool, Some(at.account)).await.unwrap();
        assert!(matches!(opened, Opened::Replay(id) if id == made));
        let error = other.open::<Uuid>(&at.pool, Some(at.account)).await.unwrap_err();
        assert!(matches!(error, Error::Reused), "{error:?}");
    }
}

#[tokio::test]
async fn a_request_that_failed_leaves_its_key_free() {
    let at = Fixture::new().await;
    let request = at.request("a");
    let mut tx = Tx::system(&at.pool).await.unwrap();
    let Begin::First(slot) = request.begin(&mut tx).await.unwrap() else { panic!("done before") };
    slot.finish(&mut tx, &crate::id::new_id()).await.unwrap();
    tx.rollback().await.unwrap();
    let made = crate::id::new_id();
    assert_eq!(at.run(&at.request("b"), made).await.unwrap(), (true, made));
}

#[tokio::test]
async fn one_of_many_concurrent_requests_takes_effect() {
    let at = Fixture::new().await;
    let request = at.request("a");
    let all = futures::future::join_all((0..8).map(|_| at.run(&request, crate::id::new_id()))).await;
    let mut made = Vec::new();
    for answer in all {
        match answer {
            Ok(answer) => made.push(answer),
            Err(Error::InFlight) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made.iter().filter(|(first, _)| *first).count(), 1, "{made:?}");
    assert!(made.iter().all(|(_, id)| *id == made[0].1), "{made:?}");
}

#[tokio::test]
async fn an_expired_key_may_be_used_again_and_is_swept() {
    let at = Fixture::new().await;
    at.run(&at.request("a"), crate::id::new_id()).await.unwrap();
    let age = async || {
        sqlx::query("UPDATE idempotency_keys SET expires_at = now()").execute(at.pool.inner()).await.unwrap();
    };
    age().await;
    assert!(at.run(&at.request("b"), crate::id::new_id()).await.unwrap().0);
    let mut connection = at.pool.acquire().await.unwrap();
    assert_eq!(sweep(&mut connection, 10).await.unwrap(), 0);
    age().await;
    assert_eq!(sweep(&mut connection, 10).await.unwrap(), 1);
}

#[tokio::test]
async fn an_accounts_keys_are_erased_with_it() {
    let at = Fixture::new().await;
    at.run(&at.request("a"), crate::id::new_id()).await.unwrap();
    let other = Asked { account: Some(AccountId::new()), ..at.request("a") };
    at.run(&other, crate::id::new_id()).await.unwrap();
    let mut connection = at.pool.acquire().await.unwrap();
    assert_eq!(erase_account(&mut connection, at.account).await.unwrap(), 1);
    assert!(!at.run(&other, crate::id::new_id()).await.unwrap().0);
}

#[test]
fn a_key_is_short_and_visible() {
    assert!("01HZX-order-17".parse::<Key>().is_ok());
    for bad in ["", "a b", "a\n", "é", &"x".repeat(256)] {
        assert_eq!(bad.parse::<Key>().unwrap_err().field, HEADER, "{bad:?}");
    }
    let mut metadata = tonic::metadata::MetadataMap::new();
    assert_eq!(Key::from_metadata(&metadata).unwrap(), None);
    metadata.insert(HEADER, "k 1".parse().unwrap());
    assert!(Key::from_metadata(&metadata).is_err());
}

#[tokio::test]
async fn a_sessions_keys_and_only_these_are_erased_with_it() {
    let at = Fixture::new().await;
    let (session, other) = (SessionId::new(), SessionId::new());
    let mut tx = Tx::system(&at.pool).await.unwrap();
    for (key, of) in [("mine", Some(session)), ("other", Some(other)), ("account", None)] {
        let key: Key = key.parse().unwrap();
        let request = Asked { key, ..at.request("a") };
        let Begin::First(slot) = request.begin(&mut tx).await.unwrap() else { panic!("it is new") };
        let slot = match of {
            Some(session) => slot.of_session(session),
            None => slot,
        };
        slot.finish(&mut tx, &crate::id::new_id()).await.unwrap();
    }
    assert_eq!(erase_session(&mut tx, AccountId::new(), session).await.unwrap(), 0, "another tenant's");
    assert_eq!(erase_session(&mut tx, at.account, session).await.unwrap(), 1);
    assert_eq!(erase_session(&mut tx, at.account, session).await.unwrap(), 0);
    assert_eq!(erase_account(&mut tx, at.account).await.unwrap(), 2);
    tx.commit().await.unwrap();
}
