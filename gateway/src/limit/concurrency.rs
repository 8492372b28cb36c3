//! How much is in hand at once. Whatever is over is refused at once, with advice on when to come back: a queue
//! here would only make every answer late.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use svc_core::wire::{error::ErrorKind, principal::Principal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::Config, problem::Problem};

/// Counts requests and streams.
#[derive(Debug, Clone)]
pub struct Concurrency {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Of requests that are answered at once, and of those that may wait.
    requests_by_account: [Shares; 2],
    streams_by_principal: Shares,
}

/// How long a request may stay in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It is answered at once.
    Short,
    /// It waits for a command, a sandbox or an agent.
    Long,
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    _permit: OwnedSemaphorePermit,
    share: Option<Share>,
}

/// An open stream, until it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

impl Concurrency {
    /// Limits as configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.requests.max_in_flight)),
            streams: Arc::new(Semaphore::new(config.streams.max)),
            requests_by_account: [(); 2].map(|()| Shares::new(config.requests.max_per_account)),
            streams_by_principal: Shares::new(config.streams.max_per_principal),
        }
    }

    /// Takes a request in hand, of whomever it may be.
    ///
    /// # Errors
    /// 503 if too many are.
    pub fn request(&self) -> Result<RequestPermit, Problem> {
        let permit = self.requests.clone().try_acquire_owned().map_err(|_| overloaded())?;
        Ok(RequestPermit { _permit: permit, share: None })
    }

    /// Counts a request in hand for the account of `principal`, its agents included; whoever acts for no account is
    /// counted alone. Those that wait are counted apart: beats go on while an account's agents talk to each other.
    ///
    /// # Errors
    /// 429 if the account has too many in hand.
    pub fn attribute(
        &self,
        permit: &mut RequestPermit,
        principal: &Principal,
        stay: Stay,
    ) -> Result<(), Problem> {
        let who = principal.account_id.map_or_else(|| name(principal), |account| account.to_string());
        let [short, long] = &self.requests_by_account;
        let shares = match stay {
            Stay::Short => short,
            Stay::Long => long,
        };
        let share = shares.take(who).ok_or_else(|| {
            let detail = "too many requests of this account are in hand; retry later";
            Problem::new(ErrorKind::ResourceExhausted, "TOO_MANY_REQUESTS", detail)
        })?;
        permit.share = Some(share);
        Ok(())
    }

    /// Opens a stream for `principal`; a public stream has none.
    ///
    /// # Errors
    /// 429 if it has too many open, 503 if all together do.
    pub fn stream(&self, principal: Option<&Principal>) -> Result<StreamPermit, Problem> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let share = self.streams_by_principal.take(principal.map_or_else(String::new, name));
        let share = share.ok_or_else(|| {
            let detail = "too many streams are open; close one, or retry later";
            Problem::new(ErrorKind::ResourceExhausted, "TOO_MANY_STREAMS", detail)
        })?;
        Ok(StreamPermit { _permit: permit, _share: share })
    }
}

fn name(principal: &Principal) -> String {
    format!("{:?}/{}", principal.kind, principal.subject_id)
}

/// How much each one holds, and how much each may.
#[derive(Debug, Clone)]
struct Shares {
    held: Arc<Mutex<HashMap<String, usize>>>,
    most: usize,
}

/// One of somebody's, until it is dropped.
#[derive(Debug)]
struct Share {
    who: String,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

impl Shares {
    fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// One more for `who`, unless it has as many as it may.
    fn take(&self, who: String) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(who.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Share { who, held: self.held.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.who);
            }
        }
    }
}

fn overloaded() -> Problem {
    Problem::new(ErrorKind::Unavailable, "OVERLOADED", "too many requests are in hand; retry later")
}

#[cfg(test)]
mod tests {
    use svc_core::{id::AccountId, wire::principal::PrincipalKind};

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
    fn a_request_too_many_is_refused_until_one_ends() {
        let limits = limits(1, 1, 1);
        let first = limits.request().unwrap();
        assert_eq!(limits.request().unwrap_err().status, 503);
        drop(first);
        assert!(limits.request().is_ok());
    }

    #[test]
    fn an_account_and_its_agents_cannot_take_every_request() {
        let limits = limits(4, 1, 2);
        let [one, other] = [AccountId::new(), AccountId::new()].map(Principal::account);
        let agent = Principal { kind: PrincipalKind::Agent, subject_id: "agent".to_owned(), ..one.clone() };
        let admit = |principal: &Principal, stay| {
            let mut permit = limits.request().unwrap();
            limits.attribute(&mut permit, principal, stay).map(|()| permit)
        };
        let held = [admit(&one, Stay::Long).unwrap(), admit(&agent, Stay::Long).unwrap()];
        assert_eq!(admit(&one, Stay::Long).unwrap_err().status, 429);
        assert_eq!(admit(&agent, Stay::Long).unwrap_err().status, 429);
        drop(admit(&agent, Stay::Short).unwrap());
        drop(admit(&other, Stay::Long).unwrap());
        drop(held);
        for shares in &limits.requests_by_account {
            assert!(shares.held.lock().unwrap().is_empty());
        }
        assert!(admit(&one, Stay::Long).is_ok());
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
        assert!(limits.streams_by_principal.held.lock().unwrap().is_empty());
        assert!(limits.stream(Some(&one)).is_ok());
    }
}
