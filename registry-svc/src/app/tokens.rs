//! API tokens of accounts, and the authentication of bearer tokens.
//!
//! A secret is returned once, in the answer to the request that created it. A repetition of that request gets
//! the token without its secret. A caller cannot create a token with more scopes or a longer life than its
//! own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use svc_core::{
    data::{
        audit::{self, Act},
        idempotency::{Begin, Once},
        pg::{Pool, Tx},
    },
    id::{AccountId, TokenId},
    run::clock::SharedClock,
    subject::{Subject, SubjectHash},
    wire::{
        auth::{self, TokenResolver},
        page::{self, Page},
        principal::Principal,
    },
};

use super::account_of;
use crate::{
    domain::token::{Holder, Scopes, Secret, SecretHash, Token},
    error::{Entity, Error, Result},
    store,
};

/// Name of this list in page tokens, so that a token of another list is refused.
const LISTING: &str = "registry.tokens";

/// A request for a token.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    pub account: AccountId,
    pub name: String,
    /// An empty list means every scope.
    pub scopes: Vec<String>,
    /// `None` for a token that does not expire.
    pub ttl: Option<Duration>,
}

/// A created token. Only the first answer to its request contains the secret.
#[derive(Debug, Clone)]
pub struct Created {
    pub token: Token,
    pub secret: Option<Secret>,
}

/// Use cases of API tokens.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pool: Pool,
    clock: SharedClock,
    max_live: u32,
}

impl Tokens {
    /// Builds the use cases; `max_live` bounds the valid tokens of one account.
    pub(crate) fn new(pool: Pool, clock: SharedClock, max_live: u32) -> Self {
        Self { pool, clock, max_live }
    }

    /// # Errors
    /// [`Error::ScopeExceeded`] if the token would have more scopes or a longer life than the caller's,
    /// [`Error::TooMany`] if the account has the maximum of valid tokens.
    pub(crate) async fn create(&self, caller: &Principal, new: &NewToken, once: &Once) -> Result<Created> {
        let account = account_of(caller, new.account)?;
        let scopes = Scopes::requested(&new.scopes);
        if !scopes.are_within(caller) {
            return Err(Error::ScopeExceeded("more scopes than it has"));
        }
        let now = self.clock.now();
        let expires_at = new.ttl.map(|ttl| now + ttl);

        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            // The key of an operator's request belongs to the account too, and is erased with it.
            let slot = match once.begin::<TokenId>(&mut tx, Some(account)).await? {
                Begin::Replay(id) => {
                    let token = store::tokens::find(&mut tx, account, id).await?;
                    return Ok(Created { token: token.ok_or(Error::NotFound(Entity::Token))?, secret: None });
                }
                Begin::First(slot) => slot,
            };
            check_creator(&mut tx, caller, expires_at, now).await?;
            store::accounts::lock(&mut tx, account).await?;
            if store::tokens::count_live(&mut tx, account, now).await? >= i64::from(self.max_live) {
                return Err(Error::TooMany { what: "live tokens", most: self.max_live });
            }
            let (token, secret) = make(Holder::Account(account), &new.name, scopes, now, expires_at);
            store::tokens::insert(&mut tx, &token, &secret.hash()).await?;
            slot.finish(&mut tx, &token.id).await?;
            Ok(Created { token, secret: Some(secret) })
        }
        .await;
        tx.end(done).await
    }

    /// Lists an account's tokens, newest first.
    pub(crate) async fn list(
        &self,
        caller: &Principal,
        account: AccountId,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<Token>> {
        let account = account_of(caller, account)?;
        let before = page::cursor(LISTING, page_token)?;
        let mut db = self.pool.acquire().await?;
        if store::accounts::find(&mut db, account).await?.is_none() {
            return Err(Error::NotFound(Entity::Account));
        }
        let rows = store::tokens::list(&mut db, account, before, i64::from(page_size) + 1).await?;
        Ok(Page::cut(LISTING, rows, page_size, |last| last.id))
    }

    /// Revokes a token. Revoking it again changes nothing.
    pub(crate) async fn revoke(
        &self,
        caller: &Principal,
        account: AccountId,
        id: TokenId,
        once: &Once,
    ) -> Result<Token> {
        let account = account_of(caller, account)?;
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account }).await?;
        let done = async {
            // Stores the idempotency key with the account even if an operator calls, so that the key is
            // erased with the account.
            let (id, slot) = match once.begin::<TokenId>(&mut tx, Some(account)).await? {
                Begin::Replay(id) => (id, None),
                Begin::First(slot) => (id, Some(slot)),
            };
            let token = store::tokens::find(&mut tx, account, id).await?;
            let token = token.ok_or(Error::NotFound(Entity::Token))?;
            let Some(slot) = slot else { return Ok(token) };
            revoke(&mut tx, id, &caller.subject_id, self.clock.now()).await?;
            slot.finish(&mut tx, &id).await?;
            store::tokens::find(&mut tx, account, id).await?.ok_or(Error::NotFound(Entity::Token))
        }
        .await;
        tx.end(done).await
    }

    /// Returns the token of a bearer.
    ///
    /// # Errors
    /// [`Error::TokenNotLive`] if it is unknown, expired or revoked.
    pub(crate) async fn authenticate(&self, bearer: &str) -> Result<Token> {
        let mut db = self.pool.acquire().await?;
        let token = store::tokens::find_by_secret(&mut db, &SecretHash::of(bearer)).await?;
        token.filter(|token| token.is_live(self.clock.now())).ok_or(Error::TokenNotLive)
    }
}

/// Authenticates the callers of registry-svc itself, without a gRPC call.
#[async_trait::async_trait]
impl TokenResolver for Tokens {
    async fn resolve(&self, bearer: &str) -> Result<Principal, auth::Error> {
        match self.authenticate(bearer).await {
            Ok(token) => Ok(token.principal()),
            Err(Error::TokenNotLive) => Err(auth::Error::Unauthenticated("token is not live")),
            Err(error) => Err(auth::Error::Unavailable(svc_core::error::Chain(&error).to_string())),
        }
    }
}

pub(crate) fn make(
    holder: Holder,
    name: &str,
    scopes: Scopes,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
) -> (Token, Secret) {
    let secret = Secret::from_entropy(&rand::random());
    let token = Token {
        id: TokenId::new(),
        holder,
        name: name.to_owned(),
        prefix: secret.prefix().to_owned(),
        scopes,
        created_at,
        expires_at,
        revoked_at: None,
    };
    (token, secret)
}

/// Revokes a token and records that in the audit log; `false` if it was revoked already.
pub(crate) async fn revoke(tx: &mut Tx, id: TokenId, by: &str, now: DateTime<Utc>) -> Result<bool> {
    if !store::tokens::revoke(tx, id, now).await? {
        return Ok(false);
    }
    let subject = SubjectHash::of("token", id.0);
    let act = Act { act: "token.revoked", subject, generation: 1, principal_id: by, at: now };
    audit::record(tx, &act).await?;
    Ok(true)
}

/// Checks the caller's own token in Postgres, not in the cache: it must be valid now, and must not expire
/// before the new one.
async fn check_creator(
    tx: &mut Tx,
    caller: &Principal,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some(id) = caller.token_id else { return Ok(()) };
    let creator = store::tokens::find_and_share(tx, id).await?.filter(|token| token.is_live(now));
    let end = creator.ok_or(Error::TokenNotLive)?.expires_at;
    match (end, expires_at) {
        (None, _) => Ok(()),
        (Some(end), Some(at)) if at <= end => Ok(()),
        (Some(_), _) => Err(Error::ScopeExceeded("a longer life than its own")),
    }
}
