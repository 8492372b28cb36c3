//! Rows of sandboxes. Only [`update`] writes what [`next`](crate::domain::transition::next) returns. The
//! queries of workers are in [`queue`](super::queue), the queries of the warm pool in [`pool`](super::pool).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{Result, ensure_affected},
    id::{AccountId, SandboxId, SessionId},
};
use uuid::Uuid;

use crate::domain::{
    VolumeId,
    pool::{PoolState, Slot},
    sandbox::{Cause, Container, Filter, Owner, Sandbox, State},
    shape::{Network, Shape},
};

svc_core::item_lease! {
    /// Leases of the workers that create and remove sandboxes.
    pub struct SandboxLeases: "sandboxes", "id"
}

/// Name of the unique index that allows a session one live sandbox.
pub const ONE_LIVE_A_SESSION: &str = "sandboxes_one_live_a_session";
/// Name of the unique index that allows a volume one container.
pub const ONE_CONTAINER_A_VOLUME: &str = "sandboxes_one_container_a_volume";

/// Returns sandboxes by id, newest first; only those of `account`, if it is given.
pub async fn read(db: &mut PgConnection, account: Option<AccountId>, ids: &[Uuid]) -> Result<Vec<Sandbox>> {
    let rows = sqlx::query!(
        r#"SELECT id, account_id, session_id, engine_id, state AS "state: State", generation, epoch, warm,
                pool_slot, pool_state AS "pool_state: PoolState", retire_at, image, runtime, cpu_millis,
                memory_bytes, network AS "network: Network", volume_id, container_generation,
                container_run_dir, container_image, container_id, guest_instance, fence_until,
                cause AS "cause: Cause", created_at, running_at, last_active_at, deadline_at, ended_at
         FROM sandboxes
         WHERE id = ANY($1) AND ($2::uuid IS NULL OR account_id = $2)
         ORDER BY id DESC"#,
        ids,
        account.map(|account| account.0),
    )
    .fetch_all(db)
    .await?;
    let sandboxes = rows.into_iter().map(|row| {
        // The table's checks guarantee that the columns zipped here into one value are all set or all NULL.
        let owner = row.account_id.zip(row.session_id);
        let slot = row.pool_slot.zip(row.pool_state);
        let container =
            row.container_generation.zip(row.container_run_dir).zip(row.container_image.zip(row.fence_until));
        Sandbox {
            id: SandboxId(row.id),
            owner: owner
                .map(|(account, session)| Owner { account: AccountId(account), session: SessionId(session) }),
            engine: row.engine_id,
            state: row.state,
            generation: row.generation,
            epoch: row.epoch,
            warm: row.warm,
            slot: slot.map(|(number, state)| Slot { number, state }),
            retire_at: row.retire_at,
            shape: Shape {
                image: row.image,
                runtime: row.runtime,
                cpu_millis: row.cpu_millis,
                memory_bytes: row.memory_bytes,
                network: row.network,
            },
            volume: VolumeId(row.volume_id),
            container: container.map(|((generation, run_dir), (image, fence_until))| Container {
                generation,
                run_dir,
                image,
                id: row.container_id,
                instance: row.guest_instance,
                fence_until,
            }),
            cause: row.cause,
            created_at: row.created_at,
            running_at: row.running_at,
            last_active_at: row.last_active_at,
            deadline_at: row.deadline_at,
            ended_at: row.ended_at,
        }
    });
    Ok(sandboxes.collect())
}

/// Returns one sandbox; only one of `account`, if it is given.
pub async fn find(
    db: &mut PgConnection,
    account: Option<AccountId>,
    id: SandboxId,
) -> Result<Option<Sandbox>> {
    Ok(read(db, account, &[id.0]).await?.pop())
}

/// Returns one sandbox, and locks its row until the transaction ends.
pub async fn lock(
    db: &mut PgConnection,
    account: Option<AccountId>,
    id: SandboxId,
) -> Result<Option<Sandbox>> {
    sqlx::query!("SELECT id FROM sandboxes WHERE id = $1 FOR NO KEY UPDATE", id.0)
        .fetch_optional(&mut *db)
        .await?;
    find(db, account, id).await
}

/// Returns the session's sandbox that is requested, creating or running, of any account.
pub async fn find_live(db: &mut PgConnection, session: SessionId) -> Result<Option<Sandbox>> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM sandboxes WHERE session_id = $1 AND state IN ('requested', 'creating', 'running')",
        session.0,
    )
    .fetch_optional(&mut *db)
    .await?;
    match id {
        Some(id) => find(db, None, SandboxId(id)).await,
        None => Ok(None),
    }
}

/// Returns the page of an account's sandboxes that follows `after`, newest first, limited to those that
/// `filter` accepts.
pub async fn list(
    db: &mut PgConnection,
    account: AccountId,
    filter: Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Sandbox>> {
    let ids = sqlx::query_scalar!(
        "SELECT id
         FROM sandboxes
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND ($3::uuid IS NULL OR id < $3)
           AND ($4::sandbox_state IS NULL OR state = $4)
         ORDER BY id DESC
         LIMIT $5",
        account.0,
        filter.session.map(|session| session.0),
        after,
        filter.state as Option<State>,
        limit,
    )
    .fetch_all(&mut *db)
    .await?;
    read(db, Some(account), &ids).await
}

/// Returns every sandbox of an engine in one of `states`.
pub async fn in_states(db: &mut PgConnection, engine: &str, states: &[State]) -> Result<Vec<Sandbox>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM sandboxes WHERE engine_id = $1 AND state = ANY($2::sandbox_state[])",
        engine,
        states as &[State],
    )
    .fetch_all(&mut *db)
    .await?;
    read(db, None, &ids).await
}

