//! `AuthService`: resolves bearer tokens into principals.

use steward_proto::registry::v1::{
    self as proto,
    auth_service_server::{AuthService, AuthServiceServer},
};
use svc_core::wire::grpc::timestamp;
use tonic::{Request, Response, Status};

use crate::app::tokens::Tokens;

#[derive(Debug, Clone)]
pub(crate) struct AuthHandler {
    pub tokens: Tokens,
}

impl AuthHandler {
    pub(crate) fn into_server(self) -> AuthServiceServer<Self> {
        AuthServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AuthService for AuthHandler {
    async fn authenticate(
        &self,
        request: Request<proto::AuthenticateRequest>,
    ) -> Result<Response<proto::AuthenticateResponse>, Status> {
        let token = self.tokens.authenticate(&request.get_ref().token).await?;
        Ok(Response::new(proto::AuthenticateResponse {
            principal: Some((&token.principal()).into()),
            expires_at: token.expires_at.map(timestamp),
        }))
    }
}
