//! What every call to an engine goes through: a deadline for its kind, a bounded number at once and in line, and a
//! breaker for an engine that does not answer.
//!
//! Nothing else talks to an engine, so a daemon that hangs can hold up no more than this many calls. Looking has
//! places of its own: it must work while creates are stuck. A deadline cancels the wait, not what the daemon does.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;
use svc_core::run::{
    breaker::{Breaker, BreakerPolicy, Verdict},
    clock::SharedClock,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    Container, ContainerEngine, ContainerId, EngineInfo, Error, Handle, Observed, Removal, SharedEngine,
    Volume,
};
use crate::domain::spec::{ContainerSpec, VolumeSpec};

/// Bounds on the calls to one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimiterConfig {
    /// Calls that change something, or list, at once.
    pub changes: usize,
    /// Calls that look at one thing, at once.
    pub looks: usize,
    /// Calls that wait for a place; more are refused at once.
    pub waiting: usize,
    /// Deadline of a look.
    #[serde(with = "humantime_serde")]
    pub look_deadline: Duration,
    /// Deadline of a list.
    #[serde(with = "humantime_serde")]
    pub list_deadline: Duration,
    /// Deadline of a create.
    #[serde(with = "humantime_serde")]
    pub create_deadline: Duration,
    /// Deadline of a start.
    #[serde(with = "humantime_serde")]
    pub start_deadline: Duration,
    /// Deadline of a removal.
    #[serde(with = "humantime_serde")]
    pub remove_deadline: Duration,
    /// When an engine that does not answer is left alone.
    pub breaker: BreakerPolicy,
}

/// An engine behind its bounds.
#[derive(Debug)]
pub struct Limited {
    engine: SharedEngine,
    config: LimiterConfig,
    changes: Semaphore,
    looks: Semaphore,
    waiting: AtomicUsize,
    breaker: Mutex<Breaker>,
    clock: SharedClock,
}

impl Limited {
    /// Puts `engine` behind the bounds of `config`.
    #[must_use]
    pub fn new(engine: SharedEngine, config: LimiterConfig, clock: SharedClock) -> Self {
        Self {
            engine,
            config,
            changes: Semaphore::new(config.changes),
            looks: Semaphore::new(config.looks),
            waiting: AtomicUsize::new(0),
            breaker: Mutex::default(),
            clock,
        }
    }

