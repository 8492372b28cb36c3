//! Simulates chat-svc: a simulated custodian that also serves GetSession.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, task::Poll};

use futures::future::BoxFuture;
use purge_svc::testing::fake::FakeCustodian;
use steward_proto::{
    chat::v1::{GetSessionRequest, GetSessionResponse, Session},
    custody::v1::custodian_service_server::CustodianServiceServer,
};
use svc_core::{
    error::{self, ErrorKind},
    id::SessionId,
    run::lifecycle::Lifecycle,
    subject::Subject,
    wire::assertion::{METADATA_KEY, Verifier},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, body::Body, server::NamedService};

/// Answers GetSession: an account has a session if the simulated custodian has data of it.
#[derive(Clone)]
pub(crate) struct FakeSessions {
    custodian: FakeCustodian,
    verifier: Arc<Verifier>,
}

impl FakeSessions {
    /// Serves GetSession and `custodian` at one address, and returns it.
    pub(crate) async fn serve(
        custodian: FakeCustodian,
        verifier: Verifier,
        lifecycle: &Lifecycle,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Self { custodian: custodian.clone(), verifier: Arc::new(verifier) };
        drop(lifecycle.spawn("fake chat", async move {
            tonic::transport::Server::builder()
                .add_service(CustodianServiceServer::new(custodian))
                .add_service(sessions)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        }));
        address
    }

    fn get(&self, request: &Request<GetSessionRequest>) -> Result<GetSessionResponse, Status> {
        let gone = || error::status(ErrorKind::NotFound, "NOT_FOUND", "no such session", None, &[]);
        let assertion = request.metadata().get(METADATA_KEY).unwrap().to_str().unwrap();
        let account = self.verifier.verify(assertion).unwrap().account_id.unwrap();
        let session = SessionId::parse("session_id", &request.get_ref().session_id).unwrap();
        if !self.custodian.has(Subject::Session { account, session }) {
            return Err(gone());
        }
        let session = Session { session_id: session.to_string(), ..Session::default() };
        Ok(GetSessionResponse { session: Some(session) })
    }
}

impl NamedService for FakeSessions {
    const NAME: &'static str = "steward.chat.v1.ChatService";
}

impl tower::Service<http::Request<Body>> for FakeSessions {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/steward.chat.v1.ChatService/GetSession");
        let this = self.clone();
        Box::pin(async move {
            let method = tower::service_fn(move |request: Request<GetSessionRequest>| {
                let answer = this.get(&request).map(Response::new);
                async move { answer }
            });
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).unary(method, request).await)
        })
    }
}
