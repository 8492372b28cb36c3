//! `PurgeAdminService`: holds, dead letters and the ledger, for operators.

use steward_proto::purge::v1::{
    self as proto,
    purge_admin_service_server::{PurgeAdminService, PurgeAdminServiceServer},
};
use svc_core::{
    id::parse_id,
    wire::grpc::{Call, page_size, parts},
};
use tonic::{Request, Response, Status};

use crate::app::{
    dead_letters::DeadLetters,
    holds::{Holds, NewHold},
    ledger::Ledger,
};

#[derive(Debug, Clone)]
pub(crate) struct PurgeAdminHandler {
    holds: Holds,
    dead_letters: DeadLetters,
    ledger: Ledger,
}

impl PurgeAdminHandler {
    pub(crate) const fn new(holds: Holds, dead_letters: DeadLetters, ledger: Ledger) -> Self {
        Self { holds, dead_letters, ledger }
    }

    pub(crate) fn into_server(self) -> PurgeAdminServiceServer<Self> {
        PurgeAdminServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl PurgeAdminService for PurgeAdminHandler {
    async fn set_hold(
        &self,
        request: Request<proto::SetHoldRequest>,
    ) -> Result<Response<proto::SetHoldResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let new = NewHold::try_from(request)?;
        let hold = self.holds.set(&new, &call.principal().subject_id, &call.once()?).await?;
        Ok(Response::new(proto::SetHoldResponse { hold: Some(hold.into()) }))
    }

    async fn release_hold(
        &self,
        request: Request<proto::ReleaseHoldRequest>,
    ) -> Result<Response<proto::ReleaseHoldResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = parse_id("hold_id", &request.hold_id)?;
        let hold = self.holds.release(id, &call.principal().subject_id, &call.once()?).await?;
        Ok(Response::new(proto::ReleaseHoldResponse { hold: Some(hold.into()) }))
    }

    async fn list_holds(
        &self,
        request: Request<proto::ListHoldsRequest>,
    ) -> Result<Response<proto::ListHoldsResponse>, Status> {
        let request = request.into_inner();
        let page = self.holds.list(page_size(request.page_size)?, &request.page_token).await?;
        let (holds, next_page_token) = parts(page);
        Ok(Response::new(proto::ListHoldsResponse { holds, next_page_token }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::ListDeadLettersRequest>,
    ) -> Result<Response<proto::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let page = self.dead_letters.list(page_size(request.page_size)?, &request.page_token).await?;
        let (dead_letters, next_page_token) = parts(page);
        Ok(Response::new(proto::ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn resolve_dead_letter(
        &self,
        request: Request<proto::ResolveDeadLetterRequest>,
    ) -> Result<Response<proto::ResolveDeadLetterResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = parse_id("dead_letter_id", &request.dead_letter_id)?;
        let letter = self.dead_letters.resolve(id, &call.principal().subject_id, &call.once()?).await?;
        Ok(Response::new(proto::ResolveDeadLetterResponse { dead_letter: Some(letter.into()) }))
    }

    async fn check_ledger(
        &self,
        _request: Request<proto::CheckLedgerRequest>,
    ) -> Result<Response<proto::CheckLedgerResponse>, Status> {
        Ok(Response::new(self.ledger.check().await?.into()))
    }
}
