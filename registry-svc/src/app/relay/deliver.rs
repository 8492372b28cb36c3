//! Delivers the next message of a claimed lane, in three steps under the lane's lease:
//!
//! 1. Marks the message as dispatched, counts an attempt that may have arrived, and commits.
//! 2. Sends the message to the agent.
//! 3. Writes the outcome to the message and releases the lane, in one transaction that checks the lease's
//!    epoch.
//!
//! A worker that lost the lane writes nothing. If a process dies between the steps, the message stays
//! dispatched. The next worker that claims the lane sends it again, under the same A2A message id, unless
//! `max_arrivals` attempts may have arrived.

use std::time::Duration;

use svc_core::{
    data::{
        lease::item,
        pg::{Pool, Tx},
    },
    error::Chain,
    run::{clock::SharedClock, failpoint, telemetry},
    subject::Subject,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Waiters,
    client::{AgentClient, Endpoint},
};
use crate::{
    domain::{
        delivery::{Problem, RetryPolicy, Verdict, decide},
        lane::{ClaimLimits, Lane},
        message::NextMessage,
        relay_state::{Input, State, next_state},
        status::Status,
    },
    error::{Error, Result},
    metrics::Deliveries,
    store::{self, lanes::LaneLeases, messages::state},
};

/// Time between attempts to write an outcome while Postgres is unreachable.
const SETTLE_RETRY: Duration = Duration::from_millis(500);

/// Expired messages ended in one statement.
const EXPIRE_BATCH: i64 = 500;

/// Delivers messages. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Deliverer {
    pub pool: Pool,
    pub clock: SharedClock,
    pub client: AgentClient,
    pub waiters: Waiters,
    /// The id of this replica, as leases name it.
    pub replica: String,
    /// Duration of a lane's lease. The worker renews the lease each time a third of this has passed.
    pub lease: Duration,
    /// Maximum time for writing an outcome while Postgres is unreachable.
    pub settle_timeout: Duration,
    pub retries: RetryPolicy,
    pub metrics: Deliveries,
}

/// A dispatched message, and the endpoint that it is sent to.
#[derive(Debug)]
struct Dispatched {
    message: NextMessage,
    endpoint: Endpoint,
}

impl Deliverer {
    /// Claims ready lanes; lanes with an expired lease only if `expired`.
    pub(crate) async fn claim(&self, expired: bool, limits: ClaimLimits) -> Result<Vec<Lane>> {
        // Uses a transaction without a custody row, because a claim writes only the leases of lanes, for many
        // accounts. Each delivery then locks the custody row of its account.
        let mut tx = Tx::system(&self.pool).await?;
        let lanes = store::lanes::claim(&mut tx, &self.replica, self.lease, expired, limits).await?;
        tx.commit().await?;
        Ok(lanes)
    }

    /// Delivers the next message of a lane and releases the lane. When `stop` fires, the lane is released
    /// with the message still dispatched.
    pub(crate) async fn deliver(&self, lane: &Lane, stop: &CancellationToken) -> Result<()> {
        let Some(job) = self.dispatch(lane).await? else { return Ok(()) };
        failpoint::hit("registry.relay.dispatched").await;
        let message = &job.message;
        let span = tracing::info_span!(
            parent: None,
            "relay.deliver",
            otel.kind = "client",
            agent.id = %lane.target,
            relay.message.id = %message.id,
            relay.attempt = message.attempts,
            relay.problem = tracing::field::Empty,
        );
        // A delivery has a trace of its own, linked to the trace of the request that sent the message.
        telemetry::link(&span, message.traceparent.as_deref());
        let start = Instant::now();
        let attempt = tokio::select! {
            attempt = self.client.send(message, &job.endpoint).instrument(span.clone()) => attempt,
            _lost = item::keep::<LaneLeases>(&self.pool, &lane.lease, self.lease) => {
                let (agent, message) = (lane.target, message.id);
                tracing::warn!(agent.id = %agent, relay.message.id = %message, "lane lost while delivering");
                return Ok(());
            }
            () = stop.cancelled() => return self.release(lane).await,
        };
        failpoint::hit("registry.relay.answered").await;
        let (attempts, arrivals) = (message.attempts, message.arrivals);
        let verdict = decide(attempt, attempts, arrivals, &self.retries, rand::random());
        if let Verdict::Retry { problem, .. } | Verdict::GivenUp(problem) = &verdict {
            span.record("relay.problem", problem.code());
        }
        self.metrics.attempted(&verdict, start.elapsed());
        self.settle(lane, &job, &verdict).await
    }

