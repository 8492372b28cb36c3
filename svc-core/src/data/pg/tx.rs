//! The transaction type of application code. It locks the custody rows of the subject that it writes.

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

/// Locks the custody rows of a subject that are live, the account's first: `kind` is an enum in that order,
/// and Postgres locks the rows in sort order. A row that is not live is left out before it would be locked,
/// so that refused writers do not keep a freeze waiting.
const HOLD: &str = "
    SELECT kind
    FROM custody
    WHERE ((kind = 'account' AND subject_id = $1)
        OR (kind = 'session' AND subject_id = $2 AND account_id = $1))
      AND state = 'live'
    ORDER BY kind
    FOR KEY SHARE";

/// Reads the states of the subject's custody rows, to find out why [`HOLD`] did not lock all of them.
const LOOK: &str = "
    SELECT kind, state
    FROM custody
    WHERE (kind = 'account' AND subject_id = $1)
       OR (kind = 'session' AND subject_id = $2 AND account_id = $1)";

/// Creates custody rows for subjects that this service does not know yet; existing rows stay as they are.
const MEET: &str = "
    INSERT INTO custody (kind, subject_id, account_id)
    SELECT kind, subject_id, $1
    FROM (VALUES ('account'::subject_kind, $1), ('session'::subject_kind, $2)) AS met (kind, subject_id)
    WHERE subject_id IS NOT NULL
    ORDER BY kind
    ON CONFLICT (kind, subject_id) DO NOTHING";

/// An open transaction (READ COMMITTED). Stores take it as `&mut Tx` or, by deref, as `&mut PgConnection`. If
/// it is dropped without [`Self::commit`], it is rolled back. While it is open, callers make no network or
/// Docker calls.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx(Transaction<'static, Postgres>);

impl Tx {
    /// Begins a transaction that may write data of `subject`. Until the transaction ends, it locks the
    /// custody rows of the account and, for a session, of the session; both must be live. An erasure of the
    /// subject waits until the transaction ends.
    ///
    /// # Errors
    /// [`Error::SubjectFrozen`] during an erasure; [`Error::SubjectNotFound`] after it, or if this service
    /// does not know the subject or knows it as another account's.
    pub async fn for_subject(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Begins the same transaction as [`Self::for_subject`], in services that learn of subjects from other
    /// services: if the subject is unknown, this transaction also creates its custody rows. An erased subject
    /// stays refused.
    ///
    /// # Errors
    /// The errors of [`Self::for_subject`].
    pub async fn for_subject_or_new(pool: &Pool, subject: Subject) -> Result<Self> {
        let mut tx = Self::system(pool).await?;
        tx.meet(subject).await?;
        tx.join(subject).await?;
        Ok(tx)
    }

    /// Begins a transaction that holds no custody row. It is for rows that belong to no subject (engines,
    /// host samples, streams, leases), and for statements that change the state of many subjects' rows at
    /// once. Such a statement checks each row's id and epoch, because a freeze may end the work on a row at
    /// the same time. Writing a subject's content in this transaction is a defect.
    pub async fn system(pool: &Pool) -> Result<Self> {
        Ok(Self(pool.inner().begin().await?))
    }

    /// Locks the custody rows of `subject` until the transaction ends, so that the transaction may also write
    /// data of this subject, for example of an account that it has itself created.
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

    /// Creates the custody rows of the subject's account and session that this service does not have.
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
        // If a statement of the transaction has failed, Postgres answers COMMIT with a rollback and without
        // an error, so code that ignored the statement's error would lose data. In tests and development
        // builds this statement makes the commit fail.
        if cfg!(debug_assertions) {
            sqlx::raw_sql("SELECT 1").execute(&mut *self).await?;
        }
        self.0.commit().await.map_err(|error| match Error::from(error) {
            Error::Unavailable { source, .. } => Error::CommitUnknown(source),
            other => other,
        })
    }

    /// Commits if `done` is `Ok`, otherwise rolls back. It waits for Postgres to do so, so that the caller's
    /// retry does not find a lock of this transaction.
    ///
    /// # Errors
    /// The error in `done`, even if the rollback fails too; otherwise the errors of [`Self::commit`].
    pub async fn end<T, E: From<Error>>(self, done: Result<T, E>) -> Result<T, E> {
        match done {
            Ok(value) => {
                self.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // The caller gets the first error. If the connection is lost, Postgres rolls back without
                // being asked.
                if let Err(failed) = self.rollback().await {
                    tracing::debug!(error = %crate::error::Chain(&failed), "rollback not confirmed");
                }
                Err(error)
            }
        }
    }

    /// Rolls back, and waits until Postgres has done so.
    ///
    /// # Errors
    /// [`Error`] if Postgres could not be reached; it rolls back when it notices that the connection is lost.
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

/// Returns the error for a subject with these custody rows. If both rows refuse it, the account's error is
/// returned.
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
    // The subject is live now, but was not when [`HOLD`] should have locked it: a purge was canceled in
    // between.
    Error::SubjectFrozen(subject.kind())
}

/// Returns the kinds of custody rows that a writer of `subject` holds, in lock order.
const fn kinds(subject: Subject) -> &'static [SubjectKind] {
    match subject {
        Subject::Account { .. } => &[SubjectKind::Account],
        Subject::Session { .. } => &[SubjectKind::Account, SubjectKind::Session],
    }
}
