//! A gateway for one test, with its tokens and one server that answers for every service.

use std::{
    collections::HashMap,
    fs,
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway::{
    Config,
    testing::{Deps, Gateway},
};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use svc_core::{
    id::{AccountId, TokenId},
    run::{
        clock::SystemClock,
        lifecycle::{Lifecycle, Outcome},
        process::Configured,
        telemetry::{LogFormat, Metrics, TelemetryConfig},
    },
    wire::{
        assertion::{self, TrustedKey, Verifier},
        auth::{self, TokenResolver},
        client::PeerConfig,
        principal::{Principal, PrincipalKind},
    },
};
use tonic::Status;

use crate::upstream::{Answer, Call, Upstream};

/// A valid token of [`account`].
pub(crate) const TOKEN: &str = "stw_account";

/// The contract of `tests/probe.proto`.
pub(crate) static PROBE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("tests"), root.join("../proto")]).unwrap();
    compiler.include_imports(true).open_file("probe.proto").unwrap();
    compiler.encode_file_descriptor_set()
});

/// The tenant of [`TOKEN`].
pub(crate) fn account() -> AccountId {
    static ACCOUNT: OnceLock<AccountId> = OnceLock::new();
    *ACCOUNT.get_or_init(AccountId::new)
}

/// A principal with these scopes.
pub(crate) fn principal(kind: PrincipalKind, scopes: &[&str]) -> Principal {
    Principal {
        kind,
        subject_id: account().to_string(),
        account_id: Some(account()),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        token_id: Some(TokenId::new()),
    }
}

/// The tokens that are valid. A test can revoke them, and can make every lookup fail.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    live: Mutex<HashMap<String, Principal>>,
    away: Mutex<bool>,
    asked: AtomicUsize,
}

impl Tokens {
    pub(crate) fn add(&self, token: &str, principal: Principal) {
        self.live.lock().unwrap().insert(token.to_owned(), principal);
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.live.lock().unwrap().remove(token);
    }

    pub(crate) fn away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl TokenResolver for Tokens {
    async fn resolve(&self, token: &str) -> Result<Principal, auth::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if *self.away.lock().unwrap() {
            return Err(auth::Error::Unavailable("connect to 10.0.0.9:7103 refused".to_owned()));
        }
        let live = self.live.lock().unwrap();
        live.get(token).cloned().ok_or(auth::Error::Unauthenticated("token is not live"))
    }
}

/// A running gateway with one server behind it that answers for every service.
#[derive(Debug)]
pub(crate) struct TestGateway {
    pub(crate) address: SocketAddr,
    pub(crate) operator: SocketAddr,
    pub(crate) upstream: Upstream,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) http: reqwest::Client,
    files: tempfile::TempDir,
}

impl TestGateway {
    /// Serves the plane's contract; `handler` answers for every service.
    pub(crate) async fn open<F, Fut>(handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        Self::with(steward_proto::DESCRIPTORS, |_| {}, handler).await
    }

    /// Serves another contract, with a changed configuration.
    pub(crate) async fn with<F, Fut>(
        descriptors: &'static [u8],
        change: impl FnOnce(&mut Config),
        handler: F,
    ) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let files = tempfile::tempdir().unwrap();
        let (private, public_key) = assertion::generate_key().unwrap();
        fs::write(files.path().join("key"), private).unwrap();
        let key = TrustedKey { id: "g1".to_owned(), issuer: assertion::GATEWAY.to_owned(), public_key };
        let verifier =
            |audience| Verifier::new(audience, std::slice::from_ref(&key), SystemClock::shared()).unwrap();
        let audiences = ["chat-svc", "sandbox-svc", "registry-svc", "purge-svc"];
        let upstream = Upstream::start(audiences.map(verifier).to_vec(), handler).await;

        let mut config = config(files.path(), upstream.address);
        change(&mut config);
        if descriptors != steward_proto::DESCRIPTORS {
            config.requests.timeouts.clear();
        }
        let tokens = Arc::new(Tokens::default());
        tokens.add(TOKEN, principal(PrincipalKind::Account, &["*"]));
        let deps = Deps { descriptors, tokens: Some(tokens.clone()), ..Deps::real(metrics()) };
        let gateway = Gateway::build(config, deps).await.unwrap();
        let (address, operator) = (gateway.address().unwrap(), gateway.operator_address().unwrap());
        let lifecycle = Lifecycle::new();
        gateway.start(&lifecycle);
        Self { address, operator, upstream, tokens, lifecycle, http: reqwest::Client::new(), files }
    }

    /// Directory with its key and trust file.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request without a credential.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    /// A request of [`account`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(TOKEN)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    /// Stops the gateway. Returns the outcome and the time that the stop took.
    pub(crate) async fn stop(&self, grace: Duration) -> (Outcome, Duration) {
        let start = tokio::time::Instant::now();
        self.lifecycle.stop();
        (self.lifecycle.run_until_stopped(grace).await, start.elapsed())
    }
}

/// Returns a configuration with every service at `upstream` and without Redis.
pub(crate) fn config(files: &Path, upstream: SocketAddr) -> Config {
    let mut config = Config::load(None).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    (config.listen, config.operator_listen) = (any, any);
    config.identity.key_id = "g1".to_owned();
    config.identity.key_file = files.join("key");
    config.redis.url = "redis://127.0.0.1:1".into();
    config.rate_limit.per_second = 10_000;
    config.rate_limit.burst = 10_000;
    config.connections.drain_delay = Duration::from_millis(50);
    for peer in config.peers.values_mut() {
        *peer = PeerConfig { urls: vec![format!("http://{upstream}")], timeout: Duration::from_secs(5) };
    }
    config
}

pub(crate) fn metrics() -> Metrics {
    telemetry("")
}

/// Starts telemetry that is sent to `collector`. A process has one telemetry, so only the first call has an
/// effect.
pub(crate) fn telemetry(collector: &str) -> Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let start = || {
        let config = TelemetryConfig {
            otlp_endpoint: collector.to_owned(),
            log_format: LogFormat::Text,
            log_filter: "warn,gateway=debug,svc_core=info".to_owned(),
            sample_ratio: 1.0,
            metrics_period: Duration::from_secs(60),
        };
        svc_core::run::telemetry::init("gateway", &config).unwrap().metrics()
    };
    METRICS.get_or_init(start).clone()
}

/// Sends a request and returns the problem document of the answer.
pub(crate) async fn problem(request: RequestBuilder) -> (StatusCode, reqwest::header::HeaderMap, Value) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    assert_eq!(headers["content-type"], "application/problem+json", "{status}");
    let document: Value = answer.json().await.unwrap();
    assert_eq!(document["status"], status.as_u16());
    assert_eq!(document["request_id"], headers["x-request-id"].to_str().unwrap());
    assert!(document["type"].as_str().unwrap().ends_with(document["code"].as_str().unwrap()));
    if [429, 503].contains(&status.as_u16()) {
        assert_eq!(headers["retry-after"].to_str().unwrap(), document["retry_after"].to_string());
    }
    (status, headers, document)
}

/// Waits up to five seconds until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never happened: {what}");
}
