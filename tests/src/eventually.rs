//! Waits for an effect in another process.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(50);

/// Calls `look` until it returns a value. Returns the value and the time that this took.
///
/// # Panics
/// If there is no value within the time; the message contains `what`.
pub async fn eventually<T>(
    what: impl Display,
    within: Duration,
    look: impl AsyncFn() -> Option<T>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return (found, started.elapsed());
        }
        assert!(started.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Runs a future on a task of its own. The test awaits the task's handle.
#[expect(clippy::disallowed_methods, reason = "there is no lifecycle to drain: the test waits")]
pub fn elsewhere<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}
