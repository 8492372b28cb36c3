//! Compares the rows with the listing of the engine.
//!
//! A difference is acted on only if two passes at least a period apart saw it under the same lease, so that
//! an operation under way has had time to end. A container's age, labels and row decide what is done with it;
//! a container without a row is left alone while it is young or its age is unknown.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use svc_core::id::SandboxId;

use super::{
    observed::{Container, ContainerState},
    sandbox::{Sandbox, State},
    spec::label,
};

/// The time at which each difference was first seen.
#[derive(Debug)]
pub struct Sightings<K> {
    epoch: i64,
    since: HashMap<K, Instant>,
}

impl<K> Default for Sightings<K> {
    fn default() -> Self {
        Self { epoch: 0, since: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Sightings<K> {
    /// Records the differences that one complete pass under the lease `epoch` saw. Returns the differences
    /// that were first seen at least `period` ago and in every pass since. Forgets the differences that
    /// passes under another lease saw.
    pub fn record(&mut self, epoch: i64, seen: &[K], period: Duration, now: Instant) -> Vec<K> {
        if epoch != self.epoch {
            self.since.clear();
            self.epoch = epoch;
        }
        let since = seen.iter().map(|key| (key.clone(), self.since.get(key).copied().unwrap_or(now)));
        self.since = since.collect();
        let confirmed =
            |key: &&K| self.since.get(*key).is_some_and(|since| now.duration_since(*since) >= period);
        seen.iter().filter(confirmed).cloned().collect()
    }
}

/// The reconciler's decision about a listed container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Leave it: it agrees with its row, or has no row and is too young to judge.
    Fine,
    /// It has no row. Insert one that is `deleting`.
    WithoutRow,
    /// Its row is final. Remove it.
    Leftover,
    /// It contradicts its row or its labels in a way that no step of this service leads to. Leave it and log
    /// it.
    Contradictory,
}

/// Compares a container of `engine` with its row. The row must have been read after the container was listed.
pub fn judge(
    container: &Container,
    engine: &str,
    row: Option<&Sandbox>,
    min_age: Duration,
    now: DateTime<Utc>,
) -> Finding {
    let labelled = container.labels.get(label::ENGINE).is_some_and(|label| label == engine);
    let (true, Some((_, generation))) = (labelled, container.sandbox()) else {
        return Finding::Contradictory;
    };
    let old = container.created_at.is_some_and(|at| (now - at).to_std().is_ok_and(|age| age >= min_age));
    let same = |row: &Sandbox| row.container.as_ref().is_some_and(|known| known.generation == generation);
    match row {
        None if old => Finding::WithoutRow,
        None => Finding::Fine,
        Some(row) if !same(row) => Finding::Contradictory,
        Some(row) => match row.state {
            State::Gone | State::Failed => Finding::Leftover,
            State::Requested => Finding::Contradictory,
            State::Creating | State::Running | State::Deleting => Finding::Fine,
        },
    }
}

/// The fault of a running sandbox, found in a complete listing made after its row was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Its container is not listed.
    Lost,
    Exited,
}

/// Returns the running sandboxes with a container that is not listed or has ended.
pub fn missing(rows: &[Sandbox], listed: &[Container]) -> Vec<(SandboxId, Missing)> {
    let states: HashMap<&str, ContainerState> =
        listed.iter().map(|container| (container.id.0.as_str(), container.state)).collect();
    let missing = |row: &Sandbox| {
        let id = row.container.as_ref()?.id.as_deref()?;
        match states.get(id) {
            _ if row.state != State::Running => None,
            None => Some(Missing::Lost),
            Some(ContainerState::Exited | ContainerState::Created | ContainerState::Removing) => {
                Some(Missing::Exited)
            }
            Some(ContainerState::Running | ContainerState::Paused) => None,
        }
    };
    rows.iter().filter_map(|row| Some((row.id, missing(row)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn a_sighting_counts_after_a_period_under_one_lease() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sightings = Sightings::default();
        assert_eq!(sightings.record(1, &["a"], PERIOD, at(0)), Vec::<&str>::new());
        assert_eq!(sightings.record(1, &["a", "b"], PERIOD, at(59)), Vec::<&str>::new());
        assert_eq!(sightings.record(1, &["a", "b"], PERIOD, at(60)), ["a"]);
        // Under another lease the sightings begin again.
        assert_eq!(sightings.record(2, &["a", "b"], PERIOD, at(61)), Vec::<&str>::new());
        // A difference that disappeared in between begins again, too.
        assert_eq!(sightings.record(2, &["b"], PERIOD, at(100)), Vec::<&str>::new());
        assert_eq!(sightings.record(2, &["a", "b"], PERIOD, at(121)), ["b"]);
    }
}
