//! The transaction that application code begins and commits.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, Postgres, Transaction};

use super::{Error, Pool, Result};
use crate::{
    pg_enum,
    subject::{CustodyState, Subject, SubjectKind},
};

pg_enum!(SubjectKind as "subject_kind" { Account => "account", Session => "session" });
pg_enum!(CustodyState as "custody_state" {
    Live => "live", Frozen => "frozen", Erasing => "erasing", Erased => "erased",
});

/// Locks the live custody rows of a subject, the account's first: `kind` is an enum in that order, and
/// Postgres locks rows in sort order. A row that is not live is filtered out before it would be locked, so
/// that refused writers do not keep a freeze waiting.
const HOLD: &str = "
    SELECT kind
    FROM custody
    WHERE ((kind = 'account' AND subject_id = $1)
        OR (kind = 'session' AND subject_id = $2 AND account_id = $1))
      AND state = 'live'
    ORDER BY kind
    FOR KEY SHARE";

/// Reads the states of the custody rows that [`HOLD`] did not lock.
const LOOK: &str = "
    SELECT kind, state
    FROM custody
    WHERE (kind = 'account' AND subject_id = $1)
       OR (kind = 'session' AND subject_id = $2 AND account_id = $1)";

/// Creates rows for subjects that this service does not know yet. Existing rows stay as they are.
const MEET: &str = "
    INSERT INTO custody (kind, subject_id, account_id)
    SELECT kind, subject_id, $1
    FROM (VALUES ('account'::subject_kind, $1), ('session'::subject_kind, $2)) AS met (kind, subject_id)
    WHERE subject_id IS NOT NULL
    ORDER BY kind
    ON CONFLICT (kind, subject_id) DO NOTHING";

/// An open transaction (READ COMMITTED). Stores take it as `&mut Tx` or, by deref, as `&mut PgConnection`.
/// Dropped without [`Self::commit`] it is rolled back. No network or Docker call is made while it is open.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx(Transaction<'static, Postgres>);

impl Tx {
    /// Begins a transaction that may write data of `subject`. Until it ends it holds the custody rows of the
    /// account and, for a session, of the session; both must be live. An erasure waits for it.
    ///
    /// # Errors
    /// [`Error::SubjectFrozen`] during an erasure; [`Error::SubjectNotFound`] after it, or if this service
    /// does not know the subject or knows it as another tenant's.
    pub async fn for_subject(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Like [`Self::for_subject`], for services that learn of subjects from other services: an unknown
    /// subject becomes known with this transaction. An erased one is refused permanently.
    ///
    /// # Errors
    /// The errors of [`Self::for_subject`].
    pub async fn for_subject_or_new(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.meet(subject).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Begins a transaction for rows that belong to no subject (engines, host samples, streams, leases) or
    /// that are fenced in another way: set-wise sweeps that lock rows by (id, epoch) and that a freeze ends
    /// in its own transaction. It holds no custody row; writing a subject's content in it is a defect.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is free in time.
    pub async fn system(pool: &Pool) -> Result<Self> {
        Ok(Self(pool.inner().begin().await?))
    }

    /// Adds another subject to this transaction, for example the target of a fork.
    ///
    /// # Errors
    /// The errors of [`Self::for_subject`].
    pub async fn join(&mut self, subject: Subject) -> Result<()> {
        let session = subject.session().map(|session| session.0);
        let held: Vec<(SubjectKind,)> =
            sqlx::query_as(HOLD).bind(subject.account().0).bind(session).fetch_all(&mut **self).await?;
        if held.len() == kinds(subject).len() {
            return Ok(());
        }
        let seen: Vec<(SubjectKind, CustodyState)> =
            sqlx::query_as(LOOK).bind(subject.account().0).bind(session).fetch_all(&mut **self).await?;
        Err(refusal(subject, &seen))
    }

    /// Creates custody rows for the account and session of `subject` where this service has none.
    pub(crate) async fn meet(&mut self, subject: Subject) -> Result<()> {
        let session = subject.session().map(|session| session.0);
        sqlx::query(MEET).bind(subject.account().0).bind(session).execute(&mut **self).await?;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// [`Error::CommitUnknown`] if the connection broke during the commit; after any other error nothing is
    /// committed.
    pub async fn commit(mut self) -> Result<()> {
        // Postgres answers COMMIT of a failed transaction by rolling it back, without an error: a swallowed
        // error would turn into lost data. Tests and development builds find it here.
        if cfg!(debug_assertions) {
            sqlx::raw_sql("SELECT 1").execute(&mut *self).await?;
        }
        self.0.commit().await.map_err(|error| match Error::from(error) {
            Error::Unavailable { source, .. } => Error::CommitUnknown(source),
            other => other,
        })
    }

    /// Commits if the work in this transaction is `done`, else rolls back. It waits for either, so that the
    /// caller's next try does not meet a lock of this transaction.
    ///
    /// # Errors
    /// The error of the work, even if the rollback fails too; else as [`Self::commit`].
    pub async fn end<T, E: From<Error>>(self, done: Result<T, E>) -> Result<T, E> {
        match done {
            Ok(value) => {
                self.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // The caller gets the first error. Postgres rolls back by itself when the connection is lost.
                if let Err(failed) = self.rollback().await {
                    tracing::debug!(error = %crate::error::Chain(&failed), "rollback not confirmed");
                }
                Err(error)
            }
        }
    }

    /// Rolls back and waits until Postgres has done so.
    ///
    /// # Errors
    /// [`Error`] if Postgres could not be reached; it then rolls back by itself.
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

/// Returns the error that refuses a subject with these custody rows; the account's error goes first.
fn refusal(subject: Subject, seen: &[(SubjectKind, CustodyState)]) -> Error {
    let state_of = |kind| seen.iter().find(|(seen, _)| *seen == kind).map(|(_, state)| *state);
    for &kind in kinds(subject) {
        match state_of(kind) {
            None => return Error::SubjectNotFound { kind, erased: false },
            Some(CustodyState::Erased) => return Error::SubjectNotFound { kind, erased: true },
            Some(CustodyState::Frozen | CustodyState::Erasing) => return Error::SubjectFrozen(kind),
            Some(CustodyState::Live) => {}
        }
    }
    // The subject is live now but was not when it was to be locked: a purge was canceled in between.
    Error::SubjectFrozen(subject.kind())
}

/// Returns the kinds of custody rows that a writer of `subject` holds, in lock order.
const fn kinds(subject: Subject) -> &'static [SubjectKind] {
    match subject {
        Subject::Account { .. } => &[SubjectKind::Account],
        Subject::Session { .. } => &[SubjectKind::Account, SubjectKind::Session],
    }
}
