//! Who is erased, and why: a session or an account, on somebody's demand or because its time has come.

use std::fmt;

use sha2::{Digest, Sha256};
use svc_core::id::{AccountId, SessionId};
use uuid::Uuid;

/// What kind of subject it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKind {
    /// A tenant with all it owns.
    Account,
    /// One session.
    Session,
}

impl SubjectKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Account, Self::Session];

    /// Its name in the database and in hashes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Session => "session",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Somebody's data that is erased as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// What belongs to an account.
    Account {
        /// The account.
        account: AccountId,
    },
    /// What belongs to a session.
    Session {
        /// The account that owns it.
        account: AccountId,
        /// The session.
        session: SessionId,
    },
}

impl Subject {
    /// A subject from its parts; an account is its own owner.
    #[must_use]
    pub const fn new(kind: SubjectKind, id: Uuid, account: AccountId) -> Self {
        match kind {
            SubjectKind::Account => Self::Account { account: AccountId(id) },
            SubjectKind::Session => Self::Session { account, session: SessionId(id) },
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        match self {
            Self::Account { .. } => SubjectKind::Account,
            Self::Session { .. } => SubjectKind::Session,
        }
    }

    /// Its own id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Account { account } => account.0,
            Self::Session { session, .. } => session.0,
        }
    }

    /// The account that owns it, or that it is.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        match self {
            Self::Account { account } | Self::Session { account, .. } => *account,
        }
    }

    /// What is left of its id once it is gone.
    #[must_use]
    pub fn hash(&self) -> SubjectHash {
        SubjectHash::of(self.kind(), self.id())
    }
}

/// SHA-256 of a subject's kind and id: names it in ledgers to whoever knows the id, and to nobody else. An id
/// has 74 random bits, so a hash cannot be turned back by trying.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectHash(pub [u8; 32]);

impl SubjectHash {
    /// Hash of the subject of this kind and id; the same form as in every service's audit log.
    #[must_use]
    pub fn of(kind: SubjectKind, id: Uuid) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.name().as_bytes());
        hash.update([0]);
        hash.update(id.as_bytes());
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectHash({self})")
    }
}

impl fmt::Display for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// Why a job exists; decides who goes first when all cannot go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// A verified request of the person the data is about: the law's clock runs.
    SubjectRequest,
    /// The owner asked for this subject to be erased now.
    UserErasure,
    /// The owner's account is being deleted.
    AccountDeletion,
    /// A tombstone's grace ran out.
    GraceExpiry,
}

impl Trigger {
    /// Every trigger, most urgent first.
    pub const ALL: [Self; 4] =
        [Self::SubjectRequest, Self::UserErasure, Self::AccountDeletion, Self::GraceExpiry];

    /// Its name in the database and in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SubjectRequest => "subject_request",
            Self::UserErasure => "user_erasure",
            Self::AccountDeletion => "account_deletion",
            Self::GraceExpiry => "grace_expiry",
        }
    }

    /// The trigger of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.name() == name)
    }

    /// Its place in the queue; lower goes first.
    #[must_use]
    pub const fn priority(self) -> i16 {
        match self {
            Self::SubjectRequest => 0,
            Self::UserErasure => 1,
            Self::AccountDeletion => 2,
            Self::GraceExpiry => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_kind_and_id() {
        let id = svc_core::id::new_id();
        let session = SubjectHash::of(SubjectKind::Session, id);
        assert_eq!(session, SubjectHash::of(SubjectKind::Session, id));
        assert_ne!(session, SubjectHash::of(SubjectKind::Account, id));
        assert_ne!(session, SubjectHash::of(SubjectKind::Session, svc_core::id::new_id()));
    }

    #[test]
    fn a_subject_is_named_as_in_every_audit_log() {
        let session = SessionId::new();
        let subject = Subject::Session { account: AccountId::new(), session };
        assert_eq!(
            &subject.hash().0,
            svc_core::data::audit::SubjectHash::of("session", session.0).as_bytes()
        );
    }

    #[test]
    fn a_subject_comes_back_from_its_parts() {
        let account = AccountId::new();
        for subject in [Subject::Account { account }, Subject::Session { account, session: SessionId::new() }]
        {
            assert_eq!(Subject::new(subject.kind(), subject.id(), subject.account()), subject);
        }
    }

    #[test]
    fn bytes_are_written_as_hexadecimal() {
        assert_eq!(hex(&[0x00, 0x7f, 0xff, 0x1a]), "007fff1a");
    }

    #[test]
    fn names_and_priorities_tell_triggers_apart() {
        for (place, trigger) in Trigger::ALL.into_iter().enumerate() {
            assert_eq!(Trigger::from_name(trigger.name()), Some(trigger));
            assert_eq!(usize::try_from(trigger.priority()).unwrap(), place);
        }
        for kind in SubjectKind::ALL {
            assert_eq!(SubjectKind::from_name(kind.name()), Some(kind));
        }
    }
}
