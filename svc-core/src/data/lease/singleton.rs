//! Leases on tasks of which one replica at a time runs a pass.
//!
//! A replica takes these steps in order, and goes to the next one only if the step succeeds:
//!
//! 1. In Redis: `SET key token NX PX ttl`. From then on a background task renews the key every third of the
//!    TTL.
//! 2. In Postgres: `epoch + 1, holder = token`. The statement waits until the previous holder's open
//!    transactions of step 4 have ended; those that the previous holder begins later are refused.
//! 3. In Redis again: the key still has this token, with at least half of the TTL left. Otherwise the replica
//!    does not run the pass. The replica may have lost the key while it was suspended between steps 1 and 2;
//!    its step 2 has then fenced the replica that acquired the lease meanwhile, which must acquire it again.
//! 4. The pass. It makes each of its writes in a transaction of [`Held::tx`] or [`Held::guard`], which lock
//!    the lease's row `FOR SHARE` if epoch and holder are still its own. A suspended, disconnected or slow
//!    holder therefore writes nothing after another replica has done step 2.
//!
//! While Redis is unreachable no replica runs a pass. Postgres fences only writes to Postgres, so a pass that
//! acts elsewhere must first record its intent in Postgres.

use std::{borrow::Cow, sync::LazyLock, time::Duration};

use redis::Script;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{
    data::{
        data_map::Class,
        pg::{self, Pool, Tx},
        redis::{KeyFamily, Redis},
    },
    error::Chain,
    run::lifecycle::Lifecycle,
};

/// Keys of singleton leases.
pub const KEYS: KeyFamily = KeyFamily {
    name: "lease",
    class: Class::System,
    text: "Token of the replica that runs a singleton task",
};

/// Script that returns the milliseconds until the key expires if it has our token, otherwise -1.
static LEFT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("left.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// A task of which one replica at a time runs a pass.
#[derive(Debug, Clone)]
pub struct Singleton {
    name: Cow<'static, str>,
    ttl: Duration,
    redis: Redis,
    pool: Pool,
    lifecycle: Lifecycle,
}

impl Singleton {
    /// Builds the task `name` (as `sandbox.reconcile/<engine>`, unique in the installation).
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        ttl: Duration,
        redis: &Redis,
        pool: &Pool,
        lifecycle: &Lifecycle,
    ) -> Self {
        let (redis, pool, lifecycle) = (redis.clone(), pool.clone(), lifecycle.clone());
        Self { name: name.into(), ttl, redis, pool, lifecycle }
    }

    /// Tries to acquire the lease. Returns `None` if another replica holds it, if Redis is unreachable, or if
    /// after the Postgres step the Redis lock is lost or has less than half of its TTL left.
    ///
    /// # Errors
    /// [`pg::Error`] if Postgres could not be reached.
    pub async fn acquire(&self) -> Result<Option<Held>, pg::Error> {
        let lock = Lock {
            redis: self.redis.clone(),
            key: self.redis.key(&KEYS, &self.name),
            token: crate::id::new_id(),
        };
        let asked = Instant::now();
        if !lock.take(self.ttl).await {
            return Ok(None);
        }
        // From here on a task renews the lock. When `guard` is dropped, on every return path, the task
        // releases it.
        let (lost, dropped) = (CancellationToken::new(), CancellationToken::new());
        let keeper = keep(lock.clone(), self.ttl, asked + self.ttl, lost.clone(), dropped.clone());
        drop(self.lifecycle.spawn("singleton lease", keeper));
        let guard = dropped.drop_guard();

        let epoch: i64 = sqlx::query_scalar(
            "INSERT INTO leases (name, epoch, holder)
             VALUES ($1, 1, $2)
             ON CONFLICT (name) DO UPDATE
             SET epoch = leases.epoch + 1, holder = excluded.holder, taken_at = now()
             RETURNING epoch",
        )
        .bind(&*self.name)
        .bind(lock.token)
        .fetch_one(self.pool.inner())
        .await
        .map_err(pg::Error::from)?;

        if !lock.is_mine_for(self.ttl / 2).await {
            return Ok(None);
        }
        tracing::debug!(lease = %self.name, epoch, "singleton lease taken");
        Ok(Some(Held {
            name: self.name.clone(),
            epoch,
            token: lock.token,
            pool: self.pool.clone(),
            lost,
            _guard: guard,
        }))
    }
}

