//! Readiness: the parts without which a service refuses traffic.

use std::fmt::Debug;

/// Result of a check; the text names the problem without secrets or addresses.
pub type CheckResult = Result<(), String>;

/// A part without which the service is not ready.
#[tonic::async_trait]
pub trait Check: Debug + Send + Sync {
    /// Name of the part, as "postgres".
    fn name(&self) -> &'static str;

    /// Checks whether the part works now.
    async fn check(&self) -> CheckResult;
}
