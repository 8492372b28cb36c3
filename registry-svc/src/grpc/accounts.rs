//! `AccountService`: accounts and their tokens.

use steward_proto::registry::v1::{
    self as proto,
    account_service_server::{AccountService, AccountServiceServer},
};
use svc_core::{
    id::{AccountId, TokenId},
    wire::grpc::{Call, page_size, parts},
};
use tonic::{Request, Response, Status};

use crate::app::{
    accounts::Accounts,
    tokens::{NewToken, Tokens},
};

#[derive(Debug, Clone)]
pub(crate) struct AccountHandler {
    pub accounts: Accounts,
    pub tokens: Tokens,
}

impl AccountHandler {
    pub(crate) fn into_server(self) -> AccountServiceServer<Self> {
        AccountServiceServer::new(self)
    }
}

fn account_id(text: &str) -> Result<AccountId, Status> {
    Ok(AccountId::parse("account_id", text)?)
}

#[tonic::async_trait]
impl AccountService for AccountHandler {
    async fn create_account(
        &self,
        request: Request<proto::CreateAccountRequest>,
    ) -> Result<Response<proto::CreateAccountResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let account = self.accounts.create(call.principal(), request.name, &call.once()?).await?;
        Ok(Response::new(proto::CreateAccountResponse { account: Some(account.into()) }))
    }

    async fn get_account(
        &self,
        request: Request<proto::GetAccountRequest>,
    ) -> Result<Response<proto::GetAccountResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let account = self.accounts.get(call.principal(), account_id(&request.account_id)?).await?;
        Ok(Response::new(proto::GetAccountResponse { account: Some(account.into()) }))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let request = request.into_inner();
        let page = self.accounts.list(page_size(request.page_size)?, &request.page_token).await?;
        let (accounts, next_page_token) = parts(page);
        Ok(Response::new(proto::ListAccountsResponse { accounts, next_page_token }))
    }

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let new = NewToken::try_from(request)?;
        let created = self.tokens.create(call.principal(), &new, &call.once()?).await?;
        Ok(Response::new(created.into()))
    }

    async fn list_tokens(
        &self,
        request: Request<proto::ListTokensRequest>,
    ) -> Result<Response<proto::ListTokensResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (account, size) = (account_id(&request.account_id)?, page_size(request.page_size)?);
        let page = self.tokens.list(call.principal(), account, size, &request.page_token).await?;
        let (tokens, next_page_token) = parts(page);
        Ok(Response::new(proto::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<proto::RevokeTokenRequest>,
    ) -> Result<Response<proto::RevokeTokenResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let account = account_id(&request.account_id)?;
        let id = TokenId::parse("token_id", &request.token_id)?;
        let token = self.tokens.revoke(call.principal(), account, id, &call.once()?).await?;
        Ok(Response::new(proto::RevokeTokenResponse { token: Some(token.into()) }))
    }

    async fn who_am_i(
        &self,
        request: Request<proto::WhoAmIRequest>,
    ) -> Result<Response<proto::WhoAmIResponse>, Status> {
        let (call, _) = Call::take(request)?;
        Ok(Response::new(proto::WhoAmIResponse { principal: Some(call.principal().into()) }))
    }
}
