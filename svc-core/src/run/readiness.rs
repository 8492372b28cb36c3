//! Readiness checks: a service is not ready while one of them fails.

use std::fmt::Debug;

/// Result of a check. The text names the problem, without secrets and addresses.
pub type CheckResult = Result<(), String>;

/// A part without which the service is not ready.
#[tonic::async_trait]
pub trait Check: Debug + Send + Sync {
    /// Name of the part, for example "postgres".
    fn name(&self) -> &'static str;

    /// Checks whether the part works now.
    async fn check(&self) -> CheckResult;
}
