//! Handles requests for a sandbox: checks first that the session belongs to the account.

use svc_core::{
    custody,
    data::{idempotency::Once, pg::Pool},
    id::{AccountId, SessionId},
    wire::{
        client::Sessions,
        principal::{Principal, PrincipalKind},
    },
};

use super::{
    sandboxes::{Sandboxes, View},
    subject,
};
use crate::{
    domain::sandbox::Owner,
    error::{Error, Result},
};

/// Admits requests for sandboxes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    pub pool: Pool,
    pub sessions: Sessions,
    pub sandboxes: Sandboxes,
}

impl Admission {
    /// Returns the session's live sandbox, or claims one from the pool, or requests one. sandbox-svc records
    /// the account of a session's first request as the session's owner, so it first asks chat-svc whether the
    /// account has the session. It does not ask if the account is already recorded, or if the caller is a
    /// service, which is trusted to name the owner.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`] if the session belongs to another account or does not exist;
    /// [`Error::Sessions`] if chat-svc does not answer.
    pub async fn create(&self, caller: &Principal, session: SessionId, once: &Once) -> Result<View> {
        let account = caller.account_id()?;
        if caller.kind != PrincipalKind::Service
            && !self.is_known(account, session).await?
            && !self.sessions.exists(account, session).await?
        {
            return Err(Error::SessionNotFound);
        }
        self.sandboxes.create(account, session, once).await
    }

    /// Returns whether the account is recorded here as the session's owner.
    async fn is_known(&self, account: AccountId, session: SessionId) -> Result<bool> {
        let mut db = self.pool.acquire().await?;
        Ok(custody::record(&mut db, subject(Owner { account, session })).await?.is_some())
    }
}
