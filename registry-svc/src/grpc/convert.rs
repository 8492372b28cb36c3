//! Between the contract's types and the domain's. Inbound: `parse_*`, whose error names the field. Outbound:
//! `From`, which cannot fail.

mod agents;
pub(super) mod relay;

use std::time::Duration;

use chrono::{DateTime, Utc};
use steward_proto::registry::v1 as proto;
use svc_core::{
    id::AccountId,
    wire::{
        error::Invalid,
        page::{self, Page},
    },
};

use crate::{
    app::tokens::{Created, NewToken},
    domain::{account::Account, name::Name, token::Token},
};

/// Page sizes of this service: the default and the most.
const PAGE_SIZE: (u32, u32) = (50, 200);

pub(super) fn page_size(asked: i32) -> Result<u32, Invalid> {
    page::size(asked, PAGE_SIZE.0, PAGE_SIZE.1)
}

pub(super) fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(999_999_999);
    prost_types::Timestamp { seconds: at.timestamp(), nanos }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos }
}

pub(super) fn parse_duration(field: &str, duration: prost_types::Duration) -> Result<Duration, Invalid> {
    Duration::try_from(duration).map_err(|_| Invalid::new(field, "must not be negative"))
}

impl TryFrom<proto::CreateTokenRequest> for NewToken {
    type Error = Invalid;

    fn try_from(request: proto::CreateTokenRequest) -> Result<Self, Invalid> {
        Ok(Self {
            account: AccountId::parse("account_id", &request.account_id)?,
            name: Name::parse("name", &request.name)?,
            scopes: request.scopes,
            ttl: request.ttl.map(|ttl| parse_duration("ttl", ttl)).transpose()?,
        })
    }
}

impl From<Account> for proto::Account {
    fn from(account: Account) -> Self {
        Self {
            account_id: account.id.to_string(),
            name: account.name,
            created_at: Some(timestamp(account.created_at)),
        }
    }
}

impl From<Token> for proto::Token {
    fn from(token: Token) -> Self {
        Self {
            token_id: token.id.to_string(),
            account_id: token.owner.account().map(|id| id.to_string()).unwrap_or_default(),
            name: token.name,
            prefix: token.prefix,
            scopes: token.scopes.as_slice().to_vec(),
            created_at: Some(timestamp(token.created_at)),
            expires_at: token.expires_at.map(timestamp),
            revoked_at: token.revoked_at.map(timestamp),
        }
    }
}

impl From<Created> for proto::CreateTokenResponse {
    fn from(created: Created) -> Self {
        let secret = created.secret.map(|secret| secret.reveal().to_owned()).unwrap_or_default();
        Self { token: Some(created.token.into()), secret }
    }
}

/// The items of a page as the wire has them, and the token of the next one.
pub(super) fn parts<T, U: From<T>>(page: Page<T>) -> (Vec<U>, String) {
    (page.items.into_iter().map(U::from).collect(), page.next_page_token)
}
