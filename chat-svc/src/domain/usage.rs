//! Tokens that model calls used.

use serde::{Deserialize, Serialize};
use svc_core::id::{AccountId, SessionId, TurnId};

use super::turn::Turn;

/// Tokens of one model call. `None` is unknown, which is not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt, cached tokens included.
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// Part of the input that was read from the provider's cache.
    pub cache_read_tokens: Option<u64>,
    /// Part of the input that was written to the provider's cache.
    pub cache_write_tokens: Option<u64>,
    /// Part of the output that is reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// One attempt at a model call, as the usage ledger records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub turn_id: TurnId,
    pub step: i32,
    /// Number of the attempt at its step, from 1.
    pub attempt: i32,
    pub account_id: AccountId,
    pub session_id: SessionId,
    /// The model's name in the route.
    pub model: String,
    /// `None` if the upstream did not report it.
    pub usage: Option<Usage>,
}

impl Attempt {
    pub(crate) fn of(turn: &Turn, step: i32, attempt: i32, model: String, usage: Option<Usage>) -> Self {
        let (turn_id, account_id, session_id) = (turn.id, turn.account_id, turn.session_id);
        Self { turn_id, step, attempt, account_id, session_id, model, usage }
    }
}
