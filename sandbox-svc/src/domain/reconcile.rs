//! What a comparison of rows and engine means: pure, both sides come in.
//!
//! A difference is acted on only when it was seen twice, a period apart, under the same lease: in between, whatever
//! made it look so has had its time. How old something is, its labels and its row decide what is done; what cannot
//! be read is left alone.

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

/// What has been seen, since when.
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
    /// Takes in everything seen in one complete look under the lease `epoch`; answers what was seen a `period` or
    /// more before as well. What was not seen this time, or under another lease, counts for nothing.
    pub fn look(&mut self, epoch: i64, seen: &[K], period: Duration, now: Instant) -> Vec<K> {
        if epoch != self.epoch {
            self.since.clear();
            self.epoch = epoch;
        }
        let since = seen.iter().map(|key| (key.clone(), self.since.get(key).copied().unwrap_or(now)));
        self.since = since.collect();
        let ripe = |key: &&K| self.since.get(*key).is_some_and(|since| now.duration_since(*since) >= period);
        seen.iter().filter(ripe).cloned().collect()
    }
}

/// What is to be made of a container that an engine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be, somebody else's, or too young to tell.
    Fine,
    /// It has no row: it gets one that removes it.
    WithoutRow,
    /// Its row says that it is gone: it came late, and can only be removed.
    Leftover,
    /// It contradicts its row, or itself, in a way that no step of ours leads to: left alone, and told.
    Strange,
}

/// Compares a container of `engine` with its row, read after the container was listed.
#[must_use]
pub fn judge(
    container: &Container,
    engine: &str,
    row: Option<&Sandbox>,
    min_age: Duration,
    now: DateTime<Utc>,
) -> Finding {
    let labelled = container.labels.get(label::ENGINE).is_some_and(|label| label == engine);
    let (true, Some((_, generation))) = (labelled, container.sandbox()) else { return Finding::Strange };
    let old = container.created_at.is_some_and(|at| (now - at).to_std().is_ok_and(|age| age >= min_age));
    let same = |row: &Sandbox| row.container.as_ref().is_some_and(|known| known.generation == generation);
    match row {
        None if old => Finding::WithoutRow,
        None => Finding::Fine,
        Some(row) if !same(row) => Finding::Strange,
        Some(row) => match row.state {
            State::Gone | State::Failed => Finding::Leftover,
            State::Requested => Finding::Strange,
            State::Creating | State::Running | State::Deleting => Finding::Fine,
        },
    }
}

/// What is wrong with a running sandbox, as far as a complete listing made after its row was read shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Its container is not listed.
    Lost,
    /// Its container ended.
    Exited,
}

/// Running sandboxes whose container is not listed, or ended.
#[must_use]
pub fn missing(rows: &[Sandbox], listed: &[Container]) -> Vec<(SandboxId, Missing)> {
    let states: HashMap<&str, ContainerState> =
        listed.iter().map(|container| (container.id.0.as_str(), container.state)).collect();
    let wrong = |row: &Sandbox| {
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
    rows.iter().filter_map(|row| Some((row.id, wrong(row)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn a_thing_counts_only_when_seen_twice_a_period_apart_under_one_lease() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sightings = Sightings::default();
        assert_eq!(sightings.look(1, &["a"], PERIOD, at(0)), Vec::<&str>::new());
        assert_eq!(sightings.look(1, &["a", "b"], PERIOD, at(59)), Vec::<&str>::new());
        assert_eq!(sightings.look(1, &["a", "b"], PERIOD, at(60)), ["a"]);
        // Another holder of the lease starts over.
        assert_eq!(sightings.look(2, &["a", "b"], PERIOD, at(61)), Vec::<&str>::new());
        // So does what was gone in between.
        assert_eq!(sightings.look(2, &["b"], PERIOD, at(100)), Vec::<&str>::new());
        assert_eq!(sightings.look(2, &["a", "b"], PERIOD, at(121)), ["b"]);
    }
}
