//! Answers of a purge's steps as records of a service: stored as JSON, read back when a step is repeated.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;

use super::{Begin, Error, Step, StepKind, StepTx, begin};
use crate::{
    data::pg::{self, Pool},
    id::PurgeId,
};

/// Does `step` unless it was answered before, and returns its answer. `work` ends the step's transaction:
/// [`StepTx::answer`] with the answer that is stored, or [`StepTx::pause`] without one, before work outside
/// Postgres or if the step is to be called again. After work outside Postgres it calls this function again.
///
/// # Errors
/// As [`begin`], and the errors of `work`; [`pg::Error::Inconsistency`] if another record is stored.
pub async fn step<T, E>(
    pool: &Pool,
    step: Step,
    work: impl AsyncFnOnce(StepTx) -> Result<T, E>,
) -> Result<T, E>
where
    T: DeserializeOwned,
    E: From<Error>,
{
    match begin(pool, step).await? {
        Begin::Open(open) => work(open).await,
        Begin::Replay(reply) => Ok(read(&step, &reply).map_err(Error::Pg)?),
    }
}

/// Returns the stored answer to the step `kind` of the same purge, if it was answered.
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
        let purge = self.step.purge_id;
        let reply = serde_json::to_vec(&answer).map_err(|error| unreadable(purge, error))?;
        self.finish(&reply).await?;
        Ok(answer)
    }
}

fn read<T: DeserializeOwned>(step: &Step, reply: &[u8]) -> Result<T, pg::Error> {
    serde_json::from_slice(reply).map_err(|error| unreadable(step.purge_id, error))
}

fn unreadable(purge: PurgeId, error: serde_json::Error) -> pg::Error {
    pg::Error::inconsistent("custody_steps", "reply", purge, error)
}
