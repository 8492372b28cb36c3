//! Accounts, which are the tenants of the plane.

use chrono::{DateTime, Utc};
use svc_core::{error::Invalid, id::AccountId};

/// Maximum characters of a name, as in the contract.
const MAX_NAME: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

/// Checks a name that an operator command gives. The command sends no request, so the field rules of the
/// contract do not check it; this function has the same rules.
///
/// # Errors
/// [`Invalid`] names the rule that `name` breaks.
pub(crate) fn check_name(name: &str) -> Result<(), Invalid> {
    let problem = if name.trim().is_empty() {
        "is required"
    } else if name.chars().count() > MAX_NAME {
        "must have at most 200 characters"
    } else if name.chars().any(char::is_control) {
        "must not contain control characters"
    } else {
        return Ok(());
    };
    Err(Invalid::new("name", problem))
}
