//! Reads and cancels tasks. If the task represents a stored message, the relay answers from Postgres; if it
//! is the agent's own task, the relay passes the call to the agent.

use svc_core::{data::pg::Tx, id, subject::Subject, wire::principal::Principal};

use super::{Relay, client::Forwarded, may_read, reply::Reply};
use crate::{
    domain::{
        a2a::{Code, Envelope, RpcError},
        agent::Agent,
        delivery::Problem,
        message::Message,
        relay_state::{Input, next_state},
    },
    error::{Entity, Error, Result},
    store,
};

impl Relay {
    /// Finds the stored message that a task id names, if the caller may read it.
    pub(super) async fn find_task(
        &self,
        caller: &Principal,
        agent: &Agent,
        task: &str,
    ) -> Result<Option<Message>> {
        let Ok(id) = id::parse_id("id", task) else { return Ok(None) };
        let mut db = self.pool.acquire().await?;
        let message = store::messages::find(&mut db, agent.account_id, id).await?;
        Ok(message.filter(|message| message.target_id == agent.id && may_read(caller, message)))
    }

    /// Cancels a message that was not sent yet.
    pub(super) async fn cancel(&self, envelope: &Envelope, message: Message) -> Result<Reply> {
        let too_late = || {
            let problem = "the message was sent already: cancel the agent's own task";
            let error = RpcError::new(Code::TaskNotCancelable, problem).with_id(&envelope.id);
            Reply::error(&error, Some(envelope.version))
        };
        let account = message.account_id;
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let Some(lane) = store::messages::lane_of(&mut tx, message.id).await? else { return Ok(too_late()) };
        store::lanes::lock(&mut tx, lane).await?;
        let read = store::messages::find(&mut tx, account, message.id).await?;
        let message = read.ok_or(Error::NotFound(Entity::Message))?;
        let Ok(state) = next_state(message.state, Input::Cancel) else { return Ok(too_late()) };
        let (from, problem, now) = (message.state, Problem::Canceled, self.clock.now());
        store::messages::state::end(&mut tx, message.id, from, state, problem, now).await?;
        store::lanes::count_canceled(&mut tx, lane).await?;
        tx.commit().await?;
        self.waiters.notify(message.id);
        let message = Message { state, code: problem.code().to_owned(), ..message };
        Ok(Reply::task(envelope, &message))
    }

    /// Passes a call about an agent's own task to the agent. It is not stored.
    pub(super) async fn forward(&self, agent: &Agent, envelope: &Envelope) -> Reply {
        let version = Some(envelope.version);
        let answer = match self.client.forward(agent, envelope).await {
            Forwarded::Answered(outcome, from) => outcome.answer(envelope, from),
            Forwarded::Failed(error) => Err(error.with_id(&envelope.id)),
            Forwarded::Unreachable => {
                let problem = "the agent cannot be reached now";
                Err(RpcError::new(Code::Unreachable, problem).with_id(&envelope.id))
            }
        };
        match answer {
            Ok(body) => Reply { http_status: 200, body, version, message: None },
            Err(error) => Reply::error(&error, version),
        }
    }
}
