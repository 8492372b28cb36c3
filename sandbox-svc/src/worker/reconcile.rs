//! Compares engine and rows every period, in one replica of an engine.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::PassLease;
use crate::{
    app::{
        Deps,
        reconcile::{Reconciliation, Report},
    },
    error::Result,
};

/// Starts the passes over engine and rows.
pub fn start(deps: &Deps, lease: PassLease) {
    let reconciliation = Reconciliation::new(deps.clone());
    let reconciler = Arc::new(Mutex::new(Reconciler { reconciliation, lease }));
    deps.lifecycle.every("sandbox reconcile", deps.settings.reconcile.period, move || {
        let reconciler = reconciler.clone();
        async move {
            let report = reconciler.lock().await.pass().await?;
            if report != Report::default() {
                tracing::warn!(?report, "engine and rows differed");
            }
            Ok(())
        }
    });
}

/// A reconciliation and its lease.
#[derive(Debug)]
pub struct Reconciler {
    pub reconciliation: Reconciliation,
    pub lease: PassLease,
}

impl Reconciler {
    /// Makes one pass, if this replica has the lease.
    ///
    /// # Errors
    /// The errors of [`Reconciliation::pass`].
    pub async fn pass(&mut self) -> Result<Report> {
        match self.lease.hold().await? {
            Some(held) => self.reconciliation.pass(held).await,
            None => Ok(Report::default()),
        }
    }
}
