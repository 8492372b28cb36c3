//! The usage ledger: one row an attempt at a model call, never changed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SessionId, TurnId},
};

use crate::domain::step::Usage;

/// One attempt at a model call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The turn.
    pub turn_id: TurnId,
    /// The step.
    pub step: i32,
    /// Which try at it, from 1.
    pub attempt: i32,
    /// The tenant.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// The model's name in the route.
    pub model: String,
    /// What it cost; `None` if nobody knows.
    pub usage: Option<Usage>,
}

/// Settles an attempt, once: a second settling changes nothing.
pub async fn settle(db: &mut PgConnection, attempt: &Attempt, now: DateTime<Utc>) -> Result<(), pg::Error> {
    let usage = attempt.usage.unwrap_or_default();
    let tokens = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
    sqlx::query!(
        "INSERT INTO usage_ledger (turn_id, step, attempt, account_id, session_id, model, input_tokens,
                                   output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, unknown, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (turn_id, step, attempt) DO NOTHING",
        attempt.turn_id as TurnId,
        attempt.step,
        attempt.attempt,
        attempt.account_id as AccountId,
        attempt.session_id as SessionId,
        attempt.model,
        tokens(usage.input_tokens),
        tokens(usage.output_tokens),
        tokens(usage.cache_read_tokens),
        tokens(usage.cache_write_tokens),
        tokens(usage.reasoning_tokens),
        attempt.usage.is_none(),
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}
