//! The relay: A2A messages to agents, stored before anything else is done with them.
//!
//! A message accepted here is in Postgres, in the lane of its conversation, and ends delivered, failed, expired or
//! dropped. Its sender waits a while for the agent's answer; after that, or if the agent is away, it gets a task
//! that stands for the message and can be asked about. The same message sent again (same sender, same A2A message
//! id) is the same message: it is answered, not sent twice.
//!
//! Delivery itself is [`deliver`]; it goes on whether or not somebody waits.

pub mod deliver;
mod waiting;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use svc_core::{
    data::pg::{Pool, Subject, Tx},
    id::{self, AccountId, AgentId},
    run::{clock::SharedClock, telemetry},
    wire::{
        deadline::Deadline,
        principal::{Principal, PrincipalKind},
    },
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::waiting::Waiting;
use self::{
    deliver::{Ask, Deliverer},
    waiting::Waiter,
};
use crate::{
    domain::{
        a2a::{self, Call, Code, Envelope, MessageIds, Outcome, RpcError, Version},
        agent::{Agent, DeliveryMode},
        delivery::{Input, Message, NewMessage, Problem, State, next_state},
        status::Status,
    },
    error::{Entity, Error, Result},
    store,
};

/// How often a stored message is looked at by whoever waits for it, beside being told by this process.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Time kept of a caller's deadline to answer it.
const SPARE: Duration = Duration::from_millis(500);

/// Limits of the relay.
#[derive(Debug, Clone, Copy)]
pub struct RelayLimits {
    /// Longest request, bytes.
    pub max_request: usize,
    /// Messages that may wait for one agent.
    pub max_waiting: u32,
    /// How long a sender waits for its agent's answer.
    pub wait: Duration,
    /// How long a message is kept for an agent that is away.
    pub ttl: Duration,
}

/// A request off the wire.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The agent it is for.
    pub agent: AgentId,
    /// The caller's `A2A-Version`.
    pub version: String,
    /// Its body.
    pub body: Bytes,
    /// When the caller goes away.
    pub deadline: Option<Deadline>,
}

/// What the caller reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub http_status: u16,
    /// A JSON-RPC answer.
    pub body: Value,
    /// The version it is in, if that was understood.
    pub version: Option<Version>,
    /// The stored message it is about.
    pub message: Option<Uuid>,
}

/// Use cases of the relay.
#[derive(Debug, Clone)]
pub struct Relay {
    pool: Pool,
    clock: SharedClock,
    limits: RelayLimits,
    deliverer: Deliverer,
    waiting: Waiting,
    /// Tells this process's dispatcher to look now.
    hint: Arc<Notify>,
    /// Fires when nobody should wait any longer.
    stop: CancellationToken,
}

