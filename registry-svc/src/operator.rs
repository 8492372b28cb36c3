//! Operator commands that write to the database directly. `steward dev` and `steward token` use them, because
//! the API refuses calls without a token and so cannot make the first token.

use secrecy::{ExposeSecret, SecretString};
use svc_core::{
    data::pg::{Pool, Tx},
    id::{AccountId, TokenId},
    run::clock::{SharedClock, SystemClock},
    subject::Subject,
};

use crate::{
    app::{accounts, tokens},
    domain::{
        account::{Account, check_name},
        token::{Holder, Scopes, SecretHash},
    },
    error::{Error, Result},
    store,
};

/// Principal of an operator in the audit log.
const OPERATOR: &str = "operator";

/// A created token with its secret.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token_id: TokenId,
    /// `None` for an admin token.
    pub account_id: Option<AccountId>,
    pub secret: SecretString,
}

/// Operator commands on the database of a migrated registry.
#[derive(Debug, Clone)]
pub struct Operator {
    pool: Pool,
    clock: SharedClock,
}

impl Operator {
    pub fn new(pool: Pool) -> Self {
        Self { pool, clock: SystemClock::shared() }
    }

    /// Creates an admin token.
    pub async fn create_admin_token(&self, name: &str) -> Result<Issued> {
        check_name(name)?;
        let mut tx = Tx::system(&self.pool).await?;
        let issued = self.issue(&mut tx, Holder::Admin, name).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Revokes an admin token; `false` if it was revoked already or is no admin token.
    pub async fn revoke_admin_token(&self, id: TokenId) -> Result<bool> {
        let now = self.clock.now();
        let mut tx = Tx::system(&self.pool).await?;
        let token = store::tokens::find_and_share(&mut tx, id).await?;
        if token.is_none_or(|token| token.holder != Holder::Admin) {
            return Ok(false);
        }
        let revoked = tokens::revoke(&mut tx, id, OPERATOR, now).await?;
        tx.commit().await?;
        Ok(revoked)
    }

    /// Returns the oldest account of this name and a valid token of it. It creates the account if there is
    /// none, and a token unless `known` is a valid token of the account.
    pub async fn ensure_account_and_token(&self, name: &str, known: Option<&SecretString>) -> Result<Issued> {
        check_name(name)?;
        let mut tx = Tx::system(&self.pool).await?;
        let account = match store::accounts::find_by_name(&mut tx, name).await? {
            Some(account) => account,
            None => {
                let account =
                    Account { id: AccountId::new(), name: name.to_owned(), created_at: self.clock.now() };
                accounts::insert(&mut tx, &account).await?;
                account
            }
        };
        tx.join(Subject::Account { account: account.id }).await?;
        if let Some(issued) = self.still_live(&mut tx, account.id, known).await? {
            tx.commit().await?;
            return Ok(issued);
        }
        let issued = self.issue(&mut tx, Holder::Account(account.id), name).await?;
        tx.commit().await?;
        Ok(issued)
    }

    async fn still_live(
        &self,
        tx: &mut Tx,
        account: AccountId,
        known: Option<&SecretString>,
    ) -> Result<Option<Issued>> {
        let Some(known) = known else { return Ok(None) };
        let hash = SecretHash::of(known.expose_secret());
        let token = store::tokens::find_by_secret(tx, &hash).await?;
        let token = token.filter(|t| t.holder == Holder::Account(account) && t.is_live(self.clock.now()));
        Ok(token.map(|token| Issued { token_id: token.id, account_id: Some(account), secret: known.clone() }))
    }

    async fn issue(&self, tx: &mut Tx, holder: Holder, name: &str) -> Result<Issued, Error> {
        let (token, secret) = tokens::make(holder, name, Scopes::every(), self.clock.now(), None);
        store::tokens::insert(tx, &token, &secret.hash()).await?;
        Ok(Issued { token_id: token.id, account_id: holder.account(), secret: secret.reveal().into() })
    }
}
