//! Tests that an erasure is complete: before it, the search ([`suite_tests::residue`]) finds a tenant's text
//! in each place that stores it; after it, in no place.
//!
//! The search itself is tested first: it must find a planted text in each kind of place, also in places where
//! Steward stores no such text, such as logs, traces, Redis and images.

use std::{collections::BTreeSet, fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use serde_json::{Value, json};
use suite_tests::{
    actors::{Tenant, refusal},
    cluster::{Cluster, image},
    eventually::eventually,
    residue::{Needles, Places, assert_found, docker::Engine},
};
use svc_core::id::new_id;
use tokio::task::JoinSet;

const PURGED_WITHIN: Duration = Duration::from_secs(60);

/// Returns a text that occurs nowhere else.
fn marker(kind: &str) -> String {
    format!("{kind}-{}", new_id().simple())
}

async fn sandbox_of(tenant: &Tenant, session: &str) -> String {
    let listed = tenant.api.get(&format!("/v1/sandboxes?session_id={session}")).await.unwrap();
    listed["sandboxes"][0]["sandboxId"].as_str().unwrap().to_owned()
}

/// Waits until a purge is committed, and returns it.
pub(crate) async fn committed(tenant: &Tenant, purge: &str) -> Value {
    let look = async || {
        let purge = tenant.api.get(&format!("/v1/purges/{purge}")).await.unwrap()["purge"].clone();
        (purge["state"] == "PURGE_STATE_COMMITTED").then_some(purge)
    };
    eventually("a committed purge", PURGED_WITHIN, look).await.0
}

/// Requests a session's purge and returns its id.
pub(crate) async fn purge(tenant: &Tenant, session: &str) -> String {
    let answer = tenant.api.post(&format!("/v1/sessions/{session}:purge"), &json!({})).await.unwrap();
    answer["purge"]["purgeId"].as_str().unwrap().to_owned()
}

/// Stops every process, so that all telemetry is sent and all files are written, and searches again.
async fn stays_gone(mut cluster: Cluster, texts: &[&str]) {
    cluster.stop_processes().await;
    cluster.assert_captured();
    assert_eq!(cluster.search(texts).await, Places::new());
    cluster.stop().await;
}

/// Sends a text as a span's attribute, as a log's body and as a metric's label.
async fn export(url: &str, text: &str) {
    let text = AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
    let attributes =
        vec![KeyValue { key: "planted".to_owned(), value: Some(text.clone()), ..Default::default() }];

    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![1; 8],
        attributes: attributes.clone(),
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..Default::default() }];
    let mut spans = TraceServiceClient::connect(url.to_owned()).await.unwrap();
    spans.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();

    let log_records = vec![LogRecord { body: Some(text), ..Default::default() }];
    let scope_logs = vec![ScopeLogs { log_records, ..Default::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
    let mut logs = LogsServiceClient::connect(url.to_owned()).await.unwrap();
    logs.export(ExportLogsServiceRequest { resource_logs }).await.unwrap();

    let gauge = Gauge { data_points: vec![NumberDataPoint { attributes, ..Default::default() }] };
    let metric = Metric { data: Some(metric::Data::Gauge(gauge)), ..Default::default() };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..Default::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
    let mut metrics = MetricsServiceClient::connect(url.to_owned()).await.unwrap();
    metrics.export(ExportMetricsServiceRequest { resource_metrics }).await.unwrap();
}

#[tokio::test]
async fn the_search_finds_a_text_planted_in_each_kind_of_place() {
    let cluster = Cluster::builder().captured().start().await;
    let planted = marker("planted");
    export(&cluster.otlp_url, &planted).await;

    let client = redis::Client::open(cluster.redis_url.as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    // The text is long and repetitive, so that Redis would compress it.
    let long = format!("{}{planted}", "x".repeat(2000));
    let mut pipeline = redis::pipe();
    pipeline.set("scratch-text", &long).hset("scratch-hash", "field", &planted);
    pipeline.zadd("scratch-set", &planted, 1).set(format!("scratch-{planted}"), 1);
    pipeline.exec_async(&mut redis).await.unwrap();

    for directory in ["logs", "traces", "state/sandbox/scratch"] {
        let directory = cluster.home().join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("scratch"), &planted).unwrap();
    }
    fs::write(cluster.home().join("logs").join(&planted), "").unwrap();

    // Uses a separate installation label, because this plane would remove a container of its own installation
    // that has no row.
    let docker = Engine { host: cluster.engine.host().to_owned() };
    let scratch = format!("{}-scratch", cluster.installation());
    let label = format!("steward.installation={scratch}");
    let base = image(cluster.engine.host());
    let local = cluster.home().join("planted.txt");
    fs::write(&local, BASE64.encode(format!("..{planted}."))).unwrap();
    let local = local.display().to_string();
    let volume = format!("{scratch}-volume");
    docker.run(&["volume", "create", "--label", &label, &volume]).await;
    let mount = format!("{volume}:/workspace");
    let secret = format!("SECRET={planted}");
    let run = ["run", "--detach", "--network", "none", "--label", &label, "--volume", &mount];
    let shell = format!("echo {planted}; exec sleep 600");
    let container = docker
        .line(&[&run[..], &["--tmpfs", "/tmp", "--env", &secret, &base, "sh", "-c", &shell]].concat())
        .await;
    docker.run(&["cp", &local, &format!("{container}:/planted.txt")]).await;
    docker.run(&["cp", &local, &format!("{container}:/workspace/planted.txt")]).await;
    docker.run(&["commit", "--change", &format!("LABEL {label}"), &container, &scratch]).await;

    let mut found = cluster.search(&[&planted]).await;
    cluster.search_docker(&scratch, &Needles::new(&[&planted]), &mut found).await;
    docker.run(&["rm", "--force", &container]).await;
    docker.run(&["volume", "rm", &volume]).await;
    docker.run(&["rmi", &scratch]).await;
    let log = format!("file logs/{planted}");
    let expected = [
        "key scratch-text",
        "key scratch-hash",
        "key scratch-set",
        "key scratch-planted",
        "file logs/scratch",
        "file traces/scratch",
        "file state/sandbox/scratch/scratch",
        "file planted.txt",
        "file captured/spans",
        "file captured/logs",
        "file captured/metrics",
        &log,
        "container record",
        "container layer",
        "container output",
        "container inside",
        "volume",
        "image",
    ];
    assert_found(&found, &expected.map(|place| (planted.as_str(), place)));
    cluster.stop().await;
}

#[tokio::test]
async fn a_purged_session_is_gone_and_its_receipt_names_the_readers() {
    let cluster = Cluster::builder().captured().start().await;
    let (tenant, admin) = (cluster.tenant("forgotten").await, cluster.admin());
    let [title, said, key, body] = ["title", "said", "key", "body"].map(marker);
    let [file, exec, env, memory, purge_key] = ["file", "exec", "env", "memory", "purge"].map(marker);
    let (half, other) = (marker("half"), marker("other"));
    let output = format!("{half}{other}");

    let made = tenant.api.post_once("/v1/sessions", &json!({"title": title}), &format!("s-{key}")).await;
    let session = made.unwrap()["session"]["sessionId"].as_str().unwrap().to_owned();
    let kept = tenant.session().await;
    let stays = marker("stays");
    tenant.say(&kept, &format!("write kept.txt {stays}")).await;

    tenant.say(&session, &format!("remember {said}")).await;
    tenant.say(&session, &format!("write secret.txt {file}")).await;
    // The tool's output occurs in no input.
    tenant.say(&session, &format!("run printf '%s%s' {half} {other}")).await;
    let turns = format!("/v1/sessions/{session}/turns");
    let turn = tenant.api.post_once(&turns, &json!({"input": format!("say {body}")}), &key).await.unwrap();
    tenant.watch(turn["turn"]["turnId"].as_str().unwrap(), "").await.assert_whole();

    // Starts a call that still runs during the purge, with a secret in its environment and one in a memory
    // filesystem.
    let sandbox = sandbox_of(&tenant, &session).await;
    let command = format!("echo {memory} > /tmp/secret; exec sleep 600");
    let request = json!({
        "key": exec, "argv": ["sh", "-c", command], "env": {"SECRET": env}, "timeout": "900s",
    });
    let mut under_way = JoinSet::new();
    let (api, execs) = (tenant.api.clone(), format!("/v1/sandboxes/{sandbox}/execs"));
    under_way.spawn(async move { api.post(&execs, &request).await });

    // A hold keeps the purge from erasing anything until the search below has found every text.
    let hold = json!({
        "sessionId": session, "basis": "HOLD_BASIS_LEGAL_CLAIM", "reference": "case/1",
        "endsAt": "2100-01-01T00:00:00Z",
    });
    let hold = admin.post("/v1/holds", &hold).await.unwrap();
    let asked = tenant.api.post_once(&format!("/v1/sessions/{session}:purge"), &json!({}), &purge_key).await;
    let id = asked.unwrap()["purge"]["purgeId"].as_str().unwrap().to_owned();

    let texts: Vec<&str> = [&title, &said, &key, &body, &file, &output, &exec, &env, &memory, &purge_key]
        .map(String::as_str)
        .into();
    let expected = [
        (title.as_str(), "row chat.sessions"),
        (&said, "row chat.messages"),
        (&said, "row chat.turn_events"),
        (&body, "row chat.messages"),
        (&key, "row chat.idempotency_keys"),
        (&file, "row chat.tool_calls"),
        (&file, "volume steward-workspace-"),
        (&output, "row sandbox.execs"),
        (&output, "row chat.messages"),
        (&exec, "row sandbox.execs"),
        (&env, "container inside"),
        (&memory, "container inside"),
        (&purge_key, "row purge.idempotency_keys"),
    ];
    let started = async || {
        let found = cluster.search(&[&memory]).await;
        found.values().flatten().any(|place| place.starts_with("container inside")).then_some(())
    };
    eventually("the call under way", Duration::from_secs(20), started).await;
    assert_found(&cluster.search(&texts).await, &expected);

    let hold = hold["hold"]["holdId"].as_str().unwrap();
    admin.post(&format!("/v1/holds/{hold}:release"), &json!({})).await.unwrap();
    let purge = committed(&tenant, &id).await;
    assert!(under_way.join_next().await.unwrap().unwrap().is_err(), "a call ends with its sandbox");
    assert_eq!(cluster.search(&texts).await, Places::new());

    let custodians = purge["receipt"]["custodians"].as_array().unwrap();
    let services: BTreeSet<&str> =
        custodians.iter().map(|custodian| custodian["service"].as_str().unwrap()).collect();
    assert_eq!(services, BTreeSet::from(["chat-svc", "registry-svc", "sandbox-svc"]));
    let ledger = admin.get("/v1/erasure-ledger:check").await.unwrap();
    assert_eq!((&ledger["receipts"], ledger["problem"].as_str().unwrap_or("")), (&json!("1"), ""));
    assert_eq!(refusal(tenant.api.get(&format!("/v1/sessions/{session}")).await).status, 404);
    assert_eq!(refusal(tenant.api.post(&turns, &json!({"input": "again"})).await).status, 404);
    assert_eq!(refusal(tenant.api.get(&format!("/v1/sandboxes/{sandbox}")).await).status, 404);
    // Another session of the same tenant keeps its data.
    assert_found(&cluster.search(&[&stays]).await, &[(&stays, "volume steward-workspace-")]);
    assert!(tenant.say(&kept, "read kept.txt").await.text().contains(&stays));
    stays_gone(cluster, &texts).await;
}

#[tokio::test]
async fn a_turn_and_an_upload_in_flight_leave_nothing() {
    let cluster = Cluster::builder().captured().start().await;
    let tenant = cluster.tenant("hasty").await;
    let session = tenant.session().await;
    let [streamed, shell, upload] = ["streamed", "shell", "upload"].map(marker);
    tenant.say(&session, "run true").await.assert_whole();
    let sandbox = sandbox_of(&tenant, &session).await;

    // Uploads without pause in four tasks, each until one upload is refused.
    let mut uploads = JoinSet::new();
    for writer in 0..4 {
        let (api, path) = (tenant.api.clone(), format!("/v1/sandboxes/{sandbox}/files:write"));
        let content = BASE64.encode(format!("{upload}\n").repeat(10_000));
        uploads.spawn(async move {
            let mut number = 0;
            loop {
                number += 1;
                let body = json!({"path": format!("{writer}-{number}.txt"), "content": content});
                if let Err(refused) = api.post(&path, &body).await {
                    return refused;
                }
            }
        });
    }
    // Starts a turn with a command that writes without end, and queues a turn behind it.
    let running = tenant
        .begin(&session, &format!("run while true; do echo {shell} | tee -a loop.txt; sleep 0.01; done"))
        .await;
    let queued = tenant.begin(&session, &format!("say {streamed}")).await;
    let writes = async || {
        let found = cluster.search(&[&shell, &upload, &streamed]).await;
        let volume = |text: &String| {
            found.get(text).is_some_and(|places| places.iter().any(|place| place.starts_with("volume ")))
        };
        (volume(&shell) && volume(&upload) && found.contains_key(&streamed)).then_some(())
    };
    eventually("a turn and uploads that write", Duration::from_secs(30), writes).await;

    let id = purge(&tenant, &session).await;
    committed(&tenant, &id).await;
    while let Some(refused) = uploads.join_next().await {
        let refused = refusal::<()>(Err(refused.unwrap()));
        assert!(refused.status >= 400, "{refused}");
    }
    let texts = [shell.as_str(), &upload, &streamed];
    assert_eq!(cluster.search(&texts).await, Places::new());
    for turn in [running, queued] {
        assert_eq!(refusal(tenant.api.get(&format!("/v1/turns/{turn}")).await).status, 404);
    }
    assert_eq!(cluster.containers().await, []);
    stays_gone(cluster, &texts).await;
}
