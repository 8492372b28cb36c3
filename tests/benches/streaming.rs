//! Measures the delay that Steward adds to a model's stream. 200 clients watch 200 turns on a plane of real
//! processes. For the baseline, 200 clients read the same upstream through a proxy that stores nothing.
//!
//! The upstream speaks the wire format of a real model and writes the time of sending into every chunk, so
//! that the receiver knows each chunk's age. No stream sends before all are open, and the first and last
//! chunks of a stream are not measured: the benchmark measures 200 streams in progress, not 200 that begin or
//! end together. It compares the 99th percentiles of a round. A chunk through the plane is committed before
//! it is shown, so the plane is allowed one commit and 2 ms more than the proxy. The time of a commit is
//! measured in the same round by an independent client that inserts single rows at times of its own. The
//! benchmark also prints the processor time that an event costs in the gateway and chat-svc.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark talks to a person and may fail")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::{Client, header};
use serde_json::json;
use sqlx::PgConnection;
use steward::plane::Service;
use suite_tests::{actors::Tenant, cluster::Cluster};
use svc_core::testing::bench::{Floor, ROUNDS, compare, median, milliseconds};
use tokio::{net::TcpListener, sync::Barrier, task::JoinSet};

const STREAMS: usize = 200;
/// Chunks of each stream that are measured.
const CHUNKS: u32 = 60;
/// Chunks at the beginning of each stream, and again at its end, that are not measured.
const AROUND: u32 = 10;
/// Time between two chunks of one stream: 10 chunks a second, 2,000 over all streams. The machine also runs
/// the upstream, the clients and the servers. At a rate that uses all of its processors, the benchmark would
/// measure the wait for a processor, not the plane.
const PACE: Duration = Duration::from_millis(100);
const ALLOWANCE: Duration = Duration::from_millis(2);
/// Inserts a second that the independent client schedules. If one is late, the next still counts from its own
/// scheduled time.
const COMMITS: u32 = 200;
/// Byte in front of the time at which a chunk was sent, in microseconds since [`START`].
const MARK: u8 = b'@';

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// All streams and the client that commits wait here, so that they begin together.
static ALL_OPEN: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(STREAMS + 1));

fn main() -> ExitCode {
    LazyLock::force(&START);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if runtime.block_on(measure()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure() -> bool {
    let mut servers = JoinSet::new();
    let upstream = serve(&mut servers, Router::new().route("/v1/chat/completions", post(speak))).await;
    let upstream = format!("http://{upstream}/v1/chat/completions");
    let proxy = Router::new().route("/", post(pass_on)).with_state((Client::new(), upstream.clone()));
    let proxy = format!("http://{}/", serve(&mut servers, proxy).await);
    let base = upstream.trim_end_matches("/chat/completions");
    let model = format!(
        "models.upstream = {{ api = 'openai', model = 'clock', endpoint = {{ base_url = '{base}' }} }}\n\
         routes.default = ['upstream']"
    );
    let limits = "streams.max_per_principal = 1000\nrate_limit.burst = 10000\nrate_limit.per_second = 10000";
    let mut cluster = Cluster::builder()
        .production_times()
        .settings(Service::Chat, &model)
        .settings(Service::Gateway, limits)
        .start()
        .await;
    let tenant = cluster.tenant("bench").await;

    let (mut ours, mut allowed, mut bare, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut edge, mut chat) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = Reading::take(&mut cluster).await;
        let rows = commit_rows(cluster.administrator().await);
        let (ages, committed) = tokio::join!(through_the_plane(&tenant), rows);
        ours.push(percentile_99(ages));
        let after = Reading::take(&mut cluster).await;
        let events = after.events - before.events;
        edge.push((after.gateway - before.gateway).as_secs_f64() / events);
        chat.push((after.chat - before.chat).as_secs_f64() / events);
        let commit = percentile_99(committed);
        commits.push(commit);
        let (ages, _) = tokio::join!(through_the_proxy(&proxy), ALL_OPEN.wait());
        let proxied = percentile_99(ages);
        bare.push(proxied);
        allowed.push(proxied + commit + ALLOWANCE.as_secs_f64());
    }
    cluster.stop().await;

    let met = compare(
        "streaming, p99 of a chunk at 200 streams",
        &mut ours,
        ("bare proxy + one commit + 2 ms", &mut allowed),
        Floor::AtMost(1.0),
        milliseconds,
    );
    println!("  p99 of a bare proxy {}, of a bare commit {}", show(&mut bare), show(&mut commits));
    println!("  processor time of an event: gateway {}, chat-svc {}", show(&mut edge), show(&mut chat));
    met
}

fn show(seconds: &mut [f64]) -> String {
    milliseconds(median(seconds))
}

/// Counters of the plane's processes, read at one moment.
struct Reading {
    gateway: Duration,
    chat: Duration,
    events: f64,
}

impl Reading {
    async fn take(cluster: &mut Cluster) -> Self {
        let mut db = cluster.administrator().await;
        let events: i64 =
            sqlx::query_scalar("SELECT count(*) FROM chat.turn_events").fetch_one(&mut db).await.unwrap();
        Self {
            gateway: cluster.process("gateway").processor_time(),
            chat: cluster.process("chat").processor_time(),
            #[expect(clippy::cast_precision_loss, reason = "far below the precision's end")]
            events: events as f64,
        }
    }
}

/// Measures how long single-row inserts take to commit, in seconds, while the measured chunks are sent. Each
/// time counts from the moment for which the insert was scheduled, so it includes a delay by the insert
/// before it, as the age of a chunk does.
async fn commit_rows(mut db: PgConnection) -> Vec<f64> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS bare_commits (content text)").execute(&mut db).await.unwrap();
    ALL_OPEN.wait().await;
    let period = Duration::from_secs(1) / COMMITS;
    let (begin, counted) = (PACE * AROUND, PACE * CHUNKS);
    let mut due = tokio::time::Instant::now() + begin;
    let end = due + counted;
    let mut ages = Vec::new();
    while due < end {
        // The time is random in each period, so that the commits do not coincide with the chunks.
        let this = due + period.mul_f64(rand::random::<f64>());
        tokio::time::sleep_until(this).await;
        sqlx::query("INSERT INTO bare_commits VALUES ('a token')").execute(&mut db).await.unwrap();
        ages.push(this.elapsed().as_secs_f64());
        due += period;
    }
    ages
}

