//! Custody, the part of erasures that is the same in every service: records for each subject (an account or a
//! session) whether its data may be written, and which purge erases it.
//!
//! A service has one custody row for each subject that it knows. The row is never deleted. It has a state
//! (`live → frozen → erasing → erased`) and the highest epoch of a step so far. A transaction that writes a
//! subject's data locks the subject's row `FOR KEY SHARE`, if the row is live ([`Tx::for_subject`]). Each
//! step of a purge except `Thaw` locks the row `FOR UPDATE` ([`begin`]) and so waits for these writers. That
//! gives these guarantees:
//!
//! * After `Freeze` has been answered, no transaction that writes the subject is open, and none can begin
//!   unless a `Thaw` follows.
//! * A step with an epoch below the highest one changes nothing. A repeated step that was answered is not
//!   done again: it gets the same answer, byte for byte. Only a `Verify` that finds residue lets `Erase` run
//!   again.
//! * `Thaw` is refused once `Erase` has begun. After a `Thaw` every other step of the same purge is refused,
//!   also a `Freeze` that arrives late, so that a canceled purge stops no writer.
//! * `Commit` of a subject that is not erased yet is refused unless a `Verify` of the same purge has found no
//!   residue.
//!
//! `Freeze` first marks the row frozen in a transaction of its own, and then waits for the writers that
//! already hold the row. The mark is needed because Postgres grants `FOR KEY SHARE` to new writers while a
//! `FOR UPDATE` is waiting: on a busy subject `Freeze` could otherwise wait without end.
//!
//! This module does not know which data a service keeps. The service deletes and counts its data between
//! [`begin`] and [`StepTx::finish`].

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    data::pg::{self, Pool, Tx, ensure_affected},
    error::{ErrorKind, PublicError, ServiceError},
    id::{AccountId, PurgeId},
    subject::{CustodyState, Subject, SubjectKind},
};

mod answers;
pub mod custodian;
mod machine;
pub mod server;
pub mod tables;
pub mod wire;

pub use self::{
    answers::{answer_of, step},
    machine::{Record, Refused, Step, StepKind, admit},
};

/// A step that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step is not allowed now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Postgres did not run a statement.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        match self {
            Self::Refused(refused) => {
                PublicError::new(ErrorKind::FailedPrecondition, refused.reason(), refused.to_string())
            }
            Self::Pg(error) => error.public(),
        }
    }
}

crate::into_status!(Error);

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Pg(error.into())
    }
}

#[derive(Debug)]
pub enum Begin {
    /// The step was answered before; this is its answer.
    Replay(Vec<u8>),
    Open(StepTx),
}

/// A step in progress. Its transaction has locked the subject's custody row against other steps and, unless
/// the step is `Thaw`, has waited for the subject's writers.
#[derive(Debug)]
#[must_use = "a step that is neither finished nor paused is rolled back"]
pub struct StepTx {
    tx: Tx,
    step: Step,
}

