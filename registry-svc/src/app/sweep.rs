//! The sweep for silent agents: one replica at a time, under a lease that every write to Postgres checks.
//!
//! An agent is a candidate if
//! - its deadline in Redis has passed, and
//! - the replica that took its last beat announced itself in Redis recently (so Redis sees the beats that it
//!   takes), or has not announced itself for one probation (the time in which every agent must beat once, so
//!   by now another replica would have taken a beat).
//!
//! The sweep marks a candidate offline in Postgres only if the agent's incarnation has not changed since its
//! last beat, and only if no replica wrote a beat of it lately: a replica that is cut off from Redis still
//! writes beats to Postgres. Marking raises the incarnation, so that beats sent before it change nothing.
//!
//! After a pause between sweeps, or when too many agents fall silent at once, the sweep marks no agent until
//! one probation has passed.

use std::{collections::HashMap, time::Duration};

use svc_core::{
    data::{
        lease::Held,
        pg::{self, Pool},
        redis,
    },
    id::AgentId,
    run::{clock::SharedClock, failpoint},
};

use super::heartbeat::{SeedError, Seeder, SnapshotCache};
use crate::{
    domain::beat::{AgentLiveness, BeatSchedule, DeadlineChange, Snapshot, SweepLimits},
    metrics::Sweeps,
    store::{
        self,
        beats::{BATCH, BeatStore, SweepStart},
    },
};

/// Reason for which a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error("read silent agents from Redis")]
    Redis(#[from] redis::Error),
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// Postgres is not writable, or the lease is lost.
    #[error("mark silent agents")]
    Pg(#[from] pg::Error),
}

/// Sweeps for silent agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    pub pool: Pool,
    pub clock: SharedClock,
    pub beats: BeatStore,
    pub cache: SnapshotCache,
    pub seeder: Seeder,
    pub schedule: BeatSchedule,
    pub limits: SweepLimits,
    /// A replica that announced itself in Redis within this time counts as connected to Redis. The sweep may
    /// then mark an agent offline if that replica took the agent's last beat.
    pub replica_fresh: Duration,
    pub metrics: Sweeps,
}

impl Sweep {
    /// Puts agents into Redis that are alive in Postgres and missing in Redis.
    pub(crate) async fn add_missing(&self) -> Result<(), SweepError> {
        Ok(self.seeder.add_missing().await?)
    }

    /// Runs one sweep under the lease `held`.
    pub(crate) async fn sweep(&self, held: &Held) -> Result<(), SweepError> {
        match self.beats.begin_sweep(&self.limits).await? {
            SweepStart::Unseeded => Ok(self.seeder.seed().await?),
            SweepStart::Probation | SweepStart::Proceed { silent: 0, .. } => Ok(()),
            SweepStart::MassSilence { silent, all } => {
                self.metrics.mass_silence();
                tracing::warn!(silent, all, "too many agents are silent at once, all get more time");
                Ok(())
            }
            SweepStart::Proceed { all, .. } => {
                let schedule = &self.schedule;
                self.mark_pages(held, schedule.silence_timeout(schedule.interval(all))).await
            }
        }
    }

    /// Marks the silent agents, page by page. `timeout` is the silence timeout for the present number of
    /// agents.
    async fn mark_pages(&self, held: &Held, timeout: Duration) -> Result<(), SweepError> {
        let fresh = self.replica_fresh;
        let gone = self.schedule.probation().max(fresh);
        let mut skip = 0;
        loop {
            let page = self.beats.silent(BATCH, skip, fresh, gone).await?;
            let left_out = page.scanned - page.agents.len();
            let still_silent = self.mark_page(held, &page.agents, timeout).await?;
            if page.scanned < BATCH {
                return Ok(());
            }
            skip += left_out + still_silent;
        }
    }

    /// Marks the silent agents of a page as offline; returns how many of the agents that it did not mark keep
    /// a deadline in the past. The next page skips them.
    async fn mark_page(
        &self,
        held: &Held,
        page: &[(AgentId, Option<Snapshot>)],
        timeout: Duration,
    ) -> Result<usize, SweepError> {
        let now = self.clock.now();
        // Looks back two thirds of the silence timeout: replicas flush beats several times in it, and a clock
        // that is a little wrong must not keep a dead agent online.
        let heard_since = now - timeout.mul_f64(2.0 / 3.0);
        let known: Vec<_> =
            page.iter().filter_map(|(agent, known)| known.map(|known| (*agent, known.incarnation))).collect();
        let marked = {
            let mut tx = held.tx().await?;
            let marked = store::liveness::mark_offline(&mut tx, &known, heard_since, now).await?;
            tx.commit().await?;
            marked
        };
        failpoint::hit("registry.sweep.marked").await;
        for liveness in &marked {
            tracing::info!(agent.id = %liveness.agent, "agent is silent, marked as offline");
        }
        self.metrics.marked(marked.len());

        let mut found: HashMap<AgentId, AgentLiveness> =
            marked.into_iter().map(|liveness| (liveness.agent, liveness)).collect();
        let unmarked: Vec<_> =
            page.iter().map(|(agent, _)| *agent).filter(|agent| !found.contains_key(agent)).collect();
        if !unmarked.is_empty() {
            let mut db = self.pool.acquire().await?;
            let read = store::liveness::find(&mut db, &unmarked).await?;
            found.extend(read.into_iter().map(|liveness| (liveness.agent, liveness)));
        }
        let (mut snapshots, mut missing, mut still_silent) = (Vec::new(), Vec::new(), 0);
        for (agent, known) in page {
            match found.get(agent) {
                None => missing.push(*agent),
                Some(liveness) if !liveness.snapshot.status.is_reachable() => {
                    snapshots.push((*agent, liveness.snapshot, DeadlineChange::RemoveIfPassed));
                }
                // The agent is online or degraded in Postgres. Either a replica wrote a recent beat of it to
                // Postgres, or Redis had no snapshot of it. Moves its deadline to one silence timeout from
                // now.
                Some(liveness)
                    if known.is_none() || liveness.last_heartbeat_at.is_some_and(|at| at >= heard_since) =>
                {
                    snapshots.push((*agent, liveness.snapshot, DeadlineChange::ExtendTo(timeout)));
                }
                // The snapshot was of another incarnation, and the next sweep uses the new snapshot; or the
                // account is being erased, which deletes the agent.
                Some(liveness) => {
                    snapshots.push((*agent, liveness.snapshot, DeadlineChange::Keep));
                    still_silent += 1;
                }
            }
        }
        self.cache.put_all(&snapshots).await;
        self.cache.delete(&missing).await;
        Ok(still_silent)
    }
}
