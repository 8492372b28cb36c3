//! The relay: stores A2A messages and passes them to agents.
//!
//! An accepted message is stored in Postgres, in the lane of its conversation; messages of one lane are
//! delivered one after the other. A message ends delivered, failed, expired or dropped. Its sender waits for
//! the agent's answer up to a limit. After that, or at once if the agent is not reachable or polls for its
//! messages, the sender gets a task that represents the message and can be polled. A message that its sender
//! repeats (same A2A message id, same content) is not stored again; the sender gets the answer to the stored
//! one.
//!
//! [`deliver`] delivers the stored messages, whether or not their senders wait.

pub(crate) mod client;
pub(crate) mod deliver;
mod reply;
mod send;
mod task;
mod waiters;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use svc_core::{
    data::pg::Pool,
    id::{self, AgentId},
    run::clock::SharedClock,
    wire::{
        deadline::Deadline,
        principal::{Principal, PrincipalKind},
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{client::AgentClient, send::NewSend};
pub(crate) use self::{reply::Reply, waiters::Waiters};
use crate::{
    domain::{
        a2a::{self, Call, Version},
        message::Message,
        status::Status,
    },
    error::{Entity, Error, Result},
    store,
};

/// Limits of the relay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayLimits {
    /// Maximum bytes of a request.
    pub max_request: usize,
    /// Maximum messages that wait for one agent.
    pub max_waiting: u32,
    /// Maximum time that a sender waits for the agent's answer.
    pub wait: Duration,
    /// Time after which a message that was not dispatched expires.
    pub ttl: Duration,
}

/// A request, as it arrives.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// The agent that the request is for.
    pub agent: AgentId,
    /// The caller's `A2A-Version` header.
    pub version: String,
    pub body: Bytes,
    pub deadline: Option<Deadline>,
}

/// Relays requests to agents.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub pool: Pool,
    pub clock: SharedClock,
    pub limits: RelayLimits,
    pub client: AgentClient,
    /// The senders of this process; the deliverer notifies them.
    pub waiters: Waiters,
    /// Wakes this process's dispatcher.
    pub hint: Arc<Notify>,
    /// Ends every sender's wait.
    pub stop: CancellationToken,
}

impl Relay {
    /// Relays one request. A request that is not valid A2A gets a [`Reply`] with a JSON-RPC error.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the body is too long, [`Error::NotFound`] if the tenant has no such agent,
    /// [`Error::AgentBusy`] if too many messages wait for the agent.
    pub(crate) async fn relay(&self, caller: &Principal, incoming: Incoming) -> Result<Reply> {
        let account = caller.account_id()?;
        if incoming.body.len() > self.limits.max_request {
            return Err(Error::TooLarge(self.limits.max_request));
        }
        let agent = {
            let mut db = self.pool.acquire().await?;
            store::agents::find(&mut db, account, incoming.agent).await?
        };
        let agent = agent.filter(|agent| agent.status != Status::Removed);
        let agent = agent.ok_or(Error::NotFound(Entity::Agent))?;

        let id = id::new_id();
        let envelope = match Version::asked(&incoming.version)
            .and_then(|version| a2a::parse(version, &incoming.body, &id.to_string()))
        {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Reply::error(&error, None)),
        };
        match &envelope.call {
            Call::Send { params, ids } => {
                let new = NewSend { id, caller, agent: &agent, params, ids, deadline: incoming.deadline };
                self.send(&envelope, new).await
            }
            Call::GetTask { task, .. } => match self.find_task(caller, &agent, task).await? {
                Some(message) => Ok(Reply::task(&envelope, &message)),
                None => Ok(self.forward(&agent, &envelope).await),
            },
            Call::CancelTask { task, .. } => match self.find_task(caller, &agent, task).await? {
                Some(message) => self.cancel(&envelope, message).await,
                None => Ok(self.forward(&agent, &envelope).await),
            },
        }
    }

    /// Returns a message to its sender, its agent or its tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the message does not exist, or if the caller may not read it.
    pub(crate) async fn get(&self, caller: &Principal, id: Uuid) -> Result<Message> {
        let mut db = self.pool.acquire().await?;
        let message = store::messages::find(&mut db, caller.account_id()?, id).await?;
        message.filter(|message| may_read(caller, message)).ok_or(Error::NotFound(Entity::Message))
    }
}

/// Returns whether the caller may read a message. Tenants and services read every message of the tenant; an
/// agent reads the messages that it sent or was sent.
fn may_read(caller: &Principal, message: &Message) -> bool {
    match caller.kind {
        PrincipalKind::Account | PrincipalKind::Service | PrincipalKind::Admin => true,
        PrincipalKind::Agent => {
            caller.subject_id == message.sender_id || caller.subject_id == message.target_id.to_string()
        }
    }
}
