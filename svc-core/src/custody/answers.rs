//! Answers of a purge's steps as records of a service: stored as JSON, read back when a step is repeated.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;

use super::{Begin, Error, Step, StepKind, StepTx, begin};
use crate::{
    data::pg::{self, Pool},
    id::PurgeId,
};

#[derive(Debug)]
pub enum Answered<T> {
    /// The step was answered before, with this.
    Before(T),
    /// The step is to be done now.
    Now(StepTx),
}

/// Like [`begin`], with the answer as the record that [`StepTx::finish_as`] stored.
///
/// # Errors
/// As [`begin`]; [`pg::Error::Inconsistency`] if the stored answer is another record.
pub async fn begin_as<T: DeserializeOwned>(pool: &Pool, step: Step) -> Result<Answered<T>, Error> {
    match begin(pool, step).await? {
        Begin::Open(open) => Ok(Answered::Now(open)),
        Begin::Replay(reply) => Ok(Answered::Before(read(&step, &reply)?)),
    }
}

/// Does `step` unless it was answered before, and returns its answer. `work` ends the step's transaction:
/// [`StepTx::answer`] with the answer that is stored, or [`StepTx::pause`] without one, before work outside
/// Postgres or if the step is to be called again. After work outside Postgres it calls this function again.
///
/// # Errors
/// As [`begin_as`], and the errors of `work`.
pub async fn step<T, E>(
    pool: &Pool,
    step: Step,
    work: impl AsyncFnOnce(StepTx) -> Result<T, E>,
) -> Result<T, E>
where
    T: DeserializeOwned,
    E: From<Error>,
{
    match begin_as(pool, step).await? {
        Answered::Before(answer) => Ok(answer),
        Answered::Now(open) => work(open).await,
    }
}

/// Returns the answer to another step of the same purge, if there is one.
///
/// # Errors
/// [`pg::Error`] if the answer cannot be read.
pub async fn answer_of<T: DeserializeOwned>(
    connection: &mut PgConnection,
    step: Step,
    kind: StepKind,
) -> Result<Option<T>, pg::Error> {
    let reply: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT reply FROM custody_steps WHERE purge_id = $1 AND step = $2")
            .bind(step.purge_id.0)
            .bind(kind.name())
            .fetch_optional(connection)
            .await?;
    reply.map(|reply| read(&Step { kind, ..step }, &reply)).transpose()
}

impl StepTx {
    /// Commits the step with its answer, which is repeated from now on, and returns it.
    ///
    /// # Errors
    /// [`pg::Error`]; the step may then be begun again.
    pub async fn answer<T: Serialize + Sync>(self, answer: T) -> Result<T, pg::Error> {
        self.finish_as(&answer).await?;
        Ok(answer)
    }

    /// Like [`Self::finish`], with a record as the answer.
    ///
    /// # Errors
    /// [`pg::Error`]; the step may then be begun again.
    pub async fn finish_as(self, reply: &(impl Serialize + Sync)) -> Result<(), pg::Error> {
        let purge = self.step.purge_id;
        let reply = serde_json::to_vec(reply).map_err(|error| unreadable(purge, error))?;
        self.finish(&reply).await
    }
}

fn read<T: DeserializeOwned>(step: &Step, reply: &[u8]) -> Result<T, pg::Error> {
    serde_json::from_slice(reply).map_err(|error| unreadable(step.purge_id, error))
}

fn unreadable(purge: PurgeId, error: serde_json::Error) -> pg::Error {
    pg::Error::inconsistent("custody_steps", "reply", purge, error)
}
