//! Beats in Redis: who is alive until when, heard through which replica, and what Postgres last said of each.
//!
//! All of it may be lost: whoever finds the generation mark missing puts the agents back that Postgres calls alive
//! ([`BeatStore::seed`], then [`BeatStore::mark`]). Every time in here is Redis's own.

use std::{sync::LazyLock, time::Duration};

use redis::{Script, ScriptInvocation};
use svc_core::{
    custody::data_map::Class,
    data::redis::{Error, KeyFamily, Redis},
    id::AgentId,
};

use crate::domain::beat::Snapshot;

/// Most agents in one script: Redis does nothing else meanwhile.
pub const BATCH: usize = 256;

/// Keys of what is remembered of agents.
pub const AGENT_KEYS: KeyFamily =
    KeyFamily { name: "hb", class: Class::Account, text: "Ids of living agents, their status and deadlines" };

/// Keys of the bookkeeping about it.
pub const SYSTEM_KEYS: KeyFamily = KeyFamily {
    name: "hbs",
    class: Class::System,
    text: "Replicas that hear beats, and when was last swept",
};

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("beats/common.lua"), include_str!($file))))
    };
}

static BEAT: LazyLock<Script> = script!("beats/beat.lua");
static SETTLE: LazyLock<Script> = script!("beats/settle.lua");
static SEED: LazyLock<Script> = script!("beats/seed.lua");
static MARK: LazyLock<Script> = script!("beats/mark.lua");
static ALIVE: LazyLock<Script> = script!("beats/alive.lua");
static SWEEP: LazyLock<Script> = script!("beats/sweep.lua");
static SILENT: LazyLock<Script> = script!("beats/silent.lua");

/// What Redis knew when beats arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamped {
    /// Nothing: it must be seeded first, and these beats stamped again.
    Unseeded,
    /// The beats count.
    Counted {
        /// Agents whose silence would be noticed.
        alive: u64,
        /// What was known of each agent, in their order.
        known: Vec<Option<Snapshot>>,
    },
}

/// What becomes of an agent's deadline when Postgres's word is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// It stays as it is.
    Keep,
    /// It goes, unless a beat came meanwhile.
    Lapse,
    /// It goes.
    Drop,
    /// It is at least so far away.
    AtLeast(Duration),
}

/// What a sweep is told at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepStart {
    /// Redis must be seeded first.
    Unseeded,
    /// There is an amnesty: nobody is believed to be silent.
    Rest,
    /// Too many are silent at once to be believed; an amnesty begins.
    Brake {
        /// Silent agents.
        silent: u64,
        /// All.
        all: u64,
    },
    /// Go on.
    Go {
        /// Silent agents.
        silent: u64,
        /// All.
        all: u64,
    },
}

/// When silence is believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SweepLimits {
    /// Time between two sweeps.
    pub period: Duration,
    /// Time that everybody gets after a pause.
    pub amnesty: Duration,
    /// So many silent agents are believed at once…
    pub believed: u32,
    /// …or such a share of all.
    pub believed_share: f64,
}

/// A page of silent agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// How many were looked at; fewer than asked for means that this was the last page.
    pub looked_at: usize,
    /// Those that are believed to be silent, with what was known of them.
    pub agents: Vec<(AgentId, Option<Snapshot>)>,
}

/// Beats of the installation, as one replica writes them.
#[derive(Debug, Clone)]
pub struct BeatStore {
    redis: Redis,
    replica: String,
    keys: [String; 8],
}

