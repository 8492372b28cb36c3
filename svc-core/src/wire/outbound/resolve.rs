//! Resolves a name and checks its addresses in one step, so that only checked addresses are dialled.

use std::{fmt::Debug, io, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Mode, Refused, address};

/// Looks up the addresses of a name.
#[tonic::async_trait]
pub trait Resolver: Debug + Send + Sync {
    /// Returns every address of `name`.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[tonic::async_trait]
impl Resolver for SystemResolver {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// A resolver that checks each answer. If one address of a name is forbidden, the name is refused.
#[derive(Debug, Clone)]
pub(super) struct Vetting {
    pub(super) mode: Mode,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) timeout: Duration,
}

impl Vetting {
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Refused> {
        let asked = tokio::time::timeout(self.timeout, self.resolver.addresses(name)).await;
        let addresses = match asked {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                tracing::debug!(%error, "name does not resolve");
                return Err(Refused::Unresolved);
            }
            Err(_) => return Err(Refused::Unresolved),
        };
        match addresses.iter().find(|address| !address::allows(self.mode, **address)) {
            Some(_) => Err(Refused::Forbidden),
            None if addresses.is_empty() => Err(Refused::Unresolved),
            None => Ok(addresses),
        }
    }
}

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let addresses = this.addresses(name.as_str()).await?;
            // reqwest replaces port 0 by the port of the URL.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
