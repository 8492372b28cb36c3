//! Proxies between a cluster's services and Postgres and Docker, for suites that cut these connections. The
//! test process itself connects to both servers directly.

use steward_stack::Stack;
use svc_core::testing::FaultProxy;
use url::Url;

/// A fault proxy for each server.
#[derive(Debug)]
pub struct Wires {
    pub postgres: FaultProxy,
    pub docker: FaultProxy,
}

impl Wires {
    pub(super) async fn lay(stack: &Stack) -> Self {
        let url = url(stack);
        let database = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let engine = stack.engine.host();
        let engine = engine.strip_prefix("tcp://").unwrap_or(engine);
        Self { postgres: FaultProxy::start(database).await, docker: FaultProxy::start(engine).await }
    }

    /// Returns the URL of the cluster's Postgres through the proxy.
    pub(super) fn database_url(&self, stack: &Stack) -> String {
        let mut url = url(stack);
        url.set_ip_host(self.postgres.address().ip()).unwrap();
        url.set_port(Some(self.postgres.address().port())).unwrap();
        url.into()
    }

    /// Returns the address of the Docker engine through the proxy.
    pub(super) fn docker_host(&self) -> String {
        format!("tcp://{}", self.docker.address())
    }
}

fn url(stack: &Stack) -> Url {
    stack.database_url.parse().unwrap()
}
