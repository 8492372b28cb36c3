//! Who is erased, and why: a session or an account, on somebody's demand or because its time has come.

pub use svc_core::subject::{Subject, SubjectHash, SubjectKind};

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
    fn bytes_are_written_as_hexadecimal() {
        assert_eq!(hex(&[0x00, 0x7f, 0xff, 0x1a]), "007fff1a");
    }

    #[test]
    fn names_and_priorities_tell_triggers_apart() {
        for (place, trigger) in Trigger::ALL.into_iter().enumerate() {
            assert_eq!(Trigger::from_name(trigger.name()), Some(trigger));
            assert_eq!(usize::try_from(trigger.priority()).unwrap(), place);
        }
    }
}
