//! Load on a plane while a suite makes a part of it fail: agents beat, tenants read sessions and begin turns.
//! The load records every answer, and a client watches every accepted turn to its end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, header};
use serde_json::{Value, json};
use steward::api::Api;
use svc_core::id::new_id;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{actors::Tenant, witness::Testimony};

const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(1);
const READ: Duration = Duration::from_millis(250);
const BEGIN: Duration = Duration::from_secs(1);
/// Maximum duration of an accepted turn.
const TURN: Duration = Duration::from_secs(90);

/// The plane's answer to one call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Name of the call.
    pub what: &'static str,
    /// Time of the call.
    pub asked: Instant,
    pub took: Duration,
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// Whether the answer has a Retry-After header.
    pub retry_after: bool,
    /// The body of a refusal, or the transport error.
    pub text: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// An agent with its own token.
#[derive(Debug, Clone)]
pub struct Agent {
    pub id: String,
    token: String,
}

/// All calls and turns in progress. Ends with [`Load::end`].
#[derive(Debug)]
pub struct Load {
    answers: Arc<Mutex<Vec<Answer>>>,
    testimonies: Arc<Mutex<Vec<Testimony>>>,
    ending: CancellationToken,
    tasks: JoinSet<()>,
    /// The heartbeats of the agents. They continue until the load ends, because the plane marks an agent
    /// silent that stops beating.
    beats: JoinSet<()>,
}

/// The result of a load.
#[derive(Debug)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    /// The record of every accepted turn.
    pub testimonies: Vec<Testimony>,
}

impl Tenant {
    /// Creates an agent that polls for its messages, registers it and sends its first heartbeat.
    pub async fn agent(&self, name: &str) -> Agent {
        let created = self.api.post("/v1/agents", &json!({ "name": name })).await.unwrap();
        let enrolment = Api::at(self.api.url(), created["enrolment"]["secret"].as_str().unwrap()).unwrap();
        let registration = json!({ "deliveryMode": "DELIVERY_MODE_POLL" });
        let registered = enrolment.post("/v1/agents:register", &registration).await.unwrap();
        let token = registered["secret"].as_str().unwrap().to_owned();
        Api::at(self.api.url(), &token)
            .unwrap()
            .post("/v1/agents:heartbeat", &json!({ "beat": {} }))
            .await
            .unwrap();
        Agent { id: created["agent"]["agentId"].as_str().unwrap().to_owned(), token }
    }

    pub async fn standing(&self, agent: &Agent) -> Value {
        self.api.get(&format!("/v1/agents/{}", agent.id)).await.unwrap()["agent"].clone()
    }
}

impl Load {
    /// Starts the load: each agent beats, and each session is read and given short turns.
    pub fn begin(tenant: &Tenant, sessions: &[String], agents: &[Agent]) -> Self {
        let mut load = Self {
            answers: Arc::default(),
            testimonies: Arc::default(),
            ending: CancellationToken::new(),
            tasks: JoinSet::new(),
            beats: JoinSet::new(),
        };
        let http = Client::builder().connect_timeout(CONNECT).timeout(CALL_TIMEOUT).build().unwrap();
        let url = tenant.api.url().to_owned();
        for agent in agents {
            let request = http.post(format!("{url}/v1/agents:heartbeat")).bearer_auth(&agent.token);
            let beats = load.repeat("beat", BEAT, request.json(&json!({ "beat": {} })));
            load.beats.spawn(beats);
        }
        for session in sessions {
            let request = http.get(format!("{url}/v1/sessions/{session}")).bearer_auth(&tenant.token);
            let (reads, ending) = (load.repeat("read", READ, request), load.ending.clone());
            load.tasks.spawn(async move { ending.run_until_cancelled(reads).await.unwrap_or_default() });
            load.begin_turns(tenant, http.post(format!("{url}/v1/sessions/{session}/turns")));
        }
        load
    }

