//! Agents as their tenant manages them: create, list, pause, resume, remove, and issue enrolments.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use svc_core::{
    data::{
        audit::{self, Act},
        idempotency::{Begin, Once},
        pg::{Pool, Tx},
    },
    id::{AccountId, AgentId, TokenId},
    run::clock::SharedClock,
    subject::{Subject, SubjectHash},
    wire::{
        page::{self, Page},
        principal::Principal,
    },
};

use super::{heartbeat::SnapshotCache, tokens};
use crate::{
    domain::{
        agent::{Agent, AgentLimits, NewAgent},
        beat::DeadlineChange,
        status::{Input, Refused, Status},
        token::{Holder, Scopes, Secret, TokenKind},
    },
    error::{Entity, Error, Result},
    store,
};

/// Name of this list in page tokens, so that a token of another list is refused.
const LISTING: &str = "registry.agents";

/// A credential for one registration. Only the first answer to its request carries the secret.
#[derive(Debug, Clone)]
pub struct Enrolment {
    pub secret: Option<Secret>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// The ids of a created agent and its enrolment, as they are stored with the idempotency key.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Made {
    agent: AgentId,
    enrolment: TokenId,
}

/// Use cases of agents.
#[derive(Debug, Clone)]
pub(crate) struct Agents {
    pool: Pool,
    clock: SharedClock,
    cache: SnapshotCache,
    limits: AgentLimits,
}

impl Agents {
    pub(crate) fn new(pool: Pool, clock: SharedClock, cache: SnapshotCache, limits: AgentLimits) -> Self {
        Self { pool, clock, cache, limits }
    }

