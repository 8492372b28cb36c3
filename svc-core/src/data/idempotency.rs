//! Requests that may be repeated without taking effect twice.
//!
//! The row (account, method, key) is written in the transaction of the effect: both are committed or neither.
//! The row holds the hash of the request and the ids of the objects that it made; a repetition reads these
//! objects and answers with their present state. Rows count for 24 hours.
//!
//! ```ignore
//! let slot = match once.begin::<SessionId>(&mut tx, Some(account)).await? {
//!     Begin::Replay(id) => return self.get(account, id).await,
//!     Begin::First(slot) => slot,
//! };
//! let id = effect(&mut tx).await?;
//! slot.finish(&mut tx, &id).await?;
//! tx.commit().await?;
//! ```

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    data::pg::{self, Pool, Tx, ensure_affected},
    error::{ErrorKind, Invalid, PublicError, ServiceError},
    id::{AccountId, SessionId},
};

/// Header and metadata that carry the key.
pub const HEADER: &str = "idempotency-key";

/// Time for which a key counts.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

const MAX_KEY: usize = 255;

/// A key as a caller chose it: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Reads the key in the metadata of a request, if there is one.
    ///
    /// # Errors
    /// [`Invalid`] names the header.
    pub fn from_metadata(metadata: &tonic::metadata::MetadataMap) -> Result<Option<Self>, Invalid> {
        let Some(value) = metadata.get(HEADER) else { return Ok(None) };
        value.to_str().map_err(|_| malformed())?.parse().map(Some)
    }
}

impl FromStr for Key {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(malformed())
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn malformed() -> Invalid {
    Invalid::new(HEADER, "must be 1 to 255 visible ASCII characters")
}

/// SHA-256 of a request message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash([u8; 32]);

impl RequestHash {
    /// Hashes a message of the contract. Equal messages must encode equally: their maps must be ordered.
    pub fn of(message: &impl prost::Message) -> Self {
        Self(Sha256::digest(message.encode_to_vec()).into())
    }
}

/// Identity of a mutation, by which a repetition is recognized: method, key and content.
#[derive(Debug, Clone)]
pub struct Once(Option<Keyed>);

#[derive(Debug, Clone)]
struct Keyed {
    method: Arc<str>,
    key: Key,
    hash: RequestHash,
}

#[derive(Debug)]
pub enum Begin<T> {
    /// The request is new, or has no key: do it, then [`Slot::finish`].
    First(Slot),
    /// The request was done before and made these objects.
    Replay(T),
}

#[derive(Debug)]
pub enum Opened<T> {
    /// The request is new, or has no key: do it in this transaction, then [`Slot::finish`].
    First(Tx, Slot),
    /// The request was done before and made these objects.
    Replay(T),
}

/// The exclusive use of a key, until its transaction ends.
#[derive(Debug)]
#[must_use = "without a record of its effect a key does not protect it"]
pub struct Slot {
    /// The request and its account or nil; `None` for a request without a key.
    keyed: Option<(Keyed, Uuid)>,
    session: Option<SessionId>,
}

/// A request with a key that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key was used for another request.
    #[error("idempotency key was used for another request")]
    Reused,
    /// Another transaction is doing the request.
    #[error("a request with this idempotency key is under way")]
    InFlight,
    /// The stored result cannot be read, or the result cannot be stored.
    #[error("result of an idempotent request cannot be converted")]
    Result(#[from] serde_json::Error),
    /// Postgres did not run a statement.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Pg(error.into())
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        match self {
            Self::Reused => {
                PublicError::new(ErrorKind::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", self.to_string())
            }
            Self::InFlight => PublicError::new(ErrorKind::Aborted, "IDEMPOTENCY_IN_FLIGHT", self.to_string()),
            Self::Result(_) => PublicError::internal(),
            Self::Pg(error) => error.public(),
        }
    }
}

impl Keyed {
    /// Returns the advisory lock of (account, method, key). If two of them collide by chance, one caller is
    /// asked to try again.
    fn lock(&self, scope: Uuid) -> i64 {
        let mut hash = Sha256::new();
        hash.update(b"steward.idempotency\0");
        hash.update(scope.as_bytes());
        hash.update(self.method.as_bytes());
        hash.update([0]);
        hash.update(self.key.0.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        i64::from_be_bytes(first)
    }
}

impl Once {
    /// Builds a request without a key, which is always the first.
    pub const fn unkeyed() -> Self {
        Self(None)
    }

    /// Builds a request of `method` (as `steward.chat.v1.ChatService/CreateSession`) with a key.
    pub fn new(method: impl Into<Arc<str>>, key: Key, hash: RequestHash) -> Self {
        Self(Some(Keyed { method: method.into(), key, hash }))
    }

    /// Separates the key from the same key of other callers of the account, as another agent.
    pub fn scoped(&self, scope: impl fmt::Display) -> Self {
        Self(
            self.0
                .as_ref()
                .map(|keyed| Keyed { method: format!("{}#{scope}", keyed.method).into(), ..keyed.clone() }),
        )
    }

