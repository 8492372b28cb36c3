//! Limits the number of running requests and open streams, of the process and of each caller.
//!
//! A request over a limit is refused at once with Retry-After. The gateway has no queue: a queue would only
//! delay every answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use svc_core::{error::ErrorKind, wire::principal::Principal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::Config, problem::Problem};

#[derive(Debug, Clone)]
pub(crate) struct Concurrency {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// The limits of each account: one for short requests, one for long ones.
    requests_by_account: [CallerLimit; 2],
    streams_by_principal: CallerLimit,
}

/// Whether a request is short or long. Each class has its own limit, so that an account's heartbeats are
/// still admitted when its long requests, such as messages between its agents, have reached their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// Answered without waiting for anything.
    Short,
    /// May wait for a command, a sandbox or an agent.
    Long,
}

/// The request counts against its limits until this permit is dropped.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    _permit: OwnedSemaphorePermit,
    caller: Option<CallerPermit>,
}

/// The stream counts against its limits until this permit is dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    _permit: OwnedSemaphorePermit,
    _caller: CallerPermit,
}

impl Concurrency {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.requests.max_in_flight)),
            streams: Arc::new(Semaphore::new(config.streams.max)),
            requests_by_account: [(); 2].map(|()| CallerLimit::new(config.requests.max_per_account)),
            streams_by_principal: CallerLimit::new(config.streams.max_per_principal),
        }
    }

    /// Counts a request against the limit of the process.
    ///
    /// # Errors
    /// 503 at the limit.
    pub(crate) fn request(&self) -> Result<RequestPermit, Problem> {
        let permit = self.requests.clone().try_acquire_owned().map_err(|_| overloaded())?;
        Ok(RequestPermit { _permit: permit, caller: None })
    }

    /// Counts a request against the limit of the account of `principal`; an account and its agents share a
    /// limit. A principal without an account has a limit of its own.
    ///
    /// # Errors
    /// 429 at the limit.
    pub(crate) fn attribute(
        &self,
        permit: &mut RequestPermit,
        principal: &Principal,
        class: RequestClass,
    ) -> Result<(), Problem> {
        let caller = principal.account_id.map_or_else(|| name(principal), |account| account.to_string());
        let [short, long] = &self.requests_by_account;
        let limit = match class {
            RequestClass::Short => short,
            RequestClass::Long => long,
        };
        let counted = limit.take(caller).ok_or_else(|| {
            let detail = "too many requests of this account are running; retry later";
            Problem::new(ErrorKind::ResourceExhausted, "TOO_MANY_REQUESTS", detail)
        })?;
        permit.caller = Some(counted);
        Ok(())
    }

    /// Counts a stream against the limits of the process and of `principal`. All callers of public streams
    /// share a limit.
    ///
    /// # Errors
    /// 503 at the limit of the process, 429 at the limit of the principal.
    pub(crate) fn stream(&self, principal: Option<&Principal>) -> Result<StreamPermit, Problem> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let counted = self.streams_by_principal.take(principal.map_or_else(String::new, name));
        let counted = counted.ok_or_else(|| {
            let detail = "too many streams are open; close one, or retry later";
            Problem::new(ErrorKind::ResourceExhausted, "TOO_MANY_STREAMS", detail)
        })?;
        Ok(StreamPermit { _permit: permit, _caller: counted })
    }
}

fn name(principal: &Principal) -> String {
    format!("{:?}/{}", principal.kind, principal.subject_id)
}

/// A limit that applies to each caller separately.
#[derive(Debug, Clone)]
struct CallerLimit {
    held: Arc<Mutex<HashMap<String, usize>>>,
    max: usize,
}

/// One of a caller's requests or streams, which counts against its limit until this permit is dropped.
#[derive(Debug)]
struct CallerPermit {
    caller: String,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

impl CallerLimit {
    fn new(max: usize) -> Self {
        Self { held: Arc::default(), max }
    }

    /// Counts one more for `caller`, unless it is at the limit: then returns `None`.
    fn take(&self, caller: String) -> Option<CallerPermit> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(caller.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(CallerPermit { caller, held: self.held.clone() })
    }
}

impl Drop for CallerPermit {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.caller);
            }
        }
    }
}

fn overloaded() -> Problem {
    Problem::new(ErrorKind::Unavailable, "OVERLOADED", "too many requests are running; retry later")
}

#[cfg(test)]
mod tests {
    use svc_core::{id::AccountId, run::process::Configured, wire::principal::PrincipalKind};

    use super::*;

    fn limits(requests: usize, streams: usize, each: usize) -> Concurrency {
        let mut config = Config::load(None).unwrap();
        config.requests.max_in_flight = requests;
        config.requests.max_per_account = each;
        config.streams.max = streams;
        config.streams.max_per_principal = each;
        Concurrency::new(&config)
    }

    #[test]
    fn a_request_over_the_limit_is_refused_until_one_ends() {
        let limits = limits(1, 1, 1);
        let first = limits.request().unwrap();
        assert_eq!(limits.request().unwrap_err().status, 503);
        drop(first);
        assert!(limits.request().is_ok());
    }

    #[test]
    fn an_account_and_its_agents_share_a_request_limit() {
        let limits = limits(4, 1, 2);
        let [one, other] = [AccountId::new(), AccountId::new()].map(Principal::account);
        let agent = Principal { kind: PrincipalKind::Agent, subject_id: "agent".to_owned(), ..one.clone() };
        let admit = |principal: &Principal, class| {
            let mut permit = limits.request().unwrap();
            limits.attribute(&mut permit, principal, class).map(|()| permit)
        };
        let held = [admit(&one, RequestClass::Long).unwrap(), admit(&agent, RequestClass::Long).unwrap()];
        assert_eq!(admit(&one, RequestClass::Long).unwrap_err().status, 429);
        assert_eq!(admit(&agent, RequestClass::Long).unwrap_err().status, 429);
        drop(admit(&agent, RequestClass::Short).unwrap());
        drop(admit(&other, RequestClass::Long).unwrap());
        drop(held);
        for limit in &limits.requests_by_account {
            assert!(limit.held.lock().unwrap().is_empty());
        }
        assert!(admit(&one, RequestClass::Long).is_ok());
    }

    #[test]
    fn one_principal_cannot_use_every_stream() {
        let limits = limits(1, 3, 2);
        let [one, other] = [AccountId::new(), AccountId::new()].map(Principal::account);
        let open = [limits.stream(Some(&one)).unwrap(), limits.stream(Some(&one)).unwrap()];
        assert_eq!(limits.stream(Some(&one)).unwrap_err().status, 429);
        let third = limits.stream(Some(&other)).unwrap();
        assert_eq!(limits.stream(Some(&other)).unwrap_err().status, 503);
        drop((open, third));
        assert!(limits.streams_by_principal.held.lock().unwrap().is_empty());
        assert!(limits.stream(Some(&one)).is_ok());
    }
}
