//! One owner of data over gRPC: domain types go in and come out, and every answer is checked before it counts.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use prost::Message;
use sha2::{Digest, Sha256};
use steward_proto::custody::v1::{self as proto, custodian_service_client::CustodianServiceClient};
use svc_core::{
    id::{AccountId, PurgeId},
    wire::{
        client::{CallError, Caller, Peer},
        error::{ErrorKind, ServiceError},
    },
};
use tonic::{Code, Status, Streaming};

use crate::domain::{
    custodian::{Custodian, Description, Misfit},
    external::{Erasure, ExternalObject, ItemOutcome, ItemResult},
    job::Cause,
    subject::{Subject, SubjectKind},
};

/// Objects that are handed on together.
const BATCH: usize = 500;

/// For which purge, of whom, and as which worker a step is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The purge.
    pub purge_id: PurgeId,
    /// The worker's epoch.
    pub epoch: i64,
    /// Whom it erases.
    pub subject: Subject,
}

/// Why an owner did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer, or refused.
    #[error("{custodian}")]
    Call {
        /// Who.
        custodian: Custodian,
        /// What came back.
        source: CallError,
    },
    /// It is not what it should be.
    #[error("{custodian} does not fit")]
    Misfit {
        /// Who.
        custodian: Custodian,
        /// In what.
        source: Misfit,
    },
    /// Its answer makes no sense.
    #[error("{custodian} answered without {missing}")]
    Malformed {
        /// Who.
        custodian: Custodian,
        /// What its answer lacks.
        missing: &'static str,
    },
}

impl Error {
    /// Who it was.
    #[must_use]
    pub const fn custodian(&self) -> Custodian {
        match self {
            Self::Call { custodian, .. }
            | Self::Misfit { custodian, .. }
            | Self::Malformed { custodian, .. } => *custodian,
        }
    }

    /// What its job waits for now.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Misfit { source: Misfit::KindUndeclared(_), .. } => Cause::KindUndeclared,
            Self::Misfit { .. } | Self::Malformed { .. } => Cause::ContractMismatch,
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

    /// The reason it gave for refusing; `None` if it did not decide anything.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Call { source, .. } if source.is_verdict() => Some(source.reason().into_owned()),
            Self::Call { .. } | Self::Misfit { .. } | Self::Malformed { .. } => None,
        }
    }

    /// How long it asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call { source, .. } => source.retry_after(),
            Self::Misfit { .. } | Self::Malformed { .. } => None,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// An owner's answer to Freeze.
#[derive(Debug, Clone, Copy)]
pub struct Frozen {
    /// Whether it knows the subject.
    pub known: bool,
    /// SHA-256 of its encoded answer.
    pub digest: [u8; 32],
}

/// An owner's answer to Verify.
#[derive(Debug, Clone)]
pub struct ReadBack {
    /// Kinds of which something is left.
    pub residue: BTreeSet<String>,
    /// When it read, by its database's clock.
    pub verified_at: DateTime<Utc>,
    /// SHA-256 of its encoded answer.
    pub digest: [u8; 32],
}

/// One owner of data.
#[derive(Debug, Clone)]
pub struct Remote {
    custodian: Custodian,
    peer: Peer,
    required: BTreeSet<String>,
    patience: Duration,
}

impl Remote {
    /// The owner behind `peer`, which must hold the `required` kinds. `patience` is the longest silence in a
    /// stream of its.
    #[must_use]
    pub const fn new(
        custodian: Custodian,
        peer: Peer,
        required: BTreeSet<String>,
        patience: Duration,
    ) -> Self {
        Self { custodian, peer, required, patience }
    }

    /// What it says of itself, if that fits.
    ///
    /// # Errors
    /// [`Error`] if it does not answer or does not fit.
    pub async fn describe(&self) -> Result<Description> {
        let answer = self.client(None).describe(proto::DescribeRequest {}).await;
        let answer = answer.map_err(|status| self.failed(status))?.into_inner();
        let description = Description {
            service: answer.service,
            contract_version: answer.contract_version,
            kinds: answer.kinds.into_iter().collect(),
        };
        description.fits(self.custodian, &self.required).map_err(|misfit| self.misfit(misfit))?;
        Ok(description)
    }