impl StepTx {
    /// Returns the step's transaction. Unless the step is `Thaw`, no other transaction can write the subject
    /// now.
    pub const fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Commits the step with its answer. `reply` is the encoded answer, which every repetition of the step
    /// gets.
    ///
    /// # Errors
    /// [`pg::Error`]; the caller may then begin the step again.
    pub async fn finish(mut self, reply: &[u8]) -> Result<(), pg::Error> {
        let done = sqlx::query(
            "INSERT INTO custody_steps (purge_id, step, kind, subject_id, epoch, reply)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.step.purge_id.0)
        .bind(self.step.kind.name())
        .bind(self.step.subject.kind())
        .bind(self.step.subject.id())
        .bind(self.step.epoch)
        .bind(reply)
        .execute(&mut *self.tx)
        .await?;
        ensure_affected(&done, 1)?;
        self.tx.commit().await
    }

    /// Commits the work so far without an answer: before the service works outside Postgres, or when
    /// purge-svc has to call `Erase` again. The next [`begin`] of the same step continues it.
    ///
    /// # Errors
    /// [`pg::Error`] if the work was not committed.
    pub async fn pause(self) -> Result<(), pg::Error> {
        self.tx.commit().await
    }

    /// Commits a `Verify` that found residue, without an answer. It deletes the answer of `Erase`, so that
    /// the next `Erase` of this purge deletes again.
    ///
    /// # Errors
    /// [`pg::Error`] if nothing was committed.
    pub async fn found_residue(mut self) -> Result<(), pg::Error> {
        sqlx::query("DELETE FROM custody_steps WHERE purge_id = $1 AND step = $2")
            .bind(self.step.purge_id.0)
            .bind(StepKind::Erase.name())
            .execute(&mut *self.tx)
            .await?;
        self.tx.commit().await
    }
}

/// Creates the custody row of a subject, in the transaction that creates the subject. Only the service that
/// owns accounts or sessions calls it; it creates a session in a transaction for the session's account.
///
/// # Errors
/// [`pg::Error::Conflict`] if the subject exists.
pub async fn create(tx: &mut Tx, subject: Subject) -> Result<(), pg::Error> {
    sqlx::query("INSERT INTO custody (kind, subject_id, account_id) VALUES ($1, $2, $3)")
        .bind(subject.kind())
        .bind(subject.id())
        .bind(subject.account().0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Begins a step of a purge, or returns its earlier answer. If this service does not know the subject yet,
/// `Freeze` and `Thaw` create its row: after the `Freeze` a new writer is refused, after the `Thaw` a late
/// `Freeze` of this purge.
///
/// # Errors
/// [`Error::Refused`] if the step is not allowed now; [`pg::Error::LockTimeout`] if a writer's transaction is
/// still open after the lock timeout: call again.
pub async fn begin(pool: &Pool, step: Step) -> Result<Begin, Error> {
    if step.kind == StepKind::Freeze {
        mark_frozen(pool, &step).await?;
    }
    let mut tx = Tx::system(pool).await?;
    if step.kind == StepKind::Thaw {
        tx.meet(step.subject).await?;
    }
    let record = lock(&mut tx, &step).await?;
    let answers = answers(&mut tx, &step).await?;
    let state = admit(&record, &step, answers.iter().map(|(kind, _)| *kind))?;
    sqlx::query(
        "UPDATE custody
         SET state = $3, epoch = $4, purge_id = $5, changed_at = now()
         WHERE kind = $1 AND subject_id = $2 AND (state, epoch, purge_id) IS DISTINCT FROM ($3, $4, $5)",
    )
    .bind(step.subject.kind())
    .bind(step.subject.id())
    .bind(state)
    .bind(step.epoch)
    .bind(step.purge_id.0)
    .execute(&mut *tx)
    .await?;
    match answers.into_iter().find(|(kind, _)| *kind == step.kind) {
        Some((_, reply)) => {
            tx.commit().await?;
            Ok(Begin::Replay(reply))
        }
        None => Ok(Begin::Open(StepTx { tx, step })),
    }
}

/// Returns the custody of a subject; `None` if this service does not know the subject, or knows it as a
/// subject of another account.
pub async fn record(connection: &mut PgConnection, subject: Subject) -> Result<Option<Record>, pg::Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT account_id, state, epoch, purge_id FROM custody WHERE kind = $1 AND subject_id = $2",
    )
    .bind(subject.kind())
    .bind(subject.id())
    .fetch_optional(connection)
    .await?;
    Ok(row.filter(|row| row.account_id == subject.account().0).map(Row::into_record))
}

/// Lists at most `limit` subjects that are not erased, by kind and id, beginning after `after`.
///
/// # Errors
/// [`pg::Error`] if the rows cannot be read.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<(SubjectKind, Uuid)>,
    limit: i64,
) -> Result<Vec<Subject>, pg::Error> {
    let (kind, id) = after.unzip();
    let rows: Vec<(SubjectKind, Uuid, Uuid)> = sqlx::query_as(
        "SELECT kind, subject_id, account_id
         FROM custody
         WHERE state <> 'erased' AND ($1::subject_kind IS NULL OR (kind, subject_id) > ($1, $2))
         ORDER BY kind, subject_id
         LIMIT $3",
    )
    .bind(kind)
    .bind(id)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(kind, id, account)| Subject::new(kind, id, AccountId(account))).collect())
}

