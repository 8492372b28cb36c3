//! The custodians, which are the services that hold data of accounts and sessions: their order in Commit, and
//! the kinds of data that each must declare.

use std::{collections::BTreeSet, fmt};

use svc_core::subject::SubjectKind;

/// Version of the custody contract that purge-svc speaks.
pub const CONTRACT_VERSION: i32 = 1;

/// A service that holds data of subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Custodian {
    /// Sessions and their turns.
    Chat,
    /// Accounts, agents and relayed messages.
    Registry,
    /// Containers, volumes and their calls.
    Sandbox,
}

impl Custodian {
    /// Every custodian, in the order of their names. Every job calls all of them: a subject counts as erased
    /// when *each* has read back zero.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Registry, Self::Sandbox];

    pub const fn service(self) -> &'static str {
        match self {
            Self::Chat => "chat-svc",
            Self::Registry => "registry-svc",
            Self::Sandbox => "sandbox-svc",
        }
    }

    /// Finds the custodian by its service's name.
    pub fn from_service(service: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|custodian| custodian.service() == service)
    }

    /// Returns the order in which the custodians commit. The service that owns the subject (chat-svc a
    /// session, registry-svc an account) is last, so that until then an operator can still find the subject
    /// of the job.
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the answering service.
    pub service: String,
    /// Version of the contract that it speaks.
    pub contract_version: i32,
    /// Kinds of data that it holds.
    pub kinds: BTreeSet<String>,
}

/// Reason for which a custodian cannot take part in a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractMismatch {
    /// Another service answers at the custodian's address.
    #[error("{found:?} answers in place of {expected}")]
    OtherService { expected: Custodian, found: String },
    /// The custodian speaks another version of the contract.
    #[error("speaks version {0} of the contract instead of {CONTRACT_VERSION}")]
    OtherVersion(i32),
    /// The custodian does not declare a required kind.
    #[error("does not declare {0:?}")]
    KindMissing(BTreeSet<String>),
    /// The custodian named a kind that it had not declared.
    #[error("named the undeclared {0:?}")]
    KindUndeclared(BTreeSet<String>),
}

impl Description {
    /// Checks that this is `custodian`, that it speaks this version of the contract and that it declares the
    /// `required` kinds.
    ///
    /// # Errors
    /// [`ContractMismatch`] names the difference.
    pub fn fits(&self, custodian: Custodian, required: &BTreeSet<String>) -> Result<(), ContractMismatch> {
        if self.service != custodian.service() {
            return Err(ContractMismatch::OtherService { expected: custodian, found: self.service.clone() });
        }
        if self.contract_version != CONTRACT_VERSION {
            return Err(ContractMismatch::OtherVersion(self.contract_version));
        }
        let missing: BTreeSet<_> = required.difference(&self.kinds).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(ContractMismatch::KindMissing(missing)) }
    }

    /// Checks that the custodian declared every one of `kinds`.
    ///
    /// # Errors
    /// [`ContractMismatch::KindUndeclared`] names those that it did not declare.
    pub fn declares<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> Result<(), ContractMismatch> {
        let undeclared: BTreeSet<_> =
            kinds.into_iter().filter(|kind| !self.kinds.contains(*kind)).map(str::to_owned).collect();
        if undeclared.is_empty() { Ok(()) } else { Err(ContractMismatch::KindUndeclared(undeclared)) }
    }

    /// Checks that `kinds` are exactly the declared ones: a read-back that leaves a kind out proves nothing
    /// about that kind.
    ///
    /// # Errors
    /// [`ContractMismatch`] names the missing or undeclared kinds.
    pub fn covers<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> Result<(), ContractMismatch> {
        let read: BTreeSet<String> = kinds.into_iter().map(str::to_owned).collect();
        self.declares(read.iter().map(String::as_str))?;
        let missing: BTreeSet<_> = self.kinds.difference(&read).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(ContractMismatch::KindMissing(missing)) }
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
    fn a_custodian_fits_if_it_declares_the_required_kinds() {
        assert_eq!(chat().fits(Custodian::Chat, &kinds(&["chat.turns"])), Ok(()));
        assert_eq!(chat().fits(Custodian::Chat, &kinds(&[])), Ok(()));
        assert_eq!(
            chat().fits(Custodian::Sandbox, &kinds(&[])),
            Err(ContractMismatch::OtherService {
                expected: Custodian::Sandbox,
                found: "chat-svc".to_owned()
            })
        );
        assert_eq!(
            chat().fits(Custodian::Chat, &kinds(&["chat.blobs", "chat.turns"])),
            Err(ContractMismatch::KindMissing(kinds(&["chat.blobs"])))
        );
        let newer = Description { contract_version: CONTRACT_VERSION + 1, ..chat() };
        assert_eq!(
            newer.fits(Custodian::Chat, &kinds(&[])),
            Err(ContractMismatch::OtherVersion(CONTRACT_VERSION + 1))
        );
    }

    #[test]
    fn a_kind_that_was_not_declared_is_named() {
        assert_eq!(chat().declares(["chat.turns"]), Ok(()));
        assert_eq!(
            chat().declares(["docker.volume"]),
            Err(ContractMismatch::KindUndeclared(kinds(&["docker.volume"])))
        );
    }

    #[test]
    fn a_read_back_must_speak_of_every_kind_and_of_no_other() {
        assert_eq!(chat().covers(["chat.turns", "chat.messages"]), Ok(()));
        assert_eq!(
            chat().covers(["chat.turns"]),
            Err(ContractMismatch::KindMissing(kinds(&["chat.messages"])))
        );
        assert_eq!(
            chat().covers(["chat.turns", "chat.messages", "x"]),
            Err(ContractMismatch::KindUndeclared(kinds(&["x"])))
        );
    }

    #[test]
    fn the_custodian_of_the_head_commits_last() {
        assert_eq!(Custodian::commit_order(SubjectKind::Session).last(), Some(&Custodian::Chat));
        assert_eq!(Custodian::commit_order(SubjectKind::Account).last(), Some(&Custodian::Registry));
        for kind in SubjectKind::ALL {
            let all: BTreeSet<_> = Custodian::commit_order(kind).into_iter().collect();
            assert_eq!(all, Custodian::ALL.into_iter().collect());
        }
    }

    #[test]
    fn custodians_are_found_by_name_and_sorted_by_it() {
        for custodian in Custodian::ALL {
            assert_eq!(Custodian::from_service(custodian.service()), Some(custodian));
        }
        assert!(Custodian::ALL.map(Custodian::service).is_sorted());
    }
}