/// An acquired lease. Dropping it releases the lock in Redis.
#[derive(Debug)]
pub struct Held {
    name: Cow<'static, str>,
    epoch: i64,
    token: Uuid,
    pool: Pool,
    lost: CancellationToken,
    _guard: DropGuard,
}

impl Held {
    /// Returns the token that fires when another replica has acquired the lease or the lease could not be
    /// renewed in time. The pass should end then; if it continues, its writes in [`Self::tx`] are refused
    /// once another replica has acquired the lease.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Returns the number of this acquisition: each one raises the epoch by 1.
    pub const fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Checks that this replica still holds the lease. A pass calls it before it acts outside Postgres.
    ///
    /// # Errors
    /// [`pg::Error::Fenced`] if this replica no longer holds the lease.
    pub async fn check(&self) -> Result<(), pg::Error> {
        if self.lost.is_cancelled() {
            return Err(self.fenced());
        }
        self.tx().await?.commit().await
    }

    /// Begins a transaction for rows of no subject. No replica can acquire the lease before the transaction
    /// ends.
    ///
    /// # Errors
    /// [`pg::Error::Fenced`] if another replica has acquired the lease.
    pub async fn tx(&self) -> Result<Tx, pg::Error> {
        let mut tx = Tx::system(&self.pool).await?;
        self.guard(&mut tx).await?;
        Ok(tx)
    }

    /// Makes `tx` depend on this lease: no replica can acquire the lease before the transaction ends.
    ///
    /// # Errors
    /// [`pg::Error::Fenced`] if another replica has acquired the lease.
    pub async fn guard(&self, tx: &mut Tx) -> Result<(), pg::Error> {
        let held: Option<i32> = sqlx::query_scalar(
            "SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 AND holder = $3 FOR SHARE",
        )
        .bind(&*self.name)
        .bind(self.epoch)
        .bind(self.token)
        .fetch_optional(&mut **tx)
        .await?;
        if held.is_some() {
            return Ok(());
        }
        self.lost.cancel();
        Err(self.fenced())
    }

    fn fenced(&self) -> pg::Error {
        pg::Error::Fenced(self.name.clone())
    }
}

/// A lock in Redis: a key with this process's token as its value.
#[derive(Debug, Clone)]
struct Lock {
    redis: Redis,
    key: String,
    token: Uuid,
}

impl Lock {
    async fn take(&self, ttl: Duration) -> bool {
        let mut command = redis::cmd("SET");
        command.arg(&self.key).arg(self.token.to_string()).arg("NX").arg("PX").arg(millis(ttl));
        match self.redis.query::<Option<String>>(&command).await {
            Ok(answer) => answer.is_some(),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), key = self.key, "singleton pass skipped");
                false
            }
        }
    }

    async fn is_mine_for(&self, least: Duration) -> bool {
        let left: Result<i64, _> = self.redis.script(LEFT.key(&self.key).arg(self.token.to_string())).await;
        left.is_ok_and(|left| u64::try_from(left).is_ok_and(|left| left >= millis(least)))
    }
}

/// Renews the lock until the [`Held`] is dropped or the lock is lost, then deletes the key if it still has
/// this process's token.
async fn keep(
    lock: Lock,
    ttl: Duration,
    mut until: Instant,
    lost: CancellationToken,
    dropped: CancellationToken,
) {
    let mut pause = ttl / 3;
    loop {
        tokio::select! {
            () = dropped.cancelled() => break,
            () = lost.cancelled() => break,
            () = tokio::time::sleep_until(until) => { lost.cancel(); break }
            () = tokio::time::sleep(pause) => {}
        }
        // `until` is reckoned from before the request, so the key in Redis does not expire earlier.
        let asked = Instant::now();
        let renewed: Result<bool, _> =
            lock.redis.script(RENEW.key(&lock.key).arg(lock.token.to_string()).arg(millis(ttl))).await;
        match renewed {
            Ok(true) => (until, pause) = (asked + ttl, ttl / 3),
            Ok(false) => {
                lost.cancel();
                break;
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), key = lock.key, "singleton lease not renewed");
                pause = ttl / 12;
            }
        }
    }
    let released: Result<bool, _> =
        lock.redis.script(RELEASE.key(&lock.key).arg(lock.token.to_string())).await;
    if let Err(error) = released {
        tracing::debug!(error = %Chain(&error), key = lock.key, "singleton lease not released, it expires");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
