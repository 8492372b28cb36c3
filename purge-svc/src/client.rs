//! chat-svc as the owner of sessions: asked whether a session exists before its erasure is accepted.

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
pub struct Sessions {
    chat: Peer,
}

impl Sessions {
    /// Asks `chat`.
    #[must_use]
    pub const fn new(chat: Peer) -> Self {
        Self { chat }
    }

    /// Whether this account has this session. Somebody else's session does not exist for it.
    ///
    /// # Errors
    /// [`CallError`] if chat-svc cannot say.
    pub async fn exists(&self, account: AccountId, session: SessionId) -> Result<bool, CallError> {
        let mut client = ChatServiceClient::new(self.chat.acting_for(Some(account)));
        let request = GetSessionRequest { session_id: session.to_string() };
        match client.get_session(request).await {
            Ok(_) => Ok(true),
            Err(status) => match CallError::new("chat-svc", status) {
                error if error.kind() == ErrorKind::NotFound => Ok(false),
                error => Err(error),
            },
        }
    }
}