impl Relay {
    /// Stores in this database; `hint` wakes the dispatcher, which tells the deliverer's waiting senders what it
    /// settled. Nobody waits once `stop` fires.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        limits: RelayLimits,
        deliverer: Deliverer,
        hint: Arc<Notify>,
        stop: CancellationToken,
    ) -> Self {
        let waiting = deliverer.waiting();
        Self { pool, clock, limits, deliverer, waiting, hint, stop }
    }

    /// Relays one request. What is wrong with it as A2A is a [`Reply`]; an error is the relay's own.
    pub async fn relay(&self, caller: &Principal, incoming: Incoming) -> Result<Reply> {
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
            Err(error) => return Ok(refusal(&error, None)),
        };
        match &envelope.call {
            Call::Send { params, ids } => {
                let now = self.clock.now();
                let new = NewMessage {
                    id,
                    account_id: account,
                    target_id: agent.id,
                    sender_id: caller.subject_id.clone(),
                    ids: ids.clone(),
                    version: envelope.version,
                    request_hash: Sha256::digest(params.to_string()).into(),
                    params: params.clone(),
                    traceparent: telemetry::traceparent(&tracing::Span::current()),
                    created_at: now,
                    expires_at: now + self.limits.ttl,
                };
                self.send(&agent, &envelope, &new, incoming.deadline).await
            }
            Call::GetTask { task, .. } => match self.stored_task(caller, &agent, task).await? {
                Some(message) => Ok(standing(&envelope, &message)),
                None => self.ask(&agent, &envelope).await,
            },
            Call::CancelTask { task, .. } => match self.stored_task(caller, &agent, task).await? {
                Some(message) => self.cancel(&envelope, message).await,
                None => self.ask(&agent, &envelope).await,
            },
        }
    }

    /// Returns a message to whom it came from, its agent, or its tenant.
    pub async fn get(&self, caller: &Principal, id: Uuid) -> Result<Message> {
        let account = caller.account_id()?;
        let message = self.find(account, id).await?.filter(|message| may_read(caller, message));
        message.ok_or(Error::NotFound(Entity::Message))
    }

    async fn find(&self, account: AccountId, id: Uuid) -> Result<Option<Message>> {
        let mut db = self.pool.acquire().await?;
        Ok(store::messages::find(&mut db, account, id).await?)
    }

    /// Stores a message, then waits for its end as long as its sender does.
    async fn send(
        &self,
        agent: &Agent,
        envelope: &Envelope,
        new: &NewMessage,
        deadline: Option<Deadline>,
    ) -> Result<Reply> {
        // Waiting begins before there is anything to wait for, so that nothing is missed.
        let waiter = self.waiting.wait_for(new.id);
        let (message, waiter) = match self.store(agent.id, new).await? {
            Stored::New(message) => (message, waiter),
            Stored::Known(message) if message.request_hash == new.request_hash => {
                let waiter = self.waiting.wait_for(message.id);
                // It may have ended just before.
                let read = self.find(message.account_id, message.id).await?;
                (read.ok_or(Error::NotFound(Entity::Message))?, waiter)
            }
            Stored::Known(_) => {
                let problem = "this messageId was used for another message";
                let error = RpcError::new(Code::InvalidParams, problem).of(&envelope.id);
                return Ok(refusal(&error, Some(envelope.version)));
            }
        };
        self.hint.notify_one();
        let answerable = agent.status.is_reachable() && agent.delivery_mode == DeliveryMode::Push;
        let patience = deadline
            .map_or(self.limits.wait, |deadline| deadline.left().saturating_sub(SPARE).min(self.limits.wait));
        let until = Instant::now() + if answerable { patience } else { Duration::ZERO };
        let message = self.settled(message, &waiter, until).await?;
        Ok(conclusion(envelope, &message))
    }

    async fn store(&self, target: AgentId, new: &NewMessage) -> Result<Stored> {
        let account = new.account_id;
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        // Held, so that the lane is made for the way in which the agent gets its messages now, and none is made for
        // one that is being removed.
        let agent = store::agents::hold(&mut tx, account, target).await?;
        let agent = agent.filter(|agent| agent.status != Status::Removed);
        let agent = agent.ok_or(Error::NotFound(Entity::Agent))?;
        let sender = &new.sender_id;
        if let Some(known) =
            store::messages::find_sent(&mut tx, account, agent.id, sender, &new.ids.message).await?
        {
            return Ok(Stored::Known(known));
        }
        let most = i64::from(self.limits.max_waiting);
        if store::messages::count_waiting(&mut tx, agent.id, most + 1).await? >= most {
            return Err(Error::AgentBusy(self.limits.max_waiting));
        }
        let (lane, seq) = store::lanes::enter(&mut tx, id::new_id(), new, agent.delivery_mode).await?;
        match store::messages::insert(&mut tx, new, lane, seq).await {
            // Sent twice at the same time: the other one is stored.
            Err(error) if error.violates("relay_messages_once") => {
                tx.rollback().await?;
                let mut db = self.pool.acquire().await?;
                let known =
                    store::messages::find_sent(&mut db, account, agent.id, sender, &new.ids.message).await?;
                known.map(Stored::Known).ok_or(Error::NotFound(Entity::Message))
            }
            Err(error) => Err(error.into()),
            Ok(()) => {
                let stored = store::messages::find(&mut tx, account, new.id).await?;
                tx.commit().await?;
                stored.map(Stored::New).ok_or(Error::NotFound(Entity::Message))
            }
        }
    }

    /// The message once it ended, or as it stands at `until`.
    async fn settled(&self, mut message: Message, waiter: &Waiter, until: Instant) -> Result<Message> {
        while !message.state.is_final() && Instant::now() < until && !self.stop.is_cancelled() {
            let look = (Instant::now() + LOOK_PERIOD).min(until);
            // Told or not, what counts is what is stored; another replica's word comes with the next look.
            tokio::select! {
                () = waiter.told() => {}
                () = tokio::time::sleep_until(look) => {}
                // Whoever waits gets the task that stands for the message, and asks another replica.
                () = self.stop.cancelled() => {}
            }
            let read = self.find(message.account_id, message.id).await?;
            message = read.ok_or(Error::NotFound(Entity::Message))?;
        }
        Ok(message)
    }

    /// The stored message that a task id names, if it is one and the caller may read it.
    async fn stored_task(&self, caller: &Principal, agent: &Agent, task: &str) -> Result<Option<Message>> {
        let Ok(id) = id::parse_id("id", task) else { return Ok(None) };
        let message = self.find(agent.account_id, id).await?;
        Ok(message.filter(|message| message.target_id == agent.id && may_read(caller, message)))
    }

    /// Cancels a message that was not sent yet.
    async fn cancel(&self, envelope: &Envelope, message: Message) -> Result<Reply> {
        let late = || {
            let problem = "the message was sent already: cancel the agent's own task";
            let error = RpcError::new(Code::TaskNotCancelable, problem).of(&envelope.id);
            refusal(&error, Some(envelope.version))
        };
        let account = message.account_id;
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let Some(lane) = store::messages::lane_of(&mut tx, message.id).await? else { return Ok(late()) };
        store::lanes::lock_any(&mut tx, lane).await?;
        let read = store::messages::find(&mut tx, account, message.id).await?;
        let message = read.ok_or(Error::NotFound(Entity::Message))?;
        let Ok(state) = next_state(message.state, Input::Cancel) else { return Ok(late()) };
        let now = self.clock.now();
        store::messages::end(&mut tx, message.id, (message.state, state), Problem::Canceled, now).await?;
        store::lanes::leave(&mut tx, lane).await?;
        tx.commit().await?;
        self.waiting.tell(message.id);
        let message = Message { state, code: Problem::Canceled.code().to_owned(), ..message };
        Ok(standing(envelope, &message))
    }

    /// Asks an agent about its own task; nothing is stored of that.
    async fn ask(&self, agent: &Agent, envelope: &Envelope) -> Result<Reply> {
        let version = Some(envelope.version);
        let answer = match self.deliverer.ask(agent, envelope).await {
            Ask::Answered(outcome, from) => outcome.answer(envelope, from),
            Ask::Refused(error) => Err(error.of(&envelope.id)),
            Ask::Unreachable => {
                let problem = "the agent cannot be reached now";
                Err(RpcError::new(Code::Unreachable, problem).of(&envelope.id))
            }
        };
        Ok(match answer {
            Ok(body) => Reply { http_status: 200, body, version, message: None },
            Err(error) => refusal(&error, version),
        })
    }
}

