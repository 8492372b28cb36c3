//! Calls one custodian over gRPC: converts domain types to messages and back, and checks every answer before
//! it returns it.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use prost::Message;
use sha2::{Digest, Sha256};
use steward_proto::custody::v1::{self as proto, custodian_service_client::CustodianServiceClient};
use svc_core::{
    error::{ErrorKind, ServiceError},
    id::{AccountId, PurgeId},
    subject::Subject,
    wire::client::{CallError, Caller, Peer},
};
use tonic::{Code, Response, Status, Streaming};

use crate::domain::{
    custodian::{ContractMismatch, Custodian, Description},
    external::{Erasure, ExternalObject, ItemOutcome, ItemResult},
    job::Cause,
};

/// Maximum objects that one call of [`Objects::next`] returns.
const BATCH: usize = 500;

/// Names the purge, the subject and the worker of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepCall {
    pub purge_id: PurgeId,
    /// Epoch of the worker's lease.
    pub epoch: i64,
    pub subject: Subject,
}

/// Reason for which a custodian did not do a step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The custodian did not answer, or refused.
    #[error("{custodian}")]
    Call { custodian: Custodian, source: CallError },
    /// The custodian does not keep to the contract.
    #[error("{custodian} does not keep to the contract")]
    Mismatch { custodian: Custodian, source: ContractMismatch },
    /// The custodian's answer lacks a field.
    #[error("{custodian} answered without {missing}")]
    Malformed { custodian: Custodian, missing: &'static str },
}

impl Error {
    pub const fn custodian(&self) -> Custodian {
        match self {
            Self::Call { custodian, .. }
            | Self::Mismatch { custodian, .. }
            | Self::Malformed { custodian, .. } => *custodian,
        }
    }

    /// Returns the cause for which the job waits.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Mismatch { source: ContractMismatch::KindUndeclared(_), .. } => Cause::KindUndeclared,
            Self::Mismatch { .. } | Self::Malformed { .. } => Cause::ContractMismatch,
            Self::Call { source, .. } if source.status().code() == Code::Unimplemented => {
                Cause::ContractMismatch
            }
            Self::Call { source, .. } => match source.kind() {
                ErrorKind::InvalidArgument
                | ErrorKind::PayloadTooLarge
                | ErrorKind::NotFound
                | ErrorKind::AlreadyExists
                | ErrorKind::FailedPrecondition => Cause::CustodianRefused,
                ErrorKind::Aborted
                | ErrorKind::Unauthenticated
                | ErrorKind::PermissionDenied
                | ErrorKind::ResourceExhausted
                | ErrorKind::Unavailable
                | ErrorKind::DeadlineExceeded
                | ErrorKind::Canceled
                | ErrorKind::Internal => Cause::CustodianUnavailable,
            },
        }
    }

    /// Returns the reason with which the custodian refused the step; `None` if the custodian did not refuse
    /// it (for example no answer, or an unreadable one).
    #[cfg(feature = "test-util")]
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Call { source, .. } if source.is_verdict() => Some(source.reason().into_owned()),
            Self::Call { .. } | Self::Mismatch { .. } | Self::Malformed { .. } => None,
        }
    }

    /// Returns the delay before a retry that the custodian asked for, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call { source, .. } => source.retry_after(),
            Self::Mismatch { .. } | Self::Malformed { .. } => None,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, Copy)]
pub struct Frozen {
    /// Whether the custodian knows the subject.
    pub known: bool,
    /// SHA-256 of the encoded answer.
    pub digest: [u8; 32],
}

#[derive(Debug, Clone)]
pub struct ReadBack {
    /// Kinds of which something is left.
    pub residue: BTreeSet<String>,
    /// Time of the read-back, by the custodian's database clock.
    pub verified_at: DateTime<Utc>,
    /// SHA-256 of the encoded answer.
    pub digest: [u8; 32],
}

#[derive(Debug, Clone)]
pub struct CustodianClient {
    custodian: Custodian,
    peer: Peer,
    required: BTreeSet<String>,
    max_silence: Duration,
}

