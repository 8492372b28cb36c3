//! Converts between the contract's types and the domain's. A conversion of a request may fail, with an
//! [`Invalid`] that names the field; a conversion of a response cannot.

pub(super) mod agents;
pub(super) mod relay;

use steward_proto::registry::v1 as proto;
use svc_core::{
    error::Invalid,
    id::AccountId,
    wire::grpc::{parse_duration, timestamp},
};

use crate::{
    app::tokens::{Created, NewToken},
    domain::{account::Account, token::Token},
};

impl TryFrom<proto::CreateTokenRequest> for NewToken {
    type Error = Invalid;

    fn try_from(request: proto::CreateTokenRequest) -> Result<Self, Invalid> {
        Ok(Self {
            account: AccountId::parse("account_id", &request.account_id)?,
            name: request.name,
            scopes: request.scopes,
            ttl: parse_duration("ttl", request.ttl)?,
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
            account_id: token.holder.account().map(|id| id.to_string()).unwrap_or_default(),
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
