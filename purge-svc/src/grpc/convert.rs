//! Converts between the contract's types and the domain's: requests by `TryFrom`, and its error names the
//! field; responses by `From`, which cannot fail.

use steward_proto::purge::v1 as proto;
use svc_core::{
    error::Invalid,
    id::{SessionId, parse_id},
    subject::SubjectKind,
    wire::grpc::{parse_timestamp, timestamp},
};

use crate::{
    app::{holds::NewHold, jobs::PurgeView, ledger::Checked},
    domain::{
        dead_letter::DeadLetter,
        hold::{Basis, Hold},
        job::{Cause, JobFilter, Phase, State, StateLabel},
        receipt::{Receipt, hex},
    },
};

/// Cause shown for an accepted job that waits because its trigger is switched off.
const SWITCHED_OFF: &str = "SWITCHED_OFF";

impl TryFrom<proto::SetHoldRequest> for NewHold {
    type Error = Invalid;

    fn try_from(request: proto::SetHoldRequest) -> Result<Self, Invalid> {
        use proto::set_hold_request::Subject;
        let basis = match request.basis() {
            proto::HoldBasis::Unspecified => return Err(Invalid::new("basis", "is required")),
            proto::HoldBasis::LegalClaim => Basis::LegalClaim,
            proto::HoldBasis::TaxRecord => Basis::TaxRecord,
            proto::HoldBasis::FraudInvestigation => Basis::FraudInvestigation,
        };
        let (kind, subject_id) = match &request.subject {
            Some(Subject::SessionId(id)) => (SubjectKind::Session, parse_id("session_id", id)?),
            Some(Subject::AccountId(id)) => (SubjectKind::Account, parse_id("account_id", id)?),
            None => return Err(Invalid::new("session_id", "or account_id is required")),
        };
        Ok(Self {
            kind,
            subject_id,
            basis,
            reference: request.reference,
            ends_at: parse_timestamp("ends_at", request.ends_at)?,
        })
    }
}

impl TryFrom<&proto::ListPurgesRequest> for JobFilter {
    type Error = Invalid;

    fn try_from(request: &proto::ListPurgesRequest) -> Result<Self, Invalid> {
        let state = match request.status() {
            proto::PurgeState::Unspecified => None,
            proto::PurgeState::Pending => Some(StateLabel::Pending),
            proto::PurgeState::Frozen => Some(StateLabel::Frozen),
            proto::PurgeState::Inventoried => Some(StateLabel::Inventoried),
            proto::PurgeState::Erasing => Some(StateLabel::Erasing),
            proto::PurgeState::Erased => Some(StateLabel::Erased),
            proto::PurgeState::Verified => Some(StateLabel::Verified),
            proto::PurgeState::Blocked => Some(StateLabel::Blocked),
            proto::PurgeState::DeadLettered => Some(StateLabel::DeadLettered),
            proto::PurgeState::Committed => Some(StateLabel::Committed),
            proto::PurgeState::Thawed => Some(StateLabel::Thawed),
        };
        let session = match request.session_id.as_str() {
            "" => None,
            id => Some(SessionId::parse("session_id", id)?),
        };
        Ok(Self { state, session })
    }
}

impl From<StateLabel> for proto::PurgeState {
    fn from(state: StateLabel) -> Self {
        match state {
            StateLabel::Pending => Self::Pending,
            StateLabel::Frozen => Self::Frozen,
            StateLabel::Inventoried => Self::Inventoried,
            StateLabel::Erasing => Self::Erasing,
            StateLabel::Erased => Self::Erased,
            StateLabel::Verified => Self::Verified,
            StateLabel::Blocked => Self::Blocked,
            StateLabel::DeadLettered => Self::DeadLettered,
            StateLabel::Committed => Self::Committed,
            StateLabel::Thawed => Self::Thawed,
        }
    }
}

impl From<PurgeView> for proto::Purge {
    fn from(shown: PurgeView) -> Self {
        let PurgeView { job, receipt, enabled } = shown;
        let record = job.record;
        let open = record.state.workable().is_some();
        let cause = match record.cause {
            Some(cause) => Cause::name(cause),
            None if !enabled && !record.canceling && record.state == State::Working(Phase::Pending) => {
                SWITCHED_OFF
            }
            None => "",
        };
        let session = job.subject.and_then(|subject| match subject.kind() {
            SubjectKind::Session => Some(subject.id().to_string()),
            SubjectKind::Account => None,
        });
        Self {
            purge_id: job.purge_id.to_string(),
            session_id: session.unwrap_or_default(),
            state: proto::PurgeState::from(record.state.label()).into(),
            cause: cause.to_owned(),
            attempts: i32::try_from(record.attempts).unwrap_or(i32::MAX),
            created_at: Some(timestamp(job.created_at)),
            committed_at: record.committed_at.map(timestamp),
            receipt: receipt.map(Into::into),
            waits_for: job.waits_for.map(|custodian| custodian.service().to_owned()).unwrap_or_default(),
            canceling: record.canceling && open,
            next_attempt_at: (open && record.cause.is_some()).then(|| timestamp(record.next_attempt_at)),
        }
    }
}

impl From<Receipt> for proto::Receipt {
    fn from(receipt: Receipt) -> Self {
        let digests = receipt.body.custodians.into_iter().map(|custodian| proto::CustodianDigest {
            service: custodian.service,
            digest: hex(&custodian.digest),
            verified_at: Some(timestamp(custodian.verified_at)),
        });
        Self {
            seq: receipt.seq,
            subject_hash: receipt.body.subject_hash.to_string(),
            custodians: digests.collect(),
            hash: hex(&receipt.hash),
            previous_hash: hex(&receipt.previous_hash),
        }
    }
}

impl From<Basis> for proto::HoldBasis {
    fn from(basis: Basis) -> Self {
        match basis {
            Basis::LegalClaim => Self::LegalClaim,
            Basis::TaxRecord => Self::TaxRecord,
            Basis::FraudInvestigation => Self::FraudInvestigation,
        }
    }
}

impl From<Hold> for proto::Hold {
    fn from(hold: Hold) -> Self {
        Self {
            hold_id: hold.hold_id.to_string(),
            subject_hash: hold.subject_hash.to_string(),
            basis: proto::HoldBasis::from(hold.basis).into(),
            reference: hold.reference,
            set_at: Some(timestamp(hold.set_at)),
            ends_at: Some(timestamp(hold.ends_at)),
            released_at: hold.released_at.map(timestamp),
        }
    }
}

impl From<DeadLetter> for proto::DeadLetter {
    fn from(letter: DeadLetter) -> Self {
        Self {
            dead_letter_id: letter.dead_letter_id.to_string(),
            purge_id: letter.purge_id.to_string(),
            service: letter.custodian,
            kind: letter.kind,
            provider: letter.provider,
            object_id: letter.object_id.unwrap_or_default(),
            code: letter.code,
            created_at: Some(timestamp(letter.created_at)),
            resolved_at: letter.resolved_at.map(timestamp),
        }
    }
}

impl From<Checked> for proto::CheckLedgerResponse {
    fn from(checked: Checked) -> Self {
        Self {
            receipts: checked.head.seq,
            head_hash: hex(&checked.head.hash),
            problem: checked.broken.map(|broken| broken.to_string()).unwrap_or_default(),
        }
    }
}
