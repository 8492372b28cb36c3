//! Records of keyed calls: a call with a known key returns the record of the first call with it and runs
//! nothing.
//!
//! A key is at first unknown, then running, then finished. If Resolve names it before its call arrives, it is
//! abandoned, and the call will not run. Finished and abandoned are final. The guest forgets no key: a full
//! table refuses new ones. When the *output* of finished calls exceeds its budget, the oldest output is
//! dropped; the record keeps the exit code.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::Limits;

/// How a call ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// 128 + signal if the command was killed.
    pub(crate) exit_code: i32,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    /// Whether the command was killed at its timeout.
    pub(crate) timed_out: bool,
    pub(crate) duration: Duration,
}

impl Outcome {
    /// Builds the outcome of a call that ended with `exit_code` and one line on standard error.
    pub(crate) fn failure(exit_code: i32, problem: &str) -> Self {
        let stderr = Output { bytes: format!("steward-guest: {problem}\n").into(), truncated: false };
        Self { exit_code, stderr, ..Self::default() }
    }

    fn output_bytes(&self) -> usize {
        self.stdout.bytes.len() + self.stderr.bytes.len()
    }

    fn drop_output(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr] {
            output.truncated |= !mem::take(&mut output.bytes).is_empty();
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// The first bytes, up to the limit.
    pub(crate) bytes: Bytes,
    /// Whether bytes are missing.
    pub(crate) truncated: bool,
}

/// State of a key.
#[derive(Debug, Clone)]
pub(crate) enum KeyState {
    Running(Running),
    Finished(Arc<Outcome>),
    /// Resolve was called with the key before the key's call arrived, so that call will never run.
    Abandoned,
}

/// Handle on a running call.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    end: watch::Receiver<Option<Arc<Outcome>>>,
    /// Kills the command. A call that cannot be canceled, such as a file write, ends by itself.
    pub(crate) cancel: CancellationToken,
}

impl Running {
    /// Waits for the outcome; `None` if the call has not ended by `until`. Without `until`, waits until it
    /// ends.
    pub(crate) async fn ended(mut self, until: Option<Instant>) -> Option<Arc<Outcome>> {
        let end = self.end.wait_for(Option::is_some);
        let outcome = match until {
            Some(until) => timeout_at(until, end).await.ok()?,
            None => end.await,
        };
        outcome.ok().and_then(|outcome| outcome.clone())
    }
}

#[derive(Debug)]
pub(crate) enum Begin {
    /// The key was unknown and is now running. The caller must make the call and finish the ticket.
    New(Ticket, Running),
    /// The key is known: there is nothing to run.
    Known(KeyState),
}

/// Why a key was refused. Nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("this sandbox has no keys left")]
    KeysExhausted,
    #[error("too many commands are running")]
    TooManyRunning,
}

/// The records of all keys.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    table: Arc<Mutex<Table>>,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<Arc<str>, KeyState>,
    /// Finished keys with kept output, oldest first.
    kept: VecDeque<Arc<str>>,
    kept_bytes: usize,
    running: usize,
}