async fn serve(servers: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// The upstream: sends a chunk every [`PACE`], with the time of sending.
async fn speak() -> Response {
    const LAST: u32 = CHUNKS + 2 * AROUND;
    let chunks = stream::unfold((0, tokio::time::Instant::now()), |(number, due)| async move {
        let due = if number == 0 {
            ALL_OPEN.wait().await;
            // Streams that begin together would send together, which real models do not.
            tokio::time::Instant::now() + PACE.mul_f64(rand::random::<f64>())
        } else {
            due
        };
        tokio::time::sleep_until(due).await;
        let delta = match number {
            LAST => json!({}),
            number if number > LAST => return None,
            number if (AROUND..AROUND + CHUNKS).contains(&number) => {
                json!({ "content": format!("a token{}{} ", char::from(MARK), now()) })
            }
            _ => json!({ "content": "a token or so " }),
        };
        let finish = (number == LAST).then_some("stop");
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk =
            json!({ "id": "c", "object": "chat.completion.chunk", "model": "clock", "choices": [choice] });
        let end = if number == LAST { "data: [DONE]\n\n" } else { "" };
        Some((Ok::<_, Infallible>(format!("data: {chunk}\n\n{end}")), (number + 1, due + PACE)))
    });
    event_stream(chunks.map(|chunk| chunk.map(Bytes::from)))
}

/// The baseline: a proxy that passes the upstream's bytes on.
async fn pass_on(State((client, upstream)): State<(Client, String)>, body: Bytes) -> Response {
    let answer = client.post(upstream).header(header::CONTENT_TYPE, "application/json").body(body);
    event_stream(answer.send().await.unwrap().bytes_stream())
}

fn event_stream<E>(chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Response
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let response = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
    response.body(Body::from_stream(chunks)).unwrap()
}

fn now() -> u128 {
    START.elapsed().as_micros()
}

/// Starts a turn for each stream and returns the ages of all measured chunks, in seconds.
async fn through_the_plane(tenant: &Tenant) -> Vec<f64> {
    let client = Client::new();
    let mut turns = JoinSet::new();
    for _ in 0..STREAMS {
        let (tenant, client) = (tenant.clone(), client.clone());
        turns.spawn(async move {
            let session = tenant.session().await;
            let url = format!("{}/v1/sessions/{session}/turns:run", tenant.api.url());
            let request =
                client.post(url).bearer_auth(&tenant.token).header(header::ACCEPT, "text/event-stream");
            ages(request.json(&json!({ "input": "speak" })).send().await.unwrap()).await
        });
    }
    turns.join_all().await.concat()
}

async fn through_the_proxy(proxy: &str) -> Vec<f64> {
    let client = Client::new();
    let mut calls = JoinSet::new();
    for _ in 0..STREAMS {
        let request = client.post(proxy).json(&json!({ "model": "clock", "stream": true, "messages": [] }));
        calls.spawn(async move { ages(request.send().await.unwrap()).await });
    }
    calls.join_all().await.concat()
}

/// Reads a stream to its end and returns the age of every measured chunk at its arrival.
async fn ages(mut answer: reqwest::Response) -> Vec<f64> {
    assert!(answer.status().is_success(), "{answer:?}");
    let (mut ages, mut tail) = (Vec::new(), Vec::new());
    while let Some(bytes) = answer.chunk().await.unwrap() {
        let arrived = now();
        tail.extend_from_slice(&bytes);
        while let Some(mark) = memchr::memchr(MARK, &tail) {
            let Some(end) = memchr::memchr(b' ', &tail[mark..]) else { break };
            let sent: u128 = std::str::from_utf8(&tail[mark + 1..mark + end]).unwrap().parse().unwrap();
            let age = u64::try_from(arrived - sent).unwrap();
            ages.push(Duration::from_micros(age).as_secs_f64());
            tail.drain(..mark + end);
        }
    }
    assert_eq!(ages.len(), CHUNKS as usize, "{}", String::from_utf8_lossy(&tail));
    ages
}

fn percentile_99(mut ages: Vec<f64>) -> f64 {
    ages.sort_by(f64::total_cmp);
    ages[ages.len() * 99 / 100]
}