    /// Marks the next message as dispatched. `None` if no message can be sent; the lane is released then.
    async fn dispatch(&self, lane: &Lane) -> Result<Option<Dispatched>> {
        let now = self.clock.now();
        let mut ended = Vec::new();
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: lane.account }).await?;
        let agent = store::agents::find_and_share(&mut tx, lane.account, lane.target).await?;
        let agent = agent.filter(|agent| agent.status != Status::Removed);
        store::lanes::lock_claimed(&mut tx, &lane.lease).await?;
        let job = loop {
            let Some(message) = state::next(&mut tx, lane.lease.id).await? else { break None };
            let (input, problem) = match (&agent, message.state) {
                (None, _) => (Input::Remove, Problem::AgentRemoved),
                (_, State::Queued) if message.expires_at <= now => (Input::Expire, Problem::Expired),
                (_, _) if message.arrivals >= self.retries.max_arrivals => {
                    (Input::GiveUp, Problem::AttemptsExhausted)
                }
                (Some(agent), stands) => match Endpoint::of(agent) {
                    Some(endpoint) => break Some(Dispatched { message, endpoint }),
                    // The worker that dispatched the message died or stopped before it stored an outcome, and
                    // the agent is not reachable now: the message is queued again, and may expire.
                    None if stands == State::Dispatched => {
                        let to = next_state(stands, Input::Requeue)?;
                        state::requeue(&mut tx, message.id, to, Problem::ConnectionLost, true).await?;
                        break None;
                    }
                    None => break None,
                },
            };
            let Ok(to) = next_state(message.state, input) else { break None };
            state::end(&mut tx, message.id, message.state, to, problem, now).await?;
            ended.push(message.id);
        };
        let count = i32::try_from(ended.len()).unwrap_or(i32::MAX);
        let job = match job {
            Some(mut job) => {
                job.message.state = next_state(job.message.state, Input::Dispatch)?;
                state::dispatch(&mut tx, job.message.id, job.message.state).await?;
                job.message.attempts += 1;
                job.message.arrivals += 1;
                store::lanes::count_ended(&mut tx, &lane.lease, count).await?;
                Some(job)
            }
            None => {
                store::lanes::release(&mut tx, &lane.lease, count, None).await?;
                None
            }
        };
        tx.commit().await?;
        ended.into_iter().for_each(|message| self.waiters.notify(message));
        Ok(job)
    }

    /// Writes the outcome of an attempt. It retries while Postgres is unreachable, because without a stored
    /// answer the message is sent again and the agent does the work twice.
    async fn settle(&self, lane: &Lane, job: &Dispatched, verdict: &Verdict) -> Result<()> {
        let until = Instant::now() + self.settle_timeout;
        loop {
            match self.settle_once(lane, job, verdict).await {
                Err(Error::Pg(error)) if error.is_outage() && Instant::now() < until => {
                    tracing::warn!(error = %Chain(&error), "outcome of a message not written yet");
                    tokio::time::sleep(SETTLE_RETRY).await;
                }
                settled => return settled,
            }
        }
    }

    async fn settle_once(&self, lane: &Lane, job: &Dispatched, verdict: &Verdict) -> Result<()> {
        let (id, from, now) = (job.message.id, job.message.state, self.clock.now());
        let mut tx = Tx::for_subject(&self.pool, Subject::Account { account: lane.account }).await?;
        store::lanes::lock_claimed(&mut tx, &lane.lease).await?;
        let (ended, after) = match verdict {
            Verdict::Delivered(outcome) => {
                let to = next_state(from, Input::Answer)?;
                state::deliver(&mut tx, id, to, outcome, job.endpoint.version, now).await?;
                (1, Duration::ZERO)
            }
            Verdict::Retry { after, problem, arrived } => {
                let to = next_state(from, Input::Requeue)?;
                state::requeue(&mut tx, id, to, *problem, *arrived).await?;
                (0, *after)
            }
            Verdict::GivenUp(problem) => {
                state::end(&mut tx, id, from, next_state(from, Input::GiveUp)?, *problem, now).await?;
                (1, Duration::ZERO)
            }
        };
        store::lanes::release(&mut tx, &lane.lease, ended, Some(after)).await?;
        tx.commit().await?;
        self.waiters.notify(id);
        Ok(())
    }

    /// Releases a lane with its message still dispatched; the next worker sends it again.
    async fn release(&self, lane: &Lane) -> Result<()> {
        let mut tx = Tx::system(&self.pool).await?;
        store::lanes::release(&mut tx, &lane.lease, 0, Some(Duration::ZERO)).await?;
        Ok(tx.commit().await?)
    }

    /// Ends every expired message, batch by batch.
    pub(crate) async fn expire(&self) -> Result<()> {
        loop {
            let mut tx = Tx::system(&self.pool).await?;
            let ended: Vec<Uuid> = state::expire(&mut tx, EXPIRE_BATCH, self.clock.now()).await?;
            tx.commit().await?;
            let last = i64::try_from(ended.len()).is_ok_and(|count| count < EXPIRE_BATCH);
            ended.into_iter().for_each(|message| self.waiters.notify(message));
            if last {
                return Ok(());
            }
        }
    }
}
