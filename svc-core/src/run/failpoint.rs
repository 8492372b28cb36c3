//! Fail points: named points in the code at which a test kills, suspends or delays the process.
//!
//! The configuration arms them when the process starts, for example with `failpoints =
//! "chat.turn.claimed=kill@2;chat.turn.finishing=stop"`. In a process without armed points, [`hit`] costs a
//! single relaxed atomic load. Each point lies between two commits, where a crash must do no harm.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Action that an armed point performs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Kills the process with SIGKILL: no destructors run, nothing is flushed.
    Kill,
    /// Suspends the process with SIGSTOP until it gets SIGCONT.
    Stop,
    /// Delays the task for this time.
    Sleep(Duration),
}

#[derive(Debug)]
struct Point {
    action: Action,
    /// Number of the pass (from 1) at which the action happens; 0 = at every pass.
    at: u64,
    hits: AtomicU64,
}

/// Time that a thread sleeps after it has sent SIGSTOP to its process. It is longer than the kernel needs to
/// stop all threads, also on a busy machine.
const STOPPING: Duration = Duration::from_millis(250);

static ARMED: AtomicBool = AtomicBool::new(false);
static POINTS: OnceLock<HashMap<String, Point>> = OnceLock::new();

/// The specification of the fail points was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text does not read `name=kill|stop|sleep:<ms>[@hit]`.
    #[error("fail point {0:?} is not of the form name=kill|stop|sleep:<ms>[@hit]")]
    Syntax(String),
    /// A process arms its fail points only once.
    #[error("fail points were armed already")]
    ArmedTwice,
}

/// Arms the points of `spec`; an empty text arms none.
///
/// # Errors
/// [`Error`] if the text is malformed or points were armed before.
pub fn arm(spec: &str) -> Result<(), Error> {
    if spec.trim().is_empty() {
        return Ok(());
    }
    let points = parse(spec)?;
    for name in points.keys() {
        tracing::warn!(failpoint = %name, "fail point armed");
    }
    POINTS.set(points).map_err(|_| Error::ArmedTwice)?;
    ARMED.store(true, Ordering::Release);
    Ok(())
}

fn parse(spec: &str) -> Result<HashMap<String, Point>, Error> {
    let mut points = HashMap::new();
    for one in spec.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let bad = || Error::Syntax(one.to_owned());
        let (name, action) = one.split_once('=').ok_or_else(bad)?;
        let (action, at) = match action.split_once('@') {
            Some((action, at)) => (action, at.parse().map_err(|_| bad())?),
            None => (action, 0),
        };
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            None if action == "stop" => Action::Stop,
            Some(("sleep", ms)) => Action::Sleep(Duration::from_millis(ms.parse().map_err(|_| bad())?)),
            _ => return Err(bad()),
        };
        points.insert(name.trim().to_owned(), Point { action, at, hits: AtomicU64::new(0) });
    }
    Ok(points)
}

/// Passes the point `name`, and does its action if it is armed for this pass.
#[inline]
pub async fn hit(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        act(name).await;
    }
}

#[cold]
async fn act(name: &str) {
    let Some(point) = POINTS.get().and_then(|points| points.get(name)) else { return };
    let hit = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
    if point.at != 0 && point.at != hit {
        return;
    }
    // Logged to stderr before the action, because a killed process exports no metrics.
    tracing::warn!(failpoint = name, hit, action = ?point.action, "fail point hit");
    match point.action {
        Action::Kill => signal_self(rustix::process::Signal::KILL),
        Action::Stop => {
            signal_self(rustix::process::Signal::STOP);
            // The kernel stops threads one by one. Without the sleep this thread could run on before it is
            // stopped.
            std::thread::sleep(STOPPING);
        }
        Action::Sleep(time) => tokio::time::sleep(time).await,
    }
}

fn signal_self(signal: rustix::process::Signal) {
    if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), signal) {
        tracing::error!(%error, "fail point could not signal its process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_names_points_actions_and_hits() {
        let points = parse("a.b=kill@2; c=sleep:20 ;d=stop").unwrap();
        assert_eq!((points["a.b"].action, points["a.b"].at), (Action::Kill, 2));
        assert_eq!((points["c"].action, points["c"].at), (Action::Sleep(Duration::from_millis(20)), 0));
        assert_eq!(points["d"].action, Action::Stop);
    }

    #[test]
    fn a_malformed_specification_is_refused() {
        for bad in ["a", "a=die", "a=kill@x", "a=sleep", "a=sleep:x", "a=kill:1"] {
            assert!(matches!(parse(bad), Err(Error::Syntax(_))), "{bad}");
        }
    }
}
