//! A simulated push agent: A2A over JSON-RPC. It refuses requests that are not in its A2A version. A test
//! scripts its reaction to the text of a message.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures::stream;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
    task::JoinSet,
};

/// The A2A version of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V03,
    V10,
}

/// An agent's reaction to a message, instead of the echo.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answers with a task of its own.
    Task,
    /// Answers with a JSON-RPC error.
    Fail,
    /// Answers with an HTTP status and no JSON-RPC.
    Status(u16),
    /// Answers with 200 and this text.
    Rubbish(String),
    /// Redirects the caller to this URL.
    Redirect(String),
    Cut,
    /// Answers once it is notified.
    Hold(Arc<Notify>),
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) text: String,
    pub(crate) message_id: String,
    pub(crate) context_id: Option<String>,
}

/// The simulator; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct FakeAgent {
    pub(crate) address: SocketAddr,
    agent: Arc<Agent>,
    server: JoinSet<()>,
    /// The port, while the agent does not accept connections.
    socket: Option<TcpSocket>,
}

#[derive(Debug)]
struct Agent {
    dialect: Dialect,
    arrived: Mutex<Vec<Arrived>>,
    asked: Mutex<Vec<String>>,
    acts: Mutex<HashMap<String, VecDeque<Act>>>,
}

impl FakeAgent {
    /// Builds an agent that has its port and refuses connections.
    pub(crate) fn away(dialect: Dialect) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let agent =
            Agent { dialect, arrived: Mutex::default(), asked: Mutex::default(), acts: Mutex::default() };
        Self {
            address: socket.local_addr().unwrap(),
            agent: Arc::new(agent),
            server: JoinSet::new(),
            socket: Some(socket),
        }
    }

    /// Starts an agent that accepts connections.
    pub(crate) fn start(dialect: Dialect) -> Self {
        let mut agent = Self::away(dialect);
        agent.come();
        agent
    }

    /// Accepts connections from now on.
    pub(crate) fn come(&mut self) {
        let listener: TcpListener = self.socket.take().unwrap().listen(128).unwrap();
        let router = Router::new().fallback(serve).with_state(self.agent.clone());
        self.server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    }

    /// Returns the URL that the relay calls.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/a2a", self.address)
    }

    pub(crate) fn card(&self) -> Value {
        match self.agent.dialect {
            Dialect::V03 => json!({ "name": "fake", "protocolVersion": "0.3.0", "url": self.url() }),
            Dialect::V10 => json!({
                "name": "fake",
                "supportedInterfaces": [
                    { "url": self.url(), "protocolBinding": "JSONRPC", "protocolVersion": "1.0" },
                ],
            }),
        }
    }

    /// Scripts the reactions to the next messages that have this text, in order.
    pub(crate) fn script(&self, text: &str, acts: impl IntoIterator<Item = Act>) {
        self.agent.acts.lock().unwrap().entry(text.to_owned()).or_default().extend(acts);
    }

    /// Holds the answer to the next message that has this text until the returned handle is notified.
    pub(crate) fn hold(&self, text: &str) -> Arc<Notify> {
        let release = Arc::<Notify>::default();
        self.script(text, [Act::Hold(release.clone())]);
        release
    }

    /// Returns the messages that arrived.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.agent.arrived.lock().unwrap().clone()
    }

    /// Returns the texts of the messages that arrived.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.arrived().into_iter().map(|arrived| arrived.text).collect()
    }

    /// Returns the ids of the tasks that callers read.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.agent.asked.lock().unwrap().clone()
    }
}

