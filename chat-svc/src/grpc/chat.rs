//! `ChatService`: sessions, turns, messages, events.

use steward_proto::chat::v1::{
    self as proto,
    chat_service_server::{ChatService, ChatServiceServer},
};
use svc_core::{
    id::{SessionId, TurnId},
    wire::auth::Credential,
};
use tonic::{Request, Response, Status};

use super::{
    account, convert, once, status,
    stream::{Events, Streams},
};
use crate::{
    app::{
        sessions::{NewSession, Sessions},
        turns::Turns,
    },
    domain::session::parse_input,
};

/// Serves `ChatService`.
#[derive(Debug, Clone)]
pub struct ChatHandler {
    sessions: Sessions,
    turns: Turns,
    streams: Streams,
}

impl ChatHandler {
    /// Serves these sessions and turns.
    #[must_use]
    pub fn new(sessions: Sessions, turns: Turns, streams: Streams) -> Self {
        Self { sessions, turns, streams }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> ChatServiceServer<Self> {
        ChatServiceServer::new(self)
    }
}

fn credential<T>(request: &Request<T>) -> Option<Credential> {
    request.extensions().get().cloned()
}

#[tonic::async_trait]
impl ChatService for ChatHandler {
    async fn create_session(
        &self,
        request: Request<proto::CreateSessionRequest>,
    ) -> Result<Response<proto::CreateSessionResponse>, Status> {
        let account = account(&request)?;
        let once = once("steward.chat.v1.ChatService/CreateSession", &request)?;
        let new = NewSession::try_from(request.into_inner()).map_err(status)?;
        let session = self.sessions.create(account, new, &once).await.map_err(status)?;
        Ok(Response::new(proto::CreateSessionResponse { session: Some(session.into()) }))
    }

    async fn get_session(
        &self,
        request: Request<proto::GetSessionRequest>,
    ) -> Result<Response<proto::GetSessionResponse>, Status> {
        let account = account(&request)?;
        let id = SessionId::parse("session_id", &request.get_ref().session_id).map_err(status)?;
        let session = self.sessions.get(account, id).await.map_err(status)?;
        Ok(Response::new(proto::GetSessionResponse { session: Some(session.into()) }))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let account = account(&request)?;
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.sessions.list(account, size, &request.page_token).await.map_err(status)?;
        let (sessions, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_messages(
        &self,
        request: Request<proto::ListMessagesRequest>,
    ) -> Result<Response<proto::ListMessagesResponse>, Status> {
        let account = account(&request)?;
        let request = request.into_inner();
        let id = SessionId::parse("session_id", &request.session_id).map_err(status)?;
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.sessions.messages(account, id, size, &request.page_token).await.map_err(status)?;
        let (messages, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListMessagesResponse { messages, next_page_token }))
    }

    async fn create_turn(
        &self,
        request: Request<proto::CreateTurnRequest>,
    ) -> Result<Response<proto::CreateTurnResponse>, Status> {
        let account = account(&request)?;
        let once = once("steward.chat.v1.ChatService/CreateTurn", &request)?;
        let request = request.into_inner();
        let session = SessionId::parse("session_id", &request.session_id).map_err(status)?;
        let input = parse_input(&request.input).map_err(status)?;
        let turn = self.turns.create(account, session, input, &once).await.map_err(status)?;
        Ok(Response::new(proto::CreateTurnResponse { turn: Some(turn.into()) }))
    }

    type RunTurnStream = Events<proto::RunTurnResponse>;

    async fn run_turn(
        &self,
        request: Request<proto::RunTurnRequest>,
    ) -> Result<Response<Self::RunTurnStream>, Status> {
        let (account, credential) = (account(&request)?, credential(&request));
        let once = once("steward.chat.v1.ChatService/RunTurn", &request)?;
        let request = request.into_inner();
        let session = SessionId::parse("session_id", &request.session_id).map_err(status)?;
        let input = parse_input(&request.input).map_err(status)?;
        let turn = self.turns.create(account, session, input, &once).await.map_err(status)?;
        let reader = self.turns.read(account, turn.id, "").await.map_err(status)?;
        let events = self
            .streams
            .open(turn.id, reader, credential, |event| proto::RunTurnResponse { event: Some(event) });
        Ok(Response::new(events))
    }

    async fn get_turn(
        &self,
        request: Request<proto::GetTurnRequest>,
    ) -> Result<Response<proto::GetTurnResponse>, Status> {
        let account = account(&request)?;
        let id = TurnId::parse("turn_id", &request.get_ref().turn_id).map_err(status)?;
        let turn = self.turns.get(account, id).await.map_err(status)?;
        Ok(Response::new(proto::GetTurnResponse { turn: Some(turn.into()) }))
    }

    async fn list_turns(
        &self,
        request: Request<proto::ListTurnsRequest>,
    ) -> Result<Response<proto::ListTurnsResponse>, Status> {
        let account = account(&request)?;
        let request = request.into_inner();
        let session = SessionId::parse("session_id", &request.session_id).map_err(status)?;
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.turns.list(account, session, size, &request.page_token).await.map_err(status)?;
        let (turns, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListTurnsResponse { turns, next_page_token }))
    }

    type StreamTurnEventsStream = Events<proto::StreamTurnEventsResponse>;

    async fn stream_turn_events(
        &self,
        request: Request<proto::StreamTurnEventsRequest>,
    ) -> Result<Response<Self::StreamTurnEventsStream>, Status> {
        let (account, credential) = (account(&request)?, credential(&request));
        let request = request.into_inner();
        let id = TurnId::parse("turn_id", &request.turn_id).map_err(status)?;
        let reader = self.turns.read(account, id, &request.last_event_id).await.map_err(status)?;
        let events = self
            .streams
            .open(id, reader, credential, |event| proto::StreamTurnEventsResponse { event: Some(event) });
        Ok(Response::new(events))
    }

    async fn cancel_turn(
        &self,
        request: Request<proto::CancelTurnRequest>,
    ) -> Result<Response<proto::CancelTurnResponse>, Status> {
        let account = account(&request)?;
        let id = TurnId::parse("turn_id", &request.get_ref().turn_id).map_err(status)?;
        let turn = self.turns.cancel(account, id).await.map_err(status)?;
        Ok(Response::new(proto::CancelTurnResponse { turn: Some(turn.into()) }))
    }
}