    async fn call<T>(
        &self,
        places: &Semaphore,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let until = Instant::now() + deadline;
        let _place = match places.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                let _queued = Queued::enter(&self.waiting, self.config.waiting)?;
                match timeout_at(until, places.acquire()).await {
                    Ok(Ok(place)) => place,
                    // Never asked, so nothing happened.
                    Ok(Err(_)) | Err(_) => return Err(Error::Busy),
                }
            }
        };
        // After the wait: the engine may have stopped answering meanwhile.
        let policy = &self.config.breaker;
        let permit = self
            .with_breaker(|breaker| breaker.admit(policy, self.clock.now()))
            .map_err(|refused| Error::BreakerOpen(refused.retry_after))?;
        let answer = timeout_at(until, call).await.unwrap_or(Err(Error::TimedOut(deadline)));
        let verdict = match &answer {
            Err(error) if error.is_outage() => Verdict::Failure,
            Ok(_) | Err(_) => Verdict::Success,
        };
        self.with_breaker(|breaker| breaker.record(permit, verdict, policy, self.clock.now()));
        answer
    }

    async fn look<T: Send>(&self, look: impl Future<Output = Observed<T>> + Send) -> Observed<T> {
        let answer = async {
            match look.await {
                Observed::Present(found) => Ok(Some(found)),
                Observed::Absent => Ok(None),
                Observed::Unknown(error) => Err(error),
            }
        };
        match self.call(&self.looks, self.config.look_deadline, answer).await {
            Ok(Some(found)) => Observed::Present(found),
            Ok(None) => Observed::Absent,
            Err(error) => Observed::Unknown(error),
        }
    }

    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A place in the line.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn enter(waiting: &'a AtomicUsize, most: usize) -> Result<Self, Error> {
        let entered =
            waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        entered.map(|_| Self(waiting)).map_err(|_| Error::Busy)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl ContainerEngine for Limited {
    async fn info(&self) -> Result<EngineInfo, Error> {
        self.call(&self.looks, self.config.look_deadline, self.engine.info()).await
    }

    async fn image(&self, name: &str) -> Observed<String> {
        self.look(self.engine.image(name)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        self.call(&self.changes, self.config.create_deadline, self.engine.create(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Error> {
        self.call(&self.changes, self.config.start_deadline, self.engine.start(id)).await
    }

    async fn observe(&self, handle: Handle<'_>) -> Observed<Container> {
        self.look(self.engine.observe(handle)).await
    }

    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error> {
        self.call(&self.changes, self.config.remove_deadline, self.engine.remove(handle)).await
    }

    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error> {
        self.call(&self.changes, self.config.list_deadline, self.engine.list(installation)).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        self.call(&self.changes, self.config.remove_deadline, self.engine.create_volume(spec)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<Removal, Error> {
        self.call(&self.changes, self.config.remove_deadline, self.engine.remove_volume(name)).await
    }

    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error> {
        self.call(&self.changes, self.config.list_deadline, self.engine.list_volumes(installation)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use svc_core::run::clock::{MockClock, SystemClock};

    use super::*;
    use crate::engine::fake::{FakeEngine, Fault, Verb};

    fn limited(engine: &Arc<FakeEngine>) -> Limited {
        limited_by(engine, SystemClock::shared())
    }

    fn limited_by(engine: &Arc<FakeEngine>, clock: SharedClock) -> Limited {
        let config = LimiterConfig {
            changes: 2,
            looks: 1,
            waiting: 1,
            look_deadline: Duration::from_secs(5),
            list_deadline: Duration::from_secs(5),
            create_deadline: Duration::from_secs(5),
            start_deadline: Duration::from_secs(5),
            remove_deadline: Duration::from_secs(5),
            breaker: BreakerPolicy {
                threshold: 3,
                cooldown: Duration::from_secs(10),
                ..BreakerPolicy::default()
            },
        };
        Limited::new(engine.clone(), config, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_ends_at_its_deadline_as_unknown() {
        let engine = FakeEngine::new("E");
        engine.fault(Verb::Observe, Fault::Stall);
        let started = Instant::now();
        let observed = limited(&engine).observe(Handle::Name("x")).await;
        assert!(matches!(observed, Observed::Unknown(Error::TimedOut(_))), "{observed:?}");
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_changes_hold_up_no_look_and_a_full_line_refuses_at_once() {
        let engine = FakeEngine::new("E");
        for _ in 0..2 {
            engine.fault(Verb::Remove, Fault::Stall);
        }
        let limited = limited(&engine);
        let started = Instant::now();
        let (first, second, third, fourth, look) = tokio::join!(
            limited.remove(Handle::Name("a")),
            limited.remove(Handle::Name("b")),
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                limited.remove(Handle::Name("c")).await
            },
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let refused = limited.remove(Handle::Name("d")).await;
                (refused, started.elapsed())
            },
            async {
                let look = limited.observe(Handle::Name("x")).await;
                (look, started.elapsed())
            },
        );
        assert!(matches!((first, second), (Err(Error::TimedOut(_)), Err(Error::TimedOut(_)))));
        assert!(matches!(third, Ok(Removal::Absent)), "{third:?}");
        assert!(matches!(fourth.0, Err(Error::Busy)) && fourth.1 == Duration::from_secs(2), "{fourth:?}");
        assert!(matches!(look.0, Observed::Absent) && look.1.is_zero(), "{look:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_does_not_answer_is_left_alone_and_then_asked_again() {
        let engine = FakeEngine::new("E");
        for _ in 0..3 {
            engine.fault(Verb::Info, Fault::Stall);
        }
        let clock = MockClock::at(chrono::DateTime::UNIX_EPOCH);
        let limited = limited_by(&engine, clock.clone());
        for _ in 0..3 {
            assert!(matches!(limited.info().await, Err(Error::TimedOut(_))));
        }
        assert!(matches!(limited.info().await, Err(Error::BreakerOpen(_))));
        clock.advance(Duration::from_secs(10));
        assert!(limited.info().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_answers_and_open_no_breaker() {
        let engine = FakeEngine::new("E");
        let limited = limited(&engine);
        for _ in 0..10 {
            assert!(matches!(limited.start(&ContainerId("none".into())).await, Err(Error::NoSuch)));
        }
        assert!(limited.info().await.is_ok());
    }
}