async fn serve(State(agent): State<Arc<Agent>>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = match agent.read(&headers, &request) {
        Ok(Call::Task(id)) => {
            agent.asked.lock().unwrap().push(id.clone());
            json!({ "result": agent.task(&id, true) })
        }
        Ok(Call::Message(arrived)) => {
            agent.arrived.lock().unwrap().push(arrived.clone());
            let act = agent.acts.lock().unwrap().get_mut(&arrived.text).and_then(VecDeque::pop_front);
            match act {
                None => agent.echo(&arrived),
                Some(Act::Hold(release)) => {
                    release.notified().await;
                    agent.echo(&arrived)
                }
                Some(Act::Task) => json!({ "result": agent.task("own", false) }),
                Some(Act::Fail) => json!({ "error": { "code": -32050, "message": "not today" } }),
                Some(Act::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
                Some(Act::Rubbish(text)) => return text.into_response(),
                Some(Act::Redirect(to)) => {
                    return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response();
                }
                Some(Act::Cut) => {
                    let broken = stream::iter([Err::<Bytes, _>(io::Error::other("cut"))]);
                    return Body::from_stream(broken).into_response();
                }
            }
        }
        Err(problem) => json!({ "error": { "code": -32602, "message": problem } }),
    };
    let mut answer = answer;
    answer["jsonrpc"] = "2.0".into();
    answer["id"] = request["id"].clone();
    axum::Json(answer).into_response()
}

enum Call {
    Message(Arrived),
    Task(String),
}

impl Agent {
    /// Parses a request. Fails, with the wrong part, if it is not entirely in this agent's version.
    fn read(&self, headers: &HeaderMap, request: &Value) -> Result<Call, String> {
        let (version, send, get, role) = match self.dialect {
            Dialect::V03 => ("0.3", "message/send", "tasks/get", "user"),
            Dialect::V10 => ("1.0", "SendMessage", "GetTask", "ROLE_USER"),
        };
        let expect = |ok: bool, what: &str| ok.then_some(()).ok_or_else(|| format!("{what} in {request}"));
        expect(headers.get("a2a-version").is_some_and(|given| given == version), "A2A-Version")?;
        expect(headers[header::CONTENT_TYPE] == "application/json", "Content-Type")?;
        expect(request["jsonrpc"] == "2.0" && !request["id"].is_null(), "envelope")?;
        let params = &request["params"];
        let method = request["method"].as_str().unwrap_or_default();
        if method == get {
            return Ok(Call::Task(params["id"].as_str().unwrap_or_default().to_owned()));
        }
        expect(method == send, "method")?;
        let message = &params["message"];
        expect(message["role"] == role, "role")?;
        let kinds = self.dialect == Dialect::V03;
        expect((message["kind"] == "message") == kinds, "kind")?;
        let parts = message["parts"].as_array().cloned().unwrap_or_default();
        expect(!parts.is_empty() && parts.iter().all(|part| part.get("kind").is_some() == kinds), "parts")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Call::Message(Arrived {
            text: text(&parts[0]["text"]).ok_or("no text")?,
            message_id: text(&message["messageId"]).ok_or("no messageId")?,
            context_id: text(&message["contextId"]),
        }))
    }

    /// Answers with the text, and with the number of messages received so far.
    fn echo(&self, arrived: &Arrived) -> Value {
        let text = format!("{} #{}", arrived.text, self.arrived.lock().unwrap().len());
        let id = format!("answer to {}", arrived.message_id);
        let message = match self.dialect {
            Dialect::V03 => json!({
                "kind": "message", "role": "agent", "messageId": id,
                "parts": [{ "kind": "text", "text": text }],
            }),
            Dialect::V10 => json!({
                "message": { "role": "ROLE_AGENT", "messageId": id, "parts": [{ "text": text }] },
            }),
        };
        json!({ "result": message })
    }

    fn task(&self, id: &str, asked: bool) -> Value {
        match (self.dialect, asked) {
            (Dialect::V03, _) => {
                json!({ "kind": "task", "id": id, "contextId": "c", "status": { "state": "working" } })
            }
            (Dialect::V10, asked) => {
                let task = json!({ "id": id, "contextId": "c", "status": { "state": "TASK_STATE_WORKING" } });
                if asked { task } else { json!({ "task": task }) }
            }
        }
    }
}
