//! What is remembered of agents between beats: in Redis for every replica, and in this process for when Redis is
//! away. Postgres is right where they differ; what is wrong here is found when beats are written down.

use moka::sync::Cache;
use svc_core::{id::AgentId, wire::error::Chain};

use crate::{
    domain::{agent::Agent, beat::Snapshot, status::Status},
    store::beats::{BeatStore, Deadline},
};

/// Snapshots of agents. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    beats: BeatStore,
    local: Cache<AgentId, Snapshot>,
}

impl Memory {
    /// Remembers in Redis, and the latest `capacity` agents in this process.
    #[must_use]
    pub fn new(beats: BeatStore, capacity: u64) -> Self {
        Self { beats, local: Cache::new(capacity) }
    }

    /// Remembers, in this process, what Redis knew.
    pub fn remember(&self, agent: AgentId, snapshot: Snapshot) {
        self.local.insert(agent, snapshot);
    }

    /// What this process remembers.
    #[must_use]
    pub fn recall(&self, agent: AgentId) -> Option<Snapshot> {
        self.local.get(&agent)
    }

    /// Puts a record that was read or written just now in both places.
    pub async fn note(&self, agent: &Agent, deadline: Deadline) {
        self.note_all(&[(agent.id, Snapshot::from(agent), deadline)]).await;
    }

    /// Puts what Postgres says of agents in both places. Without Redis only here: it learns when it is back.
    pub async fn note_all(&self, agents: &[(AgentId, Snapshot, Deadline)]) {
        let (gone, there): (Vec<_>, Vec<_>) =
            agents.iter().copied().partition(|(_, snapshot, _)| snapshot.status == Status::Removed);
        for (agent, snapshot, _) in &there {
            self.local.insert(*agent, *snapshot);
        }
        if let Err(error) = self.beats.settle(&there).await {
            tracing::debug!(error = %Chain(&error), agents = there.len(), "Redis was not told where agents stand");
        }
        self.forget(&gone.iter().map(|(agent, _, _)| *agent).collect::<Vec<_>>()).await;
    }

    /// Forgets agents that are not there any more.
    pub async fn forget(&self, agents: &[AgentId]) {
        for agent in agents {
            self.local.invalidate(agent);
        }
        if let Err(error) = self.beats.forget(agents).await {
            tracing::debug!(error = %Chain(&error), agents = agents.len(), "Redis did not forget agents");
        }
    }
}
