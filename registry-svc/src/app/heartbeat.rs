//! Beats: how it is known that an agent is alive.
//!
//! A beat that changes nothing costs one place in a batch of Redis ([`stamp`]) and no database; what it says is
//! written down every few seconds together with others ([`flush`]). A beat that changes where the agent stands goes
//! through its record, under the account's custody, and counts only in the incarnation in which it was heard: one
//! that was on its way since before the agent was marked offline, paused or registered anew changes nothing.
//!
//! Redis may be away or empty. Beats are then answered from memory and from Postgres, and nobody is marked silent.

mod flush;
mod memory;
mod seed;
mod stamp;

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::pg::{self, Pool, Subject, Tx},
    id::{AccountId, AgentId},
    run::clock::SharedClock,
};
use tokio::sync::Semaphore;

pub use self::{
    flush::Flusher,
    memory::Memory,
    seed::{SeedError, Seeder},
    stamp::{Stamp, Stamper, Stamping},
};
use crate::{
    domain::{
        agent::Agent,
        beat::{Beat, Rhythm, Snapshot},
        status::{Input, Status},
    },
    error::{Entity, Error, Result},
    metrics::Beats as BeatMetrics,
    store::{self, beats::Deadline, liveness::Heard},
};

/// How often a beat is tried again on a record that changes under it.
const ATTEMPTS: u32 = 4;

/// When an agent is asked again whose beat did not count.
const SOON: Duration = Duration::from_secs(1);

/// Who beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The tenant.
    pub account: AccountId,
    /// The agent.
    pub agent: AgentId,
}

/// What an agent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where it stands.
    pub status: Status,
    /// When it should beat again.
    pub next_beat_in: Duration,
}

/// Takes beats. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heartbeats {
    pool: Pool,
    clock: SharedClock,
    rhythm: Rhythm,
    memory: Memory,
    stamper: Stamper,
    flusher: Flusher,
    /// Beats that go through a record at once: the rest of the service needs connections too.
    settling: Arc<Semaphore>,
    metrics: BeatMetrics,
}

impl Heartbeats {
    /// Takes beats by stamping them, remembering them in `memory` and writing them down by `flusher`; at most
    /// `settling` at once go through records.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        rhythm: Rhythm,
        (memory, stamper, flusher): (Memory, Stamper, Flusher),
        settling: usize,
    ) -> Self {
        let (settling, metrics) = (Arc::new(Semaphore::new(settling)), BeatMetrics::new());
        Self { pool, clock, rhythm, memory, stamper, flusher, settling, metrics }
    }

    /// Takes one beat.
    pub async fn beat(&self, sender: Sender, beat: &Beat) -> Result<Answer> {
        let stamp = self.stamper.stamp(sender.agent).await;
        let known = match &stamp {
            Stamp::Counted { known: Some(snapshot) } => {
                self.memory.remember(sender.agent, *snapshot);
                Some(*snapshot)
            }
            Stamp::Counted { known: None } => None,
            Stamp::Away => self.memory.recall(sender.agent),
        };
        let quiet = known.filter(|known| beat.changes_nothing(known));
        self.metrics.count(&stamp, quiet.is_some());
        match quiet {
            Some(snapshot) => {
                self.write_down(sender, &snapshot, beat);
                Ok(self.answer(snapshot.status))
            }
            None => self.settle(sender, beat, known).await,
        }
    }

    /// Takes a beat through the agent's record.
    async fn settle(&self, sender: Sender, beat: &Beat, known: Option<Snapshot>) -> Result<Answer> {
        // The semaphore is never closed.
        let _place = self.settling.acquire().await.ok();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.settle_once(sender, beat, known).await {
                Err(Error::Pg(pg::Error::Stale { .. })) if attempt < ATTEMPTS => {}
                settled => return settled,
            }
        }
    }

    async fn settle_once(&self, sender: Sender, beat: &Beat, known: Option<Snapshot>) -> Result<Answer> {
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: sender.account }).await?;
        let agent = store::agents::find(&mut tx, sender.account, sender.agent).await?;
        let agent = agent.ok_or(Error::NotFound(Entity::Agent))?;
        if known.is_some_and(|known| known.incarnation != agent.incarnation) {
            // What was known is older than the record: this beat was heard under it, and says nothing about now.
            tx.rollback().await?;
            self.memory.note(&agent, Deadline::Keep).await;
            return Ok(Answer { status: agent.status, next_beat_in: SOON.min(self.rhythm.shortest) });
        }
        let vitals = beat.upon(agent.vitals.judges_itself);
        let next = agent.after(Input::Beat(vitals.health()), now)?;
        let next = if next.status == agent.status && vitals.judges_itself == agent.vitals.judges_itself {
            // It only was not remembered.
            tx.rollback().await?;
            self.write_down(sender, &Snapshot::from(&agent), beat);
            agent
        } else {
            let next = Agent { vitals, last_heartbeat_at: Some(now), ..next };
            store::agents::update(&mut tx, &next, agent.generation).await?;
            if next.status.is_reachable() && !agent.status.is_reachable() {
                store::lanes::wake(&mut tx, next.id).await?;
            }
            tx.commit().await?;
            next
        };
        self.memory.note(&next, Deadline::Keep).await;
        Ok(self.answer(next.status))
    }

    fn write_down(&self, sender: Sender, snapshot: &Snapshot, beat: &Beat) {
        self.flusher.add(Heard {
            agent: sender.agent,
            account: sender.account,
            incarnation: snapshot.incarnation,
            vitals: beat.upon(snapshot.judges_itself),
            at: self.clock.now(),
        });
    }

    fn answer(&self, status: Status) -> Answer {
        let interval = self.rhythm.interval(self.stamper.alive());
        Answer { status, next_beat_in: self.rhythm.next_beat(interval, rand::random()) }
    }
}
