//! Tests sessions, the listing of their messages, and that other tenants cannot find them.

use std::collections::BTreeSet;

use steward_proto::chat::v1::{
    CreateSessionRequest, GetSessionRequest, InputPolicy, ListMessagesRequest, ListSessionsRequest,
    ListTurnsRequest, MessageRole,
};
use svc_core::error::reason_of;
use tonic::{Code, Status};

use crate::plane::{Plane, keyed};

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), reason_of(&status).unwrap_or_default())
}

#[tokio::test]
async fn a_session_has_defaults_and_is_read_back() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let made = tenant.client.create_session(CreateSessionRequest::default()).await.unwrap().into_inner();
    let made = made.session.unwrap();
    assert_eq!((made.input_policy(), made.route.as_str()), (InputPolicy::Queue, "default"));
    let request = GetSessionRequest { session_id: made.session_id.clone() };
    assert_eq!(tenant.client.get_session(request).await.unwrap().into_inner().session.unwrap(), made);
}

#[tokio::test]
async fn a_wrong_request_names_its_field() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let long = CreateSessionRequest { title: "x".repeat(201), ..Default::default() };
    let route = CreateSessionRequest { route: "nowhere".to_owned(), ..Default::default() };
    let policy = CreateSessionRequest { input_policy: 77, ..Default::default() };
    for (request, field) in [(long, "title"), (route, "route"), (policy, "input_policy")] {
        let status = tenant.client.create_session(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    let session = tenant.session().await;
    assert_eq!(refusal(tenant.try_say(&session, "  ").await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_foreign_session_or_turn_is_not_found() {
    let plane = Plane::start().await;
    let (mut owner, mut other) = (plane.tenant(), plane.tenant());
    let session = owner.session().await;
    let turn = owner.say(&session, "say hello").await.turn_id;
    owner.wait(&turn).await;

    let not_found = (Code::NotFound, "NOT_FOUND".to_owned());
    let get = GetSessionRequest { session_id: session.clone() };
    assert_eq!(refusal(other.client.get_session(get).await), not_found);
    let messages = ListMessagesRequest { session_id: session.clone(), ..Default::default() };
    assert_eq!(refusal(other.client.list_messages(messages).await), not_found);
    let turns = ListTurnsRequest { session_id: session.clone(), ..Default::default() };
    assert_eq!(refusal(other.client.list_turns(turns).await), not_found);
    assert_eq!(refusal(other.try_say(&session, "say mine").await), not_found);
    let get = steward_proto::chat::v1::GetTurnRequest { turn_id: turn.clone() };
    assert_eq!(refusal(other.client.get_turn(get).await), not_found);
    let cancel = steward_proto::chat::v1::CancelTurnRequest { turn_id: turn.clone() };
    assert_eq!(refusal(other.client.cancel_turn(cancel).await), not_found);
    let events = steward_proto::chat::v1::StreamTurnEventsRequest { turn_id: turn, ..Default::default() };
    assert_eq!(refusal(other.client.stream_turn_events(events).await.map(drop)), not_found);
}

#[tokio::test]
async fn sessions_are_listed_in_pages_newest_first() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(tenant.session().await);
    }
    made.reverse();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListSessionsRequest { page_size: 2, page_token: token };
        let page = tenant.client.list_sessions(request).await.unwrap().into_inner();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.into_iter().map(|session| session.session_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, made);
    let foreign = ListSessionsRequest { page_size: 2, page_token: "bm9uc2Vuc2U".to_owned() };
    assert_eq!(refusal(tenant.client.list_sessions(foreign).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_repeated_request_creates_one_session() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let request = CreateSessionRequest { title: "once".to_owned(), ..Default::default() };
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let made = tenant.client.create_session(keyed("k", request.clone())).await.unwrap().into_inner();
        ids.insert(made.session.unwrap().session_id);
    }
    assert_eq!(ids.len(), 1);
    let other = CreateSessionRequest { title: "other".to_owned(), ..Default::default() };
    let reused = tenant.client.create_session(keyed("k", other)).await;
    assert_eq!(refusal(reused), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".to_owned()));
}

#[tokio::test]
async fn messages_are_listed_in_order_across_pages() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    for word in ["one", "two", "three"] {
        tenant.run(&session, &format!("say {word}")).await;
    }
    let whole = tenant.messages(&session).await;
    let texts: Vec<_> = whole.iter().map(|message| message.text.trim().to_owned()).collect();
    assert_eq!(texts, ["say one", "one", "say two", "two", "say three", "three"]);
    assert_eq!(whole[1].role(), MessageRole::Assistant);

    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListMessagesRequest { session_id: session.clone(), page_size: 4, page_token: token };
        let page = tenant.client.list_messages(request).await.unwrap().into_inner();
        paged.extend(page.messages);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, whole);
}
