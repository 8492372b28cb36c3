//! `CustodianService`: what purge-svc asks of chat-svc. Nobody else may ask.

use steward_proto::custody::v1::{
    self as proto,
    custodian_service_server::{CustodianService, CustodianServiceServer},
};
use svc_core::{
    custody::{Step, StepKind, wire},
    page,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::{convert::timestamp, status};
use crate::{
    app::custodian::{self, Counts, Custodian},
    service::NAME,
    store::erasure::SURVIVOR,
};

/// Version of the contract that is spoken.
const CONTRACT: i32 = 1;

/// Page sizes of ListAll: the default and the most.
const PAGE_SIZE: (u32, u32) = (500, 1000);

/// Serves `CustodianService`.
#[derive(Debug, Clone)]
pub struct CustodianHandler {
    custodian: Custodian,
}

impl CustodianHandler {
    /// Serves this custodian.
    #[must_use]
    pub fn new(custodian: Custodian) -> Self {
        Self { custodian }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> CustodianServiceServer<Self> {
        CustodianServiceServer::new(self)
    }
}

fn step(step: Option<proto::Step>, kind: StepKind) -> Result<Step, Status> {
    wire::step(step, kind).map_err(status)
}

fn counts(counts: Counts) -> Vec<proto::KindCount> {
    counts.into_iter().map(|(kind, count)| proto::KindCount { kind, count }).collect()
}

#[tonic::async_trait]
impl CustodianService for CustodianHandler {
    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        wire::from_purge(request)?;
        Ok(Response::new(proto::DescribeResponse {
            service: NAME.to_owned(),
            contract_version: CONTRACT,
            kinds: custodian::erased_kinds().map(|kind| kind.name().to_owned()).collect(),
            survivors: vec![SURVIVOR.to_owned()],
        }))
    }

    async fn freeze(
        &self,
        request: Request<proto::FreezeRequest>,
    ) -> Result<Response<proto::FreezeResponse>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Freeze)?;
        let frozen = self.custodian.freeze(step).await.map_err(status)?;
        Ok(Response::new(proto::FreezeResponse { known: frozen.known }))
    }

    async fn thaw(
        &self,
        request: Request<proto::ThawRequest>,
    ) -> Result<Response<proto::ThawResponse>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Thaw)?;
        self.custodian.thaw(step).await.map_err(status)?;
        Ok(Response::new(proto::ThawResponse {}))
    }

    type InventoryStream = Empty<Result<proto::InventoryResponse, Status>>;

    async fn inventory(
        &self,
        request: Request<proto::InventoryRequest>,
    ) -> Result<Response<Self::InventoryStream>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Inventory)?;
        self.custodian.inventory(step).await.map_err(status)?;
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn erase(
        &self,
        request: Request<proto::EraseRequest>,
    ) -> Result<Response<proto::EraseResponse>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Erase)?;
        let erased = self.custodian.erase(step).await.map_err(status)?;
        Ok(Response::new(proto::EraseResponse {
            deleted: counts(erased.deleted),
            items: Vec::new(),
            done: erased.done,
        }))
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyResponse>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Verify)?;
        let verified = self.custodian.verify(step).await.map_err(status)?;
        Ok(Response::new(proto::VerifyResponse {
            residue: counts(verified.residue),
            verified_at: Some(timestamp(verified.at)),
        }))
    }

    async fn commit(
        &self,
        request: Request<proto::CommitRequest>,
    ) -> Result<Response<proto::CommitResponse>, Status> {
        let step = step(wire::from_purge(request)?.step, StepKind::Commit)?;
        let committed = self.custodian.commit(step).await.map_err(status)?;
        Ok(Response::new(proto::CommitResponse { committed_at: Some(timestamp(committed.at)) }))
    }

    async fn list_all(
        &self,
        request: Request<proto::ListAllRequest>,
    ) -> Result<Response<proto::ListAllResponse>, Status> {
        let request = wire::from_purge(request)?;
        let size = page::size(request.page_size, PAGE_SIZE.0, PAGE_SIZE.1).map_err(status)?;
        let page = self.custodian.list(size, &request.page_token).await.map_err(status)?;
        Ok(Response::new(proto::ListAllResponse {
            subjects: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn check_invariants(
        &self,
        request: Request<proto::CheckInvariantsRequest>,
    ) -> Result<Response<proto::CheckInvariantsResponse>, Status> {
        wire::from_purge(request)?;
        let invariants = self.custodian.check_invariants().await.map_err(status)?;
        let checked = invariants.iter().map(|invariant| invariant.name.to_owned()).collect();
        let violations = invariants
            .into_iter()
            .filter(|invariant| !invariant.offenders.is_empty())
            .map(|invariant| proto::Violation {
                invariant: invariant.name.to_owned(),
                offending_ids: invariant.offenders.iter().map(ToString::to_string).collect(),
            })
            .collect();
        Ok(Response::new(proto::CheckInvariantsResponse { checked, violations }))
    }
}
