//! Starts replicas of chat-svc for tests, and clients that call them as a tenant, as the gateway or as
//! purge-svc.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chat_svc::{Config, MIGRATOR, testing::ModelSection};
use futures::{Stream, StreamExt};
use serde_json::Value;
use steward_proto::{
    chat::v1::{
        self as proto, CreateSessionRequest, CreateTurnRequest, GetTurnRequest, RunTurnRequest,
        RunTurnResponse, StreamTurnEventsRequest, StreamTurnEventsResponse, Turn, TurnEvent, TurnStatus,
        chat_service_client::ChatServiceClient,
    },
    custody::v1::custodian_service_client::CustodianServiceClient,
};
use svc_core::{
    id::AccountId,
    run::{
        clock::SystemClock,
        lifecycle::{Lifecycle, Outcome},
        telemetry::Metrics,
    },
    testing::{TestDb, TestRedis, free_address},
    wire::{
        assertion::{self, GATEWAY, Signer, TrustedKey},
        client::{Caller, Peer, PeerConfig},
        principal::Principal,
    },
};
use tonic::{Request, Status};

use crate::sandbox::FakeSandbox;

/// Maximum wait of a test for an expected event.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// A database, a Redis, a fake sandbox-svc, and the replicas that share them.
pub(crate) struct Plane {
    pub(crate) db: TestDb,
    pub(crate) redis: TestRedis,
    pub(crate) sandbox: FakeSandbox,
    keys: Keys,
    replicas: Vec<Replica>,
}

pub(crate) struct Replica {
    address: SocketAddr,
    lifecycle: Lifecycle,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.lifecycle.hard().cancel();
    }
}

/// Keys of the processes, and the replicas' trust file.
struct Keys {
    directory: tempfile::TempDir,
    gateway: Arc<Signer>,
    purge: Arc<Signer>,
}

impl Keys {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut trusted = Vec::new();
        let mut signer = |issuer: &str| {
            let (private, public_key) = assertion::generate_key().unwrap();
            trusted.push(TrustedKey { id: issuer.to_owned(), issuer: issuer.to_owned(), public_key });
            std::fs::write(directory.path().join(format!("{issuer}.key")), &private).unwrap();
            let private = BASE64.decode(private).unwrap();
            Arc::new(Signer::new(issuer, issuer, &private, SystemClock::shared()).unwrap())
        };
        let (gateway, purge) = (signer(GATEWAY), signer("purge-svc"));
        signer("chat-svc");
        std::fs::write(directory.path().join("trust.toml"), assertion::trust_file(&trusted).unwrap())
            .unwrap();
        Self { directory, gateway, purge }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts one replica with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut plane = Self::empty().await;
        plane.add_replica(change).await;
        plane
    }

    pub(crate) async fn empty() -> Self {
        let db = TestDb::new(&[("chat", &MIGRATOR)]).await;
        let keys = Keys::make();
        let sandbox = FakeSandbox::start().await;
        Self { db, redis: TestRedis::new(), sandbox, keys, replicas: Vec::new() }
    }

    /// Adds a replica and returns its number.
    pub(crate) async fn add_replica(&mut self, change: impl FnOnce(&mut Config)) -> usize {
        let mut config = self.config();
        change(&mut config);
        let (address, lifecycle) = (config.base.server.listen, Lifecycle::new());
        chat_svc::start(config, lifecycle.clone(), metrics()).await.unwrap();
        self.replicas.push(Replica { address, lifecycle });
        self.replicas.len() - 1
    }

    /// Ends a replica as SIGKILL does: it flushes and releases nothing.
    pub(crate) fn kill(&self, number: usize) {
        self.replicas[number].lifecycle.hard().cancel();
    }

    /// Stops a replica as SIGTERM does, and waits for it.
    pub(crate) async fn stop(&self, number: usize) -> Outcome {
        let lifecycle = &self.replicas[number].lifecycle;
        lifecycle.stop();
        lifecycle.run_until_stopped(Duration::from_secs(10)).await
    }

    fn config(&self) -> Config {
        let file = self.keys.path("chat.toml");
        std::fs::write(&file, "pg.url = ''\nredis.url = ''\n").unwrap();
        let mut config = Config::load(Some(Path::new(&file))).unwrap();
        config.base.identity.trust_file = self.keys.path("trust.toml");
        config.base.identity.key_file = self.keys.path("chat-svc.key");
        config.base.pg = self.db.config("chat");
        config.base.pg.max_connections = 8;
        config.base.redis = self.redis.config();
        config.base.server.listen = free_address();
        config.base.server.operator_listen = free_address();
        config.base.server.drain_delay = Duration::from_millis(1);
        config.own.peers.sandbox.urls = vec![self.sandbox.url()];
        config.own.worker.lease_ttl = Duration::from_secs(1);
        config.own.worker.renew_period = Duration::from_millis(300);
        config.own.worker.scan_period = Duration::from_millis(100);
        let demo = ModelSection::Demo { pace: Duration::from_millis(1), prefill: Some(false) };
        config.own.models.insert("demo".to_owned(), demo);
        config.own.journal.poll = Duration::from_millis(500);
        config.own.sandbox.resolve_wait = Duration::from_millis(500);
        config.own.sandbox.resolve_timeout = Duration::from_secs(2);
        config.own.sandbox.resolve_pause = Duration::from_millis(50);
        config
    }

    /// Returns a client of replica `number` for the account.
    pub(crate) fn tenant_at(&self, number: usize, account: AccountId) -> Tenant {
        let caller = self.peer(number, &self.keys.gateway).stating(Principal::account(account));
        Tenant { account, client: ChatServiceClient::new(caller) }
    }

    /// Returns a client of the first replica for a new account.
    pub(crate) fn tenant(&self) -> Tenant {
        self.tenant_at(0, AccountId::new())
    }

    /// Returns a client of the first replica's custodian that calls as purge-svc.
    pub(crate) fn purge(&self) -> CustodianServiceClient<Caller> {
        CustodianServiceClient::new(self.peer(0, &self.keys.purge).acting_for(None))
    }

    /// Returns a caller of the first replica: the gateway, which states `principal`.
    pub(crate) fn stating(&self, principal: Principal) -> Caller {
        self.peer(0, &self.keys.gateway).stating(principal)
    }

    fn peer(&self, number: usize, signer: &Arc<Signer>) -> Peer {
        let urls = vec![format!("http://{}", self.replicas[number].address)];
        let config = PeerConfig { urls, timeout: TIMEOUT };
        Peer::lazy("chat-svc", &config, signer.clone()).unwrap()
    }
}