    /// Stops its writers.
    ///
    /// # Errors
    /// [`Error`] if it did not say that it has.
    pub async fn freeze(&self, call: &Call) -> Result<Frozen> {
        let request = proto::FreezeRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).freeze(request).await;
        let answer = answer.map_err(|status| self.failed(status))?.into_inner();
        Ok(Frozen { known: answer.known, digest: digest(&answer) })
    }

    /// Lets its writers go on.
    ///
    /// # Errors
    /// [`Error`] if it did not say that it has.
    pub async fn thaw(&self, call: &Call) -> Result<[u8; 32]> {
        let request = proto::ThawRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).thaw(request).await;
        Ok(digest(&answer.map_err(|status| self.failed(status))?.into_inner()))
    }

    /// Begins to list what it has outside Postgres; every kind must be one of those in `description`.
    ///
    /// # Errors
    /// [`Error`] if it does not begin.
    pub async fn inventory<'a>(&'a self, call: &Call, description: &'a Description) -> Result<Objects<'a>> {
        let request = proto::InventoryRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).inventory(request).await;
        let stream = answer.map_err(|status| self.failed(status))?.into_inner();
        Ok(Objects { remote: self, description, stream, digest: Sha256::new() })
    }

    /// Deletes, or goes on deleting.
    ///
    /// # Errors
    /// [`Error`] if it did not say what it did.
    pub async fn erase(&self, call: &Call) -> Result<(Erasure, [u8; 32])> {
        let request = proto::EraseRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).erase(request).await;
        let answer = answer.map_err(|status| self.failed(status))?.into_inner();
        let digest = digest(&answer);
        let items = answer.items.into_iter().map(|item| self.item(item)).collect::<Result<_>>()?;
        let rows = answer.deleted.iter().map(|kind| kind.count.max(0)).fold(0, i64::saturating_add);
        Ok((Erasure { rows, items, done: answer.done }, digest))
    }

    /// Reads back what is left of every kind in `description`.
    ///
    /// # Errors
    /// [`Error`] if it did not, or left a kind out.
    pub async fn verify(&self, call: &Call, description: &Description) -> Result<ReadBack> {
        let request = proto::VerifyRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).verify(request).await;
        let answer = answer.map_err(|status| self.failed(status))?.into_inner();
        let kinds = answer.residue.iter().map(|left| left.kind.as_str());
        description.covers(kinds).map_err(|misfit| self.misfit(misfit))?;
        let verified_at = answer.verified_at.and_then(|at| {
            let at = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)?;
            // What Postgres keeps; the receipt is hashed with this.
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

    /// Lets the subject's head go; its tombstone stays.
    ///
    /// # Errors
    /// [`Error`] if it did not say that it has.
    pub async fn commit(&self, call: &Call) -> Result<[u8; 32]> {
        let request = proto::CommitRequest { step: Some(step(call)) };
        let answer = self.client(Some(call)).commit(request).await;
        Ok(digest(&answer.map_err(|status| self.failed(status))?.into_inner()))
    }

    fn client(&self, call: Option<&Call>) -> CustodianServiceClient<Caller> {
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

    fn failed(&self, status: Status) -> Error {
        Error::Call { custodian: self.custodian, source: CallError::new(self.custodian.service(), status) }
    }

    const fn misfit(&self, source: Misfit) -> Error {
        Error::Misfit { custodian: self.custodian, source }
    }

    const fn malformed(&self, missing: &'static str) -> Error {
        Error::Malformed { custodian: self.custodian, missing }
    }
}

/// What an owner has outside Postgres, as it names it.
#[derive(Debug)]
pub struct Objects<'a> {
    remote: &'a Remote,
    description: &'a Description,
    stream: Streaming<proto::InventoryResponse>,
    digest: Sha256,
}

impl Objects<'_> {
    /// The next objects; none is the end.
    ///
    /// # Errors
    /// [`Error`] if the list broke off, or names a kind that was not declared: what came so far is no inventory.
    pub async fn next(&mut self) -> Result<Vec<ExternalObject>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let next = tokio::time::timeout(self.remote.patience, self.stream.message()).await;
            let next = next.unwrap_or_else(|_| Err(Status::deadline_exceeded("the stream fell silent")));
            let Some(response) = next.map_err(|status| self.remote.failed(status))? else { break };
            let encoded = response.encode_length_delimited_to_vec();
            self.digest.update(&encoded);
            let object = self.remote.object(response.object)?;
            let declared = self.description.declares([object.kind.as_str()]);
            declared.map_err(|misfit| self.remote.misfit(misfit))?;
            batch.push(object);
        }
        Ok(batch)
    }

    /// SHA-256 of everything that came.
    #[must_use]
    pub fn digest(self) -> [u8; 32] {
        self.digest.finalize().into()
    }
}

fn step(call: &Call) -> proto::Step {
    let kind = match call.subject.kind() {
        SubjectKind::Account => proto::SubjectKind::Account,
        SubjectKind::Session => proto::SubjectKind::Session,
    };
    proto::Step {
        purge_id: call.purge_id.to_string(),
        epoch: call.epoch,
        subject: Some(proto::Subject {
            kind: kind.into(),
            subject_id: call.subject.id().to_string(),
            account_id: call.subject.account().to_string(),
        }),
    }
}

fn digest(message: &impl Message) -> [u8; 32] {
    Sha256::digest(message.encode_to_vec()).into()
}
