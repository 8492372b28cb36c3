//! Lanes: the conversations with agents. Messages of a lane are delivered in order.

use svc_core::{
    data::lease::ItemLease,
    id::{AccountId, AgentId},
};

/// A lane that a worker has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub lease: ItemLease,
    pub account: AccountId,
    pub target: AgentId,
}

/// Limits of a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimLimits {
    /// Maximum lanes that this claim takes.
    pub lanes: i64,
    /// Maximum claimed lanes of one agent.
    pub per_agent: i64,
    /// Maximum claimed lanes of one account.
    pub per_account: i64,
}
