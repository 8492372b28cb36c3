//! Copies living agents from Postgres to a Redis that lost them or never had them (seeding).
//!
//! Writes every agent that is online or degraded in Postgres, with a deadline of one probation
//! (`BeatSchedule::probation`) from now. Then marks Redis as seeded, unless it is no longer the server in
//! which the seeding began.

use std::{sync::Arc, time::Duration};

use svc_core::data::{
    pg::{self, Pool},
    redis,
};
use tokio::sync::Mutex;

use crate::store::{self, beats::BeatStore};

/// Agents read at once.
const PAGE: i64 = 1000;

/// Reason for which Redis was not seeded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("read the living agents")]
    Pg(#[from] pg::Error),
    #[error("put living agents into Redis")]
    Redis(#[from] redis::Error),
}

/// Seeds Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Seeder {
    pool: Pool,
    beats: BeatStore,
    probation: Duration,
    /// Locked while this process seeds. Several processes may seed at once, because each writes the same
    /// agents.
    seeding: Arc<Mutex<()>>,
}

impl Seeder {
    pub(crate) fn new(pool: Pool, beats: BeatStore, probation: Duration) -> Self {
        Self { pool, beats, probation, seeding: Arc::default() }
    }

    /// Writes every living agent to Redis and marks Redis as seeded. Begins again if Redis was replaced
    /// meanwhile.
    pub(crate) async fn seed(&self) -> Result<(), SeedError> {
        let _seeding = self.seeding.lock().await;
        loop {
            if let Some(run) = self.put_all(true).await?
                && self.beats.mark(&run).await?
            {
                return Ok(());
            }
        }
    }

    /// Writes living agents that Redis lacks, such as an agent that registered while Redis was unreachable.
    pub(crate) async fn add_missing(&self) -> Result<(), SeedError> {
        self.put_all(false).await.map(drop)
    }

    /// Writes every living agent to Redis and returns the run id of Redis; `None` if Redis was replaced
    /// meanwhile. Deadlines that exist already are moved only if `extend`.
    async fn put_all(&self, extend: bool) -> Result<Option<String>, SeedError> {
        let (mut run, mut after, mut put) = (None, None, 0);
        loop {
            let page = {
                let mut db = self.pool.acquire().await?;
                store::liveness::list_alive(&mut db, after, PAGE).await?
            };
            let agents: Vec<_> = page.iter().map(|liveness| (liveness.agent, liveness.snapshot)).collect();
            match self.beats.seed(run.as_deref(), self.probation, extend, &agents).await? {
                Some(id) => run = Some(id),
                None => return Ok(None),
            }
            put += agents.len();
            after = agents.last().map(|(agent, _)| *agent);
            if i64::try_from(agents.len()).is_ok_and(|read| read < PAGE) {
                if extend {
                    tracing::info!(agents = put, "Redis was empty or new: living agents put in");
                }
                return Ok(run);
            }
        }
    }
}
