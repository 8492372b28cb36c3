//! Tasks of a process: how they run and how they stop.
//!
//! Two tokens control them. The *soft* token asks every task to finish its current work; the *hard* token
//! asks it to end now. The first SIGTERM or SIGINT fires the soft token; a second one, or the end of the
//! grace period, fires the hard token. If an essential task ends early, the soft token fires and the process
//! exits with a failure. Background loops are supervised: after an error or panic they are restarted with
//! back-off, and the service's health shows when each loop last finished a round.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{error::Chain, run::backoff::Backoff};

/// Result of a supervised loop.
pub type LoopResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Delay before a failed loop is restarted.
const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Returns the maximum time between two [`Beat::tick`]s of a healthy loop: `periods` times the pause between
/// its rounds, plus `work` for one slow round.
pub const fn longest_silence(period: Duration, periods: u32, work: Duration) -> Duration {
    period.saturating_mul(periods).saturating_add(work)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every task finished within the grace period.
    Clean,
    /// An essential task failed, a task panicked, or a task had to be ended by force.
    Failed,
}

/// The tasks of a process; clones share them.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    failed: Arc<AtomicBool>,
    loops: Arc<Mutex<BTreeMap<&'static str, Arc<LoopState>>>>,
}

#[derive(Debug)]
struct LoopState {
    started: Instant,
    /// Time of the last tick in milliseconds after `started`, plus one; 0 = no tick yet.
    last_tick: AtomicU64,
    /// Maximum time between two ticks while the loop counts as healthy.
    silence: Duration,
    failures: AtomicU32,
}

/// Lets a supervised loop report that it has finished a round.
#[derive(Debug, Clone)]
pub struct Beat(Arc<LoopState>);

impl Beat {
    /// Reports the end of a round, a tick.
    pub fn tick(&self) {
        let at = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.0.last_tick.store(at + 1, Ordering::Relaxed);
        self.0.failures.store(0, Ordering::Relaxed);
    }
}

