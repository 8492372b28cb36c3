//! Asks chat-svc, which owns the sessions, whether a session exists.

use steward_proto::chat::v1::{GetSessionRequest, chat_service_client::ChatServiceClient};

use super::{CallError, Peer};
use crate::{
    error::{ErrorKind, ServiceError},
    id::{AccountId, SessionId},
};

/// Asks chat-svc about sessions.
#[derive(Debug, Clone)]
pub struct Sessions(Peer);

impl Sessions {
    pub const fn new(chat: Peer) -> Self {
        Self(chat)
    }

    /// Returns whether `session` exists and belongs to `account`.
    ///
    /// # Errors
    /// [`CallError`] if chat-svc gives no answer.
    pub async fn exists(&self, account: AccountId, session: SessionId) -> Result<bool, CallError> {
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