    pub(crate) async fn create(
        &self,
        caller: &Principal,
        new: NewAgent,
        once: &Once,
    ) -> Result<(Agent, Enrolment)> {
        let account = caller.account_id()?;
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            let slot = match once.begin::<Made>(&mut tx, Some(account)).await? {
                Begin::Replay(made) => {
                    let agent = find(&mut tx, account, made.agent).await?;
                    return Ok((agent, replayed(&mut tx, made.enrolment).await?));
                }
                Begin::First(slot) => slot,
            };
            store::accounts::lock(&mut tx, account).await?;
            if store::agents::count(&mut tx, account).await? >= i64::from(self.limits.max_per_account) {
                return Err(Error::TooMany { what: "agents", most: self.limits.max_per_account });
            }
            let agent = Agent::new(AgentId::new(), account, new, now);
            store::agents::insert(&mut tx, &agent).await?;
            let (id, enrolment) = self.enrol(&mut tx, &agent, now).await?;
            slot.finish(&mut tx, &Made { agent: agent.id, enrolment: id }).await?;
            Ok((agent, enrolment))
        }
        .await;
        tx.end(done).await
    }

    pub(crate) async fn get(&self, caller: &Principal, id: AgentId) -> Result<Agent> {
        let account = caller.account_id()?;
        let mut db = self.pool.acquire().await?;
        let agent = store::agents::find(&mut db, account, id).await?;
        agent.filter(|agent| agent.status != Status::Removed).ok_or(Error::NotFound(Entity::Agent))
    }

    /// Lists a tenant's agents, of one status if `status` is given, newest first.
    pub(crate) async fn list(
        &self,
        caller: &Principal,
        status: Option<Status>,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<Agent>> {
        let account = caller.account_id()?;
        let before = page::cursor(LISTING, page_token)?;
        let mut db = self.pool.acquire().await?;
        let rows = store::agents::list(&mut db, account, status, before, i64::from(page_size) + 1).await?;
        Ok(Page::cut(LISTING, rows, page_size, |last| last.id))
    }

    /// Issues an enrolment of an agent, and revokes the agent's earlier enrolment if it is unused.
    pub(crate) async fn issue_enrolment(
        &self,
        caller: &Principal,
        id: AgentId,
        once: &Once,
    ) -> Result<Enrolment> {
        let account = caller.account_id()?;
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            let slot = match once.begin::<TokenId>(&mut tx, Some(account)).await? {
                Begin::Replay(token) => return replayed(&mut tx, token).await,
                Begin::First(slot) => slot,
            };
            let agent = find(&mut tx, account, id).await?;
            if agent.status == Status::Removed {
                return Err(Refused::Removed.into());
            }
            // Raises the record's generation, so that only one of two concurrent calls for an agent succeeds.
            let next = Agent { generation: agent.generation + 1, ..agent };
            store::agents::update(&mut tx, &next, next.generation - 1).await?;
            store::tokens::revoke_of_agent(&mut tx, account, id, &[TokenKind::Enrolment], now).await?;
            let (token, enrolment) = self.enrol(&mut tx, &next, now).await?;
            slot.finish(&mut tx, &token).await?;
            Ok(enrolment)
        }
        .await;
        tx.end(done).await
    }

    pub(crate) async fn pause(&self, caller: &Principal, id: AgentId, once: &Once) -> Result<Agent> {
        self.change(caller, id, Input::Pause, once).await
    }

    pub(crate) async fn resume(&self, caller: &Principal, id: AgentId, once: &Once) -> Result<Agent> {
        self.change(caller, id, Input::Resume, once).await
    }

    /// Removes an agent, revokes its tokens and drops the messages that wait for it.
    pub(crate) async fn remove(&self, caller: &Principal, id: AgentId, once: &Once) -> Result<Agent> {
        self.change(caller, id, Input::Remove, once).await
    }

    /// Applies a tenant's input to an agent's record.
    async fn change(&self, caller: &Principal, id: AgentId, input: Input, once: &Once) -> Result<Agent> {
        let account = caller.account_id()?;
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            let slot = match once.begin::<AgentId>(&mut tx, Some(account)).await? {
                Begin::Replay(id) => return Ok((find(&mut tx, account, id).await?, false)),
                Begin::First(slot) => slot,
            };
            let agent = find(&mut tx, account, id).await?;
            let next = agent.after(input, now)?;
            slot.finish(&mut tx, &id).await?;
            if next.status == agent.status {
                return Ok((agent, false));
            }
            store::agents::update(&mut tx, &next, agent.generation).await?;
            if next.status == Status::Removed {
                let kinds = [TokenKind::Enrolment, TokenKind::Agent];
                store::tokens::revoke_of_agent(&mut tx, account, id, &kinds, now).await?;
                store::lanes::close(&mut tx, id).await?;
                store::messages::state::drop_all(&mut tx, id, now).await?;
                let act = Act {
                    act: "agent.removed",
                    subject: SubjectHash::of("agent", id.0),
                    generation: next.generation,
                    principal_id: &caller.subject_id,
                    at: now,
                };
                audit::record(&mut tx, &act).await?;
            }
            Ok::<_, Error>((next, true))
        }
        .await;
        let (agent, changed) = tx.end(done).await?;
        if changed {
            self.cache.put(&agent, DeadlineChange::Remove).await;
        }
        Ok(agent)
    }

    async fn enrol(&self, tx: &mut Tx, agent: &Agent, now: DateTime<Utc>) -> Result<(TokenId, Enrolment)> {
        let holder = Holder::Enrolment(agent.account_id, agent.id);
        let expires_at = Some(now + self.limits.enrolment_ttl);
        let (token, secret) = tokens::make(holder, "enrolment", Scopes::of_enrolments(), now, expires_at);
        store::tokens::insert(tx, &token, &secret.hash()).await?;
        Ok((token.id, Enrolment { secret: Some(secret), expires_at }))
    }
}

/// Finds a tenant's agent, removed or not.
pub(super) async fn find(tx: &mut Tx, account: AccountId, id: AgentId) -> Result<Agent> {
    store::agents::find(tx, account, id).await?.ok_or(Error::NotFound(Entity::Agent))
}

async fn replayed(tx: &mut Tx, enrolment: TokenId) -> Result<Enrolment> {
    let token = store::tokens::find_and_share(tx, enrolment).await?.ok_or(Error::NotFound(Entity::Token))?;
    Ok(Enrolment { secret: None, expires_at: token.expires_at })
}
