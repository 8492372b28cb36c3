//! Accounts, which are the tenants of the plane.

use chrono::{DateTime, Utc};
use svc_core::id::AccountId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}
