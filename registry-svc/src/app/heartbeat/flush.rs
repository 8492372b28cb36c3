//! What beats said, written down a few seconds later together with what others said.
//!
//! Only the latest of each agent counts. What does not fit the agent's record (another incarnation, gone) shows
//! that memory is wrong about it, and is put right here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use svc_core::{
    data::pg::{Pool, Tx},
    id::AgentId,
};

use super::Memory;
use crate::{
    error::Result,
    store::{self, beats::Deadline, liveness::Heard},
};

/// Agents written in one statement.
const BATCH: usize = 500;

/// Collects what beats said. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Flusher {
    pool: Pool,
    memory: Memory,
    heard: Arc<Mutex<HashMap<AgentId, Heard>>>,
}

impl Flusher {
    /// Writes to this database.
    #[must_use]
    pub fn new(pool: Pool, memory: Memory) -> Self {
        Self { pool, memory, heard: Arc::default() }
    }

    /// Remembers what a beat said, in place of what the agent said before.
    pub fn add(&self, heard: Heard) {
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(heard.agent, heard);
    }

    /// Writes down everything that was said so far. What was not written is kept for the next time.
    pub async fn flush(&self) -> Result<()> {
        let taken = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        let mut heard: Vec<_> = taken.into_values().collect();
        while !heard.is_empty() {
            let batch = heard.split_off(heard.len().saturating_sub(BATCH));
            if let Err(error) = self.write(&batch).await {
                heard.extend(batch);
                self.put_back(heard);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write(&self, batch: &[Heard]) -> Result<()> {
        // No account's data but what the statement itself guards: it holds the custody rows of all of them.
        let mut tx = Tx::system(&self.pool).await?;
        let written: HashSet<_> = store::liveness::write_heard(&mut tx, batch).await?.into_iter().collect();
        tx.commit().await?;
        let missed: Vec<_> =
            batch.iter().map(|heard| heard.agent).filter(|id| !written.contains(id)).collect();
        if missed.is_empty() { Ok(()) } else { self.put_right(&missed).await }
    }

    /// Corrects what is remembered of agents that are not as it was thought.
    async fn put_right(&self, agents: &[AgentId]) -> Result<()> {
        let standings = {
            let mut db = self.pool.acquire().await?;
            store::liveness::standings(&mut db, agents).await?
        };
        let there: HashSet<_> = standings.iter().map(|standing| standing.agent).collect();
        let gone: Vec<_> = agents.iter().copied().filter(|agent| !there.contains(agent)).collect();
        let notes: Vec<_> =
            standings.iter().map(|standing| (standing.agent, standing.snapshot, Deadline::Keep)).collect();
        self.memory.note_all(&notes).await;
        self.memory.forget(&gone).await;
        Ok(())
    }

    fn put_back(&self, heard: Vec<Heard>) {
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for one in heard {
            // What was said meanwhile is newer.
            all.entry(one.agent).or_insert(one);
        }
    }
}
