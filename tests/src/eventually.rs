//! Waiting for something that happens elsewhere.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(50);

/// Looks until there is something, and returns it with the time it took.
///
/// # Panics
/// If there is nothing within the time; the message says what was waited for.
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

/// Runs something beside the test, which waits for it.
#[expect(clippy::disallowed_methods, reason = "there is no lifecycle to drain: the test waits")]
pub fn elsewhere<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}
