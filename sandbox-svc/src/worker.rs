//! Background tasks.
//!
//! | task        | runs in                    | does                                                       |
//! |-------------|----------------------------|------------------------------------------------------------|
//! | `engine`    | every replica              | waits for the engine's id, then starts the other tasks     |
//! | `creator`   | every replica of an engine | creates queued sandboxes, takes over abandoned ones        |
//! | `remover`   | every replica of an engine | carries out committed removals                             |
//! | `deadlines` | every replica of an engine | commits overdue sandboxes to removal                       |
//! | `reconcile` | one replica of an engine   | compares containers, volumes and run directories with rows |
//! | `pool`      | one replica of an engine   | keeps the warm pool at its size                            |
//! | `volumes`   | one replica of an engine   | removes workspaces after their retention                   |
//! | `host`      | every replica of an engine | samples the host                                           |

pub mod creator;
pub mod engine;
pub mod host;
pub mod pool;
pub mod reconcile;
pub mod remover;

use std::time::Duration;

use svc_core::data::{
    lease::{Held, Singleton},
    pg,
};

/// Time allowed for one slow round of a worker, before its loop counts as unhealthy.
const SLOW_ROUND: Duration = Duration::from_secs(60);

/// A singleton lease that is kept from pass to pass, because the reconciler acts on a difference only if two
/// passes under the same lease saw it.
#[derive(Debug)]
pub struct PassLease {
    pub singleton: Singleton,
    pub held: Option<Held>,
}

impl PassLease {
    /// Returns the lease if this replica has it or can acquire it now, or else `None`.
    ///
    /// # Errors
    /// [`pg::Error`] if Postgres did not record the new holder.
    pub async fn hold(&mut self) -> Result<Option<&Held>, pg::Error> {
        if self.held.as_ref().is_none_or(|held| held.lost().is_cancelled()) {
            // Drops the lost lease now, so that `self.held` is empty if `acquire` fails.
            self.held = None;
            self.held = self.singleton.acquire().await?;
        }
        Ok(self.held.as_ref())
    }
}