    /// Begins the request: the first statement in the transaction of its effect. Keys belong to an account,
    /// or to no account for operators and for services that act for no tenant.
    ///
    /// # Errors
    /// [`Error::InFlight`] at once, without waiting, if another transaction does the same request;
    /// [`Error::Reused`] if the key belongs to another request.
    pub async fn begin<T: DeserializeOwned>(
        &self,
        tx: &mut Tx,
        account: Option<AccountId>,
    ) -> Result<Begin<T>, Error> {
        let Some(keyed) = &self.0 else { return Ok(Begin::First(Slot { keyed: None, session: None })) };
        let scope = account.map_or_else(Uuid::nil, |account| account.0);
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(keyed.lock(scope))
            .fetch_one(&mut **tx)
            .await?;
        if !locked {
            return Err(Error::InFlight);
        }
        // Reads in a separate statement: its snapshot must be newer than the lock, to see what the previous
        // holder committed.
        let row: Option<(Vec<u8>, serde_json::Value)> = sqlx::query_as(
            "SELECT request_hash, result
             FROM idempotency_keys
             WHERE account_id = $1 AND method = $2 AND key = $3 AND expires_at > now()",
        )
        .bind(scope)
        .bind(&*keyed.method)
        .bind(&keyed.key.0)
        .fetch_optional(&mut **tx)
        .await?;
        match row {
            None => Ok(Begin::First(Slot { keyed: Some((keyed.clone(), scope)), session: None })),
            Some((hash, _)) if hash != keyed.hash.0 => Err(Error::Reused),
            Some((_, result)) => Ok(Begin::Replay(serde_json::from_value(result)?)),
        }
    }

    /// Like [`Self::begin`], in a [`Tx::system`] of its own. Unless the request is the first, that
    /// transaction is rolled back before this returns, so that the caller's next try does not meet the key's
    /// lock.
    ///
    /// # Errors
    /// The errors of [`Self::begin`].
    pub async fn open<T: DeserializeOwned>(
        &self,
        pool: &Pool,
        account: Option<AccountId>,
    ) -> Result<Opened<T>, Error> {
        let mut tx = Tx::system(pool).await?;
        let answer = match self.begin(&mut tx, account).await {
            Ok(Begin::First(slot)) => return Ok(Opened::First(tx, slot)),
            Ok(Begin::Replay(made)) => Ok(Opened::Replay(made)),
            Err(error) => Err(error),
        };
        tx.rollback().await?;
        answer
    }
}

impl Slot {
    /// Binds the key to the session of the effect, so that both are erased together.
    pub const fn of_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Records the ids of the objects that the request made: the last statement before the commit.
    ///
    /// # Errors
    /// [`Error::Pg`]; the transaction must not commit then.
    pub async fn finish<T: Serialize + Sync>(self, tx: &mut Tx, ids: &T) -> Result<(), Error> {
        let Some((keyed, scope)) = self.keyed else { return Ok(()) };
        let done = sqlx::query(
            "INSERT INTO idempotency_keys AS held
                 (account_id, method, key, request_hash, result, expires_at, session_id)
             VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $7)
             ON CONFLICT (account_id, method, key) DO UPDATE
             SET request_hash = excluded.request_hash, result = excluded.result,
                 expires_at = excluded.expires_at, session_id = excluded.session_id
             WHERE held.expires_at <= now()",
        )
        .bind(scope)
        .bind(&*keyed.method)
        .bind(&keyed.key.0)
        .bind(&keyed.hash.0[..])
        .bind(serde_json::to_value(ids)?)
        .bind(LIFETIME.as_secs_f64())
        .bind(self.session.map(|session| session.0))
        .execute(&mut **tx)
        .await?;
        Ok(ensure_affected(&done, 1)?)
    }
}

/// Deletes at most `batch` expired keys and returns their number.
///
/// # Errors
/// [`pg::Error`] if the keys were not deleted.
pub async fn sweep(connection: &mut PgConnection, batch: i64) -> Result<u64, pg::Error> {
    let done = sqlx::query(
        "DELETE FROM idempotency_keys
         WHERE (account_id, method, key) IN (
             SELECT account_id, method, key
             FROM idempotency_keys
             WHERE expires_at <= now()
             ORDER BY expires_at
             LIMIT $1
             FOR UPDATE SKIP LOCKED)",
    )
    .bind(batch)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes every key of an account, for its erasure, and returns their number.
///
/// # Errors
/// [`pg::Error`] if the keys were not deleted.
pub async fn erase_account(connection: &mut PgConnection, account: AccountId) -> Result<u64, pg::Error> {
    let done = sqlx::query("DELETE FROM idempotency_keys WHERE account_id = $1")
        .bind(account.0)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Deletes every key of a session, for its erasure, and returns their number.
///
/// # Errors
/// [`pg::Error`] if the keys were not deleted.
pub async fn erase_session(
    connection: &mut PgConnection,
    account: AccountId,
    session: SessionId,
) -> Result<u64, pg::Error> {
    let done = sqlx::query("DELETE FROM idempotency_keys WHERE session_id = $1 AND account_id = $2")
        .bind(session.0)
        .bind(account.0)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests;