/// What storing a message found.
enum Stored {
    /// It is stored now.
    New(Message),
    /// Its sender sent a message of this id before.
    Known(Message),
}

/// Tenants and services that act for them read all of the tenant's messages, an agent those from it and to it.
fn may_read(caller: &Principal, message: &Message) -> bool {
    match caller.kind {
        PrincipalKind::Account | PrincipalKind::Service | PrincipalKind::Admin => true,
        PrincipalKind::Agent => {
            caller.subject_id == message.sender_id || caller.subject_id == message.target_id.to_string()
        }
    }
}

/// What a sender is told about its message.
fn conclusion(envelope: &Envelope, message: &Message) -> Reply {
    let about = |http_status, body| Reply {
        http_status,
        body,
        version: Some(envelope.version),
        message: Some(message.id),
    };
    let Some((outcome, from)) = &message.answer else {
        return match message.state {
            State::Queued | State::Dispatched | State::Delivered => {
                let id = message.id.to_string();
                about(202, a2a::queued_task(envelope, &id, &message.ids, message.state.word()))
            }
            State::Failed | State::Dropped | State::Expired => about(502, undelivered(envelope, message)),
        };
    };
    match outcome.answer(envelope, *from) {
        Ok(body) => about(200, body),
        Err(error) => Reply { message: Some(message.id), ..refusal(&error, Some(envelope.version)) },
    }
}

fn undelivered(envelope: &Envelope, message: &Message) -> Value {
    let mut error = RpcError::new(Code::Unreachable, "the message was not delivered").member();
    error["data"] = json!([{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": message.code,
        "domain": "steward",
    }]);
    json!({ "jsonrpc": "2.0", "id": envelope.id, "error": error })
}

/// The task that stands for a stored message.
fn standing(envelope: &Envelope, message: &Message) -> Reply {
    let outcome: Option<(&Outcome, Version)> =
        message.answer.as_ref().map(|(outcome, version)| (outcome, *version));
    let (id, ids): (String, &MessageIds) = (message.id.to_string(), &message.ids);
    let body = a2a::task_of(envelope, &id, ids, (message.state.word(), &message.code), outcome);
    Reply { http_status: 200, body, version: Some(envelope.version), message: Some(message.id) }
}

fn refusal(error: &RpcError, version: Option<Version>) -> Reply {
    let body = json!({ "jsonrpc": "2.0", "id": error.id, "error": error.member() });
    Reply { http_status: error.code.http_status(), body, version, message: None }
}