#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) account: AccountId,
    pub(crate) client: ChatServiceClient<Caller>,
}

impl Tenant {
    pub(crate) async fn session(&mut self) -> String {
        self.session_with(proto::InputPolicy::Queue, "").await
    }

    pub(crate) async fn session_with(&mut self, policy: proto::InputPolicy, route: &str) -> String {
        let request = CreateSessionRequest {
            title: "test".to_owned(),
            input_policy: policy.into(),
            route: route.to_owned(),
        };
        self.client.create_session(request).await.unwrap().into_inner().session.unwrap().session_id
    }

    pub(crate) async fn say(&mut self, session: &str, input: &str) -> Turn {
        self.try_say(session, input).await.unwrap()
    }

    pub(crate) async fn try_say(&mut self, session: &str, input: &str) -> Result<Turn, Status> {
        let request = CreateTurnRequest { session_id: session.to_owned(), input: input.to_owned() };
        Ok(self.client.create_turn(request).await?.into_inner().turn.unwrap())
    }

    pub(crate) async fn turn(&mut self, id: &str) -> Turn {
        let request = GetTurnRequest { turn_id: id.to_owned() };
        self.client.get_turn(request).await.unwrap().into_inner().turn.unwrap()
    }

    /// Runs a turn to its end.
    pub(crate) async fn run(&mut self, session: &str, input: &str) -> Vec<Event> {
        let request = RunTurnRequest { session_id: session.to_owned(), input: input.to_owned() };
        let stream = self.client.run_turn(request).await.unwrap().into_inner();
        all(stream).await
    }

    /// Returns a turn's events after a cursor, up to the last one.
    pub(crate) async fn events(&mut self, turn: &str, after: &str) -> Vec<Event> {
        all(self.follow(turn, after).await).await
    }

    /// Opens a stream of a turn's events after a cursor.
    pub(crate) async fn follow(
        &mut self,
        turn: &str,
        after: &str,
    ) -> impl Stream<Item = Result<StreamTurnEventsResponse, Status>> + Unpin + use<> {
        let request = StreamTurnEventsRequest { turn_id: turn.to_owned(), last_event_id: after.to_owned() };
        self.client.stream_turn_events(request).await.unwrap().into_inner()
    }

