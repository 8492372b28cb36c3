//! Searches every store of a plane for texts, byte by byte, and returns the places in which a text occurs.
//!
//! The search has no list of tables, keys or directories: it reads everything that has a row, a key, a file
//! or a label, so that a new store is searched without a change here. It searches
//!
//! * every row of every schema, as a dump would show it;
//! * every key and value of Redis;
//! * every file of the plane's home: run directories, logs of all processes, received spans, configuration;
//!   for a cluster built [`captured`](crate::cluster::Builder::captured), also every span, log and metric
//!   that the cluster sent;
//! * on the engine, everything with the installation's label: containers with their record, layer, output,
//!   memory filesystems and the environments of their processes; volumes; images.
//!
//! A text is searched as it is, in hex (in which Postgres shows bytes) and in base64. The files of the
//! database server are not searched: deleted rows stay in them until a vacuum, and in the write-ahead log
//! until Postgres recycles it.

pub mod docker;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use memchr::memmem::{self, Finder};
use redis::AsyncTypedCommands;
use sqlx::{Connection, PgConnection, Row};

use crate::{
    capture::{DIRECTORY, SIGNALS},
    cluster::Cluster,
};

/// Directories in the home with the files of servers. The search asks these servers instead.
const SERVERS: [&str; 2] = ["postgres", "docker"];

const TABLES: &str = "SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')";

/// For each text, the places where it was found, such as "row chat.messages", "key hb:…", "file
/// logs/chat.log" or "volume …".
pub type Places = BTreeMap<String, BTreeSet<String>>;

/// Texts to search for, each in every encoding in which it may be stored.
#[derive(Debug)]
pub struct Needles<'a>(Vec<(&'a str, Vec<String>)>);

impl<'a> Needles<'a> {
    pub fn new(texts: &[&'a str]) -> Self {
        Self(texts.iter().map(|text| (*text, forms(text))).collect())
    }

    /// Records `place` for each text that occurs in `bytes`.
    fn look(&self, bytes: &[u8], place: &str, found: &mut Places) {
        for (text, forms) in &self.0 {
            if forms.iter().any(|form| Finder::new(form).find(bytes).is_some()) {
                found.entry((*text).to_owned()).or_default().insert(place.to_owned());
            }
        }
    }
}

/// Returns a text as it is, in hex, and in base64 at each of the three alignments that it can have in a
/// longer text.
fn forms(text: &str) -> Vec<String> {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let base64 = (0..3).map(|before| {
        let encoded = BASE64.encode([&vec![0; before], text.as_bytes()].concat());
        // Keeps only the digits that contain no bit of the text's neighbours.
        let (from, to) = ((before * 8).div_ceil(6), (before + text.len()) * 8 / 6);
        encoded[from..to].to_owned()
    });
    [text.to_owned(), hex].into_iter().chain(base64).collect()
}

impl Cluster {
    /// Panics unless every service has sent spans, logs and metrics.
    pub fn assert_captured(&self) {
        for signal in SIGNALS {
            let bytes = fs::read(self.home().join(DIRECTORY).join(signal)).unwrap_or_default();
            for service in ["gateway", "chat-svc", "sandbox-svc", "registry-svc", "purge-svc"] {
                // OTLP encodes a text as its length, then its bytes.
                let name = [&[u8::try_from(service.len()).unwrap()], service.as_bytes()].concat();
                assert!(memmem::find(&bytes, &name).is_some(), "no {signal} of {service} arrived");
            }
        }
    }

    /// Returns every place in which one of these texts occurs.
    pub async fn search(&self, texts: &[&str]) -> Places {
        let needles = Needles::new(texts);
        let mut found = Places::new();
        self.search_rows(&needles, &mut found).await;
        self.search_redis(&needles, &mut found).await;
        self.search_docker(self.installation(), &needles, &mut found).await;
        search_files(self.home(), &needles, &mut found);
        found
    }

    /// Returns the number of rows of every table.
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

