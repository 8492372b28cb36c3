//! Samples the engine's host in every process; each process limits its own creations by its own samples.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    app::Deps,
    domain::host::{Gauge, Level, Sample, memory_available, memory_stalled},
};

/// The level of the host at the last sample.
#[derive(Debug, Clone, Default)]
pub struct HostLevel(Arc<watch::Sender<Level>>);

impl HostLevel {
    pub fn get(&self) -> Level {
        *self.0.borrow()
    }

    /// Sets the level and returns the one before; called by the sampler and by tests.
    pub fn set(&self, level: Level) -> Level {
        self.0.send_replace(level)
    }
}

pub fn start(deps: &Deps, proc_root: PathBuf, period: Duration, level: &HostLevel) {
    let (deps, level) = (deps.clone(), level.clone());
    let lifecycle = deps.lifecycle.clone();
    let gauge = Arc::new(Mutex::new(Gauge::default()));
    lifecycle.every("host monitor", period, move || {
        let (level, gauge, proc_root) = (level.clone(), gauge.clone(), proc_root.clone());
        let disk = deps.engine.get().ok().map(|served| PathBuf::from(&served.info.root));
        async move {
            let sample = tokio::task::spawn_blocking(move || sample(&proc_root, disk.as_deref())).await?;
            let mut gauge = gauge.lock().unwrap_or_else(PoisonError::into_inner);
            let after = gauge.observe(&sample, Instant::now());
            let before = level.set(after);
            if before != after {
                tracing::warn!(?before, ?after, ?sample, "level of the engine's host changed");
            }
            Ok(())
        }
    });
}

/// Reads the host's state; an input that cannot be read is left out.
fn sample(proc_root: &Path, disk: Option<&Path>) -> Sample {
    let read = |name: &str| std::fs::read_to_string(proc_root.join(name)).ok();
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let free = |disk: &Path| {
        let stat = rustix::fs::statvfs(disk).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bavail as f64 / stat.f_blocks as f64)
    };
    Sample {
        memory_available: read("meminfo").as_deref().and_then(memory_available),
        memory_stalled: read("pressure/memory").as_deref().and_then(memory_stalled),
        disk_free: disk.and_then(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_this_test_can_be_sampled() {
        let sample = sample(Path::new("/proc"), Some(Path::new("/")));
        assert!(sample.memory_available.is_some_and(|bytes| bytes > 0));
        assert!(sample.disk_free.is_some_and(|share| (0.0..=1.0).contains(&share)));
    }

    #[test]
    fn a_host_without_readable_state_gives_an_empty_sample() {
        assert_eq!(sample(Path::new("/nowhere"), None), Sample::default());
    }
}