    /// Starts one more turn, retried until it is accepted, and watches it.
    pub fn turn(&mut self, tenant: &Tenant, session: &str, input: &str) {
        let (tenant, session, input) = (tenant.clone(), session.to_owned(), input.to_owned());
        let testimonies = self.testimonies.clone();
        self.tasks.spawn(async move {
            let turn = tenant.begin_surely(&session, &input, &new_id().to_string(), TURN).await;
            let testimony = tenant.witness(&turn, TURN).await;
            testimonies.lock().unwrap_or_else(PoisonError::into_inner).push(testimony);
        });
    }

    /// Stops starting turns and waits for the end of every accepted turn.
    ///
    /// # Panics
    /// If a turn has not ended in time.
    pub async fn end(mut self) -> Outcome {
        self.ending.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let take = |answers: &Mutex<Vec<Answer>>| {
            std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let testimonies =
            std::mem::take(&mut *self.testimonies.lock().unwrap_or_else(PoisonError::into_inner));
        Outcome { answers: take(&self.answers), testimonies }
    }

    /// Repeats a call until the task is dropped.
    fn repeat(
        &self,
        what: &'static str,
        period: Duration,
        request: RequestBuilder,
    ) -> impl Future<Output = ()> + use<> {
        let answers = self.answers.clone();
        async move {
            loop {
                tokio::time::sleep(period).await;
                let (answer, _) = ask(what, request.try_clone().unwrap()).await;
                answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            }
        }
    }

    /// Begins turns one after the other, as a person does. A refused turn is not retried.
    fn begin_turns(&mut self, tenant: &Tenant, request: RequestBuilder) {
        let (answers, ending) = (self.answers.clone(), self.ending.clone());
        let (tenant, testimonies) = (tenant.clone(), self.testimonies.clone());
        let request = request.bearer_auth(&tenant.token).json(&json!({ "input": "count to 8 every 50ms" }));
        self.tasks.spawn(async move {
            while ending.run_until_cancelled(tokio::time::sleep(BEGIN)).await.is_some() {
                let (answer, body) = ask("begin", request.try_clone().unwrap()).await;
                answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                if let Some(turn) = body["turn"]["turnId"].as_str() {
                    let testimony = tenant.witness(turn, TURN).await;
                    testimonies.lock().unwrap_or_else(PoisonError::into_inner).push(testimony);
                }
            }
        });
    }
}

async fn ask(what: &'static str, request: RequestBuilder) -> (Answer, Value) {
    let asked = Instant::now();
    let mut answer =
        Answer { what, asked, took: Duration::ZERO, status: 0, retry_after: false, text: String::new() };
    let mut body = Value::Null;
    match request.send().await {
        Ok(response) => {
            answer.status = response.status().as_u16();
            answer.retry_after = response.headers().contains_key(header::RETRY_AFTER);
            match response.json().await {
                Ok(json) => body = json,
                Err(error) => answer.text = error.to_string(),
            }
        }
        Err(error) => answer.text = error.to_string(),
    }
    answer.took = asked.elapsed();
    if !answer.is_success() && !body.is_null() {
        answer.text = body.to_string();
    }
    (answer, body)
}

impl Outcome {
    /// Number of answers by status.
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for answer in &self.answers {
            *statuses.entry(answer.status).or_default() += 1;
        }
        statuses
    }

    /// Panics unless every answer was a success or, if `refusals` is true, 503 with Retry-After.
    pub fn assert_civil(&self, refusals: bool) {
        for answer in &self.answers {
            let civil = answer.is_success() || (refusals && answer.status == 503 && answer.retry_after);
            assert!(civil, "{answer:?}; all: {:?}", self.statuses());
        }
    }

    /// Panics unless every call made after `moment` succeeded.
    pub fn assert_well_after(&self, moment: Instant) {
        for answer in self.answers.iter().filter(|answer| answer.asked > moment) {
            assert!(answer.is_success(), "{:?} after it should be well: {answer:?}", answer.asked - moment);
        }
    }
}
