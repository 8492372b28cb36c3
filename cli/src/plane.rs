//! A plane on one machine: which processes it has, where they listen, and the configuration each one gets.
//!
//! `steward dev` runs one of each; the end-to-end suites run several replicas of some. Nothing here starts a
//! process: a [`Plane`] is the plan that [`crate::dev::supervise`] and the suites carry out.

mod configuration;
pub mod layout;
pub mod ready;

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
use crate::{db::Database, dev::keys::Keys};

/// The five services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The HTTP edge.
    Gateway,
    /// Sessions and turns.
    Chat,
    /// Sandboxes.
    Sandbox,
    /// Accounts, tokens and agents.
    Registry,
    /// Erasure.
    Purge,
}

impl Service {
    /// Every service, in the order they are started.
    pub const ALL: [Self; 5] = [Self::Registry, Self::Sandbox, Self::Chat, Self::Purge, Self::Gateway];
    /// Those that answer gRPC and own a schema.
    pub const OWNERS: [Self; 4] = [Self::Registry, Self::Sandbox, Self::Chat, Self::Purge];

    /// Its short name: the subcommand, the schema, the peer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat",
            Self::Sandbox => "sandbox",
            Self::Registry => "registry",
            Self::Purge => "purge",
        }
    }

    /// What it calls itself: `service.name`, and the issuer and audience of assertions.
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

/// What the processes of a plane stand on.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The plane's own database.
    pub database: Database,
    /// Redis.
    pub redis_url: String,
    /// Docker.
    pub docker_host: String,
    /// OTLP endpoint; empty sends nothing.
    pub otlp_url: String,
    /// The static program that is mounted into sandboxes.
    pub guest: PathBuf,
    /// The image sandboxes start from.
    pub image: String,
    /// Says whose containers are whose on a shared engine.
    pub installation: String,
}

/// One process to run.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its name: the service's, with a number from the second replica on.
    pub name: String,
    /// What it serves.
    pub service: Service,
    /// Where it serves it.
    pub listen: SocketAddr,
    /// Where operators ask it how it is.
    pub operator_listen: SocketAddr,
    /// Its configuration file.
    pub configuration: PathBuf,
}

/// The processes of a plane, with their configuration written.
#[derive(Debug, Clone)]
pub struct Plane {
    /// In the order they are started.
    pub processes: Vec<Process>,
    /// Everybody's keys.
    pub keys: Keys,
}

impl Plane {
    /// Plans one process for each of `services` (repeat one for replicas) and writes their configuration into
    /// the home. The first gateway listens on `gateway_port`.
    pub fn lay_out(
        home: &Home,
        services: &[Service],
        gateway_port: u16,
        ground: &Ground,
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
                ground,
                overrides,
                &state_directory(home, process.service)?,
            )?;
            let text = toml::to_string(&table).context("write a configuration")?;
            home.write_secret(&format!("config/{}.toml", process.name), &text)?;
        }
        Ok(plane)
    }

    /// Addresses of a service's replicas, as URLs.
    pub fn urls(&self, service: Service) -> Vec<String> {
        let replicas = self.processes.iter().filter(|process| process.service == service);
        replicas.map(|process| format!("http://{}", process.listen)).collect()
    }

    /// The public door.
    pub fn url(&self) -> Option<String> {
        self.urls(Service::Gateway).into_iter().next()
    }

    /// Whom to ask how they are.
    pub fn layout(&self) -> Layout {
        Layout::of(self)
    }
}

impl Process {
    /// Arguments of `steward` that run it. `until_alone` makes it stop when its standard input closes.
    pub fn arguments(&self, until_alone: bool) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned(), self.service.name().to_owned()];
        arguments.extend(["--config".to_owned(), self.configuration.display().to_string()]);
        if until_alone {
            arguments.push("--until-stdin-closes".to_owned());
        }
        arguments
    }

    /// Base URL of its operators' port.
    pub fn operator_url(&self) -> String {
        format!("http://{}", self.operator_listen)
    }
}

/// A place for what a service keeps on disk; its replicas share it, as they share the host.
fn state_directory(home: &Home, service: Service) -> Result<PathBuf> {
    home.directory(&Path::new("state").join(service.name()).display().to_string())
}
