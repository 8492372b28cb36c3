//! `ChatService`: sessions, turns, messages, events.

use steward_proto::chat::v1::{
    self as proto,
    chat_service_server::{ChatService, ChatServiceServer},
};
use svc_core::{
    id::{SessionId, TurnId},
    wire::grpc::{Call, page_size, parts},
};
use tonic::{Request, Response, Status};

use super::{
    convert,
    stream::{Events, Streams},
};
use crate::app::{sessions::Sessions, turns::Turns};

#[derive(Debug, Clone)]
pub(crate) struct ChatHandler {
    sessions: Sessions,
    turns: Turns,
    streams: Streams,
}

impl ChatHandler {
    pub(crate) fn new(sessions: Sessions, turns: Turns, streams: Streams) -> Self {
        Self { sessions, turns, streams }
    }

    /// Wraps the handler as a tower service.
    pub(crate) fn into_server(self) -> ChatServiceServer<Self> {
        ChatServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl ChatService for ChatHandler {
    async fn create_session(
        &self,
        request: Request<proto::CreateSessionRequest>,
    ) -> Result<Response<proto::CreateSessionResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let new = request.into();
        let session = self.sessions.create(call.account()?, new, &call.once()?).await?;
        Ok(Response::new(proto::CreateSessionResponse { session: Some(session.into()) }))
    }

    async fn get_session(
        &self,
        request: Request<proto::GetSessionRequest>,
    ) -> Result<Response<proto::GetSessionResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = SessionId::parse("session_id", &request.session_id)?;
        let session = self.sessions.get(call.account()?, id).await?;
        Ok(Response::new(proto::GetSessionResponse { session: Some(session.into()) }))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let size = page_size(request.page_size)?;
        let page = self.sessions.list(call.account()?, size, &request.page_token).await?;
        let (sessions, next_page_token) = parts(page);
        Ok(Response::new(proto::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_messages(
        &self,
        request: Request<proto::ListMessagesRequest>,
    ) -> Result<Response<proto::ListMessagesResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = SessionId::parse("session_id", &request.session_id)?;
        let size = page_size(request.page_size)?;
        let page = self.sessions.messages(call.account()?, id, size, &request.page_token).await?;
        let (messages, next_page_token) = parts(page);
        Ok(Response::new(proto::ListMessagesResponse { messages, next_page_token }))
    }

    async fn create_turn(
        &self,
        request: Request<proto::CreateTurnRequest>,
    ) -> Result<Response<proto::CreateTurnResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let session = SessionId::parse("session_id", &request.session_id)?;
        let turn = self.turns.create(call.account()?, session, request.input, &call.once()?).await?;
        Ok(Response::new(proto::CreateTurnResponse { turn: Some(turn.into()) }))
    }

    type RunTurnStream = Events<proto::RunTurnResponse>;

    async fn run_turn(
        &self,
        request: Request<proto::RunTurnRequest>,
    ) -> Result<Response<Self::RunTurnStream>, Status> {
        let (call, request) = Call::take(request)?;
        let session = SessionId::parse("session_id", &request.session_id)?;
        let credential = call.credential()?;
        let turn = self.turns.create(call.account()?, session, request.input, &call.once()?).await?;
        let reader = self.turns.read_all(&turn);
        let events = self
            .streams
            .open(turn.id, reader, credential, |event| proto::RunTurnResponse { event: Some(event) });
        Ok(Response::new(events))
    }

    async fn get_turn(
        &self,
        request: Request<proto::GetTurnRequest>,
    ) -> Result<Response<proto::GetTurnResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = TurnId::parse("turn_id", &request.turn_id)?;
        let turn = self.turns.get(call.account()?, id).await?;
        Ok(Response::new(proto::GetTurnResponse { turn: Some(turn.into()) }))
    }

    async fn list_turns(
        &self,
        request: Request<proto::ListTurnsRequest>,
    ) -> Result<Response<proto::ListTurnsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let session = SessionId::parse("session_id", &request.session_id)?;
        let (status, size) = (convert::listed_status(request.status()), page_size(request.page_size)?);
        let page = self.turns.list(call.account()?, session, status, size, &request.page_token).await?;
        let (turns, next_page_token) = parts(page);
        Ok(Response::new(proto::ListTurnsResponse { turns, next_page_token }))
    }

    type StreamTurnEventsStream = Events<proto::StreamTurnEventsResponse>;

    async fn stream_turn_events(
        &self,
        request: Request<proto::StreamTurnEventsRequest>,
    ) -> Result<Response<Self::StreamTurnEventsStream>, Status> {
        let (call, request) = Call::take(request)?;
        let id = TurnId::parse("turn_id", &request.turn_id)?;
        let reader = self.turns.read(call.account()?, id, &request.last_event_id).await?;
        let events = self.streams.open(id, reader, call.credential()?, |event| {
            proto::StreamTurnEventsResponse { event: Some(event) }
        });
        Ok(Response::new(events))
    }

    async fn cancel_turn(
        &self,
        request: Request<proto::CancelTurnRequest>,
    ) -> Result<Response<proto::CancelTurnResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = TurnId::parse("turn_id", &request.turn_id)?;
        let turn = self.turns.cancel(call.account()?, id, &call.once()?).await?;
        Ok(Response::new(proto::CancelTurnResponse { turn: Some(turn.into()) }))
    }
}
