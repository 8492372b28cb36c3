//! `RelayService`: A2A messages to agents.

use steward_proto::registry::v1::{
    self as proto,
    relay_service_server::{RelayService, RelayServiceServer},
};
use svc_core::{id, wire::deadline::Deadline};
use tonic::{Request, Response, Status};

use super::{caller, convert, status};
use crate::app::relay::Relay;

/// Room for what surrounds a body in a message of the wire.
const ENVELOPE: usize = 64 * 1024;

/// Serves `RelayService`.
#[derive(Debug, Clone)]
pub struct RelayHandler {
    relay: Relay,
    max_request: usize,
}

impl RelayHandler {
    /// Serves this relay, with bodies of at most `max_request` bytes.
    #[must_use]
    pub fn new(relay: Relay, max_request: usize) -> Self {
        Self { relay, max_request }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> RelayServiceServer<Self> {
        // A body that is a little too long is refused by its own error, one that is far too long here.
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
        let caller = caller(&request)?;
        let deadline = request.extensions().get::<Deadline>().copied();
        let incoming = convert::relay::incoming(request.into_inner(), deadline).map_err(status)?;
        let reply = self.relay.relay(&caller, incoming).await.map_err(status)?;
        Ok(Response::new(reply.into()))
    }

    async fn get_relay_message(
        &self,
        request: Request<proto::GetRelayMessageRequest>,
    ) -> Result<Response<proto::GetRelayMessageResponse>, Status> {
        let caller = caller(&request)?;
        let id = id::parse_id("relay_message_id", &request.get_ref().relay_message_id).map_err(status)?;
        let message = self.relay.get(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::GetRelayMessageResponse { message: Some(message.into()) }))
    }
}
