//! Registration: an agent's process says that it is there and where it is called.
//!
//! Who registers comes from the credential. An enrolment is used up by it, in the transaction that gives the agent
//! its token: of two processes with one enrolment, one becomes the agent. Whoever lost that answer gets a new
//! enrolment from the tenant; registering with it also ends the token that was lost.

use std::time::Duration;

use svc_core::{
    data::pg::{Pool, Subject, Tx},
    id::AgentId,
    run::clock::SharedClock,
    wire::{error::Invalid, outbound::Outbound, principal::Principal},
};

use super::{agents, heartbeat::Memory, tokens};
use crate::{
    domain::{
        agent::{Agent, NotRegistered, Registration},
        beat::Rhythm,
        token::{Owner, Scopes, Secret, TokenKind},
    },
    error::{Error, Result},
    store::{self, beats::Deadline},
};

/// An agent that registered, with its token if it came with an enrolment.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The agent.
    pub agent: Agent,
    /// Secret of its own token.
    pub secret: Option<Secret>,
    /// When it should beat for the first time.
    pub next_beat_in: Duration,
}

/// The use case of registration.
#[derive(Debug, Clone)]
pub struct Register {
    pool: Pool,
    clock: SharedClock,
    outbound: Outbound,
    memory: Memory,
    rhythm: Rhythm,
}

impl Register {
    /// On this database, by this clock; URLs are judged by `outbound`, and agents beat by `rhythm`.
    #[must_use]
    pub fn new(pool: Pool, clock: SharedClock, outbound: Outbound, memory: Memory, rhythm: Rhythm) -> Self {
        Self { pool, clock, outbound, memory, rhythm }
    }

    /// Registers the agent that the credential names.
    pub async fn register(&self, caller: &Principal, registration: Registration) -> Result<Registered> {
        let account = caller.account_id()?;
        let id = AgentId::parse("agent_id", &caller.subject_id).map_err(|_| Error::TokenNotLive)?;
        let token_id = caller.token_id.ok_or(Error::TokenNotLive)?;
        // Asks name servers, so it is done before the transaction; the agent's calls are vetted again.
        for (field, url) in registration.urls() {
            self.outbound.vet(&url).await.map_err(|refused| Invalid::new(field, refused.problem()))?;
        }

        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        // Before its tokens, as whoever removes or enrols an agent does.
        store::agents::lock(&mut tx, account, id).await?;
        // What the door accepted may be a few seconds old; this decides.
        let token = store::tokens::take(&mut tx, token_id).await?;
        let token = token
            .filter(|token| token.is_live(now) && token.owner.agent() == Some(id))
            .ok_or(Error::TokenNotLive)?;
        let agent = agents::find(&mut tx, account, id).await?;
        let next = agent.registered(registration, now).map_err(|error| match error {
            NotRegistered::Refused(refused) => Error::Status(refused),
            NotRegistered::NoUrl => Invalid::new("url", "is required for push delivery").into(),
        })?;
        store::agents::update(&mut tx, &next, agent.generation).await?;
        // What waits for it goes on, in the way it wants it now.
        if store::lanes::change_mode(&mut tx, id, next.delivery_mode).await? > 0 {
            store::messages::put_all_back(&mut tx, id).await?;
        }
        store::lanes::wake(&mut tx, id).await?;
        let secret = match token.owner {
            Owner::Enrolment(..) => {
                let used = [TokenKind::Enrolment, TokenKind::Agent];
                store::tokens::revoke_of_agent(&mut tx, account, id, &used, now).await?;
                let owner = Owner::Agent(account, id);
                let (token, secret) = tokens::make(owner, "agent", Scopes::of_agents(), now, None);
                store::tokens::insert(&mut tx, &token, &secret.hash()).await?;
                Some(secret)
            }
            Owner::Agent(..) => None,
            Owner::Admin | Owner::Account(_) => return Err(Error::TokenNotLive),
        };
        tx.commit().await?;
        // From now on its silence is noticed.
        self.memory.note(&next, Deadline::AtLeast(self.rhythm.amnesty())).await;
        let next_beat_in = self.rhythm.next_beat(self.rhythm.shortest, rand::random());
        Ok(Registered { agent: next, secret, next_beat_in })
    }
}
