//! Beats in Redis: each agent's deadline, the replica that took its last beat, and its snapshot.
//!
//! All of it may be lost. Redis has the generation key once all living agents have been written to it. A
//! caller that finds the key missing writes the agents that are online or degraded in Postgres to Redis
//! ([`BeatStore::seed`], then [`BeatStore::mark`]). All times in Redis are from Redis's clock.

use std::{sync::LazyLock, time::Duration};

use redis::{Script, ScriptInvocation};
use svc_core::{
    data::{
        data_map::Class,
        redis::{Error, KeyFamily, Redis},
    },
    id::AgentId,
};

use crate::domain::beat::{DeadlineChange, Snapshot, SweepLimits};

/// Maximum agents in one script, because Redis runs no other command meanwhile.
pub(crate) const BATCH: usize = 256;

pub(crate) const AGENT_KEYS: KeyFamily =
    KeyFamily { name: "hb", class: Class::Account, text: "Ids of living agents, their status and deadlines" };

pub(crate) const SYSTEM_KEYS: KeyFamily = KeyFamily {
    name: "hbs",
    class: Class::System,
    text: "Replicas that take beats, and the time of the last sweep",
};

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("beats/common.lua"), include_str!($file))))
    };
}

static RENEW: LazyLock<Script> = script!("beats/renew.lua");
static PUT: LazyLock<Script> = script!("beats/put.lua");
static SEED: LazyLock<Script> = script!("beats/seed.lua");
static MARK: LazyLock<Script> = script!("beats/mark.lua");
static ANNOUNCE: LazyLock<Script> = script!("beats/announce.lua");
static SWEEP: LazyLock<Script> = script!("beats/sweep.lua");
static SILENT: LazyLock<Script> = script!("beats/silent.lua");

/// Redis's answer to a batch of beats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Redis must be seeded first; the beats must be sent again.
    Unseeded,
    Renewed {
        /// Agents that have a deadline.
        alive: u64,
        /// The snapshot of each agent, in the order of the beats.
        known: Vec<Option<Snapshot>>,
    },
}

/// Redis's answer to the beginning of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SweepStart {
    /// Redis must be seeded first.
    Unseeded,
    /// A probation is in progress: no agent is marked as offline.
    Probation,
    /// Too many agents are silent at once: a probation begins.
    MassSilence {
        silent: u64,
        all: u64,
    },
    Proceed {
        silent: u64,
        all: u64,
    },
}

/// A page of silent agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SilentPage {
    /// Agents scanned; fewer than the page size on the last page.
    pub scanned: usize,
    /// The scanned agents that count as silent, with their snapshots.
    pub agents: Vec<(AgentId, Option<Snapshot>)>,
}

/// Reads and writes the beats of agents, as one replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BeatStore {
    redis: Redis,
    replica: String,
    keys: [String; 8],
}

impl BeatStore {
    pub(crate) fn new(redis: Redis, replica: String) -> Self {
        let agent = |id: &str| redis.key(&AGENT_KEYS, id);
        let system = |id: &str| redis.key(&SYSTEM_KEYS, id);
        // The order of the keys is that of common.lua.
        let keys = [
            system("generation"),
            agent("deadlines"),
            agent("snapshots"),
            agent("replica"),
            system("replicas"),
            system("swept"),
            system("amnesty"),
            system("brake"),
        ];
        Self { redis, replica, keys }
    }

    /// Moves the deadlines of at most [`BATCH`] agents to `timeout` from now.
    pub(crate) async fn renew(&self, agents: &[AgentId], timeout: Duration) -> Result<Renewal, Error> {
        let mut script = self.with_keys(&RENEW);
        script.arg(&self.replica).arg(millis(timeout));
        for agent in agents {
            script.arg(agent.to_string());
        }
        let (alive, known): (u64, Vec<Option<String>>) = match self.redis.script(&script).await? {
            None => return Ok(Renewal::Unseeded),
            Some(answer) => answer,
        };
        // An unreadable snapshot counts as missing: the beat is then applied to the record.
        let known = known.into_iter().map(|text| text.and_then(|text| text.parse().ok())).collect();
        Ok(Renewal::Renewed { alive, known })
    }

    /// Stores snapshots read from Postgres, and changes deadlines.
    pub(crate) async fn put(&self, agents: &[(AgentId, Snapshot, DeadlineChange)]) -> Result<(), Error> {
        for batch in agents.chunks(BATCH) {
            let mut script = self.with_keys(&PUT);
            for (agent, snapshot, deadline) in batch {
                script.arg(agent.to_string()).arg(snapshot.to_string());
                match deadline {
                    DeadlineChange::Keep => script.arg("keep"),
                    DeadlineChange::RemoveIfPassed => script.arg("remove_if_passed"),
                    DeadlineChange::Remove => script.arg("remove"),
                    DeadlineChange::ExtendTo(time) => script.arg(millis(*time)),
                };
            }
            self.redis.script::<i64>(&script).await?;
        }
        Ok(())
    }

