//! The usage ledger: one row per attempt at a model call, never changed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SessionId, TurnId},
};

use crate::domain::usage::Attempt;

/// Records an attempt; recording it again changes nothing.
pub(crate) async fn record(
    db: &mut PgConnection,
    attempt: &Attempt,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let usage = attempt.usage.unwrap_or_default();
    let tokens = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
    sqlx::query!(
        "INSERT INTO usage_ledger (
             turn_id, step, attempt, account_id, session_id, model, input_tokens, output_tokens,
             cache_read_tokens, cache_write_tokens, reasoning_tokens, unknown, at
         )
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
