//! The configuration of a service: tables that all services have, and beside them the service's own keys.

use std::{fmt, marker::PhantomData, num::NonZeroU32, path::Path, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer,
    },
};

use crate::{
    data::{pg::PgConfig, redis::RedisConfig},
    run::{
        config::{self, Unusable},
        process::{Configured, ProcessConfig},
        telemetry::TelemetryConfig,
    },
    wire::{assertion::IdentityConfig, server::ServerConfig},
};

/// The configuration keys that only one service has.
pub trait ServiceConfig: DeserializeOwned {
    /// The service's name, as `chat-svc`.
    const NAME: &'static str;
    /// Every key of the service with its default, as TOML.
    const DEFAULTS: &'static str;

    /// Checks rules that the types of single keys cannot express, for example that one limit exceeds another.
    ///
    /// # Errors
    /// [`Unusable`] names the key.
    fn check(&self) -> Result<(), Unusable> {
        Ok(())
    }
}

/// A service's whole configuration. All its keys are at the top level of one TOML file; an unknown key is
/// refused.
#[derive(Debug, Clone)]
pub struct Config<S> {
    /// The tables that all services have.
    pub base: BaseConfig,
    /// The keys that only this service has.
    pub own: S,
}

/// Declares [`BaseConfig`], and `Tables`, which collects its tables while the configuration file is
/// deserialized.
macro_rules! base_config {
    ($($(#[$doc:meta])* $table:ident: $type:ty,)+) => {
        /// The tables that all services with a database have.
        #[derive(Debug, Clone)]
        pub struct BaseConfig {
            $($(#[$doc])* pub $table: $type,)+
        }

        #[derive(Default)]
        struct Tables {
            $($table: Option<$type>,)+
        }

        impl Tables {
            const NAMES: &'static [&'static str] = &[$(stringify!($table)),+];

            /// Reads the value of the table called `name`.
            fn read<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
                $(if name == stringify!($table) {
                    self.$table = Some(map.next_value()?);
                })+
                Ok(())
            }

            fn whole<E: serde::de::Error>(self) -> Result<BaseConfig, E> {
                Ok(BaseConfig {
                    $($table: self.$table.ok_or_else(|| E::missing_field(stringify!($table)))?,)+
                })
            }
        }
    };
}

base_config! {
    /// How the process stops, and the fail points that tests arm.
    process: ProcessConfig,
    /// Traces, metrics and logs.
    telemetry: TelemetryConfig,
    /// The process's own key, and the public keys that it trusts.
    identity: IdentityConfig,
    /// Addresses and limits of the server.
    server: ServerConfig,
    pg: PgConfig,
    redis: RedisConfig,
}

/// The table `[retention]` of services that delete nothing but expired idempotency keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Time between two passes of the task that deletes.
    #[serde(deserialize_with = "positive")]
    pub period: Duration,
    /// Maximum number of rows that one statement deletes.
    pub batch: NonZeroU32,
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    if duration.is_zero() {
        return Err(serde::de::Error::custom("must not be zero"));
    }
    Ok(duration)
}

impl<S: ServiceConfig> Config<S> {
    /// Loads the configuration: defaults ← `file` ← environment.
    ///
    /// # Errors
    /// [`config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, config::Error> {
        config::load(S::NAME.strip_suffix("-svc").unwrap_or(S::NAME), S::DEFAULTS, file)
    }
}

impl<S: ServiceConfig> Configured for Config<S> {
    const NAME: &'static str = S::NAME;
    type Error = config::Error;

    fn load(file: Option<&Path>) -> Result<Self, config::Error> {
        Self::load(file)
    }

    fn process(&self) -> (ProcessConfig, TelemetryConfig) {
        (self.base.process.clone(), self.base.telemetry.clone())
    }
}

impl<'de, S: Deserialize<'de>> Deserialize<'de> for Config<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<S>(PhantomData<S>);

        impl<'de, S: Deserialize<'de>> Visitor<'de> for Whole<S> {
            type Value = Config<S>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Config<S>, A::Error> {
                let mut tables = Tables::default();
                let own = S::deserialize(MapAccessDeserializer::new(Own { map, tables: &mut tables }))?;
                Ok(Config { base: tables.whole()?, own })
            }
        }

        deserializer.deserialize_map(Whole(PhantomData))
    }
}

