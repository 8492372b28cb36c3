//! A byte search through every store of a plane: where does a text still stand?
//!
//! It knows no table: whatever has a row, a key or a label is looked at, so a store that somebody adds is
//! searched from its first day.

use std::collections::BTreeMap;

use redis::AsyncTypedCommands;
use sqlx::{Connection, PgConnection, Row};

use crate::cluster::Cluster;

const TABLES: &str = "SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')";

impl Cluster {
    /// Every place where `needle` stands, as "chat.messages", "redis key", "container name".
    pub async fn places_of(&self, needle: &str) -> Vec<String> {
        let mut places = self.rows_with(needle).await;
        places.extend(self.keys_with(needle).await);
        for container in self.containers().await {
            let labels = container.labels.values().any(|value| value.contains(needle));
            if labels || container.name.contains(needle) {
                places.push(format!("container {}", container.name));
            }
        }
        places
    }

    /// How many rows every table has.
    pub async fn rows(&self) -> BTreeMap<String, i64> {
        let mut connection = PgConnection::connect(&self.database.admin_url().unwrap()).await.unwrap();
        let mut rows = BTreeMap::new();
        for table in sqlx::query(TABLES).fetch_all(&mut connection).await.unwrap() {
            let (schema, name): (String, String) = (table.get(0), table.get(1));
            let query = format!("SELECT count(*) FROM \"{schema}\".\"{name}\"");
            let count =
                sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap();
            rows.insert(format!("{schema}.{name}"), count);
        }
        connection.close().await.unwrap();
        rows
    }

    async fn rows_with(&self, needle: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.database.admin_url().unwrap()).await.unwrap();
        let tables = sqlx::query(TABLES).fetch_all(&mut connection).await.unwrap();
        let hex: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut places = Vec::new();
        for table in tables {
            let (schema, name): (String, String) = (table.get(0), table.get(1));
            // A row's text form shows bytea as hex digits.
            let query = format!(
                "SELECT count(*) FROM \"{schema}\".\"{name}\" AS r WHERE strpos(r::text, $1) > 0 OR strpos(r::text, $2) > 0"
            );
            let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(needle).bind(&hex);
            let rows: i64 = query.fetch_one(&mut connection).await.unwrap();
            if rows > 0 {
                places.push(format!("{schema}.{name} ({rows} rows)"));
            }
        }
        connection.close().await.unwrap();
        places
    }

    async fn keys_with(&self, needle: &str) -> Vec<String> {
        let client = redis::Client::open(self.redis_url.as_str()).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut places = Vec::new();
        for key in redis.keys("*").await.unwrap() {
            // A dump is the value as Redis stores it; long texts in it may be compressed, short ones are not.
            let dump: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap();
            let found =
                dump.unwrap_or_default().windows(needle.len()).any(|window| window == needle.as_bytes());
            if found || key.contains(needle) {
                places.push(format!("redis {key}"));
            }
        }
        places
    }
}
