//! The trait that a service implements to take part in erasures; [`super::server`] serves it over gRPC.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Error, Step, StepTx, list};
use crate::{
    data::{
        audit::{self, Act},
        pg::{self, Pool},
    },
    error::ServiceError,
    subject::{Subject, SubjectKind},
    wire::page::{self, Page},
};

const SUBJECTS: &str = "custody.subjects";

/// Name under which the audit log records erasures.
pub const PURGE: &str = "purge-svc";

/// Number of objects of each kind.
pub type Counts = Vec<(String, i64)>;

/// Kinds of data that a service keeps. purge-svc reads them during a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Every kind of data that the service counts.
    pub kinds: Vec<String>,
    /// Kinds of data that an erasure keeps by design.
    pub survivors: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Whether the service has data of the subject.
    pub known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Remaining objects by kind, zeros included.
    pub residue: Counts,
    /// Time of the count, by the database's clock.
    pub at: chrono::DateTime<chrono::Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Answer of steps without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Kind of the object, one of the kinds in [`Description`].
    pub kind: String,
    /// System that stores the object, for example `docker` or `redis`.
    pub provider: String,
    pub id: String,
}

/// Result of erasing an [`Object`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Deleted,
    /// The object did not exist.
    AlreadyGone,
    /// The object still exists, for the reason that this code names; purge-svc has to call `Erase` again.
    Transient(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Rows that this call deleted, by kind.
    pub deleted: Counts,
    /// Results for objects outside Postgres.
    pub objects: Vec<(Object, Outcome)>,
    /// Whether nothing is left to delete; otherwise purge-svc calls `Erase` again.
    pub done: bool,
}

/// An invariant, with the ids of the objects that violate it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invariant {
    pub name: &'static str,
    pub offenders: Vec<Uuid>,
}

/// A service's work in each step of a purge. purge-svc may repeat every step, also while an earlier call of
/// it still runs.
pub trait Custodian: Send + Sync + 'static {
    /// Error of a step that was not done.
    type Error: ServiceError + From<Error> + Send + Sync + 'static;

    /// Returns the pool of the service's database, which also holds the custody rows.
    fn pool(&self) -> &Pool;

    /// Describes the data that the service keeps.
    fn describe(&self) -> Description;

    /// Stops every writer of the subject.
    fn freeze(&self, step: Step) -> impl Future<Output = Result<Frozen, Self::Error>> + Send;

    /// Lists the subject's objects outside Postgres.
    fn inventory(&self, step: Step) -> impl Future<Output = Result<Vec<Object>, Self::Error>> + Send;

    /// Deletes as much of the subject's data as one call may take, and returns whether all of it is deleted.
    fn erase(&self, step: Step) -> impl Future<Output = Result<Erased, Self::Error>> + Send;

    /// Counts the data of the subject that still exists.
    fn verify(&self, step: Step) -> impl Future<Output = Result<Verified, Self::Error>> + Send;

    /// Deletes the subject's own row, in the service that owns the subject. The custody row stays.
    fn commit(&self, step: Step) -> impl Future<Output = Result<Committed, Self::Error>> + Send;

    /// Checks the custody invariants, and returns each with the objects that violate it.
    fn check_invariants(&self) -> impl Future<Output = Result<Vec<Invariant>, Self::Error>> + Send;
}

/// Answers a step for which the service has nothing to do, with `reply`.
///
/// # Errors
/// The errors of [`super::begin`].
pub async fn answer<T: Serialize + DeserializeOwned + Send + Sync>(
    pool: &Pool,
    step: Step,
    reply: T,
) -> Result<T, Error> {
    super::step(pool, step, async move |open| Ok(open.answer(reply).await?)).await
}

impl StepTx {
    /// Ends a `Verify` that counted `residue`. If all counts are zero, the answer is stored; otherwise
    /// `Erase` has to be done again.
    ///
    /// # Errors
    /// [`pg::Error`]; the caller may then begin the step again.
    pub async fn finish_verify(
        self,
        residue: Counts,
        at: chrono::DateTime<chrono::Utc>,
    ) -> Result<Verified, pg::Error> {
        let reply = Verified { residue, at };
        if reply.residue.iter().all(|(_, count)| *count == 0) {
            return self.answer(reply).await;
        }
        self.found_residue().await?;
        Ok(reply)
    }

    /// Ends a `Commit` and records the erasure in the audit log; `at` is the time of both.
    ///
    /// # Errors
    /// [`pg::Error`]; the caller may then begin the step again.
    pub async fn finish_commit(mut self, at: chrono::DateTime<chrono::Utc>) -> Result<Committed, pg::Error> {
        let Step { subject, epoch, .. } = self.step;
        let act = Act {
            act: match subject.kind() {
                SubjectKind::Session => "session.erased",
                SubjectKind::Account => "account.erased",
            },
            subject: subject.hash(),
            generation: epoch,
            principal_id: PURGE,
            at,
        };
        audit::record(&mut self.tx, &act).await?;
        self.answer(Committed { at }).await
    }
}

/// Returns a page of at most `size` subjects that are not erased; `after` comes from [`after`].
///
/// # Errors
/// [`pg::Error`] if the subjects cannot be read.
pub async fn subjects(
    pool: &Pool,
    size: u32,
    after: Option<(SubjectKind, Uuid)>,
) -> Result<Page<Subject>, pg::Error> {
    let mut db = pool.acquire().await?;
    let rows = list(&mut db, after, i64::from(size) + 1).await?;
    Ok(Page::cut(SUBJECTS, rows, size, |last| (last.kind() == SubjectKind::Session, last.id())))
}

/// Returns the subject after which the page of this token begins; `None` for the first page.
///
/// # Errors
/// [`crate::error::Invalid`] if the token is not a token of this listing.
pub fn after(token: &str) -> Result<Option<(SubjectKind, Uuid)>, crate::error::Invalid> {
    let cursor = page::cursor::<(bool, Uuid)>(SUBJECTS, token)?;
    Ok(cursor.map(|(session, id)| (if session { SubjectKind::Session } else { SubjectKind::Account }, id)))
}