    async fn search_rows(&self, needles: &Needles<'_>, found: &mut Places) {
        let mut connection = PgConnection::connect(&self.database.admin_url().unwrap()).await.unwrap();
        for table in sqlx::query(TABLES).fetch_all(&mut connection).await.unwrap() {
            let (schema, name): (String, String) = (table.get(0), table.get(1));
            for (text, forms) in &needles.0 {
                let query = format!(
                    "SELECT count(*) FROM \"{schema}\".\"{name}\" AS r, unnest($1::text[]) AS form
                     WHERE strpos(r::text, form) > 0"
                );
                let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(forms);
                let rows: i64 = query.fetch_one(&mut connection).await.unwrap();
                if rows > 0 {
                    found.entry((*text).to_owned()).or_default().insert(format!("row {schema}.{name}"));
                }
            }
        }
        connection.close().await.unwrap();
    }

    async fn search_redis(&self, needles: &Needles<'_>, found: &mut Places) {
        let client = redis::Client::open(self.redis_url.as_str()).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        for key in redis.keys("*").await.unwrap() {
            let place = format!("key {key}");
            needles.look(key.as_bytes(), &place, found);
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await.unwrap();
            // Reads the value by type, because a dump would be compressed.
            let read: &[&str] = match kind.as_str() {
                "string" => &["GET"],
                "hash" => &["HGETALL"],
                "list" => &["LRANGE", "0", "-1"],
                "set" => &["SMEMBERS"],
                "zset" => &["ZRANGE", "0", "-1"],
                "stream" => &["XRANGE", "-", "+"],
                // The key expired between the two commands.
                "none" => continue,
                other => panic!("no way to read a {other} of Redis"),
            };
            let mut command = redis::cmd(read[0]);
            command.arg(&key).arg(&read[1..]);
            let value: redis::Value = command.query_async(&mut redis).await.unwrap();
            look_at_value(&value, needles, &place, found);
        }
    }
}

fn look_at_value(value: &redis::Value, needles: &Needles<'_>, place: &str, found: &mut Places) {
    match value {
        redis::Value::BulkString(bytes) => needles.look(bytes, place, found),
        redis::Value::SimpleString(text) => needles.look(text.as_bytes(), place, found),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().for_each(|value| look_at_value(value, needles, place, found));
        }
        redis::Value::Map(pairs) => {
            for (key, value) in pairs {
                look_at_value(key, needles, place, found);
                look_at_value(value, needles, place, found);
            }
        }
        // Numbers and similar types hold no text.
        _ => {}
    }
}

/// Searches every file of a plane's home, by name and content.
fn search_files(home: &Path, needles: &Needles<'_>, found: &mut Places) {
    let mut left: Vec<_> = vec![home.to_owned()];
    while let Some(path) = left.pop() {
        let name = path.strip_prefix(home).unwrap().display().to_string();
        if SERVERS.contains(&name.as_str()) {
            continue;
        }
        let place = format!("file {name}");
        needles.look(name.as_bytes(), &place, found);
        // A directory of a sandbox may be removed meanwhile. Any other failure to read fails the search.
        let read = fs::symlink_metadata(&path).and_then(|kind| {
            if kind.is_dir() {
                for entry in fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            } else if kind.is_file() {
                needles.look(&fs::read(&path)?, &place, found);
            } else if kind.is_symlink() {
                needles.look(fs::read_link(&path)?.as_os_str().as_encoded_bytes(), &place, found);
            }
            Ok(())
        });
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            read => read.unwrap(),
        }
    }
}

/// Panics unless each text was found in a place that begins as given.
pub fn assert_found(found: &Places, expected: &[(&str, &str)]) {
    for (text, place) in expected {
        let places = found.get(*text).into_iter().flatten().collect::<Vec<_>>();
        assert!(
            places.iter().any(|known| known.starts_with(place)),
            "{text} is not found in {place:?} but in {places:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_each_of_its_forms_wherever_it_begins() {
        let text = "marker-0123456789abcdef";
        let needles = Needles::new(&[text]);
        for padding in ["", "x", "xy", "xyz"] {
            let longer = format!("{padding}{text}{padding}");
            let hex: String = longer.bytes().map(|byte| format!("{byte:02x}")).collect();
            for written in [longer.clone(), hex, BASE64.encode(&longer)] {
                let mut found = Places::new();
                needles.look(written.as_bytes(), "here", &mut found);
                assert_found(&found, &[(text, "here")]);
            }
        }
        let mut found = Places::new();
        needles.look(b"marker-0123456789abcde", "here", &mut found);
        assert_eq!(found, Places::new());
    }
}
