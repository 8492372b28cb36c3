//! What an operator does directly on the database, before there is any token to call an API with:
//! `steward dev` and `steward token`.

use secrecy::{ExposeSecret, SecretString};
use svc_core::{
    data::pg::{Pool, Subject, Tx},
    id::{AccountId, TokenId},
    run::clock::{SharedClock, SystemClock},
};

use crate::{
    app::{accounts, tokens},
    domain::{
        account::Account,
        name::Name,
        token::{Owner, Scopes, SecretHash},
    },
    error::{Error, Result},
    store,
};

/// Who is written down as the one who did it.
const OPERATOR: &str = "operator";

/// A token as an operator gets it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Its id.
    pub token_id: TokenId,
    /// The account it belongs to; `None` for an operator's.
    pub account_id: Option<AccountId>,
    /// Its secret.
    pub secret: SecretString,
}

/// An operator, holding the database of a migrated registry.
#[derive(Debug, Clone)]
pub struct Operator {
    pool: Pool,
    clock: SharedClock,
}

impl Operator {
    /// On this database.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, clock: SystemClock::shared() }
    }

    /// Creates a token that may operate the plane.
    pub async fn create_admin_token(&self, name: &str) -> Result<Issued> {
        let name = Name::parse("name", name)?;
        let mut tx = Tx::system(&self.pool).await?;
        let issued = self.issue(&mut tx, Owner::Admin, &name).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Revokes an operator's token; says whether it was live.
    pub async fn revoke_admin_token(&self, id: TokenId) -> Result<bool> {
        let now = self.clock.now();
        let mut tx = Tx::system(&self.pool).await?;
        let token = store::tokens::hold(&mut tx, id).await?;
        if token.is_none_or(|token| token.owner != Owner::Admin) {
            return Ok(false);
        }
        let revoked = tokens::revoke(&mut tx, id, OPERATOR, now).await?;
        tx.commit().await?;
        Ok(revoked)
    }

    /// The account of this name (the oldest, if there are several; made if there is none) with a token of it:
    /// `known`, if that still is a live one of this account, else a new one.
    pub async fn ensure_account_and_token(&self, name: &str, known: Option<&SecretString>) -> Result<Issued> {
        let name = Name::parse("name", name)?;
        let mut tx = Tx::system(&self.pool).await?;
        let account = match store::accounts::find_by_name(&mut tx, name.as_str()).await? {
            Some(account) => account,
            None => {
                let account = Account {
                    id: AccountId::new(),
                    name: name.as_str().to_owned(),
                    created_at: self.clock.now(),
                };
                accounts::insert(&mut tx, &account).await?;
                account
            }
        };
        tx.join(Subject::Account { account: account.id }).await?;
        if let Some(issued) = self.still_live(&mut tx, account.id, known).await? {
            tx.commit().await?;
            return Ok(issued);
        }
        let issued = self.issue(&mut tx, Owner::Account(account.id), &name).await?;
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
        let token = token.filter(|t| t.owner == Owner::Account(account) && t.is_live(self.clock.now()));
        Ok(token.map(|token| Issued { token_id: token.id, account_id: Some(account), secret: known.clone() }))
    }

    async fn issue(&self, tx: &mut Tx, owner: Owner, name: &Name) -> Result<Issued, Error> {
        let (token, secret) = tokens::make(owner, name.as_str(), Scopes::every(), self.clock.now(), None);
        store::tokens::insert(tx, &token, &secret.hash()).await?;
        Ok(Issued { token_id: token.id, account_id: owner.account(), secret: secret.reveal().into() })
    }
}
