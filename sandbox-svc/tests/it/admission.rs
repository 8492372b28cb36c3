//! Tests that a sandbox is created only for a session of the account: sandbox-svc checks the owner that it
//! has recorded, or asks chat-svc.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use sandbox_svc::testing::{Admission, Error};
use svc_core::{
    data::idempotency::Once,
    error::{ErrorKind, status},
    wire::{client::Sessions, principal::Principal},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use crate::plane::{Plane, peer};

/// A chat-svc that has no session and counts the calls.
#[derive(Clone, Default)]
struct NoSessions(Arc<AtomicUsize>);

impl NamedService for NoSessions {
    const NAME: &'static str = "steward.chat.v1.ChatService";
}

impl Service<http::Request<Body>> for NoSessions {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        let refused = status(ErrorKind::NotFound, "NOT_FOUND", "no such session", None, &[]);
        ready(Ok(refused.into_http()))
    }
}

#[tokio::test]
async fn chat_svc_is_asked_only_about_unknown_owners_of_callers() {
    let plane = Plane::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sessions = Sessions::new(peer("chat-svc", listener.local_addr().unwrap()));
    let chat = NoSessions::default();
    let served = tonic::transport::Server::builder()
        .add_service(chat.clone())
        .serve_with_incoming(TcpListenerStream::new(listener));
    let mut server = JoinSet::new();
    server.spawn(served);
    let replica = &plane.replica;
    let admission =
        Admission { pool: replica.deps.pool.clone(), sessions, sandboxes: replica.sandboxes.clone() };
    let (owner, once) = (plane.owner(), Once::unkeyed());
    let caller = Principal::account(owner.account);

    let refused = admission.create(&caller, owner.session, &once).await;
    assert!(matches!(refused, Err(Error::SessionNotFound)), "{refused:?}");
    assert_eq!(chat.0.load(Ordering::Relaxed), 1);
    let service = Principal::service("chat-svc", Some(owner.account));
    let created = admission.create(&service, owner.session, &once).await.unwrap().sandbox;
    // The request of the service made the account the known owner.
    assert_eq!(admission.create(&caller, owner.session, &once).await.unwrap().sandbox.id, created.id);
    let other = Principal::account(plane.owner().account);
    let refused = admission.create(&other, owner.session, &once).await;
    assert!(matches!(refused, Err(Error::SessionNotFound)), "{refused:?}");
    assert_eq!(chat.0.load(Ordering::Relaxed), 2);
}
