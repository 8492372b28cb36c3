//! chat-svc, which knows sessions: purge-svc asks whether a session exists before it accepts its erasure.

use steward_proto::chat::v1::{GetSessionRequest, chat_service_client::ChatServiceClient};
use svc_core::{
    id::{AccountId, SessionId},
    wire::{
        client::{CallError, Peer},
        error::{ErrorKind, ServiceError},
    },
};

#[derive(Debug, Clone)]
pub struct ChatClient {
    chat: Peer,
}

impl ChatClient {
    pub const fn new(chat: Peer) -> Self {
        Self { chat }
    }

    /// Whether this account has this session. Another account's session does not exist for it.
    ///
    /// # Errors
    /// [`CallError`] if chat-svc cannot say.
    pub async fn session_exists(&self, account: AccountId, session: SessionId) -> Result<bool, CallError> {
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