    /// Deletes all data of agents.
    pub(crate) async fn delete(&self, agents: &[AgentId]) -> Result<(), Error> {
        for batch in agents.chunks(BATCH) {
            let mut script = self.with_keys(&PUT);
            for agent in batch {
                script.arg(agent.to_string()).arg("").arg("delete");
            }
            self.redis.script::<i64>(&script).await?;
        }
        Ok(())
    }

    /// Returns whether Redis has any data of an agent.
    pub(crate) async fn has(&self, agent: AgentId) -> Result<bool, Error> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZSCORE").arg(&self.keys[1]).arg(agent.to_string());
        pipeline.cmd("HEXISTS").arg(&self.keys[2]).arg(agent.to_string());
        pipeline.cmd("HEXISTS").arg(&self.keys[3]).arg(agent.to_string());
        let (deadline, snapshot, replica): (Option<f64>, bool, bool) = self.redis.pipeline(&pipeline).await?;
        Ok(deadline.is_some() || snapshot || replica)
    }

    /// Writes living agents and sets each deadline to `time` from now. A deadline that exists already is
    /// moved only if `extend`, and only to a later time. `run` is the Redis run id that the first page of
    /// this seeding returned. Returns the run id; `None` if Redis now has another one, because it was
    /// replaced.
    pub(crate) async fn seed(
        &self,
        run: Option<&str>,
        time: Duration,
        extend: bool,
        agents: &[(AgentId, Snapshot)],
    ) -> Result<Option<String>, Error> {
        let mut answered = run.map(str::to_owned);
        let pages: Vec<_> = if agents.is_empty() { vec![agents] } else { agents.chunks(BATCH).collect() };
        for page in pages {
            let mut script = self.with_keys(&SEED);
            script.arg(answered.as_deref().unwrap_or_default()).arg(millis(time)).arg(u8::from(extend));
            for (agent, snapshot) in page {
                script.arg(agent.to_string()).arg(snapshot.to_string());
            }
            let id: String = self.redis.script(&script).await?;
            if answered.as_ref().is_some_and(|answered| *answered != id) {
                return Ok(None);
            }
            answered = Some(id);
        }
        Ok(answered)
    }

    /// Marks Redis as completely seeded by writing the generation key. `run` is the run id that
    /// [`seed`](Self::seed) returned. If Redis has another run id by now, it writes nothing and returns
    /// `false`.
    pub(crate) async fn mark(&self, run: &str) -> Result<bool, Error> {
        let mut script = self.with_keys(&MARK);
        script.arg(run).arg(svc_core::id::new_id().simple().to_string());
        self.redis.script(&script).await
    }

    /// Announces that this replica takes beats. Deletes replicas that were last announced more than
    /// `retention` ago.
    pub(crate) async fn announce(&self, retention: Duration) -> Result<(), Error> {
        let mut script = self.with_keys(&ANNOUNCE);
        script.arg(&self.replica).arg(millis(retention));
        self.redis.script::<i64>(&script).await.map(drop)
    }

    pub(crate) async fn begin_sweep(&self, limits: &SweepLimits) -> Result<SweepStart, Error> {
        let mut script = self.with_keys(&SWEEP);
        script
            .arg(millis(limits.period))
            .arg(millis(limits.probation))
            .arg(limits.max_silent)
            .arg(limits.max_silent_share);
        let (word, silent, all): (String, u64, u64) = self.redis.script(&script).await?;
        Ok(match word.as_str() {
            "unseeded" => SweepStart::Unseeded,
            "mass_silence" => SweepStart::MassSilence { silent, all },
            "proceed" => SweepStart::Proceed { silent, all },
            _ => SweepStart::Probation,
        })
    }

    /// Reads a page of the agents with a passed deadline, after the first `skip`. Leaves out an agent if the
    /// replica of its last beat last announced itself more than `fresh` and less than `gone` ago: that
    /// replica may take beats that Redis does not see.
    pub(crate) async fn silent(
        &self,
        page: usize,
        skip: usize,
        fresh: Duration,
        gone: Duration,
    ) -> Result<SilentPage, Error> {
        let mut script = self.with_keys(&SILENT);
        script.arg(page).arg(skip).arg(millis(fresh)).arg(millis(gone));
        let answer: Vec<String> = self.redis.script(&script).await?;
        let mut words = answer.into_iter();
        let scanned = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut agents = Vec::new();
        while let (Some(agent), Some(snapshot)) = (words.next(), words.next()) {
            if let Ok(id) = AgentId::parse("agent", &agent) {
                agents.push((id, snapshot.parse().ok()));
            }
        }
        Ok(SilentPage { scanned, agents })
    }

    fn with_keys(&self, script: &'static Script) -> ScriptInvocation<'static> {
        let mut invocation = script.prepare_invoke();
        for key in &self.keys {
            invocation.key(key);
        }
        invocation
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
