//! Makes the configuration file of each process of a local plane.
//!
//! A file has only the values that differ from the service's defaults: addresses, keys, URLs. Test suites add
//! overrides, such as leases of one second.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Keys, Plane, Process, Servers, Service};

/// Every trigger of purge-svc.
const TRIGGERS: [&str; 4] = ["subject_request", "user_erasure", "account_deletion", "grace_expiry"];

/// Settings that replace generated ones, as TOML text.
#[derive(Debug, Clone, Default)]
pub struct Overrides(BTreeMap<Service, Vec<String>>);

impl Overrides {
    /// Adds settings for a service; later settings replace earlier ones.
    #[must_use]
    pub fn with(mut self, service: Service, toml: impl Into<String>) -> Self {
        self.0.entry(service).or_default().push(toml.into());
        self
    }
}

pub(super) fn of(
    process: &Process,
    plane: &Plane,
    servers: &Servers,
    overrides: &Overrides,
    state: &Path,
) -> Result<Table> {
    let mut table = shared(process, plane, servers);
    let own = match process.service {
        Service::Gateway => gateway(plane, servers),
        service => owner(service, plane, servers, state)?,
    };
    merge(&mut table, own);
    for text in overrides.0.get(&process.service).into_iter().flatten() {
        merge(&mut table, text.parse().with_context(|| format!("overrides of {}", process.service))?);
    }
    Ok(table)
}

/// Returns the keys of every process: addresses, identity, telemetry.
fn shared(process: &Process, plane: &Plane, servers: &Servers) -> Table {
    let issuer = process.service.full_name();
    let listen = Table::from_iter([
        ("listen".to_owned(), Value::from(process.listen.to_string())),
        ("operator_listen".to_owned(), Value::from(process.operator_listen.to_string())),
    ]);
    let mut table = toml::toml! {
        [process]
        [telemetry]
        [identity]
    };
    set(&mut table, "telemetry.otlp_endpoint", servers.otlp_url.clone());
    set(&mut table, "identity.key_id", Keys::id(issuer));
    set(&mut table, "identity.key_file", plane.keys.private(issuer).display().to_string());
    set(&mut table, "identity.trust_file", plane.keys.trust().display().to_string());
    match process.service {
        Service::Gateway => merge(&mut table, listen),
        _ => drop(table.insert("server".to_owned(), Value::Table(listen))),
    }
    table
}

fn gateway(plane: &Plane, servers: &Servers) -> Table {
    let mut table = peers(plane, &Service::OWNERS);
    set(&mut table, "redis.url", servers.redis_url.clone());
    table
}

/// Returns the keys of a service that owns a schema.
fn owner(service: Service, plane: &Plane, servers: &Servers, state: &Path) -> Result<Table> {
    let mut table = match service {
        Service::Chat => peers(plane, &[Service::Sandbox, Service::Registry]),
        Service::Purge => purge(plane),
        Service::Sandbox => sandbox(plane, servers, state),
        Service::Registry | Service::Gateway => Table::new(),
    };
    set(&mut table, "pg.url", servers.database.run_url(service)?);
    set(&mut table, "pg.migrate_url", servers.database.owner_url(service)?);
    set(&mut table, "redis.url", servers.redis_url.clone());
    Ok(table)
}

/// Lets purge-svc run the erasures of every trigger (`triggers` in its configuration). By default it runs
/// none, because an erasure cannot be undone.
fn purge(plane: &Plane) -> Table {
    let mut table = peers(plane, &[Service::Chat, Service::Sandbox, Service::Registry]);
    set(&mut table, "triggers", TRIGGERS.map(Value::from).to_vec());
    table
}

fn sandbox(plane: &Plane, servers: &Servers, state: &Path) -> Table {
    let mut table = Table::new();
    if let Some(Value::Table(peers)) = peers(plane, &[Service::Registry, Service::Chat]).remove("peers") {
        merge(&mut table, peers);
    }
    set(&mut table, "installation", servers.installation.clone());
    set(&mut table, "guest", servers.guest.display().to_string());
    set(&mut table, "run_dir", state.display().to_string());
    set(&mut table, "engine.host", servers.docker_host.clone());
    set(&mut table, "shape.image", servers.image.clone());
    table
}

fn peers(plane: &Plane, services: &[Service]) -> Table {
    let mut table = Table::new();
    for service in services {
        let urls: Vec<Value> = plane.urls(*service).into_iter().map(Value::from).collect();
        // A service that this plane does not run keeps its default address, on which nothing listens.
        if !urls.is_empty() {
            set(&mut table, &format!("peers.{service}.urls"), urls);
        }
    }
    table
}

/// Sets the key `a.b.c`; makes the tables `a` and `a.b` if they do not exist.
fn set(table: &mut Table, path: &str, value: impl Into<Value>) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value.into())),
        Some((head, rest)) => {
            let entry = table.entry(head.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}

/// Sets every key of `over` in `table`; other keys of `table` stay.
fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(more)) => merge(inner, more),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_replace_single_keys() {
        let mut table = toml::toml! { [pg]
        url = "a"
        max_connections = 4 };
        merge(&mut table, "[pg]\nmax_connections = 8".parse().unwrap());
        assert_eq!(table, "[pg]\nurl = \"a\"\nmax_connections = 8".parse().unwrap());
    }
}
