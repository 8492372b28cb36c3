//! The transaction that application code begins and commits.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{Error, Pool, Result};
use crate::id::{AccountId, SessionId};

/// Takes the custody rows of a subject that are live, the account's first: `kind` is an enum in that order, and
/// rows are locked in the order in which they are sorted. A row that is not live is filtered out before it
/// would be locked, so that callers who are refused do not keep a freeze waiting.
const HOLD: &str = "
    SELECT kind
    FROM custody
    WHERE ((kind = 'account' AND subject_id = $1)
        OR (kind = 'session' AND subject_id = $2 AND account_id = $1))
      AND state = 'live'
    ORDER BY kind
    FOR KEY SHARE";

/// Why [`HOLD`] did not find them all.
const LOOK: &str = "
    SELECT kind, state
    FROM custody
    WHERE (kind = 'account' AND subject_id = $1)
       OR (kind = 'session' AND subject_id = $2 AND account_id = $1)";

/// Makes rows for subjects that this service has not met before. What is there already stays as it is.
const MEET: &str = "
    INSERT INTO custody (kind, subject_id, account_id)
    SELECT kind, subject_id, $1
    FROM (VALUES ('account'::subject_kind, $1), ('session'::subject_kind, $2)) AS met (kind, subject_id)
    WHERE subject_id IS NOT NULL
    ORDER BY kind
    ON CONFLICT (kind, subject_id) DO NOTHING";

/// What kind of subject something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "subject_kind", rename_all = "snake_case")]
pub enum SubjectKind {
    /// A tenant with all it owns.
    Account,
    /// One session.
    Session,
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Account => "account",
            Self::Session => "session",
        })
    }
}

/// Somebody's data that can be erased as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// What belongs to an account and to none of its sessions.
    Account {
        /// The account.
        account: AccountId,
    },
    /// What belongs to a session.
    Session {
        /// The account that owns it.
        account: AccountId,
        /// The session.
        session: SessionId,
    },
}

impl Subject {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        match self {
            Self::Account { .. } => SubjectKind::Account,
            Self::Session { .. } => SubjectKind::Session,
        }
    }

    /// Its own id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Account { account } => account.0,
            Self::Session { session, .. } => session.0,
        }
    }

    /// The account it belongs to, or is.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        match self {
            Self::Account { account } | Self::Session { account, .. } => *account,
        }
    }

    /// The session, if it is one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Account { .. } => None,
            Self::Session { session, .. } => Some(*session),
        }
    }

    /// Custody rows that a writer of it holds.
    const fn rows(&self) -> usize {
        match self {
            Self::Account { .. } => 1,
            Self::Session { .. } => 2,
        }
    }
}

/// An open transaction (READ COMMITTED). Stores take it as `&mut Tx` or, by deref, as `&mut PgConnection`.
/// Dropped without [`Self::commit`] it is rolled back. Nothing waits on a network or on Docker while it is open.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx(Transaction<'static, Postgres>);

impl Tx {
    /// Begins a transaction that may write data of `subject`: it holds the custody rows of the account and, if
    /// it is a session, of the session, both live, until it ends. An erasure waits for it.
    ///
    /// # Errors
    /// [`Error::SubjectFrozen`] while an erasure goes on, [`Error::SubjectNotFound`] after it or if this service
    /// does not know the subject (or knows it as another tenant's).
    pub async fn for_subject(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Like [`Self::for_subject`], for services that hear of a subject from others: one that this service has
    /// not met becomes known with this transaction. One that was erased is refused for ever.
    ///
    /// # Errors
    /// As [`Self::for_subject`].
    pub async fn for_subject_or_new(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.meet(subject).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Begins a transaction for rows that belong to no subject (engines, host samples, streams, leases) or that
    /// are fenced in another way: set-wise sweeps whose rows are locked by (id, epoch) and which a freeze ends
    /// in its own transaction. It holds no custody row; writing a subject's content in it is a defect.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no connection.
    pub async fn system(pool: &Pool) -> Result<Self> {
        Ok(Self(pool.inner().begin().await?))
    }

    /// Takes another subject into this transaction, as the target of a fork.
    ///
    /// # Errors
    /// As [`Self::for_subject`].
    pub async fn join(&mut self, subject: Subject) -> Result<()> {
        let session = subject.session().map(|session| session.0);
        let held: Vec<(SubjectKind,)> =
            sqlx::query_as(HOLD).bind(subject.account().0).bind(session).fetch_all(&mut **self).await?;
        if held.len() == subject.rows() {
            return Ok(());
        }
        let seen: Vec<(SubjectKind, crate::custody::State)> =
            sqlx::query_as(LOOK).bind(subject.account().0).bind(session).fetch_all(&mut **self).await?;
        Err(refusal(subject, &seen))
    }

    /// Makes custody rows for the account and session of `subject` where this service has none.
    pub(crate) async fn meet(&mut self, subject: Subject) -> Result<()> {
        let session = subject.session().map(|session| session.0);
        sqlx::query(MEET).bind(subject.account().0).bind(session).execute(&mut **self).await?;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// [`Error::CommitUnknown`] if the connection broke meanwhile; any other error means that nothing was done.
    pub async fn commit(mut self) -> Result<()> {
        // Postgres answers COMMIT of a failed transaction by rolling it back, without an error: one that was
        // swallowed on the way would turn into lost data. Tests and development find it here.
        if cfg!(debug_assertions) {
            sqlx::raw_sql("SELECT 1").execute(&mut *self).await?;
        }
        self.0.commit().await.map_err(|error| match Error::from(error) {
            Error::Unavailable { source, .. } => Error::CommitUnknown(source),
            other => other,
        })
    }

    /// Rolls back and waits until it is done.
    ///
    /// # Errors
    /// [`Error`] if Postgres could not be told; it rolls back by itself then.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.0.rollback().await?)
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// Why a subject whose rows were `seen` may not be written; the account's reason goes first.
fn refusal(subject: Subject, seen: &[(SubjectKind, crate::custody::State)]) -> Error {
    use crate::custody::State;
    let state_of = |kind| seen.iter().find(|(seen, _)| *seen == kind).map(|(_, state)| *state);
    let kinds: &[SubjectKind] = match subject {
        Subject::Account { .. } => &[SubjectKind::Account],
        Subject::Session { .. } => &[SubjectKind::Account, SubjectKind::Session],
    };
    for &kind in kinds {
        match state_of(kind) {
            None => return Error::SubjectNotFound { kind, erased: false },
            Some(State::Erased) => return Error::SubjectNotFound { kind, erased: true },
            Some(State::Frozen | State::Erasing) => return Error::SubjectFrozen(kind),
            Some(State::Live) => {}
        }
    }
    // Live now, but not when it was to be held: thawed in between.
    Error::SubjectFrozen(subject.kind())
}
