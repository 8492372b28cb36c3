//! The gRPC `CustodianService` for any [`Custodian`]; only purge-svc may call it.

use std::{sync::Arc, vec};

use steward_proto::custody::v1::{
    self as proto,
    custodian_service_server::{CustodianService, CustodianServiceServer},
};
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use super::{
    Error, StepKind,
    custodian::{Counts, Custodian, Done, Object, Outcome, after, answer, subjects},
    wire,
};
use crate::wire::{grpc::timestamp, page};

/// Version of the custody contract that `Describe` returns.
const CONTRACT: i32 = 1;

/// Default and maximum page size of ListAll.
const PAGE_SIZE: (u32, u32) = (500, 1000);

#[derive(Debug)]
pub struct CustodianHandler<C> {
    service: &'static str,
    custodian: Arc<C>,
}

impl<C> Clone for CustodianHandler<C> {
    fn clone(&self) -> Self {
        Self { service: self.service, custodian: self.custodian.clone() }
    }
}

impl<C: Custodian> CustodianHandler<C> {
    /// Builds the handler for the custodian of `service`, for example `chat-svc`.
    pub fn new(service: &'static str, custodian: C) -> Self {
        Self { service, custodian: Arc::new(custodian) }
    }

    /// Returns the handler as a tower service.
    pub fn into_server(self) -> CustodianServiceServer<Self> {
        CustodianServiceServer::new(self)
    }
}

fn counts(counts: Counts) -> Vec<proto::KindCount> {
    counts.into_iter().map(|(kind, count)| proto::KindCount { kind, count }).collect()
}

impl From<Object> for proto::ExternalObject {
    fn from(Object { kind, provider, id }: Object) -> Self {
        Self { kind, provider, object_id: id }
    }
}

fn item((object, outcome): (Object, Outcome)) -> proto::ItemResult {
    let (outcome, code) = match outcome {
        Outcome::Deleted => (proto::ItemOutcome::Deleted, ""),
        Outcome::AlreadyGone => (proto::ItemOutcome::AlreadyGone, ""),
        Outcome::Transient(code) => (proto::ItemOutcome::Transient, code),
    };
    proto::ItemResult { object: Some(object.into()), outcome: outcome.into(), code: code.to_owned() }
}

#[tonic::async_trait]
impl<C: Custodian> CustodianService for CustodianHandler<C>
where
    Status: From<C::Error>,
{
    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        wire::from_purge(request)?;
        let description = self.custodian.describe();
        Ok(Response::new(proto::DescribeResponse {
            service: self.service.to_owned(),
            contract_version: CONTRACT,
            kinds: description.kinds,
            survivors: description.survivors,
        }))
    }

    async fn freeze(
        &self,
        request: Request<proto::FreezeRequest>,
    ) -> Result<Response<proto::FreezeResponse>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Freeze)?;
        let frozen = self.custodian.freeze(step).await?;
        Ok(Response::new(proto::FreezeResponse { known: frozen.known }))
    }

    async fn thaw(
        &self,
        request: Request<proto::ThawRequest>,
    ) -> Result<Response<proto::ThawResponse>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Thaw)?;
        answer(self.custodian.pool(), step, Done {}).await?;
        Ok(Response::new(proto::ThawResponse {}))
    }

    type InventoryStream = Iter<vec::IntoIter<Result<proto::InventoryResponse, Status>>>;

    async fn inventory(
        &self,
        request: Request<proto::InventoryRequest>,
    ) -> Result<Response<Self::InventoryStream>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Inventory)?;
        let listed = self.custodian.inventory(step).await?;
        let items =
            listed.into_iter().map(|object| Ok(proto::InventoryResponse { object: Some(object.into()) }));
        Ok(Response::new(tokio_stream::iter(items.collect::<Vec<_>>())))
    }

    async fn erase(
        &self,
        request: Request<proto::EraseRequest>,
    ) -> Result<Response<proto::EraseResponse>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Erase)?;
        let erased = self.custodian.erase(step).await?;
        Ok(Response::new(proto::EraseResponse {
            deleted: counts(erased.deleted),
            items: erased.objects.into_iter().map(item).collect(),
            done: erased.done,
        }))
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyResponse>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Verify)?;
        let verified = self.custodian.verify(step).await?;
        Ok(Response::new(proto::VerifyResponse {
            residue: counts(verified.residue),
            verified_at: Some(timestamp(verified.at)),
        }))
    }

    async fn commit(
        &self,
        request: Request<proto::CommitRequest>,
    ) -> Result<Response<proto::CommitResponse>, Status> {
        let step = wire::step(wire::from_purge(request)?.step, StepKind::Commit)?;
        let committed = self.custodian.commit(step).await?;
        Ok(Response::new(proto::CommitResponse { committed_at: Some(timestamp(committed.at)) }))
    }

    async fn list_all(
        &self,
        request: Request<proto::ListAllRequest>,
    ) -> Result<Response<proto::ListAllResponse>, Status> {
        let request = wire::from_purge(request)?;
        let size = page::size(request.page_size, PAGE_SIZE.0, PAGE_SIZE.1)?;
        let after = after(&request.page_token)?;
        let page = subjects(self.custodian.pool(), size, after).await.map_err(Error::Pg)?;
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
        let invariants = self.custodian.check_invariants().await?;
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
