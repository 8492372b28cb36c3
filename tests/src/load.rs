//! What goes on in a plane while a suite takes a part of it away: agents that beat, tenants that read and begin turns.
//! Every answer is written down, and every turn that was accepted has a client that watches it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, header};
use serde_json::{Value, json};
use steward::operator::api::Api;
use svc_core::id::new_id;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{actors::Tenant, witness::Testimony};

const CONNECT: Duration = Duration::from_secs(5);
/// A call that takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(1);
const READ: Duration = Duration::from_millis(250);
const BEGIN: Duration = Duration::from_secs(1);
/// Longest time for an accepted turn.
const TURN: Duration = Duration::from_secs(90);

/// One answer of the plane.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was asked.
    pub what: &'static str,
    /// When it was asked.
    pub asked: Instant,
    /// How long it took.
    pub took: Duration,
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// Whether it says when to come back.
    pub retry_after: bool,
    /// The body of a refusal, or what went wrong.
    pub text: String,
}

impl Answer {
    /// Whether it was a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// An agent with its own token.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id.
    pub id: String,
    token: String,
}

/// Everything that goes on. Ends with [`Load::end`].
#[derive(Debug)]
pub struct Load {
    answers: Arc<Mutex<Vec<Answer>>>,
    testimonies: Arc<Mutex<Vec<Testimony>>>,
    ending: CancellationToken,
    tasks: JoinSet<()>,
    /// Agents beat until the very end: one that stops is rightly called silent.
    beats: JoinSet<()>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Every answer.
    pub answers: Vec<Answer>,
    /// What was seen of every turn that was accepted.
    pub testimonies: Vec<Testimony>,
}

impl Tenant {
    /// A new agent that asks for its messages, registered and heard.
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

    /// Where an agent stands.
    pub async fn standing(&self, agent: &Agent) -> Value {
        self.api.get(&format!("/v1/agents/{}", agent.id)).await.unwrap()["agent"].clone()
    }
}

impl Load {
    /// Begins: each agent beats, and each session is read and given short turns.
    pub fn begin(tenant: &Tenant, sessions: &[String], agents: &[Agent]) -> Self {
        let mut load = Self {
            answers: Arc::default(),
            testimonies: Arc::default(),
            ending: CancellationToken::new(),
            tasks: JoinSet::new(),
            beats: JoinSet::new(),
        };
        let http = Client::builder().connect_timeout(CONNECT).timeout(PATIENCE).build().unwrap();
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

    /// Accepts one more turn, surely, and watches it.
    pub fn turn(&mut self, tenant: &Tenant, session: &str, input: &str) {
        let (tenant, session, input) = (tenant.clone(), session.to_owned(), input.to_owned());
        let testimonies = self.testimonies.clone();
        self.tasks.spawn(async move {
            let turn = tenant.begin_surely(&session, &input, &new_id().to_string(), TURN).await;
            let testimony = tenant.witness(&turn, TURN).await;
            testimonies.lock().unwrap_or_else(PoisonError::into_inner).push(testimony);
        });
    }

    /// Begins nothing more, and waits for every turn that was accepted.
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

    /// Asks again and again, until it is dropped.
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

    /// Begins turns one after the other, as a person does who gives up on one that is refused.
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
    /// How often which status was answered.
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for answer in &self.answers {
            *statuses.entry(answer.status).or_default() += 1;
        }
        statuses
    }

    /// Panics unless every answer was a success or, if `refusals`, 503 with the time to come back.
    pub fn assert_civil(&self, refusals: bool) {
        for answer in &self.answers {
            let civil = answer.is_success() || (refusals && answer.status == 503 && answer.retry_after);
            assert!(civil, "{answer:?}; all: {:?}", self.statuses());
        }
    }

    /// Panics unless everything asked after `moment` was a success.
    pub fn assert_well_after(&self, moment: Instant) {
        for answer in self.answers.iter().filter(|answer| answer.asked > moment) {
            assert!(answer.is_success(), "{:?} after it should be well: {answer:?}", answer.asked - moment);
        }
    }
}
