//! `steward db`: the plane's database, its schemas and roles.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use steward_stack::{stack::DATABASE_URL, terminal::say};
use svc_core::data::pg::{
    self, PgConfig,
    bootstrap::{self, RolePassword},
};
use url::Url;

use crate::plane::Service;

/// Name of the plane's database.
pub const DATABASE: &str = "steward";

/// What to do with the database.
#[derive(Debug, Clone, Subcommand)]
pub enum DbCommand {
    /// Make the database, and a schema and two roles for each service. Safe to repeat.
    Init(DbArgs),
    /// Bring every schema up to date. Services with an owner's URL do it themselves when they start.
    Migrate(DbArgs),
    /// Print, for each service, its directory, the variable its build reads, and its owner's URL.
    Urls(DbArgs),
}

/// Which database.
#[derive(Debug, Clone, Args)]
pub struct DbArgs {
    /// The cluster, as a role that may create databases and roles.
    #[arg(long, env = DATABASE_URL, hide_env_values = true)]
    pub url: String,
    /// The plane's database in it.
    #[arg(long, default_value = DATABASE)]
    pub database: String,
    /// Password of the services' roles; by default the one in the URL, if there is one.
    #[arg(long, env = "STEWARD_ROLE_PASSWORD", hide_env_values = true)]
    pub role_password: Option<String>,
}

/// A database of a plane and how its roles log in.
#[derive(Debug, Clone)]
pub struct Database {
    admin: Url,
    name: String,
    password: Option<String>,
}

/// Runs the command.
pub async fn run(command: &DbCommand) -> Result<()> {
    match command {
        DbCommand::Init(args) => Database::of(args)?.init().await,
        DbCommand::Migrate(args) => Database::of(args)?.migrate().await,
        DbCommand::Urls(args) => {
            let database = Database::of(args)?;
            for service in Service::OWNERS {
                let variable = format!("{}_DATABASE_URL", service.name().to_uppercase());
                say(format_args!("{} {variable} {}", service.full_name(), database.owner_url(service)?))?;
            }
            Ok(())
        }
    }
}

impl Database {
    fn of(args: &DbArgs) -> Result<Self> {
        let mut database = Self::at(&args.url, &args.database)?;
        if args.role_password.is_some() {
            database.password.clone_from(&args.role_password);
        }
        Ok(database)
    }

    /// The database called `name` of the cluster at `admin`; its roles have the administrator's password.
    pub fn at(admin: &str, name: &str) -> Result<Self> {
        let admin: Url = admin.parse().with_context(|| format!("{DATABASE_URL} is not a URL"))?;
        let password =
            admin.password().map(|password| percent_decode_str(password).decode_utf8_lossy().into_owned());
        Ok(Self { admin, name: name.to_owned(), password })
    }

    /// Makes roles, database and schemas.
    pub async fn init(&self) -> Result<()> {
        let roles = Service::OWNERS.iter().flat_map(|service| [run_role(*service), owner_role(*service)]);
        let passwords: Vec<RolePassword> = match &self.password {
            Some(password) => {
                roles.map(|role| RolePassword { role, password: password.as_str().into() }).collect()
            }
            None => Vec::new(),
        };
        let admin = SecretString::from(self.admin.as_str());
        bootstrap::init(&admin, &self.name, &passwords).await.context("set up the database")
    }

    /// Brings every schema up to date.
    pub async fn migrate(&self) -> Result<()> {
        for service in Service::OWNERS {
            let migrator = match service {
                Service::Chat => &chat_svc::MIGRATOR,
                Service::Sandbox => &sandbox_svc::MIGRATOR,
                Service::Purge => &purge_svc::MIGRATOR,
                Service::Registry | Service::Gateway => &registry_svc::MIGRATOR,
            };
            let mut config = PgConfig::new(SecretString::from(self.run_url(service)?));
            config.migrate_url = Some(SecretString::from(self.owner_url(service)?));
            pg::migrate(migrator, &config).await.with_context(|| format!("migrate {service}"))?;
        }
        Ok(())
    }

    /// URL of the role a service runs as.
    pub fn run_url(&self, service: Service) -> Result<String> {
        self.as_role(&run_role(service))
    }

    /// URL of the role that owns a service's schema.
    pub fn owner_url(&self, service: Service) -> Result<String> {
        self.as_role(&owner_role(service))
    }

    /// URL of the administrator's role.
    pub fn admin_url(&self) -> Result<String> {
        let mut url = self.admin.clone();
        url.set_path(&self.name);
        Ok(url.into())
    }

    fn as_role(&self, role: &str) -> Result<String> {
        let mut url = self.admin.clone();
        let takes = |()| anyhow::anyhow!("the database's URL takes no user");
        url.set_username(role).map_err(takes)?;
        url.set_password(self.password.as_deref()).map_err(takes)?;
        url.set_path(&self.name);
        Ok(url.into())
    }
}

/// The role a service runs as.
fn run_role(service: Service) -> String {
    format!("steward_{service}")
}

/// The role that owns and migrates a service's schema.
fn owner_role(service: Service) -> String {
    format!("steward_{service}_owner")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_gets_its_own_url_to_the_same_place() {
        let database =
            Database::at("postgres://postgres:s%40fe@127.0.0.1:5432/postgres?sslmode=disable", "steward");
        let url = database.unwrap().run_url(Service::Chat).unwrap();
        assert_eq!(url, "postgres://steward_chat:s%40fe@127.0.0.1:5432/steward?sslmode=disable");
    }
}
