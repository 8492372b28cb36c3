//! Putting living agents into a Redis that does not know them.
//!
//! Every agent that Postgres calls alive gets the time of an amnesty to be heard of. Only then is Redis marked as
//! seeded, and only the Redis in which the seeding began.

use std::{sync::Arc, time::Duration};

use svc_core::data::{pg::Pool, redis};
use tokio::sync::Mutex;

use crate::{
    error::Error,
    store::{self, beats::BeatStore},
};

/// Agents read at once.
const PAGE: i64 = 1000;

/// Why Redis was not seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Postgres was not read.
    #[error("read the living agents")]
    Pg(#[source] Error),
    /// Redis was not written.
    #[error("put living agents into Redis")]
    Redis(#[from] redis::Error),
}

impl From<svc_core::data::pg::Error> for SeedError {
    fn from(error: svc_core::data::pg::Error) -> Self {
        Self::Pg(error.into())
    }
}

/// Seeds Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seeder {
    pool: Pool,
    beats: BeatStore,
    amnesty: Duration,
    /// One seeding at a time in a process; several processes do no harm to each other.
    alone: Arc<Mutex<()>>,
}

impl Seeder {
    /// Seeds from this database; agents get the time of `amnesty`.
    #[must_use]
    pub fn new(pool: Pool, beats: BeatStore, amnesty: Duration) -> Self {
        Self { pool, beats, amnesty, alone: Arc::default() }
    }

    /// Puts every living agent in and marks Redis as seeded. Does it again if Redis was replaced meanwhile.
    pub async fn seed(&self) -> Result<(), SeedError> {
        let _alone = self.alone.lock().await;
        loop {
            if let Some(run) = self.put(true).await?
                && self.beats.mark(&run).await?
            {
                return Ok(());
            }
        }
    }

    /// Puts in living agents that are missing, as one whose registration did not reach Redis.
    pub async fn adopt(&self) -> Result<(), SeedError> {
        self.put(false).await.map(drop)
    }

    /// Puts every living agent in; `None` if Redis was replaced meanwhile.
    async fn put(&self, overrule: bool) -> Result<Option<String>, SeedError> {
        let (mut run, mut after) = (None, None);
        let mut put = 0;
        loop {
            let page = {
                let mut db = self.pool.acquire().await?;
                store::liveness::alive(&mut db, after, PAGE).await?
            };
            let agents: Vec<_> = page.iter().map(|standing| (standing.agent, standing.snapshot)).collect();
            match self.beats.seed(run.as_deref(), self.amnesty, overrule, &agents).await? {
                Some(id) => run = Some(id),
                None => return Ok(None),
            }
            put += agents.len();
            after = agents.last().map(|(agent, _)| *agent);
            if i64::try_from(agents.len()).is_ok_and(|read| read < PAGE) {
                if overrule {
                    tracing::info!(agents = put, "Redis was empty or new: living agents put in");
                }
                return Ok(run);
            }
        }
    }
}
