//! The users of a plane, each with a credential and the few calls that the tests make.

use serde_json::{Value, json};
use steward::api::{Api, Refusal, create_account, create_token, sse::Frame};

use crate::cluster::Cluster;

/// A tenant with a token that has every scope of its account.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub account: String,
    /// The public API, called with `token`.
    pub api: Api,
    pub token: String,
}

/// The events of one turn that a client received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub frames: Vec<Frame>,
}

impl Cluster {
    /// Returns a caller without a credential.
    pub fn anonymous(&self) -> Api {
        Api::at(&self.url, "").unwrap()
    }

    pub fn admin(&self) -> Api {
        Api::at(&self.url, &self.admin_token).unwrap()
    }

    pub async fn tenant(&self, name: &str) -> Tenant {
        let admin = self.admin();
        let account = create_account(&admin, name).await.unwrap();
        let token = create_token(&admin, &account, name, &[], None).await.unwrap();
        Tenant { api: Api::at(&self.url, &token).unwrap(), account, token }
    }
}

impl Tenant {
    pub async fn session(&self) -> String {
        let answer = self.api.post("/v1/sessions", &json!({})).await.unwrap();
        answer["session"]["sessionId"].as_str().unwrap().to_owned()
    }

    /// Starts a turn with `input` and returns its id.
    pub async fn begin(&self, session: &str, input: &str) -> String {
        let answer = self
            .api
            .post(&format!("/v1/sessions/{session}/turns"), &json!({ "input": input }))
            .await
            .unwrap();
        answer["turn"]["turnId"].as_str().unwrap().to_owned()
    }

    pub async fn turn(&self, turn: &str) -> Value {
        self.api.get(&format!("/v1/turns/{turn}")).await.unwrap()["turn"].clone()
    }

    /// Reads a turn's events after a cursor to the end of the turn. Reconnects if a stream ends early.
    pub async fn watch(&self, turn: &str, after: &str) -> Seen {
        let mut seen = Seen::default();
        let mut cursor = after.to_owned();
        loop {
            let path = format!("/v1/turns/{turn}/events");
            if let Ok(mut stream) = self.api.events(&path, &cursor).await {
                while let Ok(Some(frame)) = stream.next().await {
                    if frame.event == "problem" {
                        break;
                    }
                    frame.id.clone_into(&mut cursor);
                    let last = frame.event.starts_with("turn.") && frame.event != "turn.started";
                    seen.frames.push(frame);
                    if last {
                        return seen;
                    }
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    pub async fn say(&self, session: &str, input: &str) -> Seen {
        let turn = self.begin(session, input).await;
        self.watch(&turn, "").await
    }
}

impl Seen {
    /// Returns the visible answer: all text deltas except those that a reset makes invalid.
    pub fn text(&self) -> String {
        let mut deltas: Vec<(u64, String)> = Vec::new();
        for frame in &self.frames {
            let data: Value = serde_json::from_str(&frame.data).unwrap();
            match frame.event.as_str() {
                "text.delta" => deltas.push((frame.seq(), data["text"].as_str().unwrap().to_owned())),
                "reset" => {
                    let from = data["from_seq"].as_u64().unwrap();
                    deltas.retain(|(seq, _)| *seq < from);
                }
                _ => {}
            }
        }
        deltas.into_iter().map(|(_, text)| text).collect()
    }

    /// Returns the kinds of the events, without adjacent repeats.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.frames.iter().map(|frame| frame.event.as_str()).collect();
        kinds.dedup();
        kinds
    }

    /// Returns the data of the events of one kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let frames = self.frames.iter().filter(|frame| frame.event == kind);
        frames.map(|frame| serde_json::from_str(&frame.data).unwrap()).collect()
    }

    /// Panics unless the events are numbered from 1, without gap or repeat.
    pub fn assert_whole(&self) {
        let numbers: Vec<u64> = self.frames.iter().map(Sequenced::seq).collect();
        let expected: Vec<u64> = (1..=self.frames.len() as u64).collect();
        assert_eq!(numbers, expected);
    }
}

/// An event that knows its position in its turn's journal.
pub trait Sequenced {
    /// The first event has 1.
    fn seq(&self) -> u64;
}

impl Sequenced for Frame {
    fn seq(&self) -> u64 {
        self.id.rsplit(':').next().unwrap().parse().unwrap()
    }
}

/// Returns the problem document with which a call was refused.
pub fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> Refusal {
    result.unwrap_err().downcast().unwrap()
}