impl CustodianClient {
    /// Builds a client of the custodian at `peer`, which must declare the `required` kinds. `max_silence` is
    /// the maximum time between two messages of its streams.
    pub const fn new(
        custodian: Custodian,
        peer: Peer,
        required: BTreeSet<String>,
        max_silence: Duration,
    ) -> Self {
        Self { custodian, peer, required, max_silence }
    }

    /// Calls Describe, and checks that the custodian is the expected service, speaks this version of the
    /// contract and declares the required kinds.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if one of these does not hold; another [`Error`] if the call fails.
    pub async fn describe(&self) -> Result<Description> {
        let answer = self.client(None).describe(proto::DescribeRequest {}).await;
        let answer = self.answered(answer)?;
        let description = Description {
            service: answer.service,
            contract_version: answer.contract_version,
            kinds: answer.kinds.into_iter().collect(),
        };
        description.fits(self.custodian, &self.required).map_err(|mismatch| self.mismatch(mismatch))?;
        Ok(description)
    }

    /// Calls Freeze: the custodian stops the subject's writers.
    ///
    /// # Errors
    /// [`Error`] if the custodian refuses or the call fails; a failed call may have frozen the subject.
    pub async fn freeze(&self, call: &StepCall) -> Result<Frozen> {
        let request = proto::FreezeRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).freeze(request).await;
        let answer = self.answered(answer)?;
        Ok(Frozen { known: answer.known, digest: digest(&answer) })
    }

    /// Calls Thaw: the custodian admits the subject's writers again. Returns the SHA-256 of the answer.
    ///
    /// # Errors
    /// [`Error`] if the custodian refuses or the call fails; a failed call may have thawed the subject.
    pub async fn thaw(&self, call: &StepCall) -> Result<[u8; 32]> {
        let request = proto::ThawRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).thaw(request).await;
        Ok(digest(&self.answered(answer)?))
    }

    /// Calls Inventory, which lists the subject's objects outside Postgres. Each must be of a kind in
    /// `description`.
    ///
    /// # Errors
    /// [`Error`] if the call fails or the custodian refuses.
    pub async fn inventory<'a>(
        &'a self,
        call: &StepCall,
        description: &'a Description,
    ) -> Result<Objects<'a>> {
        let request = proto::InventoryRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).inventory(request).await;
        let stream = self.answered(answer)?;
        Ok(Objects { client: self, description, stream, digest: Sha256::new() })
    }

    /// Calls Erase, which deletes the subject or a part of it. Returns what was deleted, and the SHA-256 of
    /// the answer.
    ///
    /// # Errors
    /// [`Error`] if the custodian refuses, the call fails or the answer is unreadable; a failed call may have
    /// deleted rows.
    pub async fn erase(&self, call: &StepCall) -> Result<(Erasure, [u8; 32])> {
        let request = proto::EraseRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).erase(request).await;
        let answer = self.answered(answer)?;
        let digest = digest(&answer);
        let items = answer.items.into_iter().map(|item| self.item(item)).collect::<Result<_>>()?;
        let rows = answer.deleted.iter().map(|kind| kind.count.max(0)).fold(0, i64::saturating_add);
        Ok((Erasure { rows, items, done: answer.done }, digest))
    }

    /// Calls Verify: the custodian reads back how much is left of every kind in `description`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the answer leaves a kind out or names another one.
    pub async fn verify(&self, call: &StepCall, description: &Description) -> Result<ReadBack> {
        let request = proto::VerifyRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).verify(request).await;
        let answer = self.answered(answer)?;
        let kinds = answer.residue.iter().map(|left| left.kind.as_str());
        description.covers(kinds).map_err(|mismatch| self.mismatch(mismatch))?;
        let verified_at = answer.verified_at.and_then(|at| {
            let at = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)?;
            // Truncates the time to the precision of Postgres, because the receipt is hashed with it.
            at.duration_trunc(TimeDelta::microseconds(1)).ok()
        });
        Ok(ReadBack {
            residue: answer
                .residue
                .iter()
                .filter(|left| left.count != 0)
                .map(|left| left.kind.clone())
                .collect(),
            verified_at: verified_at.ok_or(self.malformed("verified_at"))?,
            digest: digest(&answer),
        })
    }

    /// Calls Commit: the custodian deletes its own row of the subject and keeps the tombstone, a row that
    /// says that the subject is erased. Returns the SHA-256 of the answer.
    ///
    /// # Errors
    /// [`Error`] if the custodian refuses or the call fails; a failed call may have deleted the row.
    pub async fn commit(&self, call: &StepCall) -> Result<[u8; 32]> {
        let request = proto::CommitRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).commit(request).await;
        Ok(digest(&self.answered(answer)?))
    }

    fn client(&self, call: Option<&StepCall>) -> CustodianServiceClient<Caller> {
        let account: Option<AccountId> = call.map(|call| call.subject.account());
        CustodianServiceClient::new(self.peer.acting_for(account))
    }

    fn item(&self, item: proto::ItemResult) -> Result<ItemResult> {
        let outcome = match item.outcome() {
            proto::ItemOutcome::Unspecified => return Err(self.malformed("item.outcome")),
            proto::ItemOutcome::Deleted => ItemOutcome::Deleted,
            proto::ItemOutcome::AlreadyGone => ItemOutcome::AlreadyGone,
            proto::ItemOutcome::Transient => ItemOutcome::Transient,
            proto::ItemOutcome::Permanent => ItemOutcome::Permanent,
        };
        let object = self.object(item.object)?;
        Ok(ItemResult { object, outcome, code: item.code })
    }

    fn object(&self, object: Option<proto::ExternalObject>) -> Result<ExternalObject> {
        let object = object.ok_or(self.malformed("object"))?;
        if object.kind.is_empty() || object.object_id.is_empty() {
            return Err(self.malformed("object.kind or object.object_id"));
        }
        Ok(ExternalObject { kind: object.kind, provider: object.provider, object_id: object.object_id })
    }

    fn answered<T>(&self, answer: std::result::Result<Response<T>, Status>) -> Result<T> {
        answer.map(Response::into_inner).map_err(|status| self.failed(status))
    }

    fn failed(&self, status: Status) -> Error {
        Error::Call { custodian: self.custodian, source: CallError::new(self.custodian.service(), status) }
    }

    const fn mismatch(&self, source: ContractMismatch) -> Error {
        Error::Mismatch { custodian: self.custodian, source }
    }

    const fn malformed(&self, missing: &'static str) -> Error {
        Error::Malformed { custodian: self.custodian, missing }
    }
}

