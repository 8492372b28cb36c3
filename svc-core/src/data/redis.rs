//! Connection to Redis, which holds only data that may be lost: singleton locks, liveness, wake-ups, rate
//! limits, circuit breakers.
//!
//! A process has one multiplexed connection, with short time limits. While Redis is unreachable, one call at
//! a time tries to connect again, with back-off, and fails within the limits; every other call fails at once.
//! Readiness does not depend on Redis, because no service answers 503 for Redis alone: callers match on
//! [`Error::Down`] and continue without it.
//!
//! redis-rs' `ConnectionManager` is not used, because it keeps a connection after time-outs: it would never
//! give up the connection to a server that vanished without closing it (a lost host, a stalled proxy).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    data::data_map::Class,
    error::{ErrorKind as Kind, PublicError, ServiceError},
    run::backoff::Backoff,
};

/// Delay after a failed attempt to connect.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));

/// Address and limits of a service's Redis. Only `url` has no default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    pub url: SecretString,
    /// Prefix of every key and channel. All services of one installation use the same prefix.
    #[serde(default = "defaults::key_prefix")]
    pub key_prefix: String,
    /// Maximum time to open a connection.
    #[serde(default = "defaults::timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Maximum wait for the answer to a command.
    #[serde(default = "defaults::timeout", with = "humantime_serde")]
    pub response_timeout: Duration,
}

mod defaults {
    use std::time::Duration;

    pub(super) fn key_prefix() -> String {
        "steward:".to_owned()
    }
    pub(super) const fn timeout() -> Duration {
        Duration::from_millis(500)
    }
}

impl RedisConfig {
    /// Builds the default configuration with this URL.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            key_prefix: defaults::key_prefix(),
            connect_timeout: defaults::timeout(),
            response_timeout: defaults::timeout(),
        }
    }
}

/// Keys of one purpose, with their class for erasures. Every key is built from a family with [`Redis::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFamily {
    /// Start of the family's keys after the installation's prefix, for example `hb`.
    pub name: &'static str,
    /// Class of the keys for erasures.
    pub class: Class,
    pub text: &'static str,
}

/// An error of Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis is unreachable, or was at the last attempt to connect and the back-off is not over.
    #[error("Redis is unreachable")]
    Down(#[source] Option<RedisError>),
    /// Redis refused a command: a defect of this program.
    #[error("Redis refused a command")]
    Refused(#[source] RedisError),
}

impl Error {
    /// Returns whether Redis is unreachable, as opposed to a refused command.
    pub const fn is_down(&self) -> bool {
        matches!(self, Self::Down(_))
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        match self {
            Self::Down(_) => PublicError::of_kind(Kind::Unavailable, "a part of the plane is not available"),
            Self::Refused(_) => PublicError::internal(),
        }
    }
}

/// Returns whether an error means that Redis is unreachable, as opposed to a refused command.
pub fn is_down(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel => true,
        // Redis answers, but is loading its data, or is a replica without its primary.
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        ),
        // If the connection closes while a request waits, the driver reports a parse error or a client error.
        _ => error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error(),
    }
}

/// The connection of a process to Redis; cheap to clone.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    link: Mutex<Link>,
    /// Locked by the one call that is connecting.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connected>,
    /// Number of failed attempts to connect since the last success.
    failures: u32,
    /// Instant before which no call tries to connect.
    retry_at: Option<Instant>,
    /// Number of connections made so far.
    made: u64,
}

#[derive(Debug, Clone)]
struct Connected {
    connection: MultiplexedConnection,
    number: u64,
}

impl Redis {
    /// Builds a handle that connects at its first use.
    ///
    /// # Errors
    /// [`Error::Refused`] if the URL cannot be read.
    pub fn lazy(config: &RedisConfig) -> Result<Self, Error> {
        // All commands share the connection; without `nodelay` each command would wait for the
        // acknowledgement of the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let server = config.url.expose_secret().into_connection_info().map_err(Error::Refused)?;
        let client = Client::open(server.set_tcp_settings(tcp)).map_err(Error::Refused)?;
        let redis = Self(Arc::new(Inner {
            client,
            prefix: config.key_prefix.clone(),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            link: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }));
        let observed = redis.clone();
        opentelemetry::global::meter("steward")
            .u64_observable_gauge("steward.redis.up")
            .with_description("Whether Redis was there when it was last used")
            .with_callback(move |observer| observer.observe(u64::from(observed.seems_up()), &[]))
            .build();
        Ok(redis)
    }

