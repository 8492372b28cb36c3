//! One breaker an upstream endpoint, whatever model or client is behind it.
//!
//! [`Breakers`] is the seam: [`LocalBreakers`] keeps them in this process, which is also what replicas fall back
//! to when nothing shared can be reached. What an outcome means for an endpoint is said once, in [`verdict`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use svc_core::run::{
    breaker::{Breaker, BreakerPolicy, Permit, Position, Refused, Verdict},
    clock::SharedClock,
};

use super::model_client::ModelError;
use crate::domain::failover::HealthEffect;

/// How much longer than after failures an endpoint is left alone that limits us and does not say for how long.
const RATE_LIMIT_FACTOR: u32 = 5;

/// Leave to call an endpoint; its outcome belongs to [`Breakers::record`].
#[derive(Debug)]
#[must_use = "a call whose outcome is not recorded keeps a half-open breaker from closing"]
pub struct Ticket {
    endpoint: String,
    permit: Permit,
}

/// The breakers of all upstream endpoints.
#[async_trait]
pub trait Breakers: fmt::Debug + Send + Sync {
    /// Asks for leave to call `endpoint`.
    async fn admit(&self, endpoint: &str) -> Result<Ticket, Refused>;

    /// Takes in the outcome of a call.
    async fn record(&self, ticket: Ticket, verdict: Verdict);

    /// How every breaker stands that was ever asked, by endpoint.
    async fn positions(&self) -> Vec<(String, Position)>;
}

/// What the outcome of a call says about its endpoint.
#[must_use]
pub fn verdict(outcome: Result<(), &ModelError>, policy: &BreakerPolicy) -> Verdict {
    let Err(error) = outcome else { return Verdict::Success };
    match error.class().health_effect() {
        HealthEffect::None => Verdict::Nothing,
        HealthEffect::Failure => Verdict::Failure,
        HealthEffect::OpenAtOnce => {
            Verdict::OpenFor(error.retry_after().unwrap_or(policy.cooldown * RATE_LIMIT_FACTOR))
        }
    }
}

/// Breakers of this process alone.
#[derive(Debug)]
pub struct LocalBreakers {
    policy: BreakerPolicy,
    clock: SharedClock,
    // Keys come from the configuration's endpoints, so it does not grow.
    breakers: Mutex<BTreeMap<String, Breaker>>,
}

impl LocalBreakers {
    /// Breakers that are all closed.
    #[must_use]
    pub fn new(policy: BreakerPolicy, clock: SharedClock) -> Self {
        Self { policy, clock, breakers: Mutex::default() }
    }

    fn with<T>(&self, endpoint: &str, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        act(breakers.entry(endpoint.to_owned()).or_default())
    }
}

#[async_trait]
impl Breakers for LocalBreakers {
    async fn admit(&self, endpoint: &str) -> Result<Ticket, Refused> {
        let permit = self.with(endpoint, |breaker| breaker.admit(&self.policy, self.clock.now()))?;
        Ok(Ticket { endpoint: endpoint.to_owned(), permit })
    }

    async fn record(&self, ticket: Ticket, verdict: Verdict) {
        let now = self.clock.now();
        let (before, after) = self.with(&ticket.endpoint, |breaker| {
            let before = breaker.position(now);
            breaker.record(ticket.permit, verdict, &self.policy, now);
            (before, breaker.position(now))
        });
        if before != after {
            tracing::warn!(upstream.endpoint = ticket.endpoint, ?before, ?after, "breaker changed position");
        }
    }

    async fn positions(&self) -> Vec<(String, Position)> {
        let now = self.clock.now();
        let breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.iter().map(|(endpoint, breaker)| (endpoint.clone(), breaker.position(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use svc_core::run::clock::SystemClock;

    use super::*;
    use crate::model::model_client::Detail;

    fn limited(retry_after: Option<Duration>) -> ModelError {
        ModelError::RateLimited { retry_after, detail: Detail::default() }
    }

    #[test]
    fn an_outcome_counts_by_its_class() {
        let policy = BreakerPolicy::default();
        let rejected = ModelError::Rejected { status: 401, detail: Detail::default() };
        let table = [
            (Ok(()), Verdict::Success),
            (Err(ModelError::Canceled), Verdict::Nothing),
            (Err(rejected), Verdict::Nothing),
            (Err(ModelError::Cut { source: None }), Verdict::Failure),
            (Err(limited(Some(Duration::from_secs(7)))), Verdict::OpenFor(Duration::from_secs(7))),
            (Err(limited(None)), Verdict::OpenFor(Duration::from_secs(300))),
        ];
        for (outcome, expected) in table {
            assert_eq!(verdict(outcome.as_ref().copied(), &policy), expected, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn endpoints_do_not_share_a_breaker_and_one_probe_is_let_through() {
        let policy = BreakerPolicy { cooldown: Duration::ZERO, ..BreakerPolicy::default() };
        let breakers = LocalBreakers::new(policy, SystemClock::shared());
        let ticket = breakers.admit("https://a").await.unwrap();
        breakers.record(ticket, Verdict::OpenFor(Duration::from_secs(60))).await;
        assert!(breakers.admit("https://a").await.is_err());
        let ticket = breakers.admit("https://b").await.unwrap();
        breakers.record(ticket, Verdict::OpenFor(Duration::ZERO)).await;
        let _probe = breakers.admit("https://b").await.unwrap();
        assert!(breakers.admit("https://b").await.is_err(), "the probe is under way");
        let positions = breakers.positions().await;
        assert_eq!(
            positions,
            [("https://a".into(), Position::Open), ("https://b".into(), Position::HalfOpen)]
        );
    }
}
