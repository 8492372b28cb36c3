//! Who must take part in an erasure, in which order, and what they must have declared before it starts.

use std::{collections::BTreeSet, fmt};

use super::subject::SubjectKind;

/// The version of the custody contract that this service speaks.
pub const CONTRACT_VERSION: i32 = 1;

/// An owner of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Custodian {
    /// Sessions and their turns.
    Chat,
    /// Accounts, agents, messages.
    Registry,
    /// Containers and volumes.
    Sandbox,
}

impl Custodian {
    /// Every owner, in the order of their names. An erasure has taken place when *each* of them has read back
    /// zero: there is no job with fewer.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Registry, Self::Sandbox];

    /// Its service.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Chat => "chat-svc",
            Self::Registry => "registry-svc",
            Self::Sandbox => "sandbox-svc",
        }
    }

    /// The owner of that name.
    #[must_use]
    pub fn from_service(service: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|custodian| custodian.service() == service)
    }

    /// The order in which owners commit: whoever holds the subject's head goes last. While the head is there,
    /// somebody who lost track of the job still finds what it was about.
    #[must_use]
    pub const fn commit_order(kind: SubjectKind) -> [Self; 3] {
        match kind {
            SubjectKind::Session => [Self::Sandbox, Self::Registry, Self::Chat],
            SubjectKind::Account => [Self::Sandbox, Self::Chat, Self::Registry],
        }
    }
}

impl fmt::Display for Custodian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service())
    }
}

/// What an owner says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its service.
    pub service: String,
    /// The version of the contract that it speaks.
    pub contract_version: i32,
    /// The kinds of resource that it holds.
    pub kinds: BTreeSet<String>,
}

/// Why an owner cannot take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Somebody else answers under its address.
    #[error("{found:?} answers in place of {expected}")]
    OtherService {
        /// Who should.
        expected: Custodian,
        /// Who does.
        found: String,
    },
    /// It speaks another version of the contract.
    #[error("it speaks version {0} of the contract instead of {CONTRACT_VERSION}")]
    OtherVersion(i32),
    /// It says that it holds nothing, or does not hold what it must.
    #[error("it does not declare {0:?}")]
    KindMissing(BTreeSet<String>),
    /// It spoke of a kind that it did not declare.
    #[error("it did not declare {0:?}")]
    KindUndeclared(BTreeSet<String>),
}

impl Description {
    /// Whether this is `custodian`, in our version of the contract, holding at least the `required` kinds.
    ///
    /// # Errors
    /// [`Misfit`] says why not.
    pub fn fits(&self, custodian: Custodian, required: &BTreeSet<String>) -> Result<(), Misfit> {
        if self.service != custodian.service() {
            return Err(Misfit::OtherService { expected: custodian, found: self.service.clone() });
        }
        if self.contract_version != CONTRACT_VERSION {
            return Err(Misfit::OtherVersion(self.contract_version));
        }
        let missing: BTreeSet<_> = required.difference(&self.kinds).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Misfit::KindMissing(missing)) }
    }

    /// Whether every one of `kinds` was declared.
    ///
    /// # Errors
    /// [`Misfit::KindUndeclared`] names those that were not.
    pub fn declares<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> Result<(), Misfit> {
        let undeclared: BTreeSet<_> =
            kinds.into_iter().filter(|kind| !self.kinds.contains(*kind)).map(str::to_owned).collect();
        if undeclared.is_empty() { Ok(()) } else { Err(Misfit::KindUndeclared(undeclared)) }
    }

    /// Whether `kinds` are exactly those declared: a read-back that leaves one out proves nothing about it.
    ///
    /// # Errors
    /// [`Misfit`] names those that are missing or too many.
    pub fn covers<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> Result<(), Misfit> {
        let read: BTreeSet<String> = kinds.into_iter().map(str::to_owned).collect();
        self.declares(read.iter().map(String::as_str))?;
        let missing: BTreeSet<_> = self.kinds.difference(&read).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Misfit::KindMissing(missing)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn chat() -> Description {
        Description {
            service: "chat-svc".to_owned(),
            contract_version: CONTRACT_VERSION,
            kinds: kinds(&["chat.messages", "chat.turns"]),
        }
    }

    #[test]
    fn an_owner_fits_if_it_is_itself_and_holds_what_it_must() {
        assert_eq!(chat().fits(Custodian::Chat, &kinds(&["chat.turns"])), Ok(()));
        assert_eq!(chat().fits(Custodian::Chat, &kinds(&[])), Ok(()));
        assert_eq!(
            chat().fits(Custodian::Sandbox, &kinds(&[])),
            Err(Misfit::OtherService { expected: Custodian::Sandbox, found: "chat-svc".to_owned() })
        );
        assert_eq!(
            chat().fits(Custodian::Chat, &kinds(&["chat.blobs", "chat.turns"])),
            Err(Misfit::KindMissing(kinds(&["chat.blobs"])))
        );
        let newer = Description { contract_version: CONTRACT_VERSION + 1, ..chat() };
        assert_eq!(newer.fits(Custodian::Chat, &kinds(&[])), Err(Misfit::OtherVersion(CONTRACT_VERSION + 1)));
    }

    #[test]
    fn a_kind_that_was_not_declared_is_named() {
        assert_eq!(chat().declares(["chat.turns"]), Ok(()));
        assert_eq!(
            chat().declares(["docker.volume"]),
            Err(Misfit::KindUndeclared(kinds(&["docker.volume"])))
        );
    }

    #[test]
    fn a_read_back_must_speak_of_every_kind_and_of_no_other() {
        assert_eq!(chat().covers(["chat.turns", "chat.messages"]), Ok(()));
        assert_eq!(chat().covers(["chat.turns"]), Err(Misfit::KindMissing(kinds(&["chat.messages"]))));
        assert_eq!(
            chat().covers(["chat.turns", "chat.messages", "x"]),
            Err(Misfit::KindUndeclared(kinds(&["x"])))
        );
    }

    #[test]
    fn who_holds_the_head_commits_last() {
        assert_eq!(Custodian::commit_order(SubjectKind::Session).last(), Some(&Custodian::Chat));
        assert_eq!(Custodian::commit_order(SubjectKind::Account).last(), Some(&Custodian::Registry));
        for kind in SubjectKind::ALL {
            let everybody: BTreeSet<_> = Custodian::commit_order(kind).into_iter().collect();
            assert_eq!(everybody, Custodian::ALL.into_iter().collect());
        }
    }

    #[test]
    fn owners_are_found_by_their_names_and_stand_in_that_order() {
        for custodian in Custodian::ALL {
            assert_eq!(Custodian::from_service(custodian.service()), Some(custodian));
        }
        assert!(Custodian::ALL.map(Custodian::service).is_sorted());
    }
}