    pub(crate) async fn messages(&mut self, session: &str) -> Vec<proto::Message> {
        let request = proto::ListMessagesRequest { session_id: session.to_owned(), ..Default::default() };
        self.client.list_messages(request).await.unwrap().into_inner().messages
    }

    /// Waits until the turn is final.
    pub(crate) async fn wait(&mut self, id: &str) -> Turn {
        eventually("the turn is final", async || {
            let turn = self.turn(id).await;
            let done = !matches!(turn.status(), TurnStatus::Queued | TurnStatus::Running);
            done.then_some(turn)
        })
        .await
    }
}

/// One event as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
}

impl Event {
    pub(crate) fn seq(&self) -> i64 {
        self.id.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

impl From<TurnEvent> for Event {
    fn from(event: TurnEvent) -> Self {
        Self { id: event.id, kind: event.kind, payload: event.payload.to_vec() }
    }
}

/// A response that carries an event.
pub(crate) trait Carries {
    fn event(self) -> Event;
}

impl Carries for RunTurnResponse {
    fn event(self) -> Event {
        self.event.unwrap().into()
    }
}

impl Carries for StreamTurnEventsResponse {
    fn event(self) -> Event {
        self.event.unwrap().into()
    }
}

/// Reads a stream to its end.
pub(crate) async fn all<T: Carries>(stream: impl Stream<Item = Result<T, Status>>) -> Vec<Event> {
    let collect = stream.map(|item| item.unwrap().event()).collect();
    tokio::time::timeout(TIMEOUT, collect).await.expect("the stream ends")
}

/// Reads a stream up to the first event of this kind. Returns the events read.
pub(crate) async fn until<T: Carries>(
    stream: &mut (impl Stream<Item = Result<T, Status>> + Unpin),
    kind: &str,
) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    let read = async {
        while let Some(item) = stream.next().await {
            seen.push(item.unwrap().event());
            if seen.last().unwrap().kind == kind {
                return;
            }
        }
    };
    tokio::time::timeout(TIMEOUT, read).await.unwrap_or_else(|_| panic!("no {kind}"));
    seen
}

/// Returns the text that is visible after all events: the answer without the text that resets voided.
pub(crate) fn visible_text(events: &[Event]) -> String {
    let mut texts: Vec<(i64, String)> = Vec::new();
    for event in events {
        let json = event.json();
        match event.kind.as_str() {
            "text.delta" => texts.push((event.seq(), json["text"].as_str().unwrap().to_owned())),
            "reset" => {
                let from = json["from_seq"].as_i64().unwrap();
                texts.retain(|(seq, _)| *seq < from);
            }
            _ => {}
        }
    }
    texts.into_iter().map(|(_, text)| text).collect()
}

/// Checks that sequence numbers count from 1 without a gap or a repetition, and that only the last event is
/// final.
pub(crate) fn assert_whole(events: &[Event]) {
    let seqs: Vec<i64> = events.iter().map(Event::seq).collect();
    let want: Vec<i64> = (1..=i64::try_from(events.len()).unwrap()).collect();
    assert_eq!(seqs, want, "{:?}", kinds(events));
    let finals = events
        .iter()
        .filter(|e| matches!(e.kind.as_str(), "turn.completed" | "turn.failed" | "turn.canceled"))
        .count();
    assert_eq!(finals, 1, "{:?}", kinds(events));
    assert!(events.last().unwrap().kind.starts_with("turn."));
}

pub(crate) fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// Number of events of this kind.
pub(crate) fn count(events: &[Event], kind: &str) -> usize {
    events.iter().filter(|event| event.kind == kind).count()
}

/// Calls `ask` until it returns a value. Panics after [`TIMEOUT`].
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A request with an idempotency key.
pub(crate) fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// Returns the metrics of this process. Telemetry is initialized once, for all replicas in the process.
pub(crate) fn metrics() -> Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS
        .get_or_init(|| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "pg.url = ''\nredis.url = ''\n").unwrap();
            let mut config = Config::load(Some(file.path())).unwrap();
            config.base.telemetry.log_filter =
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
            svc_core::run::telemetry::init("chat-svc", &config.base.telemetry).unwrap().metrics()
        })
        .clone()
}
