//! Stores a service's answer to a step of a purge as JSON, and returns it when purge-svc repeats the step.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;

use super::{Begin, Error, Step, StepKind, StepTx, begin};
use crate::{
    data::pg::{self, Pool},
    id::PurgeId,
};

/// Runs `work` for `step` unless the step was answered before, and returns the answer. `work` ends the step's
/// transaction in one of two ways: [`StepTx::answer`] stores the answer; [`StepTx::pause`] stores none,
/// before work outside Postgres or when purge-svc has to call the step again. After work outside Postgres,
/// `work` calls this function again.
///
/// # Errors
/// The errors of [`begin`] and of `work`; [`pg::Error::Inconsistency`] if the stored answer is not a `T`.
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

/// Returns the stored answer to the step `kind` of the same purge; `None` if that step was not answered.
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
    /// Commits the step with its answer, which every repetition of the step gets, and returns the answer.
    ///
    /// # Errors
    /// [`pg::Error`]; the caller may then begin the step again.
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
