//! Tests server and client of [`svc_core::wire`] with each other over TCP: credentials, deadlines, limits,
//! replicas, reflection, and the operators' listener.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use steward_proto::{
    registry::v1::{
        AuthenticateRequest, AuthenticateResponse, Principal as WirePrincipal,
        auth_service_client::AuthServiceClient,
        auth_service_server::{AuthService, AuthServiceServer},
    },
    rules,
    sandbox::v1::ExecRequest,
};
use svc_core::{
    error::{ErrorKind, ServiceError, reason_of},
    id::AccountId,
    run::{
        clock::SystemClock,
        lifecycle::{Lifecycle, Outcome},
        telemetry::{LogFormat, TelemetryConfig},
    },
    testing::free_address,
    wire::{
        assertion::{self, Signer, TrustedKey, Verifier},
        auth::{Authenticator, Credential, Error as AuthError, Methods, TokenResolver},
        client::{CallError, Peer, PeerConfig},
        deadline::Deadline,
        principal::{self, Principal},
        server::{Bound, Server, ServerConfig},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::{Code, Request, Response, Status, transport::Channel};

#[derive(Debug)]
struct Echo;

#[tonic::async_trait]
impl AuthService for Echo {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let who = principal::of(&request)?;
        assert!(
            request.extensions().get::<Deadline>().is_some()
                && request.extensions().get::<Credential>().is_some()
        );
        let principal = Some(WirePrincipal::from(who));
        match request.get_ref().token.as_str() {
            "slow" => tokio::time::sleep(Duration::from_secs(30)).await,
            "soon" => tokio::time::sleep(Duration::from_millis(300)).await,
            "wrong" => {
                rules::check(&ExecRequest { argv: vec!["\0".to_owned(); 100_000], ..Default::default() })?;
            }
            _ => {}
        }
        Ok(Response::new(AuthenticateResponse { principal, expires_at: None }))
    }
}

#[derive(Debug)]
struct NoTokens;

#[tonic::async_trait]
impl TokenResolver for NoTokens {
    async fn resolve(&self, token: &str) -> Result<Principal, AuthError> {
        match token {
            "stw_tenant" => Ok(Principal::account(AccountId::new())),
            "stw_down" => Err(AuthError::Unavailable("registry is away".to_owned())),
            _ => Err(AuthError::Unauthenticated("unknown")),
        }
    }
}

struct Plane {
    address: SocketAddr,
    operator: SocketAddr,
    peer: Peer,
    lifecycle: Lifecycle,
}

async fn plane() -> Plane {
    plane_with(async |_| Vec::new()).await
}

/// Starts a registry-svc server and returns it with a client. `more` gets the server's address and returns
/// more addresses, which the client treats as replicas too.
async fn plane_with(more: impl AsyncFnOnce(SocketAddr) -> Vec<SocketAddr>) -> Plane {
    let (private, public_key) = assertion::generate_key().unwrap();
    let key = TrustedKey { id: "k".to_owned(), issuer: "chat-svc".to_owned(), public_key };
    let signer =
        Signer::new("chat-svc", "k", &BASE64.decode(private).unwrap(), SystemClock::shared()).unwrap();
    let verifier = Verifier::new("registry-svc", &[key], SystemClock::shared()).unwrap();
    let methods = Arc::new(Methods::from_contract().unwrap());
    let operator = free_address();
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        operator_listen: operator,
        request_timeout: Duration::from_secs(5),
        max_in_flight: 4,
        drain_delay: Duration::from_millis(10),
    };
    let bound = Bound::bind(&config).await.unwrap();
    let address = bound.grpc_address().unwrap();
    let lifecycle = Lifecycle::new();
    let telemetry = TelemetryConfig {
        otlp_endpoint: String::new(),
        log_format: LogFormat::Text,
        log_filter: "info".to_owned(),
        sample_ratio: 1.0,
        metrics_period: Duration::from_secs(60),
    };
    let metrics = svc_core::run::telemetry::init("registry-svc", &telemetry).unwrap().metrics();
    Server::new("registry-svc", config, Authenticator::new(methods, verifier, Arc::new(NoTokens)))
        .service(AuthServiceServer::new(Echo))
        .start(bound, metrics, &lifecycle)
        .unwrap();
    let mut urls = vec![format!("http://{address}")];
    urls.extend(more(address).await.into_iter().map(|address| format!("http://{address}")));
    let peer = PeerConfig { urls, timeout: Duration::from_secs(2) };
    let peer = Peer::lazy("registry-svc", &peer, Arc::new(signer)).unwrap();
    Plane { address, operator, peer, lifecycle }
}

fn ask(token: &str) -> AuthenticateRequest {
    AuthenticateRequest { token: token.to_owned() }
}

#[tokio::test]
async fn a_service_calls_in_its_own_name_for_a_tenant() {
    let plane = plane().await;
    let tenant = AccountId::new();
    let mut client = AuthServiceClient::new(plane.peer.acting_for(Some(tenant)));
    let who = client.authenticate(ask("")).await.unwrap().into_inner().principal.unwrap();
    assert_eq!((who.subject_id.as_str(), who.account_id), ("chat-svc", tenant.to_string()));
    assert_eq!(who.kind, i32::from(steward_proto::common::v1::PrincipalKind::Service));
}