    /// Returns the key of `family` for `id`.
    pub fn key(&self, family: &KeyFamily, id: impl std::fmt::Display) -> String {
        format!("{}{}:{id}", self.0.prefix, family.name)
    }

    /// Returns the prefix of every key and channel.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let mut connected = self.connected().await?;
        let answer = command.query_async(&mut connected.connection).await;
        self.judge(&connected, answer)
    }

    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Error> {
        let mut connected = self.connected().await?;
        let answer = pipeline.query_async(&mut connected.connection).await;
        self.judge(&connected, answer)
    }

    /// Runs a script by its hash, and loads it first if the server does not know it. Scripts are files, kept
    /// in `static X: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("x.lua")))`.
    pub async fn script<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, Error> {
        let mut connected = self.connected().await?;
        let answer = invocation.invoke_async(&mut connected.connection).await;
        self.judge(&connected, answer)
    }

    /// Checks that Redis answers.
    ///
    /// # Errors
    /// [`Error`] if Redis does not answer.
    pub async fn ping(&self) -> Result<(), Error> {
        self.query(&redis::cmd("PING")).await
    }

    /// Returns false if the last attempt to connect failed. Sends nothing; before the first use it returns
    /// true.
    pub fn seems_up(&self) -> bool {
        let link = self.link();
        link.connection.is_some() || link.failures == 0
    }

    /// Opens a separate connection for subscriptions.
    pub(crate) async fn pubsub(&self) -> Result<redis::aio::PubSub, Error> {
        let limit = self.0.connect_timeout + self.0.response_timeout;
        match tokio::time::timeout(limit, self.0.client.get_async_pubsub()).await {
            Ok(connected) => connected.map_err(classify),
            Err(_) => Err(Error::Down(None)),
        }
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.0.response_timeout
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection. If there is none and the back-off is over, opens one.
    async fn connected(&self) -> Result<Connected, Error> {
        let failures = {
            let link = self.link();
            if let Some(connected) = &link.connection {
                return Ok(connected.clone());
            }
            if link.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(Error::Down(None));
            }
            link.failures
        };
        // If the last attempt to connect succeeded, or there was none, all calls wait for the one that
        // connects. If it failed, one call tries to connect, and the rest fail at once.
        let _alone = if failures == 0 {
            self.0.connecting.lock().await
        } else {
            self.0.connecting.try_lock().map_err(|_| Error::Down(None))?
        };
        {
            let link = self.link();
            if let Some(connected) = &link.connection {
                return Ok(connected.clone());
            }
            if link.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(Error::Down(None));
            }
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.connect_timeout))
            .set_response_timeout(Some(self.0.response_timeout));
        // The limits in `config` do not cover the whole handshake, so another one does.
        let limit = self.0.connect_timeout + self.0.response_timeout;
        let made =
            tokio::time::timeout(limit, self.0.client.get_multiplexed_async_connection_with_config(&config))
                .await;
        let mut link = self.link();
        match made {
            Ok(Ok(connection)) => {
                if link.failures > 0 {
                    tracing::info!("Redis is back");
                }
                link.made += 1;
                let connected = Connected { connection, number: link.made };
                link.connection = Some(connected.clone());
                (link.failures, link.retry_at) = (0, None);
                Ok(connected)
            }
            Ok(Err(error)) => {
                fail(&mut link);
                Err(Error::Down(Some(error)))
            }
            Err(_) => {
                fail(&mut link);
                Err(Error::Down(None))
            }
        }
    }

    /// Maps the error of an answer, and drops the connection if the error means that it is broken.
    fn judge<T>(&self, connected: &Connected, answer: Result<T, RedisError>) -> Result<T, Error> {
        answer.map_err(|error| {
            let error = classify(error);
            if error.is_down() {
                let mut link = self.link();
                // Several calls may fail on one connection. Only the first of them drops it; a newer
                // connection stays.
                if link.connection.as_ref().is_some_and(|held| held.number == connected.number) {
                    link.connection = None;
                }
            }
            error
        })
    }
}

fn classify(error: RedisError) -> Error {
    if is_down(&error) { Error::Down(Some(error)) } else { Error::Refused(error) }
}

fn fail(link: &mut Link) {
    if link.failures == 0 {
        tracing::warn!("Redis is unreachable, continuing without it");
    }
    link.failures = link.failures.saturating_add(1);
    link.retry_at = Some(Instant::now() + RETRY.delay(link.failures, rand::random()));
}

#[cfg(test)]
mod tests;
