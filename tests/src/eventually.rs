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