#[tokio::test]
async fn reflection_lists_what_the_process_serves() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let plane = plane().await;
    let channel = Channel::from_shared(format!("http://{}", plane.address)).unwrap().connect().await.unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let mut ask = async |question| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut answers =
            client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.map(|answer| answer.unwrap().message_response.unwrap())
    };
    let MessageResponse::ListServicesResponse(listed) =
        ask(MessageRequest::ListServices(String::new())).await.unwrap()
    else {
        panic!("no list");
    };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let served = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    assert_eq!(names, [&served[..], &["steward.registry.v1.AuthService"]].concat());
    for symbol in ["steward.registry.v1.AuthService", "google.protobuf.Timestamp"] {
        let answer = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(matches!(answer, Ok(MessageResponse::FileDescriptorResponse(_))), "{symbol}: {answer:?}");
    }
    let foreign = ask(MessageRequest::FileContainingSymbol("steward.chat.v1.ChatService".to_owned())).await;
    assert_eq!(foreign.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn callers_without_a_fitting_credential_are_refused() {
    let plane = plane().await;
    let channel = Channel::from_shared(format!("http://{}", plane.address)).unwrap().connect().await.unwrap();
    let mut client = AuthServiceClient::new(channel);
    for (token, code) in [
        (None, Code::Unauthenticated),
        (Some("Bearer stw_unknown"), Code::Unauthenticated),
        (Some("Bearer sk-1"), Code::Unauthenticated),
        (Some("Bearer stw_tenant"), Code::PermissionDenied),
        (Some("Bearer stw_down"), Code::Unavailable),
    ] {
        let mut request = Request::new(ask(""));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        let status = client.authenticate(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{token:?}");
        assert!(reason_of(&status).is_some(), "{token:?}");
        assert!(!status.message().contains("registry is away"), "internal text went out");
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let plane = plane().await;
    let caller = plane.peer.acting_for(None).by(Deadline::after(Duration::from_millis(200)));
    let start = std::time::Instant::now();
    let status = AuthServiceClient::new(caller).authenticate(ask("slow")).await.unwrap_err();
    assert_eq!(CallError::new("registry-svc", status).kind(), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_request_with_many_errors_ends_no_other_call() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    let lines = lines.with_writer(Arc::new(log.reopen().unwrap())).finish();
    let _subscribed = tracing::subscriber::set_default(lines);
    let plane = plane().await;
    let mut client = AuthServiceClient::new(plane.peer.acting_for(None));
    let mut other = client.clone();
    let (answered, refused) =
        tokio::join!(other.authenticate(ask("soon")), client.authenticate(ask("wrong")));
    answered.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().ends_with("; and more"), "{refused}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains(r#"request has wrong fields fields=["sandbox_id", "argv[0]", "argv[1]""#), "{log}");
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_at_once() {
    let plane = plane().await;
    let calls = (0..12).map(|_| {
        let caller = plane.peer.acting_for(None).by(Deadline::after(Duration::from_millis(500)));
        async move { AuthServiceClient::new(caller).authenticate(ask("slow")).await.unwrap_err() }
    });
    let shed = futures::future::join_all(calls).await;
    let shed = shed.iter().filter(|s| reason_of(s).as_deref() == Some("OVERLOADED")).count();
    assert_eq!(shed, 8, "four of twelve fit");
}

#[tokio::test]
async fn an_unreachable_replica_costs_no_call() {
    let mut relay = JoinSet::new();
    let plane = plane_with(async |address| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![listener.local_addr().unwrap(), free_address()];
        relay.spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(address).await.unwrap();
            tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
        });
        addresses
    })
    .await;
    let mut client = AuthServiceClient::new(plane.peer.acting_for(None));
    for call in 0..20 {
        if call == 10 {
            // Closes the relay's listener and its connection, which the client is using.
            relay.shutdown().await;
        }
        client.authenticate(ask("")).await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_is_away_is_unavailable() {
    let plane = plane().await;
    plane.lifecycle.stop();
    assert_eq!(plane.lifecycle.run_until_stopped(Duration::from_secs(10)).await, Outcome::Clean);
    let status = AuthServiceClient::new(plane.peer.acting_for(None)).authenticate(ask("")).await.unwrap_err();
    let error = CallError::new("registry-svc", status);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.is_verdict() && error.retry_after().is_some());
    assert!(!error.public_message().contains("connect"));
}

#[tokio::test]
async fn operators_see_health_readiness_and_metrics() {
    let plane = plane().await;
    AuthServiceClient::new(plane.peer.acting_for(None)).authenticate(ask("")).await.unwrap();
    let get = |path: &str| reqwest::get(format!("http://{}{path}", plane.operator));
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    assert_eq!(get("/readyz").await.unwrap().status(), 200);
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("rpc_server_call_duration_seconds_count"), "{metrics}");
    plane.lifecycle.stop();
    let draining = get("/readyz").await.unwrap();
    assert_eq!(draining.status(), 503);
    assert!(draining.headers().contains_key("retry-after"));
}
