//! Resolves API tokens at registry-svc.

use std::str::FromStr;

use steward_proto::{
    common::v1::PrincipalKind as WireKind,
    registry::v1::{self as proto, auth_service_client::AuthServiceClient},
};
use tonic::Code;
use uuid::Uuid;

use super::{Error, TokenResolver};
use crate::{
    id::{AccountId, TokenId},
    wire::{client::Peer, principal::Principal},
};

/// Asks registry-svc for every token. Callers put [`super::CachedTokens`] in front of it.
#[derive(Debug, Clone)]
pub struct RegistryTokens {
    registry: Peer,
}

impl RegistryTokens {
    pub fn new(registry: Peer) -> Self {
        Self { registry }
    }
}

#[tonic::async_trait]
impl TokenResolver for RegistryTokens {
    async fn resolve(&self, token: &str) -> Result<Principal, Error> {
        let mut client = AuthServiceClient::new(self.registry.acting_for(None));
        let request = proto::AuthenticateRequest { token: token.to_owned() };
        match client.authenticate(request).await {
            Ok(answer) => {
                answer.into_inner().principal.and_then(|principal| parse(principal).ok()).ok_or_else(|| {
                    Error::Unavailable("registry-svc answered without a usable principal".to_owned())
                })
            }
            // registry-svc also answers UNAUTHENTICATED if it refused this process's own assertion; only this
            // reason means that the token was refused.
            Err(status)
                if status.code() == Code::Unauthenticated
                    && crate::error::reason_of(&status).as_deref() == Some("TOKEN_NOT_LIVE") =>
            {
                Err(Error::Unauthenticated("token is not live"))
            }
            Err(status) => Err(Error::Unavailable(status.to_string())),
        }
    }
}

fn parse(principal: proto::Principal) -> Result<Principal, Box<dyn std::error::Error>> {
    let uuid = |text: &str| (!text.is_empty()).then(|| Uuid::from_str(text)).transpose();
    Ok(Principal {
        kind: WireKind::try_from(principal.kind)?.try_into()?,
        account_id: uuid(&principal.account_id)?.map(AccountId),
        token_id: uuid(&principal.token_id)?.map(TokenId),
        subject_id: principal.subject_id,
        scopes: principal.scopes,
    })
}

impl From<&Principal> for proto::Principal {
    fn from(principal: &Principal) -> Self {
        Self {
            kind: WireKind::from(principal.kind).into(),
            subject_id: principal.subject_id.clone(),
            account_id: principal.account_id.map(|id| id.to_string()).unwrap_or_default(),
            scopes: principal.scopes.clone(),
            token_id: principal.token_id.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}