impl BeatStore {
    /// In this Redis, for the replica of this name.
    #[must_use]
    pub fn new(redis: Redis, replica: String) -> Self {
        let agent = |id: &str| redis.key(&AGENT_KEYS, id);
        let system = |id: &str| redis.key(&SYSTEM_KEYS, id);
        // In the order of common.lua.
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

    /// Counts the beats of at most [`BATCH`] agents, each overdue again after `patience`.
    pub async fn beat(&self, agents: &[AgentId], patience: Duration) -> Result<Stamped, Error> {
        let mut script = self.with_keys(&BEAT);
        script.arg(&self.replica).arg(millis(patience));
        for agent in agents {
            script.arg(agent.to_string());
        }
        let (alive, known): (u64, Vec<Option<String>>) = match self.redis.script(&script).await? {
            None => return Ok(Stamped::Unseeded),
            Some(answer) => answer,
        };
        // What cannot be read is not known: Postgres will say.
        let known = known.into_iter().map(|text| text.and_then(|text| text.parse().ok())).collect();
        Ok(Stamped::Counted { alive, known })
    }

    /// Puts in what Postgres says of agents.
    pub async fn settle(&self, agents: &[(AgentId, Snapshot, Deadline)]) -> Result<(), Error> {
        for batch in agents.chunks(BATCH) {
            let mut script = self.with_keys(&SETTLE);
            for (agent, snapshot, deadline) in batch {
                script.arg(agent.to_string()).arg(snapshot.to_string());
                match deadline {
                    Deadline::Keep => script.arg("keep"),
                    Deadline::Lapse => script.arg("lapse"),
                    Deadline::Drop => script.arg("drop"),
                    Deadline::AtLeast(time) => script.arg(millis(*time)),
                };
            }
            self.redis.script::<i64>(&script).await?;
        }
        Ok(())
    }

    /// Forgets agents: nothing is kept of them.
    pub async fn forget(&self, agents: &[AgentId]) -> Result<(), Error> {
        for batch in agents.chunks(BATCH) {
            let mut script = self.with_keys(&SETTLE);
            for agent in batch {
                script.arg(agent.to_string()).arg("").arg("forget");
            }
            self.redis.script::<i64>(&script).await?;
        }
        Ok(())
    }

    /// Whether anything is kept of an agent.
    pub async fn remembers(&self, agent: AgentId) -> Result<bool, Error> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZSCORE").arg(&self.keys[1]).arg(agent.to_string());
        pipeline.cmd("HEXISTS").arg(&self.keys[2]).arg(agent.to_string());
        pipeline.cmd("HEXISTS").arg(&self.keys[3]).arg(agent.to_string());
        let (deadline, snapshot, replica): (Option<f64>, bool, bool) = self.redis.pipeline(&pipeline).await?;
        Ok(deadline.is_some() || snapshot || replica)
    }

    /// Gives living agents `time` to be heard of, those that are here already only if `overrule`. `run` is what the
    /// first page of a seeding answered; `None` means that it began in a Redis that is gone.
    pub async fn seed(
        &self,
        run: Option<&str>,
        time: Duration,
        overrule: bool,
        agents: &[(AgentId, Snapshot)],
    ) -> Result<Option<String>, Error> {
        let mut answered = run.map(str::to_owned);
        let pages: Vec<_> = if agents.is_empty() { vec![agents] } else { agents.chunks(BATCH).collect() };
        for page in pages {
            let mut script = self.with_keys(&SEED);
            script.arg(answered.as_deref().unwrap_or_default()).arg(millis(time)).arg(u8::from(overrule));
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

    /// Ends a seeding; `false` means that this is another Redis than the one it began in.
    pub async fn mark(&self, run: &str) -> Result<bool, Error> {
        let mut script = self.with_keys(&MARK);
        script.arg(run).arg(svc_core::id::new_id().simple().to_string());
        self.redis.script(&script).await
    }

    /// Says that this replica hears agents. Replicas not heard of for `forget_after` are forgotten.
    pub async fn alive(&self, forget_after: Duration) -> Result<(), Error> {
        let mut script = self.with_keys(&ALIVE);
        script.arg(&self.replica).arg(millis(forget_after));
        self.redis.script::<i64>(&script).await.map(drop)
    }

    /// Begins a sweep.
    pub async fn sweep(&self, limits: &SweepLimits) -> Result<SweepStart, Error> {
        let mut script = self.with_keys(&SWEEP);
        script
            .arg(millis(limits.period))
            .arg(millis(limits.amnesty))
            .arg(limits.believed)
            .arg(limits.believed_share);
        let (word, silent, all): (String, u64, u64) = self.redis.script(&script).await?;
        Ok(match word.as_str() {
            "seed" => SweepStart::Unseeded,
            "brake" => SweepStart::Brake { silent, all },
            "go" => SweepStart::Go { silent, all },
            _ => SweepStart::Rest,
        })
    }

    /// A page of silent agents, from after the first `skip`. A replica is fresh for `fresh`, and gone after `gone`.
    pub async fn silent(
        &self,
        page: usize,
        skip: usize,
        fresh: Duration,
        gone: Duration,
    ) -> Result<Silent, Error> {
        let mut script = self.with_keys(&SILENT);
        script.arg(page).arg(skip).arg(millis(fresh)).arg(millis(gone));
        let answer: Vec<String> = self.redis.script(&script).await?;
        let mut words = answer.into_iter();
        let looked_at = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut agents = Vec::new();
        while let (Some(agent), Some(snapshot)) = (words.next(), words.next()) {
            if let Ok(id) = AgentId::parse("agent", &agent) {
                agents.push((id, snapshot.parse().ok()));
            }
        }
        Ok(Silent { looked_at, agents })
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
