//! Requests that may be repeated without taking effect twice.
//!
//! The row (account, method, key) is written in the transaction of the effect, so that there is both or
//! neither. It holds the hash of the request and the ids of what it made: a repetition reads those again and
//! answers what is true now. Rows count for 24 hours.
//!
//! ```ignore
//! match idempotency::begin(&mut tx, &request).await? {
//!     Begin::Replay(ids) => reread(ids).await,
//!     Begin::First(slot) => {
//!         let ids = effect(&mut tx).await?;
//!         slot.finish(&mut tx, &ids).await?;
//!         tx.commit().await?;
//!     }
//! }
//! ```

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    data::pg::{self, Tx, ensure_affected},
    id::{AccountId, SessionId},
    wire::error::{ErrorKind, Invalid, ServiceError},
};

/// Header and metadata that carry the key.
pub const HEADER: &str = "idempotency-key";

/// How long a key counts.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// When to ask again while the first request is under way.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// Longest key.
const MAX_KEY: usize = 255;

/// A key as a caller chose it: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// The key in a request's metadata, if there is one.
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

/// SHA-256 of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash([u8; 32]);

impl RequestHash {
    /// Hash of a message of the contract. Two equal messages must encode equally: their maps must be ordered.
    #[must_use]
    pub fn of(message: &impl prost::Message) -> Self {
        Self(Sha256::digest(message.encode_to_vec()).into())
    }
}

/// A request that carries a key.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The tenant; `None` for operators and services that act for none.
    pub account: Option<AccountId>,
    /// The RPC, as `steward.chat.v1.ChatService/CreateSession`.
    pub method: &'static str,
    /// The key.
    pub key: &'a Key,
    /// What was asked.
    pub hash: RequestHash,
}

/// What [`begin`] says.
#[derive(Debug)]
pub enum Begin<'a, T> {
    /// Nobody asked this before: do it, then [`Slot::finish`].
    First(Slot<'a>),
    /// It was done before and made these.
    Replay(T),
}

/// The right to be the first with a key, until its transaction ends.
#[derive(Debug)]
#[must_use = "a key whose effect is not recorded does not protect it"]
pub struct Slot<'a> {
    request: Request<'a>,
    session: Option<SessionId>,
}

/// Why a request with a key is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key was used for another request.
    #[error("idempotency key was used for another request")]
    Reused,
    /// The first request with it is under way.
    #[error("a request with this idempotency key is under way")]
    InFlight,
    /// What is stored cannot be read, or cannot be written.
    #[error("result of an idempotent request cannot be converted")]
    Result(#[from] serde_json::Error),
    /// The database did not do it.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Pg(error.into())
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Reused => ErrorKind::AlreadyExists,
            Self::InFlight => ErrorKind::Aborted,
            Self::Result(_) => ErrorKind::Internal,
            Self::Pg(error) => error.kind(),
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Reused => "IDEMPOTENCY_KEY_REUSED".into(),
            Self::InFlight => "IDEMPOTENCY_IN_FLIGHT".into(),
            Self::Result(_) => ErrorKind::Internal.row().reason.into(),
            Self::Pg(error) => error.reason(),
        }
    }

    fn public_message(&self) -> Cow<'static, str> {
        match self {
            Self::Reused | Self::InFlight => Cow::Owned(self.to_string()),
            Self::Result(_) => "internal error".into(),
            Self::Pg(error) => error.public_message(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Reused | Self::Result(_) => None,
            Self::InFlight => Some(IN_FLIGHT),
            Self::Pg(error) => error.retry_after(),
        }
    }
}

impl Request<'_> {
    fn scope(&self) -> Uuid {
        self.account.map_or_else(Uuid::nil, |account| account.0)
    }

    /// Key of the advisory lock that stands for (account, method, key). Two of them may collide by chance; one
    /// caller is then told to come back, and nothing is wrong.
    fn lock(&self) -> i64 {
        let mut hash = Sha256::new();
        hash.update(b"steward.idempotency\0");
        hash.update(self.scope().as_bytes());
        hash.update(self.method.as_bytes());
        hash.update([0]);
        hash.update(self.key.0.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        i64::from_be_bytes(first)
    }
}

/// Begins a request with a key, first thing in the transaction of its effect.
///
/// # Errors
/// [`Error::InFlight`] at once, without waiting, if another transaction is at it; [`Error::Reused`] if the key
/// belongs to another request.
pub async fn begin<'a, T: DeserializeOwned>(
    tx: &mut Tx,
    request: &Request<'a>,
) -> Result<Begin<'a, T>, Error> {
    let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(request.lock())
        .fetch_one(&mut **tx)
        .await?;
    if !locked {
        return Err(Error::InFlight);
    }
    // A statement of its own: its snapshot must be newer than the lock, to see what the holder before committed.
    let row: Option<(Vec<u8>, serde_json::Value)> = sqlx::query_as(
        "SELECT request_hash, result
         FROM idempotency_keys
         WHERE account_id = $1 AND method = $2 AND key = $3 AND expires_at > now()",
    )
    .bind(request.scope())
    .bind(request.method)
    .bind(&request.key.0)
    .fetch_optional(&mut **tx)
    .await?;
    match row {
        None => Ok(Begin::First(Slot { request: *request, session: None })),
        Some((hash, _)) if hash != request.hash.0 => Err(Error::Reused),
        Some((_, result)) => Ok(Begin::Replay(serde_json::from_value(result)?)),
    }
}

impl Slot<'_> {
    /// Says that the effect belongs to a session: the key then goes with it.
    pub const fn of_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Records what the request made: ids alone, last thing before the commit.
    ///
    /// # Errors
    /// [`Error::Pg`]; the transaction must not commit then.
    pub async fn finish<T: Serialize + Sync>(self, tx: &mut Tx, ids: &T) -> Result<(), Error> {
        let done = sqlx::query(
            "INSERT INTO idempotency_keys AS held
                 (account_id, method, key, request_hash, result, expires_at, session_id)
             VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $7)
             ON CONFLICT (account_id, method, key) DO UPDATE
             SET request_hash = excluded.request_hash, result = excluded.result, expires_at = excluded.expires_at,
                 session_id = excluded.session_id
             WHERE held.expires_at <= now()",
        )
        .bind(self.request.scope())
        .bind(self.request.method)
        .bind(&self.request.key.0)
        .bind(&self.request.hash.0[..])
        .bind(serde_json::to_value(ids)?)
        .bind(LIFETIME.as_secs_f64())
        .bind(self.session.map(|session| session.0))
        .execute(&mut **tx)
        .await?;
        Ok(ensure_affected(&done, 1)?)
    }
}

/// Deletes at most `batch` keys that no longer count, and says how many those were.
///
/// # Errors
/// [`pg::Error`] if they were not deleted.
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

/// Deletes every key of an account, for its erasure, and says how many there were.
///
/// # Errors
/// [`pg::Error`] if they were not deleted.
pub async fn erase_account(connection: &mut PgConnection, account: AccountId) -> Result<u64, pg::Error> {
    let done = sqlx::query("DELETE FROM idempotency_keys WHERE account_id = $1")
        .bind(account.0)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Deletes every key of a session, for its erasure, and says how many there were.
///
/// # Errors
/// [`pg::Error`] if they were not deleted.
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
