//! Records of keyed calls: what makes a repeated call harmless.
//!
//! A key is absent, then running, then finished; or it is abandoned before it ever ran. Neither of the last two is
//! ever left, and no key is forgotten: a full table refuses new keys instead. Only the *output* of finished calls is
//! dropped, oldest first, when it exceeds its budget; such a record still tells how the call ended.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
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
pub struct Outcome {
    /// Exit code; 128 + signal if killed.
    pub exit_code: i32,
    /// Standard output, cut at its limit.
    pub stdout: Output,
    /// Standard error, cut at its limit.
    pub stderr: Output,
    /// True if killed at its timeout.
    pub timed_out: bool,
    /// How long it ran.
    pub duration: Duration,
}

impl Outcome {
    /// A call that ended with `exit_code` and one line on standard error.
    #[must_use]
    pub fn failure(exit_code: i32, problem: &str) -> Self {
        let stderr = Output { bytes: format!("steward-guest: {problem}\n").into(), truncated: false };
        Self { exit_code, stderr, ..Self::default() }
    }

    fn output_bytes(&self) -> usize {
        self.stdout.bytes.len() + self.stderr.bytes.len()
    }

    fn without_output(&self) -> Self {
        Self { stdout: self.stdout.dropped(), stderr: self.stderr.dropped(), ..self.clone() }
    }
}

/// One output stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The first bytes of it.
    pub bytes: Bytes,
    /// Whether there was more.
    pub truncated: bool,
}

impl Output {
    fn dropped(&self) -> Self {
        Self { bytes: Bytes::new(), truncated: self.truncated || !self.bytes.is_empty() }
    }
}

/// How a key stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Its call runs.
    Running(Running),
    /// Its call ended.
    Finished(Arc<Outcome>),
    /// It was written off before it arrived.
    Abandoned,
}

/// A call that runs; a handle to wait for its end, or to bring it about.
#[derive(Debug, Clone)]
pub struct Running {
    end: watch::Receiver<Option<Arc<Outcome>>>,
    cancel: CancellationToken,
}

impl Running {
    /// Asks the call to end now. One that cannot be ended early ends by itself.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The outcome, or nothing if it did not end by `until` (never: no limit).
    pub async fn ended(mut self, until: Option<Instant>) -> Option<Arc<Outcome>> {
        let end = self.end.wait_for(Option::is_some);
        let outcome = match until {
            Some(until) => timeout_at(until, end).await.ok()?,
            None => end.await,
        };
        outcome.ok().and_then(|outcome| outcome.clone())
    }
}

/// Answer to [`Records::begin`].
#[derive(Debug)]
pub enum Begin {
    /// The key is new and now runs: the holder of the ticket makes the call.
    New(Ticket, Running),
    /// The key is known: there is nothing to run.
    Known(Standing),
}

/// Why a key was not taken. Nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Every key of this life is used up.
    #[error("this sandbox has no keys left")]
    KeysExhausted,
    /// Too many calls run at once.
    #[error("too many commands are running")]
    TooManyRunning,
}

/// The table of records.
#[derive(Debug, Clone)]
pub struct Records {
    table: Arc<Mutex<Table>>,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<Arc<str>, Standing>,
    /// Finished keys that still have their output, oldest first.
    kept: VecDeque<Arc<str>>,
    kept_bytes: usize,
    running: usize,
}

