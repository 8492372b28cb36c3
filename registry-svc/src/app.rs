//! Use cases. They make the ids and times, and own the transactions.

pub(crate) mod accounts;
pub(crate) mod agents;
pub(crate) mod custodian;
pub(crate) mod heartbeat;
pub(crate) mod register;
pub(crate) mod relay;
pub(crate) mod retention;
pub(crate) mod sweep;
pub(crate) mod tokens;

use svc_core::{
    id::AccountId,
    wire::principal::{Principal, PrincipalKind},
};

use crate::error::{Entity, Error, Result};

/// Returns the account that a request is about: an operator may name any account, another caller only its
/// own.
///
/// # Errors
/// [`Error::NotFound`] if it is another tenant's, so that the caller cannot learn whether it exists.
pub(crate) fn account_of(caller: &Principal, asked: AccountId) -> Result<AccountId> {
    let may = match caller.kind {
        PrincipalKind::Admin => true,
        PrincipalKind::Account | PrincipalKind::Agent | PrincipalKind::Service => {
            caller.account_id == Some(asked)
        }
    };
    if may { Ok(asked) } else { Err(Error::NotFound(Entity::Account)) }
}