/// An inventory: the subject's objects outside Postgres.
#[derive(Debug)]
pub struct Objects<'a> {
    client: &'a CustodianClient,
    description: &'a Description,
    stream: Streaming<proto::InventoryResponse>,
    digest: Sha256,
}

impl Objects<'_> {
    /// Returns the next objects; an empty batch is the end.
    ///
    /// # Errors
    /// [`Error`] if the list breaks off or names an undeclared kind; the list is then incomplete.
    pub async fn next(&mut self) -> Result<Vec<ExternalObject>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let next = tokio::time::timeout(self.client.max_silence, self.stream.message()).await;
            let next =
                next.unwrap_or_else(|_| Err(Status::deadline_exceeded("no message within the timeout")));
            let Some(response) = next.map_err(|status| self.client.failed(status))? else { break };
            let encoded = response.encode_length_delimited_to_vec();
            self.digest.update(&encoded);
            let object = self.client.object(response.object)?;
            let declared = self.description.declares([object.kind.as_str()]);
            declared.map_err(|mismatch| self.client.mismatch(mismatch))?;
            batch.push(object);
        }
        Ok(batch)
    }

    /// Returns the SHA-256 of every message of the list.
    pub fn digest(self) -> [u8; 32] {
        self.digest.finalize().into()
    }
}

fn step(call: &StepCall) -> proto::Step {
    proto::Step { purge_id: call.purge_id.to_string(), epoch: call.epoch, subject: Some(call.subject.into()) }
}

fn digest(message: &impl Message) -> [u8; 32] {
    Sha256::digest(message.encode_to_vec()).into()
}