impl Records {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { table: Arc::default(), limits }
    }

    /// Takes `key` for a call, unless it is known.
    ///
    /// # Errors
    /// [`Refused`] if the table is full or too many calls run.
    pub fn begin(&self, key: &str) -> Result<Begin, Refused> {
        let mut table = self.lock();
        if let Some(standing) = table.records.get(key) {
            return Ok(Begin::Known(standing.clone()));
        }
        if table.records.len() >= self.limits.keys {
            return Err(Refused::KeysExhausted);
        }
        if table.running >= self.limits.running {
            return Err(Refused::TooManyRunning);
        }
        let key: Arc<str> = key.into();
        let (done, end) = watch::channel(None);
        let running = Running { end, cancel: CancellationToken::new() };
        let canceled = running.cancel.clone();
        table.running += 1;
        table.records.insert(Arc::clone(&key), Standing::Running(running.clone()));
        Ok(Begin::New(Ticket { records: self.clone(), key, done, canceled }, running))
    }

    /// Whether `key` was taken or written off.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        self.lock().records.contains_key(key)
    }

    /// How `key` stands; an unknown key is written off for ever.
    ///
    /// # Errors
    /// [`Refused`] if the table is full: then nobody can say, and nothing was written.
    pub fn resolve(&self, key: &str) -> Result<Standing, Refused> {
        let mut table = self.lock();
        let full = table.records.len() >= self.limits.keys;
        match table.records.entry(key.into()) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(_) if full => Err(Refused::KeysExhausted),
            Entry::Vacant(unknown) => Ok(unknown.insert(Standing::Abandoned).clone()),
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
        self.records.insert(key, Standing::Finished(outcome));
        while self.kept_bytes > budget {
            let Some(oldest) = self.kept.pop_front() else { break };
            if let Some(Standing::Finished(outcome)) = self.records.get_mut(&oldest) {
                self.kept_bytes -= outcome.output_bytes();
                *outcome = Arc::new(outcome.without_output());
            }
        }
    }
}

/// The right, and the duty, to make one call and to say how it ended.
#[derive(Debug)]
pub struct Ticket {
    records: Records,
    key: Arc<str>,
    done: watch::Sender<Option<Arc<Outcome>>>,
    canceled: CancellationToken,
}

impl Ticket {
    /// Fires when somebody asks the call to end early.
    #[must_use]
    pub fn canceled(&self) -> CancellationToken {
        self.canceled.clone()
    }

    /// Records how the call ended and wakes everyone who waits for it.
    pub fn finish(self, outcome: Outcome) {
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
            Begin::Known(standing) => panic!("{key} is known: {standing:?}"),
        }
    }

    fn finished(records: &Records, key: &str) -> Arc<Outcome> {
        match records.begin(key).unwrap() {
            Begin::Known(Standing::Finished(outcome)) => outcome,
            other => panic!("{key} is not finished: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_key_runs_once_and_everyone_gets_its_outcome() {
        let records = records(10, 10, 1000);
        let ticket = begin(&records, "a");
        let Begin::Known(Standing::Running(running)) = records.begin("a").unwrap() else {
            panic!("not running")
        };
        ticket.finish(output("out"));
        assert_eq!(*running.ended(None).await.unwrap(), output("out"));
        assert_eq!(*finished(&records, "a"), output("out"));
    }

    #[test]
    fn an_unknown_key_is_written_off_and_never_runs() {
        let records = records(10, 10, 1000);
        assert!(matches!(records.resolve("a").unwrap(), Standing::Abandoned));
        assert!(matches!(records.begin("a").unwrap(), Begin::Known(Standing::Abandoned)));
    }

    #[test]
    fn output_over_the_budget_is_dropped_oldest_first_and_its_outcome_stays() {
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
        assert_eq!(records.begin("c").unwrap_err(), Refused::KeysExhausted);
        assert_eq!(records.resolve("c").unwrap_err(), Refused::KeysExhausted);
        assert_eq!(*finished(&records, "a"), output(""));
        assert!(matches!(records.resolve("b").unwrap(), Standing::Abandoned));
    }

    #[test]
    fn a_call_over_the_running_limit_is_not_recorded() {
        let records = records(10, 1, 1000);
        let first = begin(&records, "a");
        assert_eq!(records.begin("b").unwrap_err(), Refused::TooManyRunning);
        first.finish(output(""));
        begin(&records, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_running_call_has_an_end() {
        let records = records(10, 10, 1000);
        let _ticket = begin(&records, "a");
        let Standing::Running(running) = records.resolve("a").unwrap() else { panic!("not running") };
        assert_eq!(running.ended(Some(Instant::now() + Duration::from_secs(1))).await, None);
    }
}
