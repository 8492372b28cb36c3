//! The event journal's table. One statement writes a batch of many turns, and checks the epoch of each turn.

use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::TurnId,
};
use uuid::Uuid;

use crate::domain::{
    event::{StoredEvent, TurnEvent},
    turn::TurnStatus,
};

/// Events of many turns to be inserted, column by column.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Turns of the batch, each once.
    pub turns: Vec<Uuid>,
    pub epochs: Vec<i64>,
    /// The turn of each event.
    pub event_turns: Vec<Uuid>,
    pub seqs: Vec<i64>,
    pub kinds: Vec<&'static str>,
    pub payloads: Vec<Vec<u8>>,
}

impl Batch {
    /// Adds an event of a turn that is in [`Self::turns`].
    pub(crate) fn push(&mut self, turn_id: TurnId, seq: i64, kind: &'static str, payload: Vec<u8>) {
        self.event_turns.push(turn_id.0);
        self.seqs.push(seq);
        self.kinds.push(kind);
        self.payloads.push(payload);
    }
}

/// `$conflict` is the `ON CONFLICT` clause of the insert, or empty.
macro_rules! append {
    ($db:expr, $batch:expr, $conflict:literal) => {
        sqlx::query_scalar!(
            r#"WITH held AS (
                   SELECT t.id
                   FROM turns t
                   JOIN unnest($1::uuid[], $2::bigint[]) AS w (id, epoch) ON t.id = w.id AND t.epoch = w.epoch
                   WHERE t.status = 'running'
                   ORDER BY t.id
                   FOR SHARE OF t SKIP LOCKED
               ),
               written AS (
                   INSERT INTO turn_events (turn_id, seq, kind, payload)
                   SELECT e.turn_id, e.seq, e.kind, e.payload
                   FROM unnest($3::uuid[], $4::bigint[], $5::text[], $6::bytea[])
                       AS e (turn_id, seq, kind, payload)
                   JOIN held ON held.id = e.turn_id
                   "# + $conflict + r#"
               )
               SELECT id AS "id: TurnId" FROM held"#,
            &$batch.turns,
            &$batch.epochs,
            &$batch.event_turns,
            &$batch.seqs,
            &$batch.kinds as &[&str],
            &$batch.payloads,
        )
        .fetch_all($db)
        .await
    };
}

/// Writes the events of each turn that is running with the epoch in the batch and is not locked, and returns
/// these turns. For the other turns it writes nothing. It holds the lock on a turn's row until the statement
/// ends, so no worker can take the turn over in between.
pub(crate) async fn append(db: &mut PgConnection, batch: &Batch) -> Result<Vec<TurnId>, pg::Error> {
    Ok(append!(db, batch, "")?)
}

/// Like [`append()`], for a repetition after the answer of Postgres was lost, so that the first attempt may
/// be committed. Existing events are skipped: while the turn is running with this epoch, only this writer can
/// have stored them.
pub(crate) async fn append_again(db: &mut PgConnection, batch: &Batch) -> Result<Vec<TurnId>, pg::Error> {
    Ok(append!(db, batch, "ON CONFLICT (turn_id, seq) DO NOTHING")?)
}

/// Returns whether the turn's committed row is running with `epoch`. For a turn that [`append()`] did not
/// return, false means that it was claimed again or is final, and true that its row was locked.
pub(crate) async fn is_held(db: &mut PgConnection, turn_id: TurnId, epoch: i64) -> Result<bool, pg::Error> {
    let held = sqlx::query_scalar!(
        r#"SELECT epoch = $2 AND status = $3 AS "held!" FROM turns WHERE id = $1"#,
        turn_id as TurnId,
        epoch,
        TurnStatus::Running as TurnStatus,
    )
    .fetch_optional(db)
    .await?;
    Ok(held.unwrap_or(false))
}

/// Returns true until the turn's status is final; `None` if there is no such turn.
pub(crate) async fn is_open(db: &mut PgConnection, turn_id: TurnId) -> Result<Option<bool>, pg::Error> {
    let status = sqlx::query_scalar!("SELECT status FROM turns WHERE id = $1", turn_id as TurnId)
        .fetch_optional(db)
        .await?;
    Ok(status.map(|status| !status.is_final()))
}

/// Inserts events after `last_seq`, in a transaction that holds the turn's row. Returns them as stored.
pub(crate) async fn insert(
    db: &mut PgConnection,
    turn_id: TurnId,
    last_seq: i64,
    events: &[TurnEvent],
) -> Result<Vec<StoredEvent>, pg::Error> {
    let stored: Vec<StoredEvent> =
        (last_seq + 1..).zip(events).map(|(seq, event)| event.stored(seq)).collect();
    let seqs: Vec<i64> = stored.iter().map(|event| event.seq).collect();
    let kinds: Vec<&str> = events.iter().map(TurnEvent::kind).collect();
    let payloads: Vec<&[u8]> = stored.iter().map(|event| event.payload.as_ref()).collect();
    let result = sqlx::query!(
        "INSERT INTO turn_events (turn_id, seq, kind, payload)
         SELECT $1, e.seq, e.kind, e.payload
         FROM unnest($2::bigint[], $3::text[], $4::bytea[]) AS e (seq, kind, payload)",
        turn_id as TurnId,
        &seqs,
        &kinds as &[&str],
        &payloads as &[&[u8]],
    )
    .execute(db)
    .await?;
    ensure_affected(&result, stored.len().try_into().unwrap_or(u64::MAX))?;
    Ok(stored)
}

/// Sequence number of the newest event; 0 before the first.
pub async fn last_seq(db: &mut PgConnection, turn_id: TurnId) -> Result<i64, pg::Error> {
    let last = sqlx::query_scalar!(
        r#"SELECT coalesce(max(seq), 0) AS "last!" FROM turn_events WHERE turn_id = $1"#,
        turn_id as TurnId
    )
    .fetch_one(db)
    .await?;
    Ok(last)
}

/// Lists at most `limit` of a turn's events after `after`, in order.
pub async fn list_after(
    db: &mut PgConnection,
    turn_id: TurnId,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, pg::Error> {
    let events = sqlx::query_as!(
        StoredEvent,
        "SELECT seq, kind, payload FROM turn_events WHERE turn_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        turn_id as TurnId,
        after,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(events)
}

/// Lists a turn's events since its last `step.started`, for [`crate::domain::event::OpenStep`].
pub(crate) async fn list_last_step(
    db: &mut PgConnection,
    turn_id: TurnId,
) -> Result<Vec<StoredEvent>, pg::Error> {
    let events = sqlx::query_as!(
        StoredEvent,
        "SELECT seq, kind, payload
         FROM turn_events
         WHERE turn_id = $1
           AND seq >= (
               SELECT seq
               FROM turn_events
               WHERE turn_id = $1 AND kind = 'step.started'
               ORDER BY seq DESC
               LIMIT 1
           )
         ORDER BY seq",
        turn_id as TurnId,
    )
    .fetch_all(db)
    .await?;
    Ok(events)
}
