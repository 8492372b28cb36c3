//! Runs a claimed job under its lease, until it waits, is final, or another worker has it.

use svc_core::{
    data::pg,
    error::{Chain, ErrorKind, ServiceError},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    claims::Claims,
    drive::{Driver, Progress},
};
use crate::store::claims::Claim;

/// Claims jobs and runs them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runner {
    pub claims: Claims,
    driver: Driver,
}

impl Runner {
    pub const fn new(claims: Claims, driver: Driver) -> Self {
        Self { claims, driver }
    }

    /// Runs a job. Once `stop` fires, it finishes the present step and releases the lease.
    pub async fn run(&self, mut claim: Claim, stop: &CancellationToken) {
        let span = self.claims.span(&claim).await;
        let leased = claim.clone();
        async {
            tokio::select! {
                () = Box::pin(self.advance_until_it_waits(&mut claim, stop)) => {}
                _taken = self.claims.keep(&leased) => {
                    tracing::warn!("lease of this purge is lost, leaving it");
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn advance_until_it_waits(&self, claim: &mut Claim, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.driver.advance(claim).await {
                Ok(Progress::Advanced) => {}
                Ok(Progress::Waits | Progress::Final) => break,
                Ok(Progress::Lost) => return,
                Err(error) => {
                    self.on_database_error(claim, &error).await;
                    break;
                }
            }
        }
        self.claims.release(claim).await;
    }

    /// Decides whether a database error counts as a failure of the job. It does not if Postgres is
    /// unreachable or busy, or if the outcome of a commit is unknown. After any other error the job waits for
    /// its next attempt, because the error would probably recur.
    async fn on_database_error(&self, claim: &mut Claim, error: &pg::Error) {
        let purge_id = claim.job.purge_id;
        tracing::error!(purge.id = %purge_id, error = %Chain(error), "purge not driven");
        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Aborted) {
            return;
        }
        if let Err(error) = self.driver.fail_internally(claim).await {
            tracing::error!(purge.id = %purge_id, error = %Chain(&error), "failure of a purge not stored");
        }
    }
}
