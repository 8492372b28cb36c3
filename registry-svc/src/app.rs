//! Use cases: they decide, make every id and time, and own the transaction.

pub mod accounts;
pub mod agents;
pub mod custodian;
pub mod heartbeat;
pub mod register;
pub mod relay;
pub mod sweep;
pub mod tokens;

use svc_core::{
    id::AccountId,
    wire::principal::{Principal, PrincipalKind},
};

use crate::error::{Entity, Error, Result};

/// The account a request is about: any for an operator, only its own for everybody else.
///
/// # Errors
/// [`Error::NotFound`] if it is another tenant's: existence is not told.
pub fn account_of(caller: &Principal, asked: AccountId) -> Result<AccountId> {
    let may = match caller.kind {
        PrincipalKind::Admin => true,
        PrincipalKind::Account | PrincipalKind::Agent | PrincipalKind::Service => {
            caller.account_id == Some(asked)
        }
    };
    if may { Ok(asked) } else { Err(Error::NotFound(Entity::Account)) }
}
