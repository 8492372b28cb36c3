//! Sends a message: stores it, then waits until it has ended or the sender's deadline is near.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use svc_core::{
    data::pg::Tx,
    id::{self, AccountId},
    run::telemetry,
    subject::Subject,
    wire::{deadline::Deadline, principal::Principal},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Relay, reply::Reply, waiters::Waiter};
use crate::{
    domain::{
        a2a::{Code, Envelope, MessageIds, RpcError},
        agent::{Agent, DeliveryMode},
        message::{Message, NewMessage},
        status::Status,
    },
    error::{Entity, Error, Result},
    store,
};

/// Period at which a waiting sender reads its message, because a delivery by another replica does not notify
/// it.
const READ_PERIOD: Duration = Duration::from_secs(1);

/// Part of a caller's deadline that is kept for answering it.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewSend<'a> {
    /// The id of the message in the relay.
    pub(super) id: Uuid,
    pub(super) caller: &'a Principal,
    pub(super) agent: &'a Agent,
    pub(super) params: &'a Value,
    pub(super) ids: &'a MessageIds,
    pub(super) deadline: Option<Deadline>,
}

/// The outcome of storing a message.
enum Stored {
    New(Box<Message>),
    /// The sender sent the same message before; this is its id.
    Before(Uuid),
    /// The sender used the message id for another message.
    IdReused,
}

impl Relay {
    /// Stores a message, then waits for its end.
    pub(super) async fn send(&self, envelope: &Envelope, new: NewSend<'_>) -> Result<Reply> {
        let (agent, limits, now) = (new.agent, &self.limits, self.clock.now());
        let message = NewMessage {
            id: new.id,
            account_id: agent.account_id,
            target_id: agent.id,
            sender_id: new.caller.subject_id.clone(),
            ids: new.ids.clone(),
            version: envelope.version,
            request_hash: Sha256::digest(new.params.to_string()).into(),
            params: new.params.clone(),
            traceparent: telemetry::traceparent(&tracing::Span::current()),
            created_at: now,
            expires_at: now + limits.ttl,
        };
        // Subscribes before the message is stored, so that no notification is missed.
        let waiter = self.waiters.subscribe(message.id);
        let (message, waiter) = match self.store(&message).await? {
            Stored::New(message) => (*message, waiter),
            Stored::Before(id) => {
                let waiter = self.waiters.subscribe(id);
                // The message may have ended before this subscription, so it is read once.
                (self.read(agent.account_id, id).await?, waiter)
            }
            Stored::IdReused => {
                let problem = "this messageId was used for another message";
                let error = RpcError::new(Code::InvalidParams, problem).with_id(&envelope.id);
                return Ok(Reply::error(&error, Some(envelope.version)));
            }
        };
        self.hint.notify_one();
        let wait = if agent.status.is_reachable() && agent.delivery_mode == DeliveryMode::Push {
            new.deadline
                .map_or(limits.wait, |deadline| deadline.left().saturating_sub(ANSWER_TIME).min(limits.wait))
        } else {
            Duration::ZERO
        };
        let message = self.wait_until_settled(message, &waiter, Instant::now() + wait).await?;
        Ok(Reply::to_sender(envelope, &message))
    }

    async fn store(&self, new: &NewMessage) -> Result<Stored> {
        let account = new.account_id;
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        // Locks the agent's row for share, so that its delivery mode does not change and it is not removed
        // while the lane is written.
        let agent = store::agents::find_and_share(&mut tx, account, new.target_id).await?;
        let agent = agent.filter(|agent| agent.status != Status::Removed);
        let agent = agent.ok_or(Error::NotFound(Entity::Agent))?;
        if let Some(sent) = store::messages::find_sent(&mut tx, new).await? {
            return Ok(Stored::from(sent));
        }
        let most = self.limits.max_waiting;
        let waiting = store::messages::count_waiting(&mut tx, agent.id, i64::from(most) + 1).await?;
        if waiting >= i64::from(most) {
            return Err(Error::AgentBusy(most));
        }
        let (lane, seq) = store::lanes::append(&mut tx, id::new_id(), new, agent.delivery_mode).await?;
        match store::messages::insert(&mut tx, new, lane, seq).await {
            // The sender sent the message twice at the same time; the other request stored it.
            Err(error) if error.violates("relay_messages_once") => {
                tx.rollback().await?;
                let mut db = self.pool.acquire().await?;
                let sent = store::messages::find_sent(&mut db, new).await?;
                sent.map(Stored::from).ok_or(Error::NotFound(Entity::Message))
            }
            Err(error) => Err(error.into()),
            Ok(()) => {
                let stored = store::messages::find(&mut tx, account, new.id).await?;
                let stored = stored.ok_or(Error::NotFound(Entity::Message))?;
                tx.commit().await?;
                Ok(Stored::New(Box::new(stored)))
            }
        }
    }

    /// Waits until the message has ended, at most until `until`, and returns it as last read.
    async fn wait_until_settled(
        &self,
        mut message: Message,
        waiter: &Waiter,
        until: Instant,
    ) -> Result<Message> {
        let stop = &self.stop;
        while !message.state.is_final() && Instant::now() < until && !stop.is_cancelled() {
            tokio::select! {
                () = waiter.notified() => {}
                () = tokio::time::sleep_until((Instant::now() + READ_PERIOD).min(until)) => {}
                // This replica stops. The sender gets the task that represents the message, and polls it at
                // another replica.
                () = stop.cancelled() => {}
            }
            message = self.read(message.account_id, message.id).await?;
        }
        Ok(message)
    }

    async fn read(&self, account: AccountId, id: Uuid) -> Result<Message> {
        let mut db = self.pool.acquire().await?;
        store::messages::find(&mut db, account, id).await?.ok_or(Error::NotFound(Entity::Message))
    }
}

impl From<(Uuid, bool)> for Stored {
    fn from((id, same): (Uuid, bool)) -> Self {
        if same { Self::Before(id) } else { Self::IdReused }
    }
}
