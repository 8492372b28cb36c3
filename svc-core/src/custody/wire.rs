//! Conversions of the messages of `steward.custody.v1` that every service makes in the same way.

use steward_proto::custody::v1 as proto;
use tonic::{Request, Status};

use super::{Step, StepKind};
use crate::{
    error::{Invalid, to_status},
    id::{AccountId, PurgeId, SessionId, parse_id},
    subject::Subject,
    wire::{
        auth,
        principal::{self, PrincipalKind},
    },
};

/// The only service that may call a custodian.
const CALLER: &str = "purge-svc";

/// Returns the message of a request if purge-svc sent it.
///
/// # Errors
/// `PERMISSION_DENIED` for every other caller.
pub fn from_purge<T>(request: Request<T>) -> Result<T, Status> {
    let caller = principal::of(&request)?;
    if caller.kind == PrincipalKind::Service && caller.subject_id == CALLER {
        return Ok(request.into_inner());
    }
    Err(to_status(&auth::Error::Denied(caller.subject_id.clone())))
}

/// Converts the step of a request into a [`Step`] of this kind.
///
/// # Errors
/// [`Invalid`] names the field that is missing or wrong.
pub fn step(step: Option<proto::Step>, kind: StepKind) -> Result<Step, Invalid> {
    let step = step.ok_or_else(|| Invalid::new("step", "is required"))?;
    let purge_id = PurgeId::parse("step.purge_id", &step.purge_id)?;
    Ok(Step { purge_id, epoch: step.epoch, subject: subject(step.subject)?, kind })
}

fn subject(subject: Option<proto::Subject>) -> Result<Subject, Invalid> {
    let subject = subject.ok_or_else(|| Invalid::new("step.subject", "is required"))?;
    let account = AccountId::parse("step.subject.account_id", &subject.account_id)?;
    let id = parse_id("step.subject.subject_id", &subject.subject_id)?;
    match subject.kind() {
        proto::SubjectKind::Session => Ok(Subject::Session { account, session: SessionId(id) }),
        proto::SubjectKind::Account if id == account.0 => Ok(Subject::Account { account }),
        proto::SubjectKind::Account => {
            Err(Invalid::new("step.subject.account_id", "must be the account itself"))
        }
        proto::SubjectKind::Unspecified => Err(Invalid::new("step.subject.kind", "is required")),
    }
}

impl From<Subject> for proto::Subject {
    fn from(subject: Subject) -> Self {
        let kind = match subject {
            Subject::Account { .. } => proto::SubjectKind::Account,
            Subject::Session { .. } => proto::SubjectKind::Session,
        };
        Self {
            kind: kind.into(),
            subject_id: subject.id().to_string(),
            account_id: subject.account().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::principal::Principal;

    fn asked(subject: Subject) -> proto::Step {
        proto::Step { purge_id: PurgeId::new().to_string(), epoch: 3, subject: Some(subject.into()) }
    }

    #[test]
    fn a_subject_comes_back_from_the_wire() {
        let account = AccountId::new();
        for subject in [Subject::Account { account }, Subject::Session { account, session: SessionId::new() }]
        {
            let read = step(Some(asked(subject)), StepKind::Erase).unwrap();
            assert_eq!((read.subject, read.epoch, read.kind), (subject, 3, StepKind::Erase));
        }
    }

    #[test]
    fn what_is_wrong_with_a_step_is_named() {
        let account = AccountId::new();
        let good = asked(Subject::Account { account });
        let with = |change: &dyn Fn(&mut proto::Subject)| {
            let mut bad = good.clone();
            bad.subject.as_mut().into_iter().for_each(change);
            bad
        };
        for (bad, field) in [
            (None, "step"),
            (Some(proto::Step { purge_id: "7".into(), ..good.clone() }), "step.purge_id"),
            (Some(proto::Step { subject: None, ..good.clone() }), "step.subject"),
            (Some(with(&|subject| subject.kind = 0)), "step.subject.kind"),
            (Some(with(&|subject| subject.subject_id.clear())), "step.subject.subject_id"),
            (
                Some(with(&|subject| subject.account_id = AccountId::new().to_string())),
                "step.subject.account_id",
            ),
        ] {
            assert_eq!(step(bad, StepKind::Freeze).unwrap_err().field, field);
        }
    }

    #[test]
    fn only_the_purge_service_is_heard() {
        let principal = |kind, name: &str| Principal {
            kind,
            subject_id: name.to_owned(),
            account_id: None,
            scopes: vec![],
            token_id: None,
        };
        for (caller, heard) in [
            (Some(principal(PrincipalKind::Service, "purge-svc")), true),
            (Some(principal(PrincipalKind::Service, "chat-svc")), false),
            // A tenant with the name of the service.
            (Some(principal(PrincipalKind::Account, "purge-svc")), false),
            (None, false),
        ] {
            let mut request = Request::new(());
            if let Some(caller) = caller.clone() {
                request.extensions_mut().insert(caller);
            }
            assert_eq!(from_purge(request).is_ok(), heard, "{caller:?}");
        }
    }
}
