//! Handles heartbeats, which keep an agent online or bring it back.
//!
//! Each living agent has a deadline in Redis, by which its next beat must arrive. Most beats leave the status
//! as it is, and only move the deadline, in a batch with other beats ([`renew`]). What they report (their
//! vitals) is written to Postgres every few seconds together with the vitals of other agents ([`flush`]). A
//! beat that changes the status updates the record in Postgres, in a transaction that locks the account's
//! custody row, so that an erasure of the account waits for it.
//!
//! An agent's incarnation is a number that grows whenever the agent registers or is marked offline, paused,
//! resumed or removed. If the record has another incarnation than the cached snapshot, the beat changes
//! nothing: the agent may have sent it before that event.
//!
//! While Redis is unreachable or empty, beats are answered from the cache of this process and from Postgres,
//! and no agent is marked offline.

mod cache;
mod flush;
mod renew;
mod seed;

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        pg::{self, Pool, Tx},
        redis,
    },
    id::{AccountId, AgentId},
    run::clock::SharedClock,
    subject::Subject,
};
use tokio::sync::Semaphore;

pub(crate) use self::{
    cache::SnapshotCache,
    flush::Flusher,
    renew::{RenewTask, Renewed, Renewer},
    seed::{SeedError, Seeder},
};
use crate::{
    domain::{
        agent::Agent,
        beat::{Beat, BeatRecord, BeatSchedule, DeadlineChange, Snapshot},
        status::{Input, Status},
    },
    error::{Entity, Error, Result},
    metrics::Beats as BeatMetrics,
    store::{self, beats::BeatStore},
};

/// Maximum attempts to write a record if concurrent writers change it.
const ATTEMPTS: u32 = 4;

/// Maximum time to the next beat in the reply to a beat that changed nothing because the agent's incarnation
/// had changed. The agent must soon send a beat that counts.
const SOON: Duration = Duration::from_secs(1);

/// Retention of replicas in Redis after their last announcement.
const REPLICA_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The agent that beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    pub account: AccountId,
    pub agent: AgentId,
}

/// The reply to a beat: the agent's status and the time of its next beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeatReply {
    pub status: Status,
    /// Time from the reply to the agent's next beat.
    pub next_beat_in: Duration,
}

/// Handles beats of agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeats {
    pub pool: Pool,
    pub clock: SharedClock,
    pub schedule: BeatSchedule,
    pub beats: BeatStore,
    pub cache: SnapshotCache,
    pub renewer: Renewer,
    pub flusher: Flusher,
    /// Bounds the beats that read and write records at once, because other requests need connections too.
    pub record_writes: Arc<Semaphore>,
    pub metrics: BeatMetrics,
}

impl Heartbeats {
    /// Handles one beat.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Status`] if the agent is removed.
    pub(crate) async fn beat(&self, sender: Sender, beat: &Beat) -> Result<BeatReply> {
        let renewed = self.renewer.renew(sender.agent).await;
        let known = match &renewed {
            Renewed::Yes { known: Some(snapshot) } => {
                self.cache.insert_local(sender.agent, *snapshot);
                Some(*snapshot)
            }
            Renewed::Yes { known: None } => None,
            Renewed::RedisAway => self.cache.get_local(sender.agent),
        };
        let unchanged = known.filter(|known| beat.changes_nothing(known));
        self.metrics.count(renewed != Renewed::RedisAway, unchanged.is_none());
        match unchanged {
            Some(snapshot) => {
                self.write_later(sender, &snapshot, beat);
                Ok(self.reply(snapshot.status))
            }
            None => self.apply(sender, beat, known).await,
        }
    }

    /// Announces in Redis that this replica takes beats; does nothing if Redis is unreachable.
    ///
    /// # Errors
    /// [`redis::Error`] if Redis refused the announcement.
    pub(crate) async fn announce(&self) -> Result<(), redis::Error> {
        match self.beats.announce(REPLICA_RETENTION).await {
            Err(error) if !error.is_down() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Applies a beat to the agent's record in Postgres.
    async fn apply(&self, sender: Sender, beat: &Beat, known: Option<Snapshot>) -> Result<BeatReply> {
        // The semaphore is never closed.
        let _permit = self.record_writes.acquire().await.ok();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.apply_once(sender, beat, known).await {
                Err(Error::Pg(pg::Error::Stale { .. })) if attempt < ATTEMPTS => {}
                applied => return applied,
            }
        }
    }

    async fn apply_once(&self, sender: Sender, beat: &Beat, known: Option<Snapshot>) -> Result<BeatReply> {
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: sender.account }).await?;
        let agent = store::agents::find(&mut tx, sender.account, sender.agent).await?;
        let agent = agent.ok_or(Error::NotFound(Entity::Agent))?;
        if known.is_some_and(|known| known.incarnation != agent.incarnation) {
            // The cached snapshot is of an earlier incarnation, in which the agent may have sent the beat. So
            // the beat changes nothing, and only the cache is updated.
            tx.rollback().await?;
            self.cache.put(&agent, DeadlineChange::Keep).await;
            return Ok(BeatReply {
                status: agent.status,
                next_beat_in: SOON.min(self.schedule.min_interval),
            });
        }
        let vitals = beat.vitals_after(agent.vitals.judges_itself);
        let next = agent.after(Input::Beat(vitals.health()), now)?;
        let next = if next.status == agent.status && vitals.judges_itself == agent.vitals.judges_itself {
            // The record already has the change; only the snapshot was old.
            tx.rollback().await?;
            self.write_later(sender, &Snapshot::from(&agent), beat);
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
        self.cache.put(&next, DeadlineChange::Keep).await;
        Ok(self.reply(next.status))
    }

    fn write_later(&self, sender: Sender, snapshot: &Snapshot, beat: &Beat) {
        self.flusher.add(BeatRecord {
            agent: sender.agent,
            account: sender.account,
            incarnation: snapshot.incarnation,
            vitals: beat.vitals_after(snapshot.judges_itself),
            at: self.clock.now(),
        });
    }

    fn reply(&self, status: Status) -> BeatReply {
        let interval = self.schedule.interval(self.renewer.alive());
        BeatReply { status, next_beat_in: self.schedule.next_beat(interval, rand::random()) }
    }
}
