//! The plane's database: its schemas, its roles and their URLs.

use anyhow::{Context, Result};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use steward_stack::stack::DATABASE_URL;
use svc_core::data::pg::{
    self, PgConfig,
    bootstrap::{self, RolePassword},
};
use url::Url;

use super::Service;

/// Default name of the plane's database.
pub const NAME: &str = "steward";

/// A plane's database, with the password of its roles.
#[derive(Debug, Clone)]
pub struct Database {
    admin: Url,
    name: String,
    password: Option<String>,
}

impl Database {
    /// Returns the database `name` in the cluster at the URL `admin`. The services' roles get the password in
    /// that URL.
    pub fn at(admin: &str, name: &str) -> Result<Self> {
        let admin: Url = admin.parse().with_context(|| format!("{DATABASE_URL} is not a URL"))?;
        let password =
            admin.password().map(|password| percent_decode_str(password).decode_utf8_lossy().into_owned());
        Ok(Self { admin, name: name.to_owned(), password })
    }

    /// Gives the services' roles this password.
    #[must_use]
    pub fn with_role_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Makes the roles, the database and the schemas.
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

    /// Runs every service's migrations.
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

    /// Returns the URL with the role that `service` runs as.
    pub fn run_url(&self, service: Service) -> Result<String> {
        self.as_role(&run_role(service))
    }

    /// Returns the URL with the role that owns and migrates the schema of `service`.
    pub fn owner_url(&self, service: Service) -> Result<String> {
        self.as_role(&owner_role(service))
    }

    /// Returns the URL with the administrator's role.
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

fn run_role(service: Service) -> String {
    format!("steward_{service}")
}

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