impl Records {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { table: Arc::default(), limits }
    }

    /// Marks an unknown `key` as running; returns the state of a known key.
    ///
    /// # Errors
    /// If the table is full or too many calls run.
    pub(crate) fn begin(&self, key: &str) -> Result<Begin, Error> {
        let mut table = self.lock();
        if let Some(state) = table.records.get(key) {
            return Ok(Begin::Known(state.clone()));
        }
        if table.records.len() >= self.limits.keys {
            return Err(Error::KeysExhausted);
        }
        if table.running >= self.limits.running {
            return Err(Error::TooManyRunning);
        }
        let key: Arc<str> = key.into();
        let (done, end) = watch::channel(None);
        let running = Running { end, cancel: CancellationToken::new() };
        table.running += 1;
        table.records.insert(Arc::clone(&key), KeyState::Running(running.clone()));
        Ok(Begin::New(Ticket { records: self.clone(), key, done }, running))
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.lock().records.contains_key(key)
    }

    /// Returns the state of `key`. An unknown key becomes abandoned, so that its call never runs.
    ///
    /// # Errors
    /// If the key is unknown and the table is full; nothing is recorded then.
    pub(crate) fn resolve(&self, key: &str) -> Result<KeyState, Error> {
        let mut table = self.lock();
        let full = table.records.len() >= self.limits.keys;
        match table.records.entry(key.into()) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(_) if full => Err(Error::KeysExhausted),
            Entry::Vacant(unknown) => Ok(unknown.insert(KeyState::Abandoned).clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn finish(&mut self, key: Arc<str>, outcome: Arc<Outcome>, budget: usize) {
        self.running -= 1;
        self.kept_bytes += outcome.output_bytes();
        if outcome.output_bytes() > 0 {
            self.kept.push_back(Arc::clone(&key));
        }
        self.records.insert(key, KeyState::Finished(outcome));
        while self.kept_bytes > budget {
            let Some(oldest) = self.kept.pop_front() else { break };
            if let Some(KeyState::Finished(outcome)) = self.records.get_mut(&oldest) {
                self.kept_bytes -= outcome.output_bytes();
                Arc::make_mut(outcome).drop_output();
            }
        }
    }
}

/// The right to run the call of one key. The owner must call [`Ticket::finish`].
#[derive(Debug)]
pub(crate) struct Ticket {
    records: Records,
    key: Arc<str>,
    done: watch::Sender<Option<Arc<Outcome>>>,
}

impl Ticket {
    /// Records the outcome and wakes every waiting request.
    pub(crate) fn finish(self, outcome: Outcome) {
        let outcome = Arc::new(outcome);
        let budget = self.records.limits.kept_output_bytes;
        self.records.lock().finish(self.key, Arc::clone(&outcome), budget);
        self.done.send_replace(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(keys: usize, running: usize, kept_output_bytes: usize) -> Records {
        Records::new(Limits { keys, running, kept_output_bytes, ..Limits::STANDARD })
    }

    fn output(text: &'static str) -> Outcome {
        let stdout = Output { bytes: Bytes::from_static(text.as_bytes()), truncated: false };
        Outcome { exit_code: 7, stdout, ..Outcome::default() }
    }

    fn begin(records: &Records, key: &str) -> Ticket {
        match records.begin(key).unwrap() {
            Begin::New(ticket, _) => ticket,
            Begin::Known(state) => panic!("{key} is known: {state:?}"),
        }
    }

    fn finished(records: &Records, key: &str) -> Arc<Outcome> {
        match records.begin(key).unwrap() {
            Begin::Known(KeyState::Finished(outcome)) => outcome,
            other => panic!("{key} is not finished: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_key_runs_once_and_each_call_gets_its_outcome() {
        let records = records(10, 10, 1000);
        let ticket = begin(&records, "a");
        let Begin::Known(KeyState::Running(running)) = records.begin("a").unwrap() else {
            panic!("not running")
        };
        ticket.finish(output("out"));
        assert_eq!(*running.ended(None).await.unwrap(), output("out"));
        assert_eq!(*finished(&records, "a"), output("out"));
    }

    #[test]
    fn resolving_an_unknown_key_abandons_it() {
        let records = records(10, 10, 1000);
        assert!(matches!(records.resolve("a").unwrap(), KeyState::Abandoned));
        assert!(matches!(records.begin("a").unwrap(), Begin::Known(KeyState::Abandoned)));
    }

    #[test]
    fn the_oldest_output_over_the_budget_is_dropped() {
        let records = records(10, 10, 8);
        for key in ["a", "b", "c"] {
            begin(&records, key).finish(output("1234"));
        }
        let oldest = finished(&records, "a");
        assert_eq!((oldest.exit_code, oldest.stdout.bytes.len(), oldest.stdout.truncated), (7, 0, true));
        assert_eq!(*finished(&records, "b"), output("1234"));
        assert_eq!(*finished(&records, "c"), output("1234"));
    }

    #[test]
    fn a_full_table_refuses_new_keys_and_forgets_none() {
        let records = records(2, 10, 1000);
        begin(&records, "a").finish(output(""));
        records.resolve("b").unwrap();
        assert_eq!(records.begin("c").unwrap_err(), Error::KeysExhausted);
        assert_eq!(records.resolve("c").unwrap_err(), Error::KeysExhausted);
        assert_eq!(*finished(&records, "a"), output(""));
        assert!(matches!(records.resolve("b").unwrap(), KeyState::Abandoned));
    }

    #[test]
    fn a_call_over_the_running_limit_is_not_recorded() {
        let records = records(10, 1, 1000);
        let first = begin(&records, "a");
        assert_eq!(records.begin("b").unwrap_err(), Error::TooManyRunning);
        first.finish(output(""));
        begin(&records, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_running_call_times_out() {
        let records = records(10, 10, 1000);
        let _ticket = begin(&records, "a");
        let KeyState::Running(running) = records.resolve("a").unwrap() else { panic!("not running") };
        assert_eq!(running.ended(Some(Instant::now() + Duration::from_secs(1))).await, None);
    }
}
