//! Identifies what a purge erases: the data of an account or of one session. [`CustodyState`] says whether
//! services may still write that data.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::id::{AccountId, SessionId};

/// Kind of a [`Subject`], in the order in which custody rows are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKind {
    /// A tenant with all it owns.
    Account,
    Session,
}

impl SubjectKind {
    pub const ALL: [Self; 2] = [Self::Account, Self::Session];

    /// Name in the database and in hashes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Session => "session",
        }
    }

    /// Returns the kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Data of one tenant that is erased as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Everything that an account owns, its sessions included.
    Account { account: AccountId },
    /// Data of one session.
    Session {
        /// The account that owns the session.
        account: AccountId,
        session: SessionId,
    },
}

impl Subject {
    /// Builds a subject from its database columns. For an account `id` is its id, and `account` is ignored.
    pub const fn new(kind: SubjectKind, id: Uuid, account: AccountId) -> Self {
        match kind {
            SubjectKind::Account => Self::Account { account: AccountId(id) },
            SubjectKind::Session => Self::Session { account, session: SessionId(id) },
        }
    }

    pub const fn kind(&self) -> SubjectKind {
        match self {
            Self::Account { .. } => SubjectKind::Account,
            Self::Session { .. } => SubjectKind::Session,
        }
    }

    /// Returns the id of the account or of the session itself.
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Account { account } => account.0,
            Self::Session { session, .. } => session.0,
        }
    }

    /// Returns the account that owns the subject, or is the subject.
    pub const fn account(&self) -> AccountId {
        match self {
            Self::Account { account } | Self::Session { account, .. } => *account,
        }
    }

    /// Returns the session's id; `None` if the subject is an account.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Account { .. } => None,
            Self::Session { session, .. } => Some(*session),
        }
    }

    /// Returns the hash that names the subject in ledgers that are kept after its erasure.
    pub fn hash(&self) -> SubjectHash {
        SubjectHash::of(self.kind().name(), self.id())
    }
}

/// SHA-256 of an object's kind and id. It names the object in ledgers that are kept after its erasure. An id
/// has 74 random bits, so a reader who does not know the id cannot find it by trying.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectHash(pub [u8; 32]);

impl SubjectHash {
    /// Hashes the `kind` ("session", "sandbox", "volume") and the id of an object.
    pub fn of(kind: &str, id: Uuid) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.as_bytes());
        hash.update([0]);
        hash.update(id.as_bytes());
        Self(hash.finalize().into())
    }

    /// Returns the 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectHash({self})")
    }
}

impl fmt::Display for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether a subject may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CustodyState {
    /// The subject may be written.
    Live,
    /// A purge has stopped the subject's writers; the purge may still be canceled.
    Frozen,
    /// A purge is deleting the subject's data.
    Erasing,
    /// The subject's data is deleted; no writer is ever admitted again.
    Erased,
}

impl CustodyState {
    pub const ALL: [Self; 4] = [Self::Live, Self::Frozen, Self::Erasing, Self::Erased];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_kind_and_id() {
        let id = crate::id::new_id();
        assert_ne!(SubjectHash::of("session", id), SubjectHash::of("account", id));
        assert_ne!(SubjectHash::of("session", id), SubjectHash::of("session", crate::id::new_id()));
        assert_eq!(SubjectHash([0x1a; 32]).to_string(), "1a".repeat(32));
    }

    #[test]
    fn a_subject_is_rebuilt_from_its_columns() {
        let account = AccountId::new();
        for subject in [Subject::Account { account }, Subject::Session { account, session: SessionId::new() }]
        {
            assert_eq!(Subject::new(subject.kind(), subject.id(), subject.account()), subject);
            assert_eq!(SubjectKind::from_name(subject.kind().name()), Some(subject.kind()));
        }
    }
}
