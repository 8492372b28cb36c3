//! Renews agents' deadlines in Redis, many agents with one script call.
//!
//! At most [`IN_FLIGHT`] batches run at a time; beats that arrive meanwhile are queued and sent in the next
//! batches. Every beat gets an answer: [`Renewed::RedisAway`] if its renewal was not confirmed, for example
//! because Redis is unreachable or this process is stopping.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, stream::FuturesUnordered};
use svc_core::{error::Chain, id::AgentId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Seeder;
use crate::{
    domain::beat::{BeatSchedule, Snapshot},
    store::beats::{BATCH, BeatStore, Renewal},
};

/// Maximum batches that wait for Redis at once.
const IN_FLIGHT: usize = 2;

/// Maximum queued beats; the senders of more wait for a place.
const QUEUE: usize = 64 * BATCH;

/// Result of renewing an agent's deadline in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    Yes {
        /// The agent's snapshot, if Redis had one.
        known: Option<Snapshot>,
    },
    RedisAway,
}

/// Queues beats for [`RenewTask`]. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Renewer {
    queue: mpsc::Sender<Queued>,
    alive: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Queued {
    agent: AgentId,
    answer: oneshot::Sender<Renewed>,
}

/// Sends the beats that [`Renewer`] queues to Redis.
#[derive(Debug)]
pub(crate) struct RenewTask {
    queue: mpsc::Receiver<Queued>,
    batches: Batches,
}

impl Renewer {
    /// Builds a renewer, and the task that must run for it.
    pub(crate) fn new(beats: BeatStore, seeder: Seeder, schedule: BeatSchedule) -> (Self, RenewTask) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let alive = Arc::<AtomicU64>::default();
        let batches = Batches { alive: alive.clone(), beats, seeder, schedule };
        (Self { queue: sender, alive }, RenewTask { queue, batches })
    }

    /// Renews the deadline of an agent that beat.
    pub(crate) async fn renew(&self, agent: AgentId) -> Renewed {
        let (answer, answered) = oneshot::channel();
        // [`RenewTask`] ends when this process stops; a beat that comes after that gets `RedisAway`.
        match self.queue.send(Queued { agent, answer }).await {
            Ok(()) => answered.await.unwrap_or(Renewed::RedisAway),
            Err(_) => Renewed::RedisAway,
        }
    }

    /// Returns the number of agents with a deadline in Redis, as of the latest batch.
    pub(crate) fn alive(&self) -> u64 {
        self.alive.load(Ordering::Relaxed)
    }
}

impl RenewTask {
    /// Sends batches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut in_flight = FuturesUnordered::new();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                count = self.queue.recv_many(&mut batch, BATCH), if in_flight.len() < IN_FLIGHT => {
                    if count == 0 {
                        return;
                    }
                    in_flight.push(self.batches.send(std::mem::take(&mut batch)));
                }
            }
        }
    }
}

#[derive(Debug)]
struct Batches {
    alive: Arc<AtomicU64>,
    beats: BeatStore,
    seeder: Seeder,
    schedule: BeatSchedule,
}

impl Batches {
    async fn send(&self, batch: Vec<Queued>) {
        let agents: Vec<_> = batch.iter().map(|queued| queued.agent).collect();
        let answers = match self.renew(&agents).await {
            Some(known) => known.into_iter().map(|known| Renewed::Yes { known }).collect(),
            None => vec![Renewed::RedisAway; batch.len()],
        };
        for (queued, answer) in batch.into_iter().zip(answers) {
            // The sender of the beat may be gone.
            let _gone = queued.answer.send(answer);
        }
    }

    /// Returns the snapshot of each agent; `None` if Redis could not renew the deadlines.
    async fn renew(&self, agents: &[AgentId]) -> Option<Vec<Option<Snapshot>>> {
        let expected = self.alive.load(Ordering::Relaxed);
        let timeout = self.schedule.silence_timeout(self.schedule.interval(expected));
        // Renews again after one seeding. If Redis is unseeded once more, the deadlines are not renewed.
        for _ in 0..2 {
            match self.beats.renew(agents, timeout).await {
                Ok(Renewal::Renewed { alive, known }) => {
                    self.alive.store(alive, Ordering::Relaxed);
                    let due = self.schedule.silence_timeout(self.schedule.interval(alive));
                    // This process learns the number of agents from its first batch, which used the timeout
                    // for few agents. If there are many, sends the batch again with the longer timeout.
                    if expected == 0
                        && due > timeout
                        && let Err(error) = self.beats.renew(agents, due).await
                    {
                        tracing::warn!(error = %Chain(&error), "deadlines of the first beats not extended");
                    }
                    return Some(known);
                }
                Ok(Renewal::Unseeded) => {
                    if let Err(error) = self.seeder.seed().await {
                        let error = Chain(&error);
                        tracing::warn!(%error, "Redis not seeded, beats are answered from memory");
                        return None;
                    }
                }
                Err(error) if error.is_down() => return None,
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "deadlines of agents not renewed");
                    return None;
                }
            }
        }
        None
    }
}
