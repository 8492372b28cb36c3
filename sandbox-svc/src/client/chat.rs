//! chat-svc as the owner of sessions: asked whose a session is before a tenant's word is taken for it.

use steward_proto::chat::v1::{GetSessionRequest, chat_service_client::ChatServiceClient};
use svc_core::{
    id::{AccountId, SessionId},
    wire::{
        client::{CallError, Peer},
        error::{ErrorKind, ServiceError},
    },
};

/// Asks chat-svc about sessions.
#[derive(Debug, Clone)]
pub struct Sessions(Peer);

impl Sessions {
    /// Asks `chat`.
    #[must_use]
    pub const fn new(chat: Peer) -> Self {
        Self(chat)
    }

    /// Whether this account has this session.
    ///
    /// # Errors
    /// [`CallError`] if chat-svc cannot say.
    pub async fn has(&self, account: AccountId, session: SessionId) -> Result<bool, CallError> {
        let mut client = ChatServiceClient::new(self.0.acting_for(Some(account)));
        match client.get_session(GetSessionRequest { session_id: session.to_string() }).await {
            Ok(_) => Ok(true),
            Err(status) => match CallError::new("chat-svc", status) {
                error if error.kind() == ErrorKind::NotFound => Ok(false),
                error => Err(error),
            },
        }
    }
}
