//! Registration: an agent's process states how messages reach it.
//!
//! The credential names the agent. An enrolment is used up in the transaction that creates the agent's token,
//! so that of two processes with one enrolment only one becomes the agent. A process that lost the answer
//! needs a new enrolment from the tenant; registering with it also revokes the lost token. Idempotency keys
//! are kept for each credential: the same key with another credential is a new registration.

use std::time::Duration;

use chrono::{DateTime, Utc};
use svc_core::{
    data::{
        idempotency::{Begin, Once, Opened},
        pg::{Pool, Tx},
    },
    error::Invalid,
    id::{AccountId, AgentId},
    run::clock::SharedClock,
    subject::Subject,
    wire::{outbound::Outbound, principal::Principal},
};

use super::{agents, heartbeat::SnapshotCache, tokens};
use crate::{
    domain::{
        agent::{Agent, NotRegistered, Registration},
        beat::{BeatSchedule, DeadlineChange},
        token::{Holder, Scopes, Secret, TokenKind},
    },
    error::{Entity, Error, Result},
    store,
};

#[derive(Debug, Clone)]
pub struct Registered {
    pub agent: Agent,
    /// The secret of the agent's new token. `None` if the agent registered with its own token, or if the
    /// request was repeated.
    pub secret: Option<Secret>,
    /// The time until the agent's first beat.
    pub next_beat_in: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Register {
    pub pool: Pool,
    pub clock: SharedClock,
    pub outbound: Outbound,
    pub cache: SnapshotCache,
    pub schedule: BeatSchedule,
}

impl Register {
    /// Registers the agent that the credential names.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the outbound policy refuses a URL or a push agent has none,
    /// [`Error::TokenNotLive`] if the credential was revoked or used,
    /// [`Error::Status`] if the agent is paused or removed.
    pub(crate) async fn register(
        &self,
        caller: &Principal,
        registration: Registration,
        once: &Once,
    ) -> Result<Registered> {
        let account = caller.account_id()?;
        let id = AgentId::parse("agent_id", &caller.subject_id).map_err(|_| Error::TokenNotLive)?;
        let token_id = caller.token_id.ok_or(Error::TokenNotLive)?;
        let once = once.scoped(token_id);
        // Answers a repetition before the URLs are checked, since they may resolve to other addresses now.
        if let Some(agent) = self.find_repeated(account, &once).await? {
            return Ok(self.registered(agent, None));
        }
        // The check resolves names, so it runs before the transaction. Every call to the agent checks again.
        for (field, url) in registration.urls() {
            self.outbound.vet(&url).await.map_err(|refused| Invalid::new(field, refused.problem()))?;
        }

        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            let slot = match once.begin::<AgentId>(&mut tx, Some(account)).await? {
                Begin::Replay(id) => return Ok((agents::find(&mut tx, account, id).await?, None, false)),
                Begin::First(slot) => slot,
            };
            // Locks the agent before its tokens: removals and enrolments use the same order.
            store::agents::lock(&mut tx, account, id).await?;
            // The caller may have been authenticated from a cache a few seconds old; this read decides.
            let token = store::tokens::find_and_lock(&mut tx, token_id).await?;
            let token = token
                .filter(|token| token.is_live(now) && token.holder.agent() == Some(id))
                .ok_or(Error::TokenNotLive)?;
            let agent = agents::find(&mut tx, account, id).await?;
            let next = agent.registered(registration, now).map_err(|error| match error {
                NotRegistered::Refused(refused) => Error::Status(refused),
                NotRegistered::NoUrl => Invalid::new("url", "is required for push delivery").into(),
            })?;
            store::agents::update(&mut tx, &next, agent.generation).await?;
            // Waiting messages follow the new delivery mode.
            if store::lanes::change_mode(&mut tx, id, next.delivery_mode).await? > 0 {
                store::messages::state::requeue_all(&mut tx, id).await?;
            }
            store::lanes::wake(&mut tx, id).await?;
            let secret = replace_enrolment(&mut tx, token.holder, now).await?;
            slot.finish(&mut tx, &id).await?;
            Ok::<_, Error>((next, secret, true))
        }
        .await;
        let (agent, secret, first) = tx.end(done).await?;
        if first {
            // The sweep sees the agent from now on.
            self.cache.put(&agent, DeadlineChange::ExtendTo(self.schedule.probation())).await;
        }
        Ok(self.registered(agent, secret))
    }

    /// Finds the agent of a repeated registration; `None` if the request is not a repetition.
    async fn find_repeated(&self, account: AccountId, once: &Once) -> Result<Option<Agent>> {
        let id = match once.open::<AgentId>(&self.pool, Some(account)).await? {
            Opened::Replay(id) => id,
            Opened::First(tx, _) => {
                tx.rollback().await?;
                return Ok(None);
            }
        };
        let mut db = self.pool.acquire().await?;
        let agent = store::agents::find(&mut db, account, id).await?;
        agent.map(Some).ok_or(Error::NotFound(Entity::Agent))
    }

    fn registered(&self, agent: Agent, secret: Option<Secret>) -> Registered {
        let next_beat_in = self.schedule.next_beat(self.schedule.min_interval, rand::random());
        Registered { agent, secret, next_beat_in }
    }
}

/// If the agent registered with an enrolment, revokes the enrolment and the agent's earlier token, creates a
/// new token and returns its secret. If it registered with its own token, changes nothing.
async fn replace_enrolment(tx: &mut Tx, used: Holder, now: DateTime<Utc>) -> Result<Option<Secret>> {
    match used {
        Holder::Enrolment(account, id) => {
            let kinds = [TokenKind::Enrolment, TokenKind::Agent];
            store::tokens::revoke_of_agent(tx, account, id, &kinds, now).await?;
            let holder = Holder::Agent(account, id);
            let (token, secret) = tokens::make(holder, "agent", Scopes::of_agents(), now, None);
            store::tokens::insert(tx, &token, &secret.hash()).await?;
            Ok(Some(secret))
        }
        Holder::Agent(..) => Ok(None),
        Holder::Admin | Holder::Account(_) => Err(Error::TokenNotLive),
    }
}
