//! Wake-ups between replicas: a sandbox changed, or an engine's workers have work. If a wake-up is lost, its
//! receiver only waits until the next poll.

use svc_core::{
    data::wake::{Subscription, Wake},
    id::SandboxId,
};

use crate::domain::sandbox::Sandbox;

/// Publishes wake-ups and subscribes to them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices(Wake);

impl Notices {
    pub const fn new(wake: Wake) -> Self {
        Self(wake)
    }

    /// Wakes the callers that wait for a sandbox.
    pub async fn sandbox_changed(&self, id: SandboxId) {
        self.0.publish(&sandbox_topic(id), b"").await;
    }

    /// Wakes the workers of an engine.
    pub async fn work_for(&self, engine: &str) {
        self.0.publish(&engine_topic(engine), b"").await;
    }

    /// Wakes the callers that wait for a sandbox, and the workers of its engine.
    pub async fn removal_committed(&self, sandbox: &Sandbox) {
        self.sandbox_changed(sandbox.id).await;
        self.work_for(&sandbox.engine).await;
    }

    /// Subscribes to changes of a sandbox. Subscribe before the first read, so that no change between the two
    /// is missed.
    pub async fn of_sandbox(&self, id: SandboxId) -> Subscription {
        self.0.subscribe(&sandbox_topic(id)).await
    }

    /// Subscribes to work for an engine.
    pub async fn of_engine(&self, engine: &str) -> Subscription {
        self.0.subscribe(&engine_topic(engine)).await
    }
}

fn sandbox_topic(id: SandboxId) -> String {
    format!("sandbox/{id}")
}

fn engine_topic(engine: &str) -> String {
    format!("sandbox.engine/{engine}")
}
