//! Starts registry-svc for a test, and builds clients of it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use registry_svc::{Config, MIGRATOR, operator::Operator};
use secrecy::ExposeSecret;
use svc_core::{
    run::{
        clock::SystemClock,
        lifecycle::{Lifecycle, Outcome},
        telemetry::Metrics,
    },
    testing::{TestDb, TestRedis, free_address},
    wire::{
        assertion::{self, GATEWAY, Signer, TrustedKey},
        client::{Peer, PeerConfig},
        outbound::Mode,
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A database, a Redis, and the replicas that share them.
pub(crate) struct Plane {
    pub(crate) db: TestDb,
    pub(crate) redis: TestRedis,
    keys: Keys,
    replicas: Vec<Replica>,
}

struct Replica {
    address: SocketAddr,
    lifecycle: Lifecycle,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.lifecycle.stop();
    }
}

/// The keys of the gateway and of two services, and the trust file of the replicas.
struct Keys {
    directory: tempfile::TempDir,
    gateway: Arc<Signer>,
    service: Arc<Signer>,
    purge: Arc<Signer>,
}

impl Keys {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut trusted = Vec::new();
        let mut signer = |issuer: &str| {
            let (private, public_key) = assertion::generate_key().unwrap();
            trusted.push(TrustedKey { id: issuer.to_owned(), issuer: issuer.to_owned(), public_key });
            let private = BASE64.decode(private).unwrap();
            Arc::new(Signer::new(issuer, issuer, &private, SystemClock::shared()).unwrap())
        };
        let (gateway, service, purge) = (signer(GATEWAY), signer("chat-svc"), signer("purge-svc"));
        std::fs::write(directory.path().join("trust.toml"), assertion::trust_file(&trusted).unwrap())
            .unwrap();
        Self { directory, gateway, service, purge }
    }

    fn trust_file(&self) -> PathBuf {
        self.directory.path().join("trust.toml")
    }
}

