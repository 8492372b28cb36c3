//! A service's part in erasures, as svc-core asks for it and serves it ([`super::server`]).

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Error, Step, StepTx, list};
use crate::{
    data::{
        audit::{self, Act},
        pg::{self, Pool},
    },
    subject::{Subject, SubjectKind},
    wire::{
        error::ServiceError,
        page::{self, Page},
    },
};

/// Listing of [`subjects`].
const SUBJECTS: &str = "custody.subjects";

/// Who the audit log names for what a purge does.
pub const PURGE: &str = "purge-svc";

/// What there is of each kind.
pub type Counts = Vec<(String, i64)>;

/// What a service says of itself before a purge begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Every kind of data that it counts.
    pub kinds: Vec<String>,
    /// What outlives an erasure by design.
    pub survivors: Vec<String>,
}

/// Answer of Freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Whether there was anything of the subject.
    pub known: bool,
}

/// Answer of Verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// What is left, zeros included.
    pub residue: Counts,
    /// When it was read, by the database's clock.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Answer of Commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// When.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Answer of steps that say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Something outside Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its kind, one of the described.
    pub kind: String,
    /// What keeps it, as `docker` or `redis`.
    pub provider: String,
    /// Its name there.
    pub id: String,
}

/// What became of an [`Object`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was deleted.
    Deleted,
    /// It was not there.
    AlreadyGone,
    /// Not yet, for the reason that this code names; Erase is to be called again.
    Transient(&'static str),
}

/// Answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Rows deleted by this call.
    pub deleted: Counts,
    /// What became of things outside Postgres.
    pub objects: Vec<(Object, Outcome)>,
    /// Whether nothing is left to do.
    pub done: bool,
}

/// An invariant and the ids that break it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// Ids that break it.
    pub offenders: Vec<Uuid>,
}

/// What a service does in each step of a purge. Every step may come again, also while it is still being done.
pub trait Custodian: Send + Sync + 'static {
    /// Why a step was not done.
    type Error: ServiceError + From<Error> + Send + Sync + 'static;

    /// Where the service keeps its rows, [`super`]'s among them.
    fn pool(&self) -> &Pool;

    /// What it says of itself.
    fn describe(&self) -> Description;

    /// Stops every writer of the subject.
    fn freeze(&self, step: Step) -> impl Future<Output = Result<Frozen, Self::Error>> + Send;

    /// What of the subject is outside Postgres.
    fn inventory(&self, step: Step) -> impl Future<Output = Result<Vec<Object>, Self::Error>> + Send;

    /// Deletes, as far as it goes within one call.
    fn erase(&self, step: Step) -> impl Future<Output = Result<Erased, Self::Error>> + Send;

    /// Reads back what is left.
    fn verify(&self, step: Step) -> impl Future<Output = Result<Verified, Self::Error>> + Send;

    /// Deletes the subject's head: the tombstone alone stays.
    fn commit(&self, step: Step) -> impl Future<Output = Result<Committed, Self::Error>> + Send;

    /// Runs the custody invariants.
    fn check_invariants(&self) -> impl Future<Output = Result<Vec<Invariant>, Self::Error>> + Send;
}

/// Answers a step that has nothing to do.
///
/// # Errors
/// As [`super::begin_as`].
pub async fn answer<T: Serialize + DeserializeOwned + Send + Sync>(
    pool: &Pool,
    step: Step,
    reply: T,
) -> Result<T, Error> {
    super::step(pool, step, async move |open| Ok(open.answer(reply).await?)).await
}

impl StepTx {
    /// Ends a Verify that counted `residue`: with an answer that stands if nothing is left.
    ///
    /// # Errors
    /// [`pg::Error`]; the step may then be begun again.
    pub async fn finish_verify(
        self,
        residue: Counts,
        at: chrono::DateTime<chrono::Utc>,
    ) -> Result<Verified, pg::Error> {
        let reply = Verified { residue, at };
        if reply.residue.iter().all(|(_, count)| *count == 0) {
            self.finish_as(&reply).await?;
        } else {
            self.found_residue().await?;
        }
        Ok(reply)
    }

    /// Ends a Commit at `at`, with its act in the audit log.
    ///
    /// # Errors
    /// [`pg::Error`]; the step may then be begun again.
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
        let reply = Committed { at };
        self.finish_as(&reply).await?;
        Ok(reply)
    }
}

/// A page of the subjects that are not erased; `after` comes from [`after`].
///
/// # Errors
/// [`pg::Error`] if they cannot be read.
pub async fn subjects(
    pool: &Pool,
    size: u32,
    after: Option<(SubjectKind, Uuid)>,
) -> Result<Page<Subject>, pg::Error> {
    let mut db = pool.acquire().await?;
    let rows = list(&mut db, after, i64::from(size) + 1).await?;
    Ok(Page::cut(SUBJECTS, rows, size, |last| (last.kind() == SubjectKind::Session, last.id())))
}

/// The subject after which the page of a token begins.
///
/// # Errors
/// [`crate::wire::error::Invalid`] if it is no token of this listing.
pub fn after(token: &str) -> Result<Option<(SubjectKind, Uuid)>, crate::wire::error::Invalid> {
    let cursor = page::cursor::<(bool, Uuid)>(SUBJECTS, token)?;
    Ok(cursor.map(|(session, id)| (if session { SubjectKind::Session } else { SubjectKind::Account }, id)))
}
