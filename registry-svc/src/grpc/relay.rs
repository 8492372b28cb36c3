//! `RelayService`: A2A messages to agents.

use steward_proto::registry::v1::{
    self as proto,
    relay_service_server::{RelayService, RelayServiceServer},
};
use svc_core::{id, wire::grpc::Call};
use tonic::{Request, Response, Status};

use super::convert;
use crate::app::relay::Relay;

/// Maximum bytes of a relay request in addition to the A2A body.
const ENVELOPE: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct RelayHandler {
    pub relay: Relay,
    /// Maximum bytes of a body.
    pub max_request: usize,
}

impl RelayHandler {
    pub(crate) fn into_server(self) -> RelayServiceServer<Self> {
        // The use case refuses a body over the limit with an error of its own. tonic's limit is twice as
        // high, and only protects memory.
        let most = 2 * self.max_request + ENVELOPE;
        RelayServiceServer::new(self).max_decoding_message_size(most)
    }
}

#[tonic::async_trait]
impl RelayService for RelayHandler {
    async fn relay_a2a(
        &self,
        request: Request<proto::RelayA2aRequest>,
    ) -> Result<Response<proto::RelayA2aResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let incoming = convert::relay::incoming(request, call.deadline())?;
        let reply = self.relay.relay(call.principal(), incoming).await?;
        Ok(Response::new(reply.into()))
    }

    async fn get_relay_message(
        &self,
        request: Request<proto::GetRelayMessageRequest>,
    ) -> Result<Response<proto::GetRelayMessageResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = id::parse_id("relay_message_id", &request.relay_message_id)?;
        let message = self.relay.get(call.principal(), id).await?;
        Ok(Response::new(proto::GetRelayMessageResponse { message: Some(message.into()) }))
    }
}