impl Plane {
    /// Starts one replica with the default configuration.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts one replica with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let db = TestDb::new(&[("registry", &MIGRATOR)]).await;
        let mut plane = Self { db, redis: TestRedis::new(), keys: Keys::make(), replicas: Vec::new() };
        plane.add_replica(change).await;
        plane
    }

    /// Starts another replica; returns its number.
    pub(crate) async fn add_replica(&mut self, change: impl FnOnce(&mut Config)) -> usize {
        let mut config = self.config();
        change(&mut config);
        let (address, lifecycle) = (config.base.server.listen, Lifecycle::new());
        registry_svc::start(config, lifecycle.clone(), metrics()).await.unwrap();
        self.replicas.push(Replica { address, lifecycle });
        self.replicas.len() - 1
    }

    fn config(&self) -> Config {
        let file = self.keys.directory.path().join("registry.toml");
        std::fs::write(&file, "pg.url = ''\nredis.url = ''\n").unwrap();
        let mut config = Config::load(Some(Path::new(&file))).unwrap();
        config.base.identity.trust_file = self.keys.trust_file();
        config.base.pg = self.db.config("registry");
        config.base.redis = self.redis.config();
        config.base.server.listen = free_address();
        config.base.server.operator_listen = free_address();
        config.base.server.drain_delay = Duration::from_millis(1);
        // The agents of tests run on this machine.
        config.own.outbound.mode = Mode::Dev;
        config
    }

    /// Writes a configuration file, with `further` settings, for a replica in its own process.
    pub(crate) fn config_file(&self, further: &str) -> PathBuf {
        let config = self.config();
        let file = self.keys.directory.path().join(format!("{}.toml", svc_core::id::new_id()));
        let text = format!(
            "pg.url = '{}'\nredis.url = '{}'\nredis.key_prefix = '{}'\nidentity.trust_file = '{}'\n\
             server.listen = '{}'\nserver.operator_listen = '{}'\n{further}",
            config.base.pg.url.expose_secret(),
            config.base.redis.url.expose_secret(),
            config.base.redis.key_prefix,
            config.base.identity.trust_file.display(),
            config.base.server.listen,
            config.base.server.operator_listen,
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Stops a replica and waits until it has ended.
    pub(crate) async fn stop_replica(&mut self, number: usize) {
        let lifecycle = self.replicas[number].lifecycle.clone();
        lifecycle.stop();
        assert_eq!(lifecycle.run_until_stopped(Duration::from_secs(10)).await, Outcome::Clean);
    }

    /// Deletes all data of this plane in Redis.
    pub(crate) async fn forget_redis(&self) {
        let redis = self.redis.redis();
        let keys: Vec<String> =
            redis.query(redis::cmd("KEYS").arg(format!("{}hb*", redis.prefix()))).await.unwrap();
        assert!(!keys.is_empty());
        redis.query::<i64>(redis::cmd("DEL").arg(keys)).await.unwrap();
    }

    /// Sends a command to Redis; its first argument is a key without the prefix.
    pub(crate) async fn redis_command(&self, words: &[&str]) {
        let redis = self.redis.redis();
        let mut command = redis::cmd(words[0]);
        command.arg(format!("{}{}", redis.prefix(), words[1]));
        for word in &words[2..] {
            command.arg(word);
        }
        redis.query::<redis::Value>(&command).await.unwrap();
    }

    /// Returns the generation and incarnation of an agent's record.
    pub(crate) async fn generation_of(&self, agent_id: &str) -> (i64, i64) {
        let id: uuid::Uuid = agent_id.parse().unwrap();
        let mut db = self.db.owner("registry").await;
        sqlx::query_as("SELECT generation, incarnation FROM agents WHERE id = $1")
            .bind(id)
            .fetch_one(&mut db)
            .await
            .unwrap()
    }

    /// Marks an agent as offline in Postgres but not in Redis.
    pub(crate) async fn mark_offline_in_postgres(&self, agent_id: &str) {
        let id: uuid::Uuid = agent_id.parse().unwrap();
        let mut db = self.db.owner("registry").await;
        sqlx::query(
            "UPDATE agents SET status = 'offline', incarnation = incarnation + 1, generation = generation + 1
             WHERE id = $1",
        )
        .bind(id)
        .execute(&mut db)
        .await
        .unwrap();
    }

    /// Returns the metrics of this process.
    pub(crate) fn metrics(&self) -> Metrics {
        metrics()
    }

    /// Returns the operator commands on this plane's database.
    pub(crate) fn operator(&self) -> Operator {
        Operator::new(self.db.pool("registry"))
    }

    /// Connects to replica `number`; every call carries an API token.
    pub(crate) async fn bearer_at(&self, number: usize, secret: &str) -> Bearing {
        let url = format!("http://{}", self.replicas[number].address);
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        InterceptedService::new(channel, Bearer(format!("Bearer {secret}").parse().unwrap()))
    }

    /// Connects to the first replica; every call carries an API token.
    pub(crate) async fn bearer(&self, secret: &str) -> Bearing {
        self.bearer_at(0, secret).await
    }

    /// Returns a peer that calls the first replica as chat-svc.
    pub(crate) fn as_service(&self) -> Peer {
        self.peer(self.keys.service.clone())
    }

    /// Returns a peer that calls the first replica as purge-svc.
    pub(crate) fn as_purge(&self) -> Peer {
        self.peer(self.keys.purge.clone())
    }

    /// Returns a peer that calls the first replica as the gateway.
    pub(crate) fn as_gateway(&self) -> Peer {
        self.peer(self.keys.gateway.clone())
    }

    fn peer(&self, signer: Arc<Signer>) -> Peer {
        let urls = vec![format!("http://{}", self.replicas[0].address)];
        let config = PeerConfig { urls, timeout: Duration::from_secs(10) };
        Peer::lazy("registry-svc", &config, signer).unwrap()
    }
}

/// A channel with a bearer token.
pub(crate) type Bearing = InterceptedService<Channel, Bearer>;

/// Adds a bearer token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Builds a request with an idempotency key.
pub(crate) fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// Returns the metrics that all replicas of this process share.
fn metrics() -> Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS
        .get_or_init(|| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "pg.url = ''\nredis.url = ''\n").unwrap();
            let config = Config::load(Some(file.path())).unwrap();
            svc_core::run::telemetry::init("registry-svc", &config.base.telemetry).unwrap().metrics()
        })
        .clone()
}
