//! Bounds on the calls to an engine: a deadline for each kind of call, a maximum number running and waiting,
//! and a circuit breaker for an engine that does not answer.
//!
//! Every call goes through here, so a daemon that hangs blocks no more calls than these maxima. Reads of one
//! object have permits of their own, because they must work while creates hang. A deadline ends the caller's
//! wait, not the daemon's work.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use svc_core::run::{
    breaker::{Breaker, Verdict},
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
use crate::domain::{
    limits::LimiterSettings,
    spec::{ContainerSpec, VolumeSpec},
};

/// An engine with bounded calls.
#[derive(Debug)]
pub struct Limited {
    engine: SharedEngine,
    limits: LimiterSettings,
    changes: Semaphore,
    looks: Semaphore,
    /// One permit for each call that may wait.
    waiting: Semaphore,
    breaker: Mutex<Breaker>,
    clock: SharedClock,
}

impl Limited {
    pub fn new(engine: SharedEngine, limits: LimiterSettings, clock: SharedClock) -> Self {
        Self {
            engine,
            limits,
            changes: Semaphore::new(limits.changes),
            looks: Semaphore::new(limits.looks),
            waiting: Semaphore::new(limits.waiting),
            breaker: Mutex::default(),
            clock,
        }
    }

    async fn call<T>(
        &self,
        permits: &Semaphore,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let until = Instant::now() + deadline;
        let _permit = match permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _queued = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
                match timeout_at(until, permits.acquire()).await {
                    Ok(Ok(permit)) => permit,
                    // No permit became free before the deadline, so no request was sent to the engine.
                    Ok(Err(_)) | Err(_) => return Err(Error::Busy),
                }
            }
        };
        // Checks the breaker after the wait, because it may have opened meanwhile.
        let policy = &self.limits.breaker;
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

    async fn read<T: Send>(&self, read: impl Future<Output = Observed<T>> + Send) -> Observed<T> {
        let answer = async { read.await.known() };
        match self.call(&self.looks, self.limits.look_deadline, answer).await {
            Ok(Some(found)) => Observed::Present(found),
            Ok(None) => Observed::Absent,
            Err(error) => Observed::Unknown(error),
        }
    }

    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl ContainerEngine for Limited {
    async fn info(&self) -> Result<EngineInfo, Error> {
        self.call(&self.looks, self.limits.look_deadline, self.engine.info()).await
    }

    async fn image(&self, name: &str) -> Observed<String> {
        self.read(self.engine.image(name)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        self.call(&self.changes, self.limits.create_deadline, self.engine.create(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Error> {
        self.call(&self.changes, self.limits.start_deadline, self.engine.start(id)).await
    }

    async fn observe(&self, handle: Handle<'_>) -> Observed<Container> {
        self.read(self.engine.observe(handle)).await
    }

    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error> {
        self.call(&self.changes, self.limits.remove_deadline, self.engine.remove(handle)).await
    }

    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error> {
        self.call(&self.changes, self.limits.list_deadline, self.engine.list(installation)).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        self.call(&self.changes, self.limits.remove_deadline, self.engine.create_volume(spec)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<Removal, Error> {
        self.call(&self.changes, self.limits.remove_deadline, self.engine.remove_volume(name)).await
    }

    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error> {
        self.call(&self.changes, self.limits.list_deadline, self.engine.list_volumes(installation)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use svc_core::run::{
        breaker::BreakerPolicy,
        clock::{MockClock, SystemClock},
    };

    use super::*;
    use crate::engine::fake::{FakeEngine, Fault, Verb};

    fn limited(engine: &Arc<FakeEngine>) -> Limited {
        limited_by(engine, SystemClock::shared())
    }

    fn limited_by(engine: &Arc<FakeEngine>, clock: SharedClock) -> Limited {
        let limits = LimiterSettings {
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
        Limited::new(engine.clone(), limits, clock)
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
    async fn stuck_changes_block_no_reads_and_a_full_queue_refuses() {
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
    async fn a_silent_engine_opens_the_breaker_until_a_probe_succeeds() {
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
            assert!(matches!(limited.start(&ContainerId("none".into())).await, Err(Error::NotFound)));
        }
        assert!(limited.info().await.is_ok());
    }
}
