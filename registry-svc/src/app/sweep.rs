//! Looking for silent agents: one replica at a time, under a lease that every write checks.
//!
//! A candidate is an agent whose deadline in Redis is over and whose last beat came through a replica that is known
//! to hear agents, or has been gone for long enough. It is marked offline in Postgres only in the incarnation in
//! which it was heard, and only if no replica wrote down that it heard it lately: a replica that is cut off from
//! Redis still speaks for its agents there. Marking begins a new incarnation, so that beats from before do not count.
//!
//! Nobody is marked after a pause in which nobody looked, or when too many are silent at once: then all get an
//! amnesty first.

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

use super::heartbeat::{Memory, Seeder};
use crate::{
    domain::beat::{Rhythm, Snapshot},
    metrics::Sweeps,
    store::{
        self,
        beats::{BATCH, BeatStore, Deadline, SweepLimits, SweepStart},
        liveness::Standing,
    },
};

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Redis cannot be asked.
    #[error("ask Redis who is silent")]
    Redis(#[from] redis::Error),
    /// Redis does not know the living agents and could not be told.
    #[error(transparent)]
    Seed(#[from] super::heartbeat::SeedError),
    /// Postgres cannot be written, or the lease is lost.
    #[error("mark silent agents")]
    Pg(#[from] pg::Error),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Agents marked as offline.
    pub marked: usize,
    /// Agents whose silence was not believed, or that were not as Redis thought.
    pub spared: usize,
    /// Whether nobody was to be believed.
    pub rested: bool,
}

/// Looks for silent agents.
#[derive(Debug, Clone)]
pub struct Sweep {
    pool: Pool,
    clock: SharedClock,
    beats: BeatStore,
    memory: Memory,
    seeder: Seeder,
    rhythm: Rhythm,
    limits: SweepLimits,
    replica_fresh: Duration,
    metrics: Sweeps,
}

impl Sweep {
    /// Looks for agents that do not keep to `rhythm`, by `limits`. A replica not heard of for `replica_fresh` does
    /// not prove that its agents are silent.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        (beats, memory, seeder): (BeatStore, Memory, Seeder),
        rhythm: Rhythm,
        limits: SweepLimits,
        replica_fresh: Duration,
    ) -> Self {
        Self { pool, clock, beats, memory, seeder, rhythm, limits, replica_fresh, metrics: Sweeps::new() }
    }

    /// Puts agents into Redis that Postgres calls alive and Redis does not know.
    pub async fn adopt(&self) -> Result<(), SweepError> {
        Ok(self.seeder.adopt().await?)
    }

    /// One sweep.
    pub async fn sweep(&self, held: &Held) -> Result<SweepReport, SweepError> {
        match self.beats.sweep(&self.limits).await? {
            SweepStart::Unseeded => {
                self.seeder.seed().await?;
                Ok(SweepReport { rested: true, ..SweepReport::default() })
            }
            SweepStart::Rest => Ok(SweepReport { rested: true, ..SweepReport::default() }),
            SweepStart::Brake { silent, all } => {
                self.metrics.braked();
                tracing::warn!(
                    silent,
                    all,
                    "too many agents are silent at once, giving all of them more time"
                );
                Ok(SweepReport { rested: true, ..SweepReport::default() })
            }
            SweepStart::Go { silent: 0, .. } => Ok(SweepReport::default()),
            SweepStart::Go { all, .. } => {
                self.pages(held, self.rhythm.patience(self.rhythm.interval(all))).await
            }
        }
    }

    /// Judges every silent agent; so many of them agents are given `patience`.
    async fn pages(&self, held: &Held, patience: Duration) -> Result<SweepReport, SweepError> {
        let gone = self.rhythm.amnesty().max(self.replica_fresh);
        let (mut report, mut skip) = (SweepReport::default(), 0);
        loop {
            let page = self.beats.silent(BATCH, skip, self.replica_fresh, gone).await?;
            let doubted = page.looked_at - page.agents.len();
            let (marked, staying) = self.judge(held, &page.agents, patience).await?;
            report.marked += marked;
            report.spared += doubted + page.agents.len() - marked;
            if page.looked_at < BATCH {
                return Ok(report);
            }
            skip += doubted + staying;
        }
    }

    /// Marks those of a page that are silent; says how many, and how many of the others stay overdue.
    async fn judge(
        &self,
        held: &Held,
        page: &[(AgentId, Option<Snapshot>)],
        patience: Duration,
    ) -> Result<(usize, usize), SweepError> {
        let now = self.clock.now();
        // Two thirds of an agent's patience: replicas write down what they hear several times in it, and a clock
        // that is a little off does not hide that an agent is dead for longer.
        let heard_since = now - patience.mul_f64(2.0 / 3.0);
        let known: Vec<_> =
            page.iter().filter_map(|(agent, known)| known.map(|known| (*agent, known.incarnation))).collect();
        let marked = {
            let mut tx = held.tx().await?;
            let marked = store::liveness::mark_silent(&mut tx, &known, heard_since, now).await?;
            tx.commit().await?;
            marked
        };
        failpoint::hit("registry.sweep.marked").await;
        for standing in &marked {
            tracing::info!(agent.id = %standing.agent, "agent is silent, marked as offline");
        }
        self.metrics.marked(marked.len());

        let mut standings: HashMap<AgentId, Standing> =
            marked.iter().map(|standing| (standing.agent, *standing)).collect();
        let others: Vec<_> =
            page.iter().map(|(agent, _)| *agent).filter(|agent| !standings.contains_key(agent)).collect();
        if !others.is_empty() {
            let mut db = self.pool.acquire().await?;
            let read = store::liveness::standings(&mut db, &others).await?;
            standings.extend(read.into_iter().map(|standing| (standing.agent, standing)));
        }
        let (mut notes, mut gone, mut staying) = (Vec::new(), Vec::new(), 0);
        for (agent, known) in page {
            match standings.get(agent) {
                None => gone.push(*agent),
                Some(standing) if !standing.snapshot.status.is_reachable() => {
                    notes.push((*agent, standing.snapshot, Deadline::Lapse));
                }
                // Alive by Postgres's word, heard of by some replica or not known here: it gets time.
                Some(standing)
                    if known.is_none() || standing.last_heartbeat_at.is_some_and(|at| at >= heard_since) =>
                {
                    notes.push((*agent, standing.snapshot, Deadline::AtLeast(patience)));
                }
                // Known under another incarnation: the next sweep judges it under this one.
                Some(standing) => {
                    notes.push((*agent, standing.snapshot, Deadline::Keep));
                    staying += 1;
                }
            }
        }
        self.memory.note_all(&notes).await;
        self.memory.forget(&gone).await;
        Ok((marked.len(), staying))
    }
}
