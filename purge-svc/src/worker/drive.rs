//! Claims jobs that are due and runs each until it waits or is final.
//!
//! One loop in each process claims as many jobs as it has free places (`store::claims` says which); each job
//! runs in a task of its own. At a stop the present step is finished and the lease released.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{lease::Scanner, wake::Wake},
    run::lifecycle::{Beat, Lifecycle, LoopResult, longest_silence},
};
use tokio::{sync::Semaphore, time::Instant};

use crate::app::{jobs::TOPIC, run::Runner};

/// The loop that claims jobs.
#[derive(Debug, Clone)]
pub struct Worker {
    pub runner: Runner,
    pub wake: Wake,
    pub lifecycle: Lifecycle,
    /// Maximum time between two claims, if no wake-up comes.
    pub poll: Duration,
    /// Maximum jobs at once in this process.
    pub concurrency: usize,
}

impl Worker {
    pub fn start(self) {
        let silence = longest_silence(self.poll, 10, Duration::from_secs(30));
        let places = Arc::new(Semaphore::new(self.concurrency));
        let lifecycle = self.lifecycle.clone();
        lifecycle.supervise("purge claims", silence, move |beat| {
            let (worker, places) = (self.clone(), places.clone());
            async move { worker.claim_until_stopped(&places, &beat).await }
        });
    }

    async fn claim_until_stopped(&self, places: &Arc<Semaphore>, beat: &Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut hints = self.wake.subscribe(TOPIC).await;
        let mut scanner = Scanner::new(self.runner.claims.ttl());
        loop {
            let mut free = Vec::new();
            while let Ok(place) = places.clone().try_acquire_owned() {
                free.push(place);
            }
            let expired = scanner.may_take(Instant::now());
            let claims = self.runner.claims.claim(free.len(), expired).await?;
            scanner.reached(Instant::now());
            for (claim, place) in claims.into_iter().zip(free) {
                let (runner, soft) = (self.runner.clone(), self.lifecycle.soft());
                drop(self.lifecycle.spawn("purge", async move {
                    runner.run(claim, &soft).await;
                    drop(place);
                }));
            }
            beat.tick();
            tokio::select! {
                () = soft.cancelled() => return Ok(()),
                _hint = hints.next(self.poll) => {}
            }
        }
    }
}
