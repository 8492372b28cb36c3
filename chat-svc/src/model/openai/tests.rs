use std::error::Error as _;

use secrecy::SecretString;
use url::Url;

use crate::model::{
    model_client::{FailureClass, FinishReason, Message, ModelEvent, Pulse},
    scripted::{Reply, Upstream},
};

use super::*;

const QUICK: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    first_byte: Duration::from_millis(300),
    idle: Duration::from_millis(200),
};

fn client(base_url: &str, timeouts: Timeouts) -> OpenAi {
    let api_key = Some(SecretString::from("sk-secret"));
    let base_url = Url::parse(base_url).unwrap();
    OpenAi::new(&OpenAiConfig { base_url, api_key, provider: "test".into(), proxy: None, timeouts }).unwrap()
}

fn request() -> ModelRequest {
    ModelRequest { model: "m".into(), messages: vec![Message::user("hi")], ..ModelRequest::default() }
}

async fn hear(client: &OpenAi) -> (Vec<ModelEvent>, Option<ModelError>) {
    let mut stream = match client.stream(request()).await {
        Ok(stream) => stream,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut events = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => events.push(event),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

/// Items that a client gets for this reply.
async fn answered(reply: Reply) -> (Vec<ModelEvent>, Option<ModelError>) {
    let upstream = Upstream::start().await.unwrap();
    upstream.enqueue(reply);
    hear(&client(&upstream.base_url(), QUICK)).await
}

fn text(events: &[ModelEvent]) -> String {
    events
        .iter()
        .filter_map(|e| match e {
            ModelEvent::TextDelta(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    let upstream = Upstream::start().await.unwrap();
    upstream.enqueue(Reply::text("hello"));
    let client = client(&upstream.base_url(), QUICK);
    let (events, error) = hear(&client).await;
    assert!(error.is_none() && text(&events) == "hello");
    let received = &upstream.requests()[0];
    assert_eq!(received.headers["authorization"], "Bearer sk-secret");
    assert_eq!(received.body["model"], "m");
    assert_eq!(received.body["stream"], true);
    assert!(!format!("{client:?}").contains("secret"));
}

#[tokio::test]
async fn a_stream_that_ends_early_is_cut() {
    for reply in [Reply::text("one two three").cut_after(3), Reply::stream().say("one two").abort()] {
        let (events, error) = answered(reply).await;
        assert_eq!(error.unwrap().class(), FailureClass::Cut);
        assert!(text(&events).starts_with("one two"), "{events:?}");
    }
}

#[tokio::test]
async fn silence_is_a_stall_and_keep_alives_are_not_silence() {
    let (events, error) = answered(Reply::stream().say("one ").hang()).await;
    assert!(matches!(error, Some(ModelError::Stalled { idle }) if idle == QUICK.idle), "{error:?}");
    assert_eq!(text(&events), "one ");

    let upstream = Upstream::start().await.unwrap();
    upstream.enqueue(Reply::stream().keep_alive(Duration::from_millis(20)));
    let client = client(&upstream.base_url(), QUICK);
    let mut stream = client.stream(request()).await.unwrap();
    let mut pulses = 0;
    while pulses < 20 {
        let event = stream.next().await.unwrap().unwrap();
        pulses += usize::from(event == ModelEvent::Pulse(Pulse::Bytes));
    }
}

#[tokio::test]
async fn no_answer_and_no_connection_have_different_errors() {
    // The listener accepts connections and never answers.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mute = format!("http://{}/v1", listener.local_addr().unwrap());
    let (_, error) = hear(&client(&mute, QUICK)).await;
    assert!(matches!(error, Some(ModelError::NoAnswer { after }) if after == QUICK.first_byte), "{error:?}");

    let refusing = Upstream::refusing().await.unwrap();
    let (_, error) = hear(&client(&refusing, QUICK)).await;
    let error = error.unwrap();
    assert!(matches!(error, ModelError::Unreachable { .. }) && error.class() == FailureClass::Transient);
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    assert!(!chain.contains("/v1"), "the URL is not part of an error: {chain}");
}

#[tokio::test]
async fn a_malformed_chunk_is_reported_after_the_chunks_before_it() {
    for garbage in ["data: {\"choices\": [\n\n", "data: hello\n\n", "data: [1,2]\n\n"] {
        let (events, error) =
            answered(Reply::stream().say("one two ").raw(garbage).say("three").finish("stop")).await;
        assert_eq!(error.unwrap().class(), FailureClass::Malformed, "{garbage}");
        assert_eq!(text(&events), "one two ", "{garbage}");
    }
    let huge = format!("data: {}\n\n", "x".repeat(2 * 1024 * 1024));
    let (_, error) = answered(Reply::stream().raw(&huge)).await;
    assert_eq!(error.unwrap().class(), FailureClass::Malformed);
}

#[tokio::test]
async fn refusals_keep_their_class_retry_after_and_text() {
    let limited =
        Reply::refusal(429, "rate_limit_exceeded", "org-7 is over its limit").header("retry-after", "17");
    let (_, error) = answered(limited).await;
    let error = error.unwrap();
    assert_eq!(
        (error.class(), error.retry_after()),
        (FailureClass::RateLimited, Some(Duration::from_secs(17)))
    );
    assert!(error.to_string().contains("org-7") && !error.class().public_message().contains("org-7"));

    let (_, error) = answered(Reply::body(500, "text/html", &"<html>oh no</html>".repeat(1_000))).await;
    let error = error.unwrap();
    assert_eq!(error.class(), FailureClass::Transient);
    assert!(error.to_string().len() < MAX_DETAIL_BYTES + 100, "bodies are bounded");

    let (_, error) =
        answered(Reply::body(302, "text/plain", "").header("location", "http://127.0.0.1:1/")).await;
    assert!(
        matches!(error, Some(ModelError::Rejected { status: 302, .. })),
        "no redirect is followed: {error:?}"
    );
}

#[tokio::test]
async fn a_success_without_a_stream_is_an_error() {
    let (_, error) =
        answered(Reply::body(200, "application/json", r#"{"error":{"message":"m","code":"x"}}"#)).await;
    assert_eq!(error.unwrap().class(), FailureClass::InBand);
    let (_, error) = answered(Reply::body(200, "text/html", "<html>")).await;
    assert_eq!(error.unwrap().class(), FailureClass::Malformed);
}

#[tokio::test]
async fn a_finished_message_needs_nothing_more() {
    let ends = |reply: Reply| async move {
        let (events, error) = answered(reply).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(events.last(), Some(&ModelEvent::Finish(FinishReason::EndTurn)));
        events.iter().any(|e| matches!(e, ModelEvent::Usage(_)))
    };
    let finished = || Reply::text("done").cut_after(3);
    assert!(!ends(finished()).await, "neither usage nor the end mark came");
    assert!(!ends(finished().abort()).await);
    assert!(!ends(finished().hang()).await);
    assert!(ends(Reply::text("done").hang()).await, "nothing is awaited after the end mark");
}

#[tokio::test]
async fn no_trace_header_is_sent_outside_a_trace() {
    let upstream = Upstream::start().await.unwrap();
    upstream.enqueue(Reply::text("hello"));
    hear(&client(&upstream.base_url(), QUICK)).await;
    assert!(upstream.requests()[0].headers.get("traceparent").is_none());
}

#[test]
fn a_bad_endpoint_is_refused_before_the_first_call() {
    let config = |url: &str| OpenAiConfig {
        base_url: Url::parse(url).unwrap(),
        api_key: None,
        provider: "test".into(),
        proxy: None,
        timeouts: QUICK,
    };
    for url in ["ftp://a/v1", "http://user:pw@a/v1", "http://a/v1?key=1", "http://a/v1#x", "file:///v1"] {
        assert!(matches!(OpenAi::new(&config(url)), Err(ConfigError::BaseUrl)), "{url}");
    }
    let bad_key = OpenAiConfig { api_key: Some("a\nb".into()), ..config("http://a/v1") };
    assert!(matches!(OpenAi::new(&bad_key), Err(ConfigError::ApiKey)));
    assert_eq!(OpenAi::new(&config("http://a/v1/")).unwrap().endpoint(), "http://a/v1");
}

#[test]
fn the_configuration_has_defaults_and_no_unknown_keys() {
    let read = |text: &str| serde_json::from_str::<OpenAiConfig>(text);
    let config = read(r#"{"base_url": "https://api.openai.com/v1", "timeouts": {"idle": "30s"}}"#).unwrap();
    assert_eq!(config.provider, "openai");
    assert_eq!(config.timeouts, Timeouts { idle: Duration::from_secs(30), ..Timeouts::default() });
    assert!(read(r#"{"base_url": "https://a/v1", "baseurl": "x"}"#).is_err());
}
