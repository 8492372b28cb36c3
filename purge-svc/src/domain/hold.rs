//! Holds: each names a subject that must not be erased, the legal basis, and an end.

use chrono::{DateTime, Utc};
use svc_core::subject::{Subject, SubjectHash, SubjectKind};
use uuid::Uuid;

/// Legal basis for keeping a subject's data although its erasure is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Basis {
    /// A legal claim is pursued or defended.
    LegalClaim,
    /// A law requires the record.
    TaxRecord,
    /// A fraud investigation is open.
    FraudInvestigation,
}

impl Basis {
    pub const ALL: [Self; 3] = [Self::LegalClaim, Self::TaxRecord, Self::FraudInvestigation];

    /// Name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LegalClaim => "legal_claim",
            Self::TaxRecord => "tax_record",
            Self::FraudInvestigation => "fraud_investigation",
        }
    }

    /// Finds the basis by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.name() == name)
    }
}

/// A hold on a subject. It names the subject by hash, so that it may outlive the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub hold_id: Uuid,
    pub kind: SubjectKind,
    pub subject_hash: SubjectHash,
    pub basis: Basis,
    /// Number of the case.
    pub reference: String,
    /// Id of the operator's token.
    pub set_by: String,
    pub set_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    /// Time of an early release.
    pub released_at: Option<DateTime<Utc>>,
}

/// Returns the hashes of the subjects on which a hold stops the erasure of `subject`. For a session they are
/// its account and then the session itself, because a hold on an account covers its sessions. Transactions
/// lock them in this order.
pub fn covering(subject: &Subject) -> Vec<SubjectHash> {
    let account = SubjectHash::of(SubjectKind::Account.name(), subject.account().0);
    match subject.kind() {
        SubjectKind::Account => vec![account],
        SubjectKind::Session => vec![account, subject.hash()],
    }
}

#[cfg(test)]
mod tests {
    use svc_core::id::{AccountId, SessionId};

    use super::*;

    #[test]
    fn a_hold_on_an_account_covers_its_sessions() {
        let account = AccountId::new();
        let session = Subject::Session { account, session: SessionId::new() };
        let whole = Subject::Account { account };
        assert_eq!(covering(&session), [whole.hash(), session.hash()]);
        assert_eq!(covering(&whole), [whole.hash()]);
    }

    #[test]
    fn names_tell_bases_apart() {
        for basis in Basis::ALL {
            assert_eq!(Basis::from_name(basis.name()), Some(basis));
        }
    }
}
