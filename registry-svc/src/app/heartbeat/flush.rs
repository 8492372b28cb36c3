//! Writes the vitals of beats to Postgres, many agents in one statement.
//!
//! Only the latest beat of each agent is written. The statement leaves a beat out if its agent is removed, is
//! in another incarnation, or belongs to an account that is being erased; the flush then replaces the agent's
//! cached snapshot by the record.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use svc_core::{
    data::pg::{Pool, Tx},
    id::AgentId,
};

use super::SnapshotCache;
use crate::{
    domain::beat::{BeatRecord, DeadlineChange},
    error::Result,
    store,
};

/// Agents written in one statement.
const BATCH: usize = 500;

/// Collects beats until the next flush. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Flusher {
    pool: Pool,
    cache: SnapshotCache,
    beats: Arc<Mutex<HashMap<AgentId, BeatRecord>>>,
}

impl Flusher {
    pub(crate) fn new(pool: Pool, cache: SnapshotCache) -> Self {
        Self { pool, cache, beats: Arc::default() }
    }

    /// Adds a beat for the next flush, in place of the agent's earlier one.
    pub(crate) fn add(&self, beat: BeatRecord) {
        let mut all = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(beat.agent, beat);
    }

    /// Writes all collected beats.
    ///
    /// # Errors
    /// Fails if a batch could not be written, or the cache could not be corrected after it. That batch and
    /// those after it stay for the next flush.
    pub(crate) async fn flush(&self) -> Result<()> {
        let taken = std::mem::take(&mut *self.beats.lock().unwrap_or_else(PoisonError::into_inner));
        let mut beats: Vec<_> = taken.into_values().collect();
        while !beats.is_empty() {
            let batch = beats.split_off(beats.len().saturating_sub(BATCH));
            if let Err(error) = self.write(&batch).await {
                beats.extend(batch);
                self.requeue(beats);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write(&self, batch: &[BeatRecord]) -> Result<()> {
        // The transaction belongs to no single account: the statement itself locks the custody rows of all
        // accounts that it writes.
        let mut tx = Tx::system(&self.pool).await?;
        let written: HashSet<_> = store::liveness::write_beats(&mut tx, batch).await?.into_iter().collect();
        tx.commit().await?;
        let missed: Vec<_> = batch.iter().map(|beat| beat.agent).filter(|id| !written.contains(id)).collect();
        if missed.is_empty() { Ok(()) } else { self.correct_cache(&missed).await }
    }

    /// Replaces the cached snapshots of these agents by their records.
    async fn correct_cache(&self, agents: &[AgentId]) -> Result<()> {
        let found = {
            let mut db = self.pool.acquire().await?;
            store::liveness::find(&mut db, agents).await?
        };
        let present: HashSet<_> = found.iter().map(|liveness| liveness.agent).collect();
        let missing: Vec<_> = agents.iter().copied().filter(|agent| !present.contains(agent)).collect();
        let snapshots: Vec<_> =
            found.iter().map(|liveness| (liveness.agent, liveness.snapshot, DeadlineChange::Keep)).collect();
        self.cache.put_all(&snapshots).await;
        self.cache.delete(&missing).await;
        Ok(())
    }

    fn requeue(&self, beats: Vec<BeatRecord>) {
        let mut all = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        for beat in beats {
            // A beat that was added meanwhile is newer.
            all.entry(beat.agent).or_insert(beat);
        }
    }
}
