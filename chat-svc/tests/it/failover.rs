//! Tests failover: a scripted upstream fails in every way that [`ways`] lists, and the next model of the
//! route answers.
//!
//! Both models speak Chat Completions over real sockets. The turn always completes, and the text that a
//! client sees after applying every `reset` is the stored text.

use std::time::Duration;

use chat_svc::{
    Config,
    testing::{
        ModelSection, OpenAiConfig, Timeouts,
        scripted::{Reply, Upstream},
    },
};
use serde_json::json;
use steward_proto::chat::v1::{InputPolicy, MessageRole};

use crate::plane::{Plane, assert_whole, count, visible_text};

/// Answer of the healthy model.
const ANSWER: &str = "all is well again";
/// Text of the failing model before it fails.
const BEGUN: &str = "one two three ";
/// Idle timeout of both models: long for a loopback connection, short for a test.
const IDLE: Duration = Duration::from_millis(400);

/// A way in which the first model fails, and the number of resets that clients see.
struct Way {
    name: &'static str,
    /// Replies to its requests in order; the last one repeats. Without replies, no server listens at its URL.
    replies: Vec<Reply>,
    resets: usize,
    cause: &'static str,
}

fn way(name: &'static str, replies: Vec<Reply>, resets: usize, cause: &'static str) -> Way {
    Way { name, replies, resets, cause }
}

/// Returns the failures of the first model: before its first visible token, after it, or in the step after a
/// committed one.
fn ways() -> Vec<Way> {
    let (silent, spoken) = (Reply::stream, || Reply::stream().say(BEGUN));
    let step = || {
        let calls = Reply::stream().say("looking ").call(0, "c1", "shell", &json!({ "command": "true" }));
        calls.finish("tool_calls")
    };
    let (limited, failed) =
        (|| Reply::refusal(429, "rate_limit_exceeded", "slow"), || Reply::refusal(500, "server_error", "oh"));
    let malformed = "data: {\"choices\": [\n\n";
    vec![
        way("cut before", vec![silent()], 0, ""),
        way("broken off before", vec![silent().abort()], 0, ""),
        way("stalled before", vec![silent().hang()], 0, ""),
        way("malformed before", vec![silent().raw(malformed)], 0, ""),
        way("an error in the stream before", vec![silent().error("server_error", "oh")], 0, ""),
        way("429", vec![limited()], 0, ""),
        way("500", vec![failed()], 0, ""),
        way("refused", vec![], 0, ""),
        way("empty", vec![silent().finish("stop")], 0, ""),
        way("cut after", vec![spoken()], 1, "MODEL_STREAM_CUT"),
        way("broken off after", vec![spoken().abort()], 1, "MODEL_STREAM_CUT"),
        way("stalled after", vec![spoken().hang()], 1, "MODEL_STALLED"),
        way("malformed after", vec![spoken().raw(malformed)], 1, "MODEL_STREAM_MALFORMED"),
        way(
            "429 in the stream",
            vec![spoken().error("rate_limit_exceeded", "slow")],
            1,
            "MODEL_RATE_LIMITED",
        ),
        way("500 in the stream", vec![spoken().error("server_error", "oh")], 1, "MODEL_ERROR"),
        way("429 in the next step", vec![step(), limited()], 0, ""),
        way("500 in the next step", vec![step(), failed()], 0, ""),
        way("empty in the next step", vec![step(), silent().finish("stop")], 0, ""),
        way("cut in the next step", vec![step(), spoken()], 1, "MODEL_STREAM_CUT"),
    ]
}

fn model(base_url: &str) -> ModelSection {
    let timeouts =
        Timeouts { connect: Duration::from_secs(2), first_byte: Duration::from_secs(5), idle: IDLE };
    let endpoint = OpenAiConfig {
        base_url: base_url.parse().unwrap(),
        api_key: None,
        provider: "test".to_owned(),
        proxy: None,
        timeouts,
    };
    ModelSection::OpenAi {
        model: "scripted".to_owned(),
        endpoint: Box::new(endpoint),
        max_output_tokens: None,
        prefill: Some(false),
    }
}

fn routes(config: &mut Config, good: &Upstream, bad: &[String]) {
    config.own.native.retries = 1;
    config.own.native.first_delay = Duration::from_millis(1);
    config.own.models.insert("good".to_owned(), model(&good.base_url()));
    for (number, url) in bad.iter().enumerate() {
        config.own.models.insert(format!("bad-{number}"), model(url));
        config.own.routes.insert(format!("route-{number}"), vec![format!("bad-{number}"), "good".to_owned()]);
    }
}

#[tokio::test]
async fn a_turn_completes_whichever_way_its_first_model_fails() {
    let good = Upstream::start().await.unwrap();
    good.always(Reply::text(ANSWER));
    let (mut upstreams, mut urls) = (Vec::new(), Vec::new());
    for way in ways() {
        let Some(last) = way.replies.last().cloned() else {
            urls.push(Upstream::refusing().await.unwrap());
            continue;
        };
        let upstream = Upstream::start().await.unwrap();
        let first = way.replies.len() - 1;
        way.replies.into_iter().take(first).for_each(|reply| upstream.enqueue(reply));
        upstream.always(last);
        urls.push(upstream.base_url());
        upstreams.push(upstream);
    }
    let plane = Plane::with(|config| routes(config, &good, &urls)).await;
    let mut tenant = plane.tenant();
    for (number, way) in ways().into_iter().enumerate() {
        let name = way.name;
        let session = tenant.session_with(InputPolicy::Queue, &format!("route-{number}")).await;
        let events = tenant.run(&session, "say something").await;
        assert_whole(&events);
        assert_eq!(
            events.last().unwrap().kind,
            "turn.completed",
            "{name}: {:?}",
            events.last().unwrap().json()
        );
        assert_eq!(count(&events, "reset"), way.resets, "{name}");
        for reset in events.iter().filter(|event| event.kind == "reset") {
            assert_eq!(reset.json()["cause"], way.cause, "{name}");
        }
        let seen = visible_text(&events);
        assert!(seen.ends_with(ANSWER) && !seen.contains(BEGUN), "{name}: {seen:?}");
        let messages = tenant.messages(&session).await;
        let answers = messages.iter().filter(|message| message.role() == MessageRole::Assistant);
        let stored: String = answers.map(|message| message.text.as_str()).collect();
        assert_eq!(seen, stored, "{name}");
    }
    assert_eq!(good.requests().len(), ways().len(), "the healthy model answers each turn once");
}
