//! Idempotency keys: a request with a key may be repeated, and takes effect once.
//!
//! The transaction of the effect also writes a row (account, method, key), so both are committed or neither.
//! The row has the hash of the request and the ids of the objects that the request made; a repetition reads
//! these objects and answers with their present state. A row is valid for 24 hours.
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

/// HTTP header and gRPC metadata key that carry the idempotency key.
pub const HEADER: &str = "idempotency-key";

/// Time for which a key is valid. After it, the same key begins a new request.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

const MAX_KEY: usize = 255;

/// An idempotency key, chosen by the caller: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Reads the key from the metadata of a request; `None` if the request has no key.
    ///
    /// # Errors
    /// [`Invalid`], which names the header, if the key is not 1 to 255 visible ASCII characters.
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
    /// Hashes a message of the contract. Equal messages must have equal encodings, so maps in them must be
    /// ordered.
    pub fn of(message: &impl prost::Message) -> Self {
        Self(Sha256::digest(message.encode_to_vec()).into())
    }
}

/// Identity of a request that changes data: its method, key and content. A repetition has the same identity.
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
    /// The request is new, or has no key. The caller does it and then calls [`Slot::finish`].
    First(Slot),
    /// The request was done before. The value is what [`Slot::finish`] stored: the ids of the objects that it
    /// made.
    Replay(T),
}

#[derive(Debug)]
pub enum Opened<T> {
    /// The request is new, or has no key. The caller does it in this transaction and then calls
    /// [`Slot::finish`].
    First(Tx, Slot),
    /// The request was done before. The value is what [`Slot::finish`] stored: the ids of the objects that it
    /// made.
    Replay(T),
}

/// The right to use a key until the transaction ends: it holds the key's advisory lock.
#[derive(Debug)]
#[must_use = "without a record of its effect a key does not protect it"]
pub struct Slot {
    /// The request, and its account or the nil UUID; `None` for a request without a key.
    keyed: Option<(Keyed, Uuid)>,
    session: Option<SessionId>,
}

/// A request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key belongs to another request of the same method.
    #[error("idempotency key was used for another request")]
    Reused,
    /// Another transaction is doing a request with this key.
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
    /// Returns the number of the advisory lock of (account, method, key). If two keys have the same number by
    /// chance, a concurrent caller gets [`Error::InFlight`] and retries.
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
    /// Builds a request without a key. It is always treated as new.
    pub const fn unkeyed() -> Self {
        Self(None)
    }

    /// Builds a request of `method` (for example `steward.chat.v1.ChatService/CreateSession`) with a key.
    pub fn new(method: impl Into<Arc<str>>, key: Key, hash: RequestHash) -> Self {
        Self(Some(Keyed { method: method.into(), key, hash }))
    }

    /// Returns this request with its key valid only within `scope`, for example one API token, so that other
    /// callers of the same account can use the same key for their requests.
    pub fn scoped(&self, scope: impl fmt::Display) -> Self {
        Self(
            self.0
                .as_ref()
                .map(|keyed| Keyed { method: format!("{}#{scope}", keyed.method).into(), ..keyed.clone() }),
        )
    }

    /// Begins the request. Call it as the first statement in the transaction of the request's effect. A key
    /// belongs to `account`; keys of operators, and of services that act for no tenant, belong to no account.
    ///
    /// # Errors
    /// [`Error::InFlight`] at once, without waiting, if another transaction is doing a request with this key;
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
        // Reads in a separate statement, because its snapshot must be newer than the lock to see what the
        // previous holder of the lock committed.
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

    /// Begins a [`Tx::system`] and calls [`Self::begin`] in it. Unless the request is new, that transaction
    /// is rolled back before this function returns, so that the caller's retry does not find the key still
    /// locked.
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
    /// Assigns the key to the session that the request changes, so that both are erased together.
    pub const fn of_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Records the ids of the objects that the request made. Call it as the last statement before the commit.
    ///
    /// # Errors
    /// [`Error::Result`] if `ids` cannot be stored as JSON; [`Error::Pg`]. The transaction must not commit
    /// then.
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
