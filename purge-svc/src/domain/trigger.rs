//! Triggers: why a subject is erased, and with which priority.

/// Why a subject is erased. The trigger decides the priority with which a due job is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// A verified request of the person the data is about; the law sets a time limit.
    SubjectRequest,
    /// The tenant asked for this subject to be erased.
    UserErasure,
    /// The tenant's account is being deleted.
    AccountDeletion,
    /// The grace period of a deleted session is over.
    GraceExpiry,
}

impl Trigger {
    /// Every trigger, most urgent first.
    pub const ALL: [Self; 4] =
        [Self::SubjectRequest, Self::UserErasure, Self::AccountDeletion, Self::GraceExpiry];

    /// Name in the database and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SubjectRequest => "subject_request",
            Self::UserErasure => "user_erasure",
            Self::AccountDeletion => "account_deletion",
            Self::GraceExpiry => "grace_expiry",
        }
    }

    /// Finds the trigger by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.name() == name)
    }

    /// Returns the priority; jobs with a lower number are claimed first.
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
    fn names_and_priorities_tell_triggers_apart() {
        for (place, trigger) in Trigger::ALL.into_iter().enumerate() {
            assert_eq!(Trigger::from_name(trigger.name()), Some(trigger));
            assert_eq!(usize::try_from(trigger.priority()).unwrap(), place);
        }
    }
}
