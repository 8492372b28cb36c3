//! Circuit breakers, one per upstream endpoint; all models and clients of the endpoint share it. [`verdict`]
//! turns the outcome of a call into the verdict that its endpoint's breaker records.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use svc_core::run::{
    breaker::{Breaker, BreakerPolicy, Permit, Refused, Verdict},
    clock::SharedClock,
};

use super::model_client::ModelError;
use crate::domain::failure::HealthEffect;

/// Factor by which the configured cooldown of an endpoint is longer after a rate limit without a Retry-After.
const RATE_LIMIT_FACTOR: u32 = 5;

/// Permission to call an endpoint; the outcome must be passed to [`Breakers::record`].
#[derive(Debug)]
#[must_use = "without its outcome, a half-open breaker does not close"]
pub(crate) struct Ticket {
    endpoint: String,
    permit: Permit,
}

/// Returns the breaker's verdict on the outcome of a call.
pub(crate) fn verdict(outcome: Result<(), &ModelError>, policy: &BreakerPolicy) -> Verdict {
    let Err(error) = outcome else { return Verdict::Success };
    match error.class().health_effect() {
        HealthEffect::None => Verdict::Nothing,
        HealthEffect::Failure => Verdict::Failure,
        HealthEffect::OpenAtOnce => {
            Verdict::OpenFor(error.retry_after().unwrap_or(policy.cooldown * RATE_LIMIT_FACTOR))
        }
    }
}

/// The breakers of all upstream endpoints, as this process sees them.
#[derive(Debug)]
pub(crate) struct Breakers {
    policy: BreakerPolicy,
    clock: SharedClock,
    // The map is bounded, because its keys are the configured endpoints.
    breakers: Mutex<BTreeMap<String, Breaker>>,
}

impl Breakers {
    /// Makes the breakers; all of them start closed.
    pub(crate) fn new(policy: BreakerPolicy, clock: SharedClock) -> Self {
        Self { policy, clock, breakers: Mutex::default() }
    }

    fn with<T>(&self, endpoint: &str, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        act(breakers.entry(endpoint.to_owned()).or_default())
    }

    /// Asks whether `endpoint` may be called.
    pub(crate) fn admit(&self, endpoint: &str) -> Result<Ticket, Refused> {
        let permit = self.with(endpoint, |breaker| breaker.admit(&self.policy, self.clock.now()))?;
        Ok(Ticket { endpoint: endpoint.to_owned(), permit })
    }

    /// Records the outcome of a call.
    pub(crate) fn record(&self, ticket: Ticket, verdict: Verdict) {
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use svc_core::run::{breaker::Position, clock::SystemClock};

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
            (Err(rejected), Verdict::Nothing),
            (Err(ModelError::Cut { source: None }), Verdict::Failure),
            (Err(limited(Some(Duration::from_secs(7)))), Verdict::OpenFor(Duration::from_secs(7))),
            (Err(limited(None)), Verdict::OpenFor(Duration::from_secs(300))),
        ];
        for (outcome, expected) in table {
            assert_eq!(verdict(outcome.as_ref().copied(), &policy), expected, "{outcome:?}");
        }
    }

    #[test]
    fn each_endpoint_has_a_breaker_that_admits_one_probe() {
        let policy = BreakerPolicy { cooldown: Duration::ZERO, ..BreakerPolicy::default() };
        let breakers = Breakers::new(policy, SystemClock::shared());
        let ticket = breakers.admit("https://a").unwrap();
        breakers.record(ticket, Verdict::OpenFor(Duration::from_secs(60)));
        assert!(breakers.admit("https://a").is_err());
        let ticket = breakers.admit("https://b").unwrap();
        breakers.record(ticket, Verdict::OpenFor(Duration::ZERO));
        let _probe = breakers.admit("https://b").unwrap();
        assert!(breakers.admit("https://b").is_err(), "the probe is under way");
        let position = |endpoint| breakers.with(endpoint, |breaker| breaker.position(breakers.clock.now()));
        assert_eq!([position("https://a"), position("https://b")], [Position::Open, Position::HalfOpen]);
    }
}
