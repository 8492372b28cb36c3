//! `AccountService`: tenants and their tokens.

use steward_proto::registry::v1::{
    self as proto,
    account_service_server::{AccountService, AccountServiceServer},
};
use svc_core::id::{AccountId, TokenId};
use tonic::{Request, Response, Status};

use super::{caller, convert, once, status};
use crate::{
    app::{
        accounts::Accounts,
        tokens::{NewToken, Tokens},
    },
    domain::name::Name,
};

/// Serves `AccountService`.
#[derive(Debug, Clone)]
pub struct AccountHandler {
    accounts: Accounts,
    tokens: Tokens,
}

impl AccountHandler {
    /// Serves these accounts and tokens.
    #[must_use]
    pub fn new(accounts: Accounts, tokens: Tokens) -> Self {
        Self { accounts, tokens }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> AccountServiceServer<Self> {
        AccountServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AccountService for AccountHandler {
    async fn create_account(
        &self,
        request: Request<proto::CreateAccountRequest>,
    ) -> Result<Response<proto::CreateAccountResponse>, Status> {
        let caller = caller(&request)?;
        let once = once("steward.registry.v1.AccountService/CreateAccount", &request)?;
        let name = Name::parse("name", &request.into_inner().name).map_err(status)?;
        let account = self.accounts.create(&caller, &name, &once).await.map_err(status)?;
        Ok(Response::new(proto::CreateAccountResponse { account: Some(account.into()) }))
    }

    async fn get_account(
        &self,
        request: Request<proto::GetAccountRequest>,
    ) -> Result<Response<proto::GetAccountResponse>, Status> {
        let caller = caller(&request)?;
        let id = AccountId::parse("account_id", &request.get_ref().account_id).map_err(status)?;
        let account = self.accounts.get(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::GetAccountResponse { account: Some(account.into()) }))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.accounts.list(size, &request.page_token).await.map_err(status)?;
        let (accounts, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListAccountsResponse { accounts, next_page_token }))
    }

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenResponse>, Status> {
        let caller = caller(&request)?;
        let once = once("steward.registry.v1.AccountService/CreateToken", &request)?;
        let new = NewToken::try_from(request.into_inner()).map_err(status)?;
        let created = self.tokens.create(&caller, &new, &once).await.map_err(status)?;
        Ok(Response::new(created.into()))
    }

    async fn list_tokens(
        &self,
        request: Request<proto::ListTokensRequest>,
    ) -> Result<Response<proto::ListTokensResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let account = AccountId::parse("account_id", &request.account_id).map_err(status)?;
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.tokens.list(&caller, account, size, &request.page_token).await.map_err(status)?;
        let (tokens, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<proto::RevokeTokenRequest>,
    ) -> Result<Response<proto::RevokeTokenResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let account = AccountId::parse("account_id", &request.account_id).map_err(status)?;
        let id = TokenId::parse("token_id", &request.token_id).map_err(status)?;
        let token = self.tokens.revoke(&caller, account, id).await.map_err(status)?;
        Ok(Response::new(proto::RevokeTokenResponse { token: Some(token.into()) }))
    }

    async fn who_am_i(
        &self,
        request: Request<proto::WhoAmIRequest>,
    ) -> Result<Response<proto::WhoAmIResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(proto::WhoAmIResponse { principal: Some((&caller).into()) }))
    }
}
