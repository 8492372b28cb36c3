//! The gRPC side of the simulator.

use std::{net::SocketAddr, pin::Pin};

use futures::{Stream, StreamExt, stream};
use prost::Message;
use steward_proto::custody::v1::{
    self as proto,
    custodian_service_server::{CustodianService, CustodianServiceServer},
};
use svc_core::{
    custody::{Step, StepKind, wire},
    error::{self, ErrorKind},
    run::lifecycle::Lifecycle,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use super::{FakeCustodian, Fault};
use crate::domain::external::{ExternalObject, ItemOutcome, ItemResult};

/// A served simulator; dropping it closes its port.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    _open: DropGuard,
}

impl Serving {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl FakeCustodian {
    /// Serves the simulator on a port of its own.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn serve(&self, lifecycle: &Lifecycle) -> std::io::Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let closed = CancellationToken::new();
        let until = closed.clone().cancelled_owned();
        let service = CustodianServiceServer::new(self.clone());
        drop(lifecycle.spawn("fake custodian", async move {
            let served = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), until)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "fake custodian is gone");
            }
        }));
        Ok(Serving { address, _open: closed.drop_guard() })
    }

    /// Answers one call: with the fault set for it, with the stored answer, or with the result of `effect`.
    /// `effect` returns the answer, and whether to store it for repeated calls.
    async fn call<T: Message + Default>(
        &self,
        kind: StepKind,
        step: Option<proto::Step>,
        effect: impl FnOnce(&Step) -> (T, bool),
    ) -> Result<Response<T>, Status> {
        let step = wire::step(step, kind)?;
        let (fault, mut resumption) = (self.fault(kind), self.resumption());
        if fault == Some(Fault::Unavailable) {
            return Err(refuse(ErrorKind::Unavailable, "UNAVAILABLE", "set to be unavailable"));
        }
        let answer = match self.admit(&step)? {
            Some(bytes) => T::decode(&*bytes)
                .map_err(|_| refuse(ErrorKind::Internal, "INTERNAL", "stored answer does not decode"))?,
            None => {
                let (answer, last_word) = effect(&step);
                if last_word {
                    self.answered(&step, answer.encode_to_vec());
                }
                answer
            }
        };
        match fault {
            // The status has no `ErrorInfo`, as when a transport reports a broken connection.
            Some(Fault::LoseReply) => Err(Status::unavailable("connection lost")),
            Some(Fault::Stall) => {
                // Fails only if the simulator is dropped, and then answers too.
                let _changed = resumption.changed().await;
                Ok(Response::new(answer))
            }
            Some(Fault::Unavailable) | None => Ok(Response::new(answer)),
        }
    }
}

#[tonic::async_trait]
impl CustodianService for FakeCustodian {
    async fn describe(
        &self,
        _request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let description = FakeCustodian::describe(self);
        Ok(Response::new(proto::DescribeResponse {
            service: description.service,
            contract_version: description.contract_version,
            kinds: description.kinds.into_iter().collect(),
            survivors: Vec::new(),
        }))
    }

    async fn freeze(
        &self,
        request: Request<proto::FreezeRequest>,
    ) -> Result<Response<proto::FreezeResponse>, Status> {
        self.call(StepKind::Freeze, request.into_inner().step, |step| {
            (proto::FreezeResponse { known: self.knows(step.subject) }, true)
        })
        .await
    }

    async fn thaw(
        &self,
        request: Request<proto::ThawRequest>,
    ) -> Result<Response<proto::ThawResponse>, Status> {
        self.call(StepKind::Thaw, request.into_inner().step, |_| (proto::ThawResponse {}, true)).await
    }

    type InventoryStream = Pin<Box<dyn Stream<Item = Result<proto::InventoryResponse, Status>> + Send>>;

