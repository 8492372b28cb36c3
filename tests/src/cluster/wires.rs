//! What a cluster's services reach Postgres and Docker over, where a suite wants to cut it. The suite itself looks
//! at both directly.

use steward_stack::Stack;
use svc_core::testing::FaultProxy;
use url::Url;

/// The two wires.
#[derive(Debug)]
pub struct Wires {
    /// To Postgres.
    pub postgres: FaultProxy,
    /// To Docker.
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

    /// The cluster's Postgres, seen over the wire.
    pub(super) fn database_url(&self, stack: &Stack) -> String {
        let mut url = url(stack);
        url.set_ip_host(self.postgres.address().ip()).unwrap();
        url.set_port(Some(self.postgres.address().port())).unwrap();
        url.into()
    }

    /// The Docker engine, seen over the wire.
    pub(super) fn docker_host(&self) -> String {
        format!("tcp://{}", self.docker.address())
    }
}

fn url(stack: &Stack) -> Url {
    stack.database_url.parse().unwrap()
}
