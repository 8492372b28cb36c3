//! Caches snapshots of agents: in Redis for all replicas, and in this process for the time when Redis is
//! unreachable. If a snapshot has another incarnation than the record, it is replaced when the next beat is
//! flushed or applied to the record.

use moka::sync::Cache;
use svc_core::{error::Chain, id::AgentId};

use crate::{
    domain::{
        agent::Agent,
        beat::{DeadlineChange, Snapshot},
        status::Status,
    },
    store::beats::BeatStore,
};

/// Snapshots of agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotCache {
    beats: BeatStore,
    local: Cache<AgentId, Snapshot>,
}

impl SnapshotCache {
    /// Builds an empty cache; `capacity` bounds the agents cached in this process.
    pub(crate) fn new(beats: BeatStore, capacity: u64) -> Self {
        Self { beats, local: Cache::new(capacity) }
    }

    /// Caches a snapshot read from Redis in this process.
    pub(crate) fn insert_local(&self, agent: AgentId, snapshot: Snapshot) {
        self.local.insert(agent, snapshot);
    }

    pub(crate) fn get_local(&self, agent: AgentId) -> Option<Snapshot> {
        self.local.get(&agent)
    }

    /// Caches a record that the caller has just read or written, and changes the agent's deadline as
    /// `deadline` says.
    pub(crate) async fn put(&self, agent: &Agent, deadline: DeadlineChange) {
        self.put_all(&[(agent.id, Snapshot::from(agent), deadline)]).await;
    }

    /// Caches snapshots read from Postgres, and deletes those of removed agents. While Redis is unreachable,
    /// only the cache of this process is updated; Redis is seeded later.
    pub(crate) async fn put_all(&self, agents: &[(AgentId, Snapshot, DeadlineChange)]) {
        let (removed, present): (Vec<_>, Vec<_>) =
            agents.iter().copied().partition(|(_, snapshot, _)| snapshot.status == Status::Removed);
        for (agent, snapshot, _) in &present {
            self.local.insert(*agent, *snapshot);
        }
        if let Err(error) = self.beats.put(&present).await {
            tracing::debug!(error = %Chain(&error), agents = present.len(), "snapshots not stored in Redis");
        }
        self.delete(&removed.iter().map(|(agent, _, _)| *agent).collect::<Vec<_>>()).await;
    }

    /// Deletes the snapshots of agents that no longer exist.
    pub(crate) async fn delete(&self, agents: &[AgentId]) {
        for agent in agents {
            self.local.invalidate(agent);
        }
        if let Err(error) = self.beats.delete(agents).await {
            tracing::debug!(error = %Chain(&error), agents = agents.len(), "agents not deleted in Redis");
        }
    }
}