/// Health of one supervised loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopHealth {
    pub name: &'static str,
    /// Time since the loop's last tick; `None` before the first one.
    pub since_last_tick: Option<Duration>,
    /// Number of failures since the last tick.
    pub failures: u32,
    /// Whether the time since the last tick, or since the start, is within the loop's limit.
    pub healthy: bool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// Builds a lifecycle without tasks.
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        Self {
            soft: hard.child_token(),
            hard,
            tracker: TaskTracker::new(),
            failed: Arc::default(),
            loops: Arc::default(),
        }
    }

    /// Returns the token that fires when tasks should finish their work. It also fires with [`Self::hard`].
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Returns the token that fires when tasks must end now.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Fires the soft token, which asks every task to finish.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Runs a task. The process waits for it when it stops. A panic in the task is logged and stops the
    /// process.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let this = self.clone();
        tokio::spawn(self.tracker.track_future(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(output) => Some(output),
                Err(panic) => {
                    this.fail(name, &panic_text(&*panic));
                    None
                }
            }
        }))
    }

    /// Runs a task without which the process cannot work: if it fails, or ends before the process is asked to
    /// stop, the process stops.
    pub fn spawn_essential<E>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + 'static,
    {
        let this = self.clone();
        drop(self.spawn(name, async move {
            match task.await {
                Ok(()) if this.soft.is_cancelled() => {}
                Ok(()) => this.fail(name, "ended before it was asked to"),
                Err(error) => this.fail(name, &Chain(&error).to_string()),
            }
        }));
    }

    /// Runs a loop until the soft token fires. If it fails, panics or returns early, it is restarted with
    /// back-off. `silence` is the maximum time between two [`Beat::tick`]s while the loop counts as healthy;
    /// see [`longest_silence`].
    pub fn supervise<F, Fut>(&self, name: &'static str, silence: Duration, mut body: F)
    where
        F: FnMut(Beat) -> Fut + Send + 'static,
        Fut: Future<Output = LoopResult> + Send + 'static,
    {
        let state = Arc::new(LoopState {
            started: Instant::now(),
            last_tick: AtomicU64::new(0),
            silence,
            failures: AtomicU32::new(0),
        });
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state.clone());
        let soft = self.soft.clone();
        drop(self.spawn(name, async move {
            while !soft.is_cancelled() {
                let round = AssertUnwindSafe(body(Beat(state.clone()))).catch_unwind().await;
                if soft.is_cancelled() {
                    break;
                }
                let failures = state.failures.fetch_add(1, Ordering::Relaxed) + 1;
                match round {
                    Ok(Ok(())) => tracing::error!(task.name = name, "loop ended early, restarting it"),
                    Ok(Err(error)) => {
                        let error = Chain(&*error);
                        tracing::warn!(task.name = name, %error, failures, "loop failed, restarting it");
                    }
                    Err(panic) => {
                        let panic = panic_text(&*panic);
                        tracing::error!(task.name = name, panic, failures, "loop panicked, restarting it");
                    }
                }
                let delay = RESTART.delay(failures, rand::random());
                let _stopped = tokio::time::timeout(delay, soft.cancelled()).await;
            }
        }));
    }

    /// Runs `body` at once and then every `period` until the soft token fires. A failed round is logged and
    /// is no tick; the next round follows after the back-off of [`Self::supervise`] instead of `period`.
    pub fn every<F, Fut>(&self, name: &'static str, period: Duration, body: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = LoopResult> + Send + 'static,
    {
        let soft = self.soft.clone();
        let body = Arc::new(tokio::sync::Mutex::new(body));
        self.supervise(name, longest_silence(period, 3, Duration::from_secs(30)), move |beat| {
            let (soft, body) = (soft.clone(), body.clone());
            async move {
                let mut body = body.lock().await;
                loop {
                    (*body)().await?;
                    beat.tick();
                    tokio::select! {
                        () = soft.cancelled() => return Ok(()),
                        () = tokio::time::sleep(period) => {}
                    }
                }
            }
        });
    }

    /// Returns the health of every supervised loop, by name.
    pub fn loops(&self) -> Vec<LoopHealth> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops
            .iter()
            .map(|(name, state)| {
                let since_start = state.started.elapsed();
                let since_last_tick = match state.last_tick.load(Ordering::Relaxed) {
                    0 => None,
                    at => Some(since_start.saturating_sub(Duration::from_millis(at - 1))),
                };
                LoopHealth {
                    name,
                    since_last_tick,
                    failures: state.failures.load(Ordering::Relaxed),
                    healthy: since_last_tick.unwrap_or(since_start) <= state.silence,
                }
            })
            .collect()
    }

    /// Waits for a signal, [`Self::stop`] or the early end of an essential task. Then waits until every task
    /// has ended, at most for `grace` or until a second signal, and returns how the process ended.
    pub async fn run_until_stopped(&self, grace: Duration) -> Outcome {
        let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(term), Ok(int)) => (term, int),
            (Err(error), _) | (_, Err(error)) => {
                self.fail("signals", &error.to_string());
                self.hard.cancel();
                return Outcome::Failed;
            }
        };
        let patient = tokio::select! {
            _ = term.recv() => { tracing::info!("SIGTERM: draining"); false }
            _ = int.recv() => { tracing::info!("SIGINT: draining"); false }
            // The process stops without a signal. A first signal now only repeats the request to stop; a
            // second one ends the tasks by force.
            () = self.soft.cancelled() => { tracing::info!("draining"); true }
        };
        self.soft.cancel();
        self.tracker.close();
        let forced = tokio::select! {
            () = self.tracker.wait() => false,
            () = tokio::time::sleep(grace) => {
                tracing::warn!(?grace, "grace period is over, ending the remaining tasks");
                true
            }
            () = async {
                for _ in 0..=u8::from(patient) {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                }
            } => true,
        };
        if forced {
            self.hard.cancel();
            // Tasks that wait for the hard token need a moment to end. The runtime drops those that do not.
            let _late = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        }
        if forced || self.failed.load(Ordering::Relaxed) { Outcome::Failed } else { Outcome::Clean }
    }

    fn fail(&self, name: &'static str, problem: &str) {
        tracing::error!(task.name = name, error = problem, "essential task failed, stopping the process");
        self.failed.store(true, Ordering::Relaxed);
        self.soft.cancel();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn stopping_waits_for_running_work() {
        let lifecycle = Lifecycle::new();
        let done = Arc::new(AtomicBool::new(false));
        let (soft, flag) = (lifecycle.soft(), done.clone());
        drop(lifecycle.spawn("worker", async move {
            soft.cancelled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            flag.store(true, Ordering::Relaxed);
        }));
        lifecycle.stop();
        assert_eq!(lifecycle.run_until_stopped(SHORT).await, Outcome::Clean);
        assert!(done.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_task_that_outlasts_the_grace_period_is_ended() {
        let lifecycle = Lifecycle::new();
        let hard = lifecycle.hard();
        drop(lifecycle.spawn("stuck", async move { hard.cancelled().await }));
        lifecycle.stop();
        assert_eq!(lifecycle.run_until_stopped(Duration::from_millis(50)).await, Outcome::Failed);
    }

    #[tokio::test]
    async fn an_essential_task_that_fails_stops_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_essential("server", async { Err(std::io::Error::other("boom")) });
        assert_eq!(lifecycle.run_until_stopped(SHORT).await, Outcome::Failed);
    }

    #[tokio::test]
    async fn a_panicking_task_stops_the_process() {
        let lifecycle = Lifecycle::new();
        drop(lifecycle.spawn("worker", async { panic!("boom") }));
        assert_eq!(lifecycle.run_until_stopped(SHORT).await, Outcome::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_loop_is_restarted_and_its_health_shows_it() {
        let lifecycle = Lifecycle::new();
        let rounds = Arc::new(AtomicU32::new(0));
        let counter = rounds.clone();
        lifecycle.every("sweep", Duration::from_secs(1), move || {
            let round = counter.fetch_add(1, Ordering::Relaxed);
            async move {
                match round {
                    0 => Err("first round fails".into()),
                    1 => panic!("second round panics"),
                    _ => Ok(()),
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(lifecycle.loops()[0].failures, 1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(rounds.load(Ordering::Relaxed) > 3);
        let health = lifecycle.loops().remove(0);
        assert!(health.healthy && health.failures == 0 && health.since_last_tick.is_some(), "{health:?}");
        lifecycle.stop();
        assert_eq!(lifecycle.run_until_stopped(SHORT).await, Outcome::Clean);
    }
}
