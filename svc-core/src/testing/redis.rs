//! A Redis for one test: the shared server, with a key prefix that only this test uses.

use std::net::SocketAddr;

use secrecy::SecretString;
use url::Url;

use super::server_url;
use crate::data::redis::{Redis, RedisConfig};

/// Environment variable with the URL of the test server; `steward stack exec` sets it.
const SERVER: &str = "STEWARD_REDIS_URL";

/// Redis with a key prefix that no other test uses. Dropping it deletes the keys.
#[derive(Debug)]
pub struct TestRedis {
    server: Url,
    prefix: String,
}

impl TestRedis {
    /// Chooses a new prefix on the test server.
    #[expect(clippy::new_without_default, reason = "a default would hide that a server is needed")]
    pub fn new() -> Self {
        Self { server: server_url(SERVER), prefix: format!("steward-test-{}:", crate::id::new_id().simple()) }
    }

    /// Returns the server's address, for a [`FaultProxy`](super::FaultProxy).
    pub fn address(&self) -> String {
        let host = self.server.host_str().expect("the test server is reached over TCP");
        format!("{host}:{}", self.server.port().unwrap_or(6379))
    }

    /// Returns a configuration with this prefix.
    pub fn config(&self) -> RedisConfig {
        self.config_at(self.server.clone())
    }

    /// Returns a configuration that reaches the server through `address`, for example a proxy.
    pub fn config_through(&self, address: SocketAddr) -> RedisConfig {
        let mut url = self.server.clone();
        url.set_host(Some(&address.ip().to_string())).expect("the URL has a host");
        url.set_port(Some(address.port())).expect("the URL has a host");
        self.config_at(url)
    }

    pub fn redis(&self) -> Redis {
        Redis::lazy(&self.config()).expect("made here")
    }

    /// Opens a handle that reaches the server through `address`.
    pub fn redis_through(&self, address: SocketAddr) -> Redis {
        Redis::lazy(&self.config_through(address)).expect("made here")
    }

    /// Returns the number of processes that subscribe to a topic of [`Wake`](crate::data::wake::Wake).
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn listeners(&self, topic: &str) -> u64 {
        let channel = format!("{}wake:{topic}", self.prefix);
        let (_, count): (String, u64) =
            self.redis().query(redis::cmd("PUBSUB").arg("NUMSUB").arg(channel)).await.expect("Redis answers");
        count
    }

    fn config_at(&self, url: Url) -> RedisConfig {
        RedisConfig {
            key_prefix: self.prefix.clone(),
            ..RedisConfig::new(SecretString::from(String::from(url)))
        }
    }

    /// Deletes the keys with this prefix.
    fn clear(&self) -> redis::RedisResult<()> {
        let mut connection = redis::Client::open(self.server.as_str())?.get_connection()?;
        let pattern = format!("{}*", self.prefix);
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1000)
                .query(&mut connection)?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).exec(&mut connection)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, prefix = self.prefix, "keys of a test remain in Redis");
        }
    }
}
