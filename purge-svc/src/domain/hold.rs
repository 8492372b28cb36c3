//! Holds: which subjects must not be erased, on which basis, and until when.

use chrono::{DateTime, Utc};
use svc_core::{
    error::Invalid,
    subject::{Subject, SubjectHash, SubjectKind},
};
use uuid::Uuid;

/// Maximum letters of a case number.
const MAX_REFERENCE: usize = 64;

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

/// Number of a case: it points to where the case is kept, and is too short for its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

impl Reference {
    /// Parses a case number of 1 to 64 letters, digits and `. _ / -`.
    ///
    /// # Errors
    /// [`Invalid`] names `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let fits = (1..=MAX_REFERENCE).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(field, "must be 1 to 64 letters, digits and . _ / -"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
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

/// The hashes under which a hold on `subject` may stand: its account's first, because a hold on an account
/// covers the account's sessions. Transactions lock them in this order.
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
    fn a_reference_has_no_room_for_a_story() {
        assert_eq!(Reference::parse("reference", "2026/HC-17_a.1").unwrap().as_str(), "2026/HC-17_a.1");
        for bad in ["", "a b", "jane@example.org", "ä", &"x".repeat(65)] {
            assert_eq!(Reference::parse("reference", bad).unwrap_err().field, "reference", "{bad:?}");
        }
    }

    #[test]
    fn names_tell_bases_apart() {
        for basis in Basis::ALL {
            assert_eq!(Basis::from_name(basis.name()), Some(basis));
        }
    }
}
