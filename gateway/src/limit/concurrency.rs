//! How much is in hand at once. Whatever is over is refused at once, with advice on when to come back: a queue
//! here would only make every answer late.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use svc_core::{error::ErrorKind, principal::Principal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::Config, problem::Problem};

/// Counts requests and streams.
#[derive(Debug, Clone)]
pub struct Concurrency {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    by_principal: Arc<Mutex<HashMap<String, usize>>>,
    max_per_principal: usize,
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub struct RequestPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// An open stream, until it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    _permit: OwnedSemaphorePermit,
    principal: String,
    by_principal: Arc<Mutex<HashMap<String, usize>>>,
}

impl Concurrency {
    /// Limits as configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.requests.max_in_flight)),
            streams: Arc::new(Semaphore::new(config.streams.max)),
            by_principal: Arc::default(),
            max_per_principal: config.streams.max_per_principal,
        }
    }

    /// Takes a request in hand.
    ///
    /// # Errors
    /// 503 if too many are.
    pub fn request(&self) -> Result<RequestPermit, Problem> {
        self.requests.clone().try_acquire_owned().map(RequestPermit).map_err(|_| overloaded())
    }

    /// Opens a stream for `principal`; a public stream has none.
    ///
    /// # Errors
    /// 429 if it has too many open, 503 if all together do.
    pub fn stream(&self, principal: Option<&Principal>) -> Result<StreamPermit, Problem> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let principal = principal.map_or_else(String::new, |p| format!("{:?}/{}", p.kind, p.subject_id));
        let mut open = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal.clone()).or_default();
        if *count >= self.max_per_principal {
            let detail = "too many streams are open; close one, or retry later";
            return Err(Problem::new(ErrorKind::ResourceExhausted, "TOO_MANY_STREAMS", detail));
        }
        *count += 1;
        drop(open);
        Ok(StreamPermit { _permit: permit, principal, by_principal: self.by_principal.clone() })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

fn overloaded() -> Problem {
    Problem::new(ErrorKind::Unavailable, "OVERLOADED", "too many requests are in hand; retry later")
}

#[cfg(test)]
mod tests {
    use svc_core::id::AccountId;

    use super::*;

    fn limits(requests: usize, streams: usize, each: usize) -> Concurrency {
        let mut config = Config::load(None).unwrap();
        config.requests.max_in_flight = requests;
        config.streams.max = streams;
        config.streams.max_per_principal = each;
        Concurrency::new(&config)
    }

    #[test]
    fn a_request_too_many_is_refused_until_one_ends() {
        let limits = limits(1, 1, 1);
        let first = limits.request().unwrap();
        assert_eq!(limits.request().unwrap_err().status, 503);
        drop(first);
        assert!(limits.request().is_ok());
    }

    #[test]
    fn one_principal_cannot_take_every_stream() {
        let limits = limits(1, 3, 2);
        let [one, other] = [AccountId::new(), AccountId::new()].map(Principal::account);
        let open = [limits.stream(Some(&one)).unwrap(), limits.stream(Some(&one)).unwrap()];
        assert_eq!(limits.stream(Some(&one)).unwrap_err().status, 429);
        let third = limits.stream(Some(&other)).unwrap();
        assert_eq!(limits.stream(Some(&other)).unwrap_err().status, 503);
        drop((open, third));
        assert!(limits.by_principal.lock().unwrap().is_empty());
        assert!(limits.stream(Some(&one)).is_ok());
    }
}
