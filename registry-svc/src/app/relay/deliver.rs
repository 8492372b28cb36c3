//! Delivery: the next message of a lane, sent to its agent, and what came of it written down.
//!
//! Three steps, the lane's lease held throughout: the message is marked as dispatched (and counted as arrived) and
//! that is committed; it is sent; the outcome, the message's end and the lane are written in one transaction that
//! checks the lease's epoch. Whoever lost the lane meanwhile writes nothing. A process that dies in between leaves a
//! message that is dispatched: the next holder of the lane sends it again, under the same A2A message id.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use svc_core::{
    data::pg::{self, Pool, Subject, Tx},
    run::{clock::SharedClock, failpoint, telemetry},
    wire::{
        error::Chain,
        outbound::{self, Outbound, Target},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::Waiting;
use crate::{
    domain::{
        a2a::{Call, Code, Envelope, Outcome, RpcError, Version, params_for},
        agent::{Agent, DeliveryMode},
        delivery::{Attempt, Input, Patience, Problem, State, Verdict, judge, next_state},
        status::Status,
    },
    error::{Error, Result},
    metrics::Deliveries,
    store::{self, lanes::Lane, messages::Head},
};

/// Header by which either side says which version it speaks.
const A2A_VERSION: &str = "a2a-version";

/// Time between attempts to write an outcome down while Postgres is away.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// How delivery goes about it.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryLimits {
    /// Lease of a lane; renewed every third of it.
    pub lease: Duration,
    /// Longest time for an agent to answer a message.
    pub timeout: Duration,
    /// Longest time for an agent to answer a question about a task.
    pub ask_timeout: Duration,
    /// Longest time for writing an outcome down while Postgres is away.
    pub settle_timeout: Duration,
    /// How often and how fast is tried.
    pub patience: Patience,
}

/// Delivers messages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Deliverer {
    pool: Pool,
    clock: SharedClock,
    outbound: Outbound,
    limits: DeliveryLimits,
    waiting: Waiting,
    metrics: Deliveries,
}

/// What an agent says about its task.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// This, in that version.
    Answered(Outcome, Version),
    /// Nothing that makes sense.
    Refused(RpcError),
    /// It cannot be asked.
    Unreachable,
}

/// A message on its way.
#[derive(Debug)]
struct Job {
    head: Head,
    url: String,
    speaks: Version,
}