/// Lists sandboxes past their deadline, without those that are being deleted.
pub async fn due(db: &mut PgConnection, now: DateTime<Utc>, limit: i64) -> Result<Vec<SandboxId>> {
    let ids = sqlx::query_scalar!(
        "SELECT id
         FROM sandboxes
         WHERE state IN ('requested', 'creating', 'running') AND deadline_at <= $1
         ORDER BY deadline_at
         LIMIT $2",
        now,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SandboxId).collect())
}

/// Writes a new sandbox, with the trace context of the request that waits for it.
///
/// # Errors
/// `pg::Error::Conflict` on [`ONE_LIVE_A_SESSION`] if the session has one.
pub async fn insert(db: &mut PgConnection, sandbox: &Sandbox, traceparent: Option<&str>) -> Result<()> {
    let container = sandbox.container.as_ref();
    sqlx::query!(
        "INSERT INTO sandboxes (
             id, account_id, session_id, engine_id, state, generation, epoch, warm, pool_slot, pool_state,
             retire_at, image, runtime, cpu_millis, memory_bytes, network, volume_id, container_generation,
             container_run_dir, container_image, container_id, fence_until, cause, created_at, running_at,
             last_active_at, deadline_at, traceparent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                 $21, $22, $23, $24, $25, $26, $27, $28)",
        sandbox.id.0,
        sandbox.owner.map(|owner| owner.account.0),
        sandbox.owner.map(|owner| owner.session.0),
        sandbox.engine,
        sandbox.state as State,
        sandbox.generation,
        sandbox.epoch,
        sandbox.warm,
        sandbox.slot.map(|slot| slot.number),
        sandbox.slot.map(|slot| slot.state) as Option<PoolState>,
        sandbox.retire_at,
        sandbox.shape.image,
        sandbox.shape.runtime,
        sandbox.shape.cpu_millis,
        sandbox.shape.memory_bytes,
        sandbox.shape.network as Network,
        sandbox.volume.0,
        container.map(|container| container.generation),
        container.map(|container| container.run_dir.as_str()),
        container.map(|container| container.image.as_str()),
        container.and_then(|container| container.id.as_deref()),
        container.map(|container| container.fence_until),
        sandbox.cause as Option<Cause>,
        sandbox.created_at,
        sandbox.running_at,
        sandbox.last_active_at,
        sandbox.deadline_at,
        traceparent,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the trace context of the request that waits for a sandbox.
pub async fn trace(db: &mut PgConnection, id: SandboxId) -> Result<Option<String>> {
    let traceparent = sqlx::query_scalar!("SELECT traceparent FROM sandboxes WHERE id = $1", id.0)
        .fetch_optional(db)
        .await?;
    Ok(traceparent.flatten())
}

/// Writes a changed sandbox, unless its row changed since it was read. A change of state ends the present
/// lease; `lease` gives the holder and the time to live of a new one.
///
/// # Errors
/// `pg::Error::Stale` if the row changed; `pg::Error::Conflict` on [`ONE_CONTAINER_A_VOLUME`] if another
/// container may use the volume.
pub async fn update(
    db: &mut PgConnection,
    before: &Sandbox,
    after: &Sandbox,
    lease: Option<(&str, Duration)>,
) -> Result<()> {
    let container = after.container.as_ref();
    let done = sqlx::query!(
        "UPDATE sandboxes
         SET state = $4, generation = $5, epoch = $6, pool_slot = $7, pool_state = $8,
             container_generation = $9, container_run_dir = $10, container_image = $11, container_id = $12,
             guest_instance = $13, fence_until = $14, cause = $15, running_at = $16, last_active_at = $17,
             deadline_at = $18, ended_at = $19,
             lease_owner = CASE WHEN $20::text IS NOT NULL THEN $20 WHEN state = $4 THEN lease_owner END,
             lease_until = CASE WHEN $20::text IS NOT NULL THEN now() + make_interval(secs => $21)
                                WHEN state = $4 THEN lease_until END
         WHERE id = $1 AND generation = $2 AND epoch = $3",
        before.id.0,
        before.generation,
        before.epoch,
        after.state as State,
        after.generation,
        after.epoch,
        after.slot.map(|slot| slot.number),
        after.slot.map(|slot| slot.state) as Option<PoolState>,
        container.map(|container| container.generation),
        container.map(|container| container.run_dir.as_str()),
        container.map(|container| container.image.as_str()),
        container.and_then(|container| container.id.as_deref()),
        container.and_then(|container| container.instance.as_deref()),
        container.map(|container| container.fence_until),
        after.cause as Option<Cause>,
        after.running_at,
        after.last_active_at,
        after.deadline_at,
        after.ended_at,
        lease.map(|(holder, _)| holder),
        lease.map_or(0.0, |(_, ttl)| ttl.as_secs_f64()),
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Records a use and extends the deadline to `deadline_at`, but to at most `longest` after the sandbox began
/// to run. Writes nothing and returns `false` if it does not run. The generation stays, because a use is no
/// transition; the deadline worker reads the deadline again under the row's lock.
pub async fn touch(
    db: &mut PgConnection,
    owner: Owner,
    id: SandboxId,
    now: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    longest: Duration,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE sandboxes
         SET last_active_at = $4,
             deadline_at = greatest(deadline_at, least($5, running_at + make_interval(secs => $6)))
         WHERE id = $1 AND account_id = $2 AND session_id = $3 AND state = 'running'",
        id.0,
        owner.account.0,
        owner.session.0,
        now,
        deadline_at,
        longest.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
