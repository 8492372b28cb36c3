//! A plane on one machine: its processes, their addresses, and the configuration of each.
//!
//! `steward dev` runs one process for each service; the end-to-end suites run several replicas of some.
//! Nothing here starts a process: `steward dev` and the suites start the processes that a [`Plane`] lists.

mod configuration;
pub mod database;
mod keys;
mod layout;
pub(crate) mod ready;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use steward_stack::Home;

pub use self::{configuration::Overrides, layout::Layout};
use self::{database::Database, keys::Keys};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    Gateway,
    Chat,
    Sandbox,
    Registry,
    Purge,
}

impl Service {
    /// Every service, in the order in which they are started.
    pub const ALL: [Self; 5] = [Self::Registry, Self::Sandbox, Self::Chat, Self::Purge, Self::Gateway];
    /// The services that have a gRPC API and a schema.
    pub const OWNERS: [Self; 4] = [Self::Registry, Self::Sandbox, Self::Chat, Self::Purge];

    /// Returns the short name: argument of `steward serve`, schema, key under `peers`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat",
            Self::Sandbox => "sandbox",
            Self::Registry => "registry",
            Self::Purge => "purge",
        }
    }

    /// Returns the full name: `service.name` in telemetry, issuer and audience of assertions.
    pub const fn full_name(self) -> &'static str {
        match self {
            Self::Gateway => svc_core::wire::assertion::GATEWAY,
            Self::Chat => "chat-svc",
            Self::Sandbox => "sandbox-svc",
            Self::Registry => "registry-svc",
            Self::Purge => "purge-svc",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The servers and files that the processes of a plane use.
#[derive(Debug, Clone)]
pub struct Servers {
    pub database: Database,
    pub redis_url: String,
    pub docker_host: String,
    /// OTLP endpoint; with an empty one, processes send no telemetry.
    pub otlp_url: String,
    /// The static guest program that is mounted into sandboxes.
    pub guest: PathBuf,
    /// The image that sandboxes start from.
    pub image: String,
    /// Label value that tells this plane's containers from those of other planes on the same engine.
    pub installation: String,
}

/// One process of a plane.
#[derive(Debug, Clone)]
pub struct Process {
    /// The service's name, with a number from the second replica on.
    pub name: String,
    pub service: Service,
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub operator_listen: SocketAddr,
    pub configuration: PathBuf,
}

/// The processes of a plane. Their configuration files exist.
#[derive(Debug, Clone)]
pub struct Plane {
    /// The processes in the order in which they are started.
    pub processes: Vec<Process>,
    pub keys: Keys,
}

impl Plane {
    /// Plans one process for each element of `services` (repeat a service for replicas) and writes the
    /// configuration files into the home. The first gateway listens on `gateway_port`.
    pub fn lay_out(
        home: &Home,
        services: &[Service],
        gateway_port: u16,
        servers: &Servers,
        overrides: &Overrides,
    ) -> Result<Self> {
        let issuers: Vec<&str> = Service::ALL.iter().map(|service| service.full_name()).collect();
        let keys = Keys::ensure(home, &issuers)?;
        let directory = home.directory("config")?;
        let mut processes: Vec<Process> = Vec::new();
        for service in services {
            let replica = 1 + processes.iter().filter(|process| process.service == *service).count();
            let name = if replica == 1 { service.name().to_owned() } else { format!("{service}-{replica}") };
            let port = match (*service, replica) {
                (Service::Gateway, 1) => gateway_port,
                _ => home.port(&name)?,
            };
            processes.push(Process {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                operator_listen: SocketAddr::from((
                    Ipv4Addr::LOCALHOST,
                    home.port(&format!("{name} operator"))?,
                )),
                configuration: directory.join(format!("{name}.toml")),
                service: *service,
                name,
            });
        }
        let plane = Self { processes, keys };
        for process in &plane.processes {
            let table = configuration::of(
                process,
                &plane,
                servers,
                overrides,
                &state_directory(home, process.service)?,
            )?;
            let text = toml::to_string(&table).context("write a configuration")?;
            home.write_secret(&format!("config/{}.toml", process.name), &text)?;
        }
        Ok(plane)
    }

    /// Returns the base URLs of a service's replicas.
    pub fn urls(&self, service: Service) -> Vec<String> {
        let replicas = self.processes.iter().filter(|process| process.service == service);
        replicas.map(|process| format!("http://{}", process.listen)).collect()
    }

    /// Returns the base URL of the public API; `None` if the plane has no gateway.
    pub fn url(&self) -> Option<String> {
        self.urls(Service::Gateway).into_iter().next()
    }

    pub fn layout(&self) -> Layout {
        Layout::of(self)
    }
}

impl Process {
    /// Returns the arguments of `steward` that run the process. If `until_stdin_closes`, the process stops
    /// when its standard input closes.
    pub fn arguments(&self, until_stdin_closes: bool) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned(), self.service.name().to_owned()];
        arguments.extend(["--config".to_owned(), self.configuration.display().to_string()]);
        if until_stdin_closes {
            arguments.push("--until-stdin-closes".to_owned());
        }
        arguments
    }

    /// Base URL of `/metrics`, `/healthz` and `/readyz`.
    pub fn operator_url(&self) -> String {
        format!("http://{}", self.operator_listen)
    }
}

/// Returns the directory for the files of a service. Its replicas share the directory, as they share the
/// host.
fn state_directory(home: &Home, service: Service) -> Result<PathBuf> {
    home.directory(&Path::new("state").join(service.name()).display().to_string())
}