/// Gives the service's own type every entry of `map` except the base tables, which it reads into `tables`.
struct Own<'a, A> {
    map: A,
    tables: &'a mut Tables,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Own<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = seed;
        // `KeySeed` calls `seed` inside figment's `next_key_seed`, so that figment adds the file to the error
        // if `seed` refuses the key.
        while let Some(key) = self.map.next_key_seed(KeySeed(seed))? {
            match key {
                Key::Own(key) => return Ok(Some(key)),
                Key::Base(name, unused) => {
                    self.tables.read(&name, &mut self.map)?;
                    seed = unused;
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a key: returns it if it names a base table; otherwise `K` reads it as a key of the service.
struct KeySeed<K>(K);

enum Key<K, V> {
    Base(String, K),
    Own(V),
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<K> {
    type Value = Key<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        if Tables::NAMES.contains(&key.as_str()) {
            return Ok(Key::Base(key, self.0));
        }
        let own: Result<_, KeyError> = self.0.deserialize(key.into_deserializer());
        own.map(Key::Own).map_err(serde::de::Error::custom)
    }
}

/// A key that the service does not have. The error lists the allowed keys, the base tables included.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct KeyError(String);

impl serde::de::Error for KeyError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self(problem.to_string())
    }

    fn unknown_field(field: &str, own: &'static [&'static str]) -> Self {
        let allowed: Vec<_> = own.iter().chain(Tables::NAMES).map(|name| format!("`{name}`")).collect();
        Self(format!("unknown field: found `{field}`, expected one of {}", allowed.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use figment::{
        Figment,
        providers::{Format as _, Toml},
    };

    use secrecy::SecretString;

    use super::*;
    use crate::{
        base::{StartError, Starting},
        error::Chain,
        run::{lifecycle::Lifecycle, telemetry},
    };

    #[derive(Debug, Clone, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        size: u32,
    }

    impl ServiceConfig for Sample {
        const NAME: &'static str = "sample-svc";
        const DEFAULTS: &'static str = "
            size = 3
            [process]
            shutdown_grace = '25s'
            failpoints = ''
            [telemetry]
            otlp_endpoint = ''
            log_format = 'text'
            log_filter = 'info'
            sample_ratio = 1.0
            metrics_period = '10s'
            [identity]
            key_id = 'sample'
            key_file = 'sample.key'
            trust_file = 'trust.toml'
            [server]
            listen = '127.0.0.1:7101'
            operator_listen = '127.0.0.1:7201'
            request_timeout = '60s'
            max_in_flight = 1024
            drain_delay = '1s'
            [redis]
            url = 'redis://localhost'";
    }

    fn load(text: &str) -> Result<Config<Sample>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn own_keys_and_base_tables_stand_side_by_side() {
        let config = load("size = 5\npg.url = 'postgres://localhost'\nserver.max_in_flight = 7").unwrap();
        assert_eq!((config.own.size, config.base.server.max_in_flight), (5, 7));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named_in_both_parts() {
        for (text, named) in [
            ("[server]\nlisten_at = 'x'", "listen_at"),
            ("[server]\nmax_in_flight = 'many'", "server.max_in_flight"),
            ("sizes = 4", "sizes"),
            ("sizes = 4", "`size`, `process`"),
            ("sizes = 4", "`pg`"),
            ("size = 'small'", "size"),
        ] {
            let error = load(&format!("pg.url = 'postgres://localhost'\n{text}")).unwrap_err();
            assert!(error.contains(named) && error.contains("from"), "{error}");
        }
    }

    #[test]
    fn retention_without_period_or_batch_is_refused() {
        for (text, key) in [("period = '0s'\nbatch = 1", "period"), ("period = '1s'\nbatch = 0", "batch")] {
            let error = Figment::from(Toml::string(text)).extract::<RetentionConfig>().unwrap_err();
            assert_eq!(error.path, [key], "{error}");
        }
    }

    #[tokio::test]
    async fn urls_are_checked_before_a_port_is_taken() {
        let mut config = load("pg.url = 'postgres://localhost'").unwrap();
        config.base.server.operator_listen = config.base.server.listen;
        let metrics = telemetry::init(Sample::NAME, &config.base.telemetry).unwrap().metrics();
        let start = |config| Starting::new(config, Lifecycle::new(), metrics.clone());
        let bad = SecretString::from("postgres://u:hunter2@[");
        for key in ["pg.url", "pg.migrate_url", "redis.url"] {
            let mut config = config.clone();
            match key {
                "pg.url" => config.base.pg.url = bad.clone(),
                "pg.migrate_url" => config.base.pg.migrate_url = Some(bad.clone()),
                _ => config.base.redis.url = bad.clone(),
            }
            let error = start(config).await.unwrap_err();
            assert_eq!(Chain(&error).to_string(), format!("configuration: {key} is not a usable URL"));
        }
        // All URLs are usable now, so the ports are bound next; both listeners have the same address.
        let error = start(config).await.unwrap_err();
        assert!(matches!(error, StartError::Server(_)), "{error:?}");
    }

    #[test]
    fn a_missing_table_is_named() {
        let error = load("").unwrap_err();
        assert!(error.contains("pg"), "{error}");
    }
}
