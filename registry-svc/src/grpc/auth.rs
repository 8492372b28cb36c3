//! `AuthService`: bearer tokens become principals.

use steward_proto::registry::v1::{
    self as proto,
    auth_service_server::{AuthService, AuthServiceServer},
};
use tonic::{Request, Response, Status};

use super::{convert, status};
use crate::app::tokens::Tokens;

/// Serves `AuthService`.
#[derive(Debug, Clone)]
pub struct AuthHandler {
    tokens: Tokens,
}

impl AuthHandler {
    /// Serves these tokens.
    #[must_use]
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> AuthServiceServer<Self> {
        AuthServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AuthService for AuthHandler {
    async fn authenticate(
        &self,
        request: Request<proto::AuthenticateRequest>,
    ) -> Result<Response<proto::AuthenticateResponse>, Status> {
        let token = self.tokens.authenticate(&request.get_ref().token).await.map_err(status)?;
        Ok(Response::new(proto::AuthenticateResponse {
            principal: Some((&token.principal()).into()),
            expires_at: token.expires_at.map(convert::timestamp),
        }))
    }
}