/// Does the first half of a freeze: after its commit no new writer is admitted. It does not wait for the
/// present writers, because a plain update does not conflict with `FOR KEY SHARE`.
async fn mark_frozen(pool: &Pool, step: &Step) -> Result<(), Error> {
    let mut tx = Tx::system(pool).await?;
    tx.meet(step.subject).await?;
    // Locks the row in a separate statement, so that the next statement's snapshot sees the answer of a
    // concurrent thaw of this purge.
    sqlx::query("SELECT FROM custody WHERE kind = $1 AND subject_id = $2 FOR NO KEY UPDATE")
        .bind(step.subject.kind())
        .bind(step.subject.id())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE custody
         SET state = 'frozen', epoch = $4, purge_id = $5, changed_at = now()
         WHERE kind = $1 AND subject_id = $2 AND account_id = $3
           AND state = 'live'
           AND (epoch < $4 OR (epoch = $4 AND purge_id = $5))
           AND NOT EXISTS (SELECT FROM custody_steps WHERE purge_id = $5 AND step = $6)",
    )
    .bind(step.subject.kind())
    .bind(step.subject.id())
    .bind(step.subject.account().0)
    .bind(step.epoch)
    .bind(step.purge_id.0)
    .bind(StepKind::Thaw.name())
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

#[derive(sqlx::FromRow)]
struct Row {
    account_id: Uuid,
    state: CustodyState,
    epoch: i64,
    purge_id: Option<Uuid>,
}

impl Row {
    fn into_record(self) -> Record {
        Record { state: self.state, epoch: self.epoch, purge_id: self.purge_id.map(PurgeId) }
    }
}

/// Locks the subject's row against other steps and, unless the step is `Thaw`, against writers.
async fn lock(tx: &mut Tx, step: &Step) -> Result<Record, Error> {
    let subject = step.subject;
    let row: Option<Row> = sqlx::query_as(match step.kind {
        StepKind::Thaw => {
            "SELECT account_id, state, epoch, purge_id
             FROM custody
             WHERE kind = $1 AND subject_id = $2
             FOR NO KEY UPDATE"
        }
        StepKind::Freeze | StepKind::Inventory | StepKind::Erase | StepKind::Verify | StepKind::Commit => {
            "SELECT account_id, state, epoch, purge_id
             FROM custody
             WHERE kind = $1 AND subject_id = $2
             FOR UPDATE"
        }
    })
    .bind(subject.kind())
    .bind(subject.id())
    .fetch_optional(&mut **tx)
    .await?;
    match row {
        Some(row) if row.account_id == subject.account().0 => Ok(row.into_record()),
        Some(_) | None => Err(pg::Error::SubjectNotFound { kind: subject.kind(), erased: false }.into()),
    }
}

/// Returns the steps of this purge that were answered, with their answers.
async fn answers(tx: &mut Tx, step: &Step) -> Result<Vec<(StepKind, Vec<u8>)>, Error> {
    let rows: Vec<(String, Uuid, Vec<u8>)> =
        sqlx::query_as("SELECT step, subject_id, reply FROM custody_steps WHERE purge_id = $1")
            .bind(step.purge_id.0)
            .fetch_all(&mut **tx)
            .await?;
    rows.into_iter()
        .map(|(name, subject, reply)| {
            if subject != step.subject.id() {
                return Err(Refused::OtherSubject.into());
            }
            let kind = StepKind::from_name(&name).ok_or_else(|| {
                pg::Error::inconsistent("custody_steps", "step", step.purge_id, "no such step")
            })?;
            Ok((kind, reply))
        })
        .collect()
}

#[cfg(test)]
mod tests;
