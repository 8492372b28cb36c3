//! Keeps the warm pool at its size, in one replica of an engine.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{PassLease, host::HostLevel};
use crate::{
    app::{Deps, warm_pool},
    error::Result,
};

/// Starts the passes over the pool.
pub fn start(deps: &Deps, host: &HostLevel, lease: PassLease) {
    let (deps, host) = (deps.clone(), host.clone());
    let lifecycle = deps.lifecycle.clone();
    let lease = Arc::new(Mutex::new(lease));
    lifecycle.every("sandbox pool", deps.settings.pool.period, move || {
        let (deps, host, lease) = (deps.clone(), host.clone(), lease.clone());
        async move { Ok(pass(&deps, &host, &mut *lease.lock().await).await?) }
    });
}

/// Makes one pass, if this replica has the lease.
///
/// # Errors
/// The errors of [`warm_pool::fill_and_retire`].
pub async fn pass(deps: &Deps, host: &HostLevel, lease: &mut PassLease) -> Result<()> {
    deps.engine.get()?;
    match lease.hold().await? {
        Some(held) => warm_pool::fill_and_retire(deps, held, host.get()).await,
        None => Ok(()),
    }
}