impl Deliverer {
    /// Calls agents through `outbound`, and tells `waiting` what ended.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        outbound: Outbound,
        limits: DeliveryLimits,
        waiting: Waiting,
    ) -> Self {
        Self { pool, clock, outbound, limits, waiting, metrics: Deliveries::new() }
    }

    /// Who waits for the end of messages in this process.
    #[must_use]
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// How long a lane is leased.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.limits.lease
    }

    /// Delivers the next message of a lane and gives the lane back; says whether it can go on at once. When `stop`
    /// fires the lane is given back as it is.
    pub async fn work(&self, lane: &Lane, stop: &CancellationToken) -> Result<bool> {
        let Some(job) = self.begin(lane).await? else { return Ok(false) };
        failpoint::hit("registry.relay.dispatched").await;
        let span = tracing::info_span!(
            parent: None,
            "relay.deliver",
            otel.kind = "client",
            agent.id = %lane.target,
            relay.message.id = %job.head.id,
            relay.attempt = job.head.attempts,
            relay.problem = tracing::field::Empty,
        );
        // Queued work has a trace of its own, and names the one that it comes from.
        telemetry::link(&span, job.head.traceparent.as_deref());
        let start = Instant::now();
        let attempt = tokio::select! {
            attempt = self.send(&job).instrument(span.clone()) => attempt,
            () = self.keep(lane) => {
                tracing::warn!(agent.id = %lane.target, relay.message.id = %job.head.id, "lane lost while delivering");
                return Ok(false);
            }
            () = stop.cancelled() => {
                self.release(lane).await?;
                return Ok(false);
            }
        };
        failpoint::hit("registry.relay.answered").await;
        let Head { attempts, arrivals, .. } = job.head;
        let verdict = judge(attempt, attempts, arrivals, &self.limits.patience, rand::random());
        if let Verdict::Again { problem, .. } | Verdict::GivenUp(problem) = &verdict {
            span.record("relay.problem", problem.code());
        }
        self.metrics.attempted(&verdict, start.elapsed());
        self.settle(lane, &job, &verdict).await
    }

    /// Marks the next message as dispatched. `None` if there is none to send: the lane is given back.
    async fn begin(&self, lane: &Lane) -> Result<Option<Job>> {
        let now = self.clock.now();
        let mut ended = Vec::new();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: lane.account }).await?;
        let agent = store::agents::hold(&mut tx, lane.account, lane.target).await?;
        store::lanes::lock(&mut tx, &lane.lease).await?;
        let job = loop {
            let Some(head) = store::messages::head(&mut tx, lane.lease.id).await? else { break None };
            let problem = match (&agent, head.state) {
                (None, _) => Problem::AgentRemoved,
                (Some(agent), _) if agent.status == Status::Removed => Problem::AgentRemoved,
                (_, State::Queued) if head.expires_at <= now => Problem::Expired,
                (_, _) if head.arrivals >= self.limits.patience.arrivals => Problem::AttemptsExhausted,
                (Some(agent), state) => match callable(agent) {
                    Some((url, speaks)) => break Some(Job { head, url, speaks }),
                    // Its deliverer died, and now it cannot be sent: it waits, and may expire, like any other.
                    None if state == State::Dispatched => {
                        store::messages::put_back(&mut tx, head.id, Problem::ConnectionLost, true).await?;
                        break None;
                    }
                    None => break None,
                },
            };
            let input = match problem {
                Problem::AgentRemoved => Input::Remove,
                Problem::Expired => Input::Expire,
                _ => Input::GiveUp,
            };
            let Ok(to) = next_state(head.state, input) else { break None };
            store::messages::end(&mut tx, head.id, (head.state, to), problem, now).await?;
            ended.push(head.id);
        };
        let count = i32::try_from(ended.len()).unwrap_or(i32::MAX);
        let job = match job {
            Some(mut job) => {
                store::messages::dispatch(&mut tx, job.head.id).await?;
                (job.head.attempts, job.head.arrivals) = (job.head.attempts + 1, job.head.arrivals + 1);
                store::lanes::ended(&mut tx, &lane.lease, count).await?;
                Some(job)
            }
            None => {
                store::lanes::park(&mut tx, &lane.lease, count).await?;
                None
            }
        };
        tx.commit().await?;
        ended.into_iter().for_each(|message| self.waiting.tell(message));
        Ok(job)
    }

    async fn send(&self, job: &Job) -> Attempt {
        let call = Call::Send { params: job.head.params.clone(), ids: job.head.ids.clone() };
        let Ok((method, params)) = params_for(&call, job.head.version, job.speaks) else {
            return Attempt::NotTranslatable;
        };
        let body = json!({ "jsonrpc": "2.0", "id": job.head.id, "method": method, "params": params });
        match self.call(&job.url, job.speaks, &body, self.limits.timeout).await {
            Ok(answer) => Attempt::Answered {
                status: answer.status.as_u16(),
                outcome: Outcome::parse(&answer.body).ok(),
                retry_after: retry_after(&answer.headers),
            },
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "agent not reached");
                match error {
                    outbound::Error::Refused(outbound::Refused::Unresolved) => Attempt::NotSent,
                    outbound::Error::Refused(_) => Attempt::Refused,
                    outbound::Error::NotSent(_) => Attempt::NotSent,
                    outbound::Error::NoAnswer(_) => Attempt::Broken,
                    outbound::Error::TimedOut => Attempt::TimedOut,
                    outbound::Error::TooLarge(_) => Attempt::TooLong,
                }
            }
        }
    }

    /// Asks an agent about one of its tasks, at once and once.
    pub async fn ask(&self, agent: &Agent, envelope: &Envelope) -> Ask {
        let Some((url, speaks)) = callable(agent) else { return Ask::Unreachable };
        let (method, params) = match params_for(&envelope.call, envelope.version, speaks) {
            Ok(said) => said,
            Err(error) => return Ask::Refused(error),
        };
        let body = json!({ "jsonrpc": "2.0", "id": envelope.id, "method": method, "params": params });
        match self.call(&url, speaks, &body, self.limits.ask_timeout).await {
            Ok(answer) => match Outcome::parse(&answer.body) {
                Ok(outcome) => Ask::Answered(outcome, speaks),
                Err(error) => Ask::Refused(error),
            },
            Err(outbound::Error::TooLarge(_)) => {
                Ask::Refused(RpcError::new(Code::InvalidAgentResponse, "the agent's answer is too long"))
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), agent.id = %agent.id, "agent not asked");
                Ask::Unreachable
            }
        }
    }

    async fn call(
        &self,
        url: &str,
        speaks: Version,
        body: &Value,
        timeout: Duration,
    ) -> Result<outbound::Answer, outbound::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(A2A_VERSION, HeaderValue::from_static(speaks.header()));
        let call = outbound::Call {
            method: Method::POST,
            target: Target::parse(url)?,
            headers,
            body: Bytes::from(body.to_string()),
            timeout,
        };
        self.outbound.call(call).await
    }

    /// Renews the lane's lease until it is lost. Without Postgres nobody can take it either.
    async fn keep(&self, lane: &Lane) {
        loop {
            tokio::time::sleep(self.limits.lease / 3).await;
            let renewed = async {
                let mut db = self.pool.acquire().await?;
                store::lanes::renew(&mut db, &lane.lease, self.limits.lease).await
            };
            match renewed.await {
                Ok(()) => {}
                Err(pg::Error::Fenced(_)) => return,
                Err(error) => tracing::debug!(error = %Chain(&error), "lane not renewed"),
            }
        }
    }

    /// Writes down what came of a message, trying again while Postgres is away: an answer that is not written is
    /// an answer that the agent has to give again.
    async fn settle(&self, lane: &Lane, job: &Job, verdict: &Verdict) -> Result<bool> {
        let until = Instant::now() + self.limits.settle_timeout;
        loop {
            match self.settle_once(lane, job, verdict).await {
                Err(Error::Pg(error)) if error.is_outage() && Instant::now() < until => {
                    tracing::warn!(error = %Chain(&error), "outcome of a message not written yet");
                    tokio::time::sleep(SETTLE_AGAIN).await;
                }
                settled => return settled,
            }
        }
    }

    async fn settle_once(&self, lane: &Lane, job: &Job, verdict: &Verdict) -> Result<bool> {
        let (id, now) = (job.head.id, self.clock.now());
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: lane.account }).await?;
        store::lanes::lock(&mut tx, &lane.lease).await?;
        let (ended, after) = match verdict {
            Verdict::Delivered(outcome) => {
                store::messages::deliver(&mut tx, id, outcome, job.speaks, now).await?;
                (1, Duration::ZERO)
            }
            Verdict::Again { after, problem, arrived } => {
                store::messages::put_back(&mut tx, id, *problem, *arrived).await?;
                (0, *after)
            }
            Verdict::GivenUp(problem) => {
                let end = (State::Dispatched, State::Failed);
                store::messages::end(&mut tx, id, end, *problem, now).await?;
                (1, Duration::ZERO)
            }
        };
        let more = store::lanes::give_back(&mut tx, &lane.lease, ended, after).await?;
        tx.commit().await?;
        self.waiting.tell(id);
        Ok(more && after.is_zero())
    }

    /// Gives a lane back in the middle of a message: its next holder sends it again.
    async fn release(&self, lane: &Lane) -> Result<()> {
        let mut tx = Tx::system(&self.pool).await?;
        store::lanes::give_back(&mut tx, &lane.lease, 0, Duration::ZERO).await?;
        Ok(tx.commit().await?)
    }

    /// Ends messages whose time is over, batch after batch.
    pub async fn expire(&self, batch: i64) -> Result<u64> {
        let mut ended: u64 = 0;
        loop {
            let mut tx = Tx::system(&self.pool).await?;
            let ids: Vec<Uuid> = store::messages::expire(&mut tx, batch, self.clock.now()).await?;
            tx.commit().await?;
            ended += u64::try_from(ids.len()).unwrap_or(0);
            let last = i64::try_from(ids.len()).is_ok_and(|count| count < batch);
            ids.into_iter().for_each(|message| self.waiting.tell(message));
            if last {
                return Ok(ended);
            }
        }
    }
}

/// Where an agent is called now, and in which version; `None` if it is not.
fn callable(agent: &Agent) -> Option<(String, Version)> {
    let reachable = agent.status.is_reachable() && agent.delivery_mode == DeliveryMode::Push;
    let url = agent.url.clone().filter(|_| reachable)?;
    let version = Version::of_card(agent.card.as_ref(), &url);
    Some((url, version))
}

/// `Retry-After` in seconds; a date is not worth a clock comparison with a stranger.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
