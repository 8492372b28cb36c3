//! What runs without being asked.
//!
//! | task        | runs                          | does                                                        |
//! |-------------|-------------------------------|-------------------------------------------------------------|
//! | `creator`   | every replica of an engine    | makes what is queued, takes over what nobody makes any more |
//! | `remover`   | every replica of an engine    | carries out committed removals                              |
//! | `deadlines` | every replica                 | commits what is overdue to removal                          |
//! | `reconcile` | one replica an engine at once | compares containers, volumes and run directories with rows  |
//! | `pool`      | one replica an engine at once | keeps the warm pool at its size                             |
//! | `volumes`   | one replica an engine at once | removes workspaces whose time is over                       |
//! | `host`      | every replica of an engine    | samples the host                                            |

pub mod creator;
pub mod deadlines;
pub mod host;
pub mod pool;
pub mod reconcile;
pub mod remover;
pub mod volumes;

use std::time::Duration;

use svc_core::data::{
    lease::{Held, Singleton},
    pg,
};

/// How a supervised loop is judged healthy: it may miss a few periods.
#[must_use]
pub fn patience(period: Duration) -> Duration {
    period.saturating_mul(3) + Duration::from_secs(60)
}

/// A singleton lease that is kept from pass to pass: what is seen twice must be seen under the same one.
#[derive(Debug)]
pub struct Kept {
    singleton: Singleton,
    held: Option<Held>,
}

impl Kept {
    /// Not held yet.
    #[must_use]
    pub const fn new(singleton: Singleton) -> Self {
        Self { singleton, held: None }
    }

    /// The lease, if it is still, or can be, ours.
    ///
    /// # Errors
    /// [`pg::Error`] if Postgres could not be told.
    pub async fn hold(&mut self) -> Result<Option<&Held>, pg::Error> {
        if self.held.as_ref().is_none_or(|held| held.lost().is_cancelled()) {
            // Given back before it is asked for: it may be our own that is in the way.
            self.held = None;
            self.held = self.singleton.acquire().await?;
        }
        Ok(self.held.as_ref())
    }
}
