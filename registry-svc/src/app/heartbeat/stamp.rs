//! Beats on their way to Redis, many in one script.
//!
//! Batches form by themselves: while some are on their way, what arrives waits and goes together. Whoever waits is
//! always answered; without Redis the answer is [`Stamp::Away`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, stream::FuturesUnordered};
use svc_core::{id::AgentId, wire::error::Chain};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Seeder;
use crate::{
    domain::beat::{Rhythm, Snapshot},
    store::beats::{BATCH, BeatStore, Stamped},
};

/// Batches on their way at once.
const IN_FLIGHT: usize = 2;

/// Beats that may wait for a place; more make their senders wait.
const QUEUE: usize = 64 * BATCH;

/// What became of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// It counts, and this was known of the agent.
    Counted {
        /// What was known.
        known: Option<Snapshot>,
    },
    /// Redis cannot be asked.
    Away,
}

/// Where beats are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stamper {
    queue: mpsc::Sender<Waiting>,
    alive: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Waiting {
    agent: AgentId,
    answer: oneshot::Sender<Stamp>,
}

/// The task behind [`Stamper`].
#[derive(Debug)]
pub struct Stamping {
    queue: mpsc::Receiver<Waiting>,
    alive: Arc<AtomicU64>,
    beats: BeatStore,
    seeder: Seeder,
    rhythm: Rhythm,
}

impl Stamper {
    /// A stamper, and the task that it needs.
    #[must_use]
    pub fn new(beats: BeatStore, seeder: Seeder, rhythm: Rhythm) -> (Self, Stamping) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let alive = Arc::<AtomicU64>::default();
        (Self { queue: sender, alive: alive.clone() }, Stamping { queue, alive, beats, seeder, rhythm })
    }

    /// Hands in a beat.
    pub async fn stamp(&self, agent: AgentId) -> Stamp {
        let (answer, answered) = oneshot::channel();
        // A task that has ended, as at a stop, stamps nothing.
        match self.queue.send(Waiting { agent, answer }).await {
            Ok(()) => answered.await.unwrap_or(Stamp::Away),
            Err(_) => Stamp::Away,
        }
    }

    /// Agents whose silence would be noticed, as Redis last said.
    #[must_use]
    pub fn alive(&self) -> u64 {
        self.alive.load(Ordering::Relaxed)
    }
}

impl Stamping {
    /// Stamps until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let stamping =
            Batches { alive: self.alive, beats: self.beats, seeder: self.seeder, rhythm: self.rhythm };
        let mut on_their_way = FuturesUnordered::new();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = on_their_way.next(), if !on_their_way.is_empty() => {}
                count = self.queue.recv_many(&mut batch, BATCH), if on_their_way.len() < IN_FLIGHT => {
                    if count == 0 {
                        return;
                    }
                    on_their_way.push(stamping.send(std::mem::take(&mut batch)));
                }
            }
        }
    }
}

struct Batches {
    alive: Arc<AtomicU64>,
    beats: BeatStore,
    seeder: Seeder,
    rhythm: Rhythm,
}

impl Batches {
    async fn send(&self, batch: Vec<Waiting>) {
        let agents: Vec<_> = batch.iter().map(|waiting| waiting.agent).collect();
        let known = self.stamp(&agents).await;
        let stamps = match known {
            Some(known) => known.into_iter().map(|known| Stamp::Counted { known }).collect(),
            None => vec![Stamp::Away; batch.len()],
        };
        for (waiting, stamp) in batch.into_iter().zip(stamps) {
            // Whoever asked may have left.
            let _left = waiting.answer.send(stamp);
        }
    }

    /// What was known of each agent; `None` without Redis.
    async fn stamp(&self, agents: &[AgentId]) -> Option<Vec<Option<Snapshot>>> {
        let believed = self.alive.load(Ordering::Relaxed);
        let patience = self.rhythm.patience(self.rhythm.interval(believed));
        // Once more after a seeding; a Redis that vanishes again at once counts as away.
        for _ in 0..2 {
            match self.beats.beat(agents, patience).await {
                Ok(Stamped::Counted { alive, known }) => {
                    self.alive.store(alive, Ordering::Relaxed);
                    let due = self.rhythm.patience(self.rhythm.interval(alive));
                    // A replica's first batch is stamped before it knows how many agents there are; they get the
                    // time that so many are told to take.
                    if believed == 0
                        && due > patience
                        && let Err(error) = self.beats.beat(agents, due).await
                    {
                        tracing::warn!(error = %Chain(&error), "first beats not stamped again");
                    }
                    return Some(known);
                }
                Ok(Stamped::Unseeded) => {
                    if let Err(error) = self.seeder.seed().await {
                        tracing::warn!(error = %Chain(&error), "Redis not seeded, beats are answered from memory");
                        return None;
                    }
                }
                Err(error) if error.is_down() => return None,
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "beats not stamped");
                    return None;
                }
            }
        }
        None
    }
}