    async fn inventory(
        &self,
        request: Request<proto::InventoryRequest>,
    ) -> Result<Response<Self::InventoryStream>, Status> {
        let step = wire::step(request.into_inner().step, StepKind::Inventory)?;
        let (fault, mut resumption) = (self.fault(StepKind::Inventory), self.resumption());
        if fault == Some(Fault::Unavailable) {
            return Err(refuse(ErrorKind::Unavailable, "UNAVAILABLE", "set to be unavailable"));
        }
        self.admit(&step)?;
        let objects = stream::iter(self.list(step.subject))
            .map(|object| Ok(proto::InventoryResponse { object: Some(wire_object(object)) }));
        match fault {
            // Breaks off after the last object, so that the list is not known to be complete.
            Some(Fault::LoseReply) => {
                let cut = stream::once(async { Err(Status::unavailable("connection lost")) });
                Ok(Response::new(objects.chain(cut).boxed()))
            }
            Some(Fault::Stall) => {
                let silence = stream::once(async move {
                    let _changed = resumption.changed().await;
                    Err(Status::unavailable("connection lost"))
                });
                Ok(Response::new(objects.chain(silence).boxed()))
            }
            Some(Fault::Unavailable) | None => Ok(Response::new(objects.boxed())),
        }
    }

    async fn erase(
        &self,
        request: Request<proto::EraseRequest>,
    ) -> Result<Response<proto::EraseResponse>, Status> {
        self.call(StepKind::Erase, request.into_inner().step, |step| {
            let (deleted, items, done) = FakeCustodian::erase(self, step.subject);
            let deleted = deleted.into_iter().map(|(kind, count)| proto::KindCount { kind, count }).collect();
            let items = items.into_iter().map(wire_item).collect();
            (proto::EraseResponse { deleted, items, done }, done)
        })
        .await
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyResponse>, Status> {
        self.call(StepKind::Verify, request.into_inner().step, |step| {
            let left = FakeCustodian::verify(self, step);
            let clean = left.iter().all(|(_, count)| *count == 0);
            let residue = left.into_iter().map(|(kind, count)| proto::KindCount { kind, count }).collect();
            let verified_at = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 });
            (proto::VerifyResponse { residue, verified_at }, clean)
        })
        .await
    }

    async fn commit(
        &self,
        request: Request<proto::CommitRequest>,
    ) -> Result<Response<proto::CommitResponse>, Status> {
        self.call(StepKind::Commit, request.into_inner().step, |_| {
            let committed_at = Some(prost_types::Timestamp { seconds: 1_700_000_001, nanos: 0 });
            (proto::CommitResponse { committed_at }, true)
        })
        .await
    }

    async fn list_all(
        &self,
        _request: Request<proto::ListAllRequest>,
    ) -> Result<Response<proto::ListAllResponse>, Status> {
        Err(Status::unimplemented("the simulator has no reconciliation"))
    }

    async fn check_invariants(
        &self,
        _request: Request<proto::CheckInvariantsRequest>,
    ) -> Result<Response<proto::CheckInvariantsResponse>, Status> {
        Err(Status::unimplemented("the simulator has no probes"))
    }
}

fn refuse(kind: ErrorKind, reason: &str, text: &str) -> Status {
    error::status(kind, reason, text, None, &[])
}

fn wire_object(object: ExternalObject) -> proto::ExternalObject {
    proto::ExternalObject { kind: object.kind, provider: object.provider, object_id: object.object_id }
}

fn wire_item(item: ItemResult) -> proto::ItemResult {
    let outcome = match item.outcome {
        ItemOutcome::Deleted => proto::ItemOutcome::Deleted,
        ItemOutcome::AlreadyGone => proto::ItemOutcome::AlreadyGone,
        ItemOutcome::Transient => proto::ItemOutcome::Transient,
        ItemOutcome::Permanent => proto::ItemOutcome::Permanent,
    };
    proto::ItemResult { object: Some(wire_object(item.object)), outcome: outcome.into(), code: item.code }
}
