//! Tests bad requests to the whole plane: each answer names the fault and reveals nothing else, and no
//! request has an effect.
//!
//! Sends a table of requests to one cluster. After every request each table of the database must have as many
//! rows as before. At the end no process may have logged an error, and no process may have connected to the
//! target of a symbolic link.

mod cases;
mod rules;

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, Response, header};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use steward::{api::create_token, plane::Service};
use suite_tests::{
    actors::Tenant,
    cluster::Cluster,
    eventually::{elsewhere, eventually},
};
use tokio::net::UnixListener;

/// An idempotency key with which a session was created.
const KEY: &str = "a-key";
const TIMEOUT: Duration = Duration::from_secs(30);

/// Texts that no answer may contain, in lower case: addresses, programs, paths and sources of the plane, and
/// credentials.
const OURS: [&str; 15] = [
    "127.0.0.1",
    "localhost",
    "postgres",
    "sqlx",
    "redis",
    "tonic",
    "hyper",
    "docker",
    "guest.sock",
    "/proc/",
    "/run/",
    "/tmp/",
    "select ",
    "panicked",
    "stw_",
];

/// A plane with objects that bad requests could harm.
struct Scene {
    cluster: Cluster,
    http: Client,
    /// The owner of all the objects.
    ada: Tenant,
    bob: Tenant,
    session: String,
    /// Two turns that have ended.
    turns: [String; 2],
    /// Cursor of the first turn's last event.
    cursor: String,
    /// A page token of the sessions' listing.
    page: String,
    /// A running sandbox with symbolic links that lead out of its workspace.
    sandbox: String,
    /// A running sandbox; [`Scene::usurp`] replaces the socket of its guest by a symbolic link.
    usurped: String,
    /// A secret with which an agent may register.
    enrolment: String,
    tokens: Tokens,
}

/// Credentials that are invalid, or that have few scopes.
struct Tokens {
    expired: String,
    revoked: String,
    reader: String,
}

/// A bad request and the expected answer.
struct Case {
    what: String,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
}

impl Scene {
    async fn set() -> Self {
        let cluster =
            Cluster::builder().settings(Service::Registry, "outbound.mode = 'strict'").start().await;
        let (ada, bob) = (cluster.tenant("ada").await, cluster.tenant("bob").await);
        let tokens = Tokens::make(&cluster, &ada).await;
        let (session, other) = (ada.session().await, ada.session().await);
        let turns = [ada.begin(&session, "say one").await, ada.begin(&session, "say two").await];
        let seen = ada.watch(&turns[0], "").await;
        ada.watch(&turns[1], "").await;
        let page = ada.api.get("/v1/sessions?page_size=1").await.unwrap();
        let keyed = Client::new().post(format!("{}/v1/sessions", cluster.url)).bearer_auth(&ada.token);
        let keyed =
            keyed.header("idempotency-key", KEY).json(&json!({ "title": "one" })).send().await.unwrap();
        assert_eq!(keyed.status(), 200);
        let agent = ada.api.post("/v1/agents", &json!({ "name": "pusher" })).await.unwrap();
        let sandbox = sandbox(&ada, &session).await;
        let links = "ln -s /etc/passwd passwd && ln -s / root && mkdir folder && echo kept > file";
        let command = json!({ "key": "links", "argv": ["sh", "-c", links] });
        let made = ada.api.post(&format!("/v1/sandboxes/{sandbox}/execs"), &command).await.unwrap();
        assert_eq!(made["exec"]["exitCode"].as_i64().unwrap_or(0), 0, "{made}");
        // The caller loses the answer and repeats the request, as the same idempotency key allows: the
        // command must run once.
        let counted = json!({ "argv": ["sh", "-c", "echo once >> counted"] });
        for _ in 0..2 {
            let url = format!("/v1/sandboxes/{sandbox}/execs");
            let ran = ada.api.post_once(&url, &counted, KEY).await.unwrap();
            assert_eq!(ran["exec"]["state"], "EXEC_STATE_FINISHED", "{ran}");
        }
        let usurped = self::sandbox(&ada, &other).await;
        Self {
            http: Client::new(),
            session,
            turns,
            cursor: seen.frames.last().unwrap().id.clone(),
            page: page["nextPageToken"].as_str().unwrap().to_owned(),
            sandbox,
            usurped,
            enrolment: agent["enrolment"]["secret"].as_str().unwrap().to_owned(),
            tokens,
            cluster,
            ada,
            bob,
        }
    }

    fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.cluster.url)).bearer_auth(token)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(&self.ada.token, Method::GET, path)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(&self.ada.token, Method::POST, path).json(body)
    }

    fn text(&self, path: &str, body: &str) -> RequestBuilder {
        let request = self.request(&self.ada.token, Method::POST, path);
        request.header(header::CONTENT_TYPE, "application/json").body(body.to_owned())
    }

    /// Replaces the socket of a sandbox's guest by a symbolic link to another socket of the host. Returns a
    /// counter of the connections to that socket.
    async fn usurp(&self) -> Arc<AtomicUsize> {
        let mut db = PgConnection::connect(&self.cluster.database.admin_url().unwrap()).await.unwrap();
        let query = "SELECT container_run_dir FROM sandbox.sandboxes WHERE id = $1::text::uuid";
        let directory: String =
            sqlx::query_scalar(query).bind(&self.usurped).fetch_one(&mut db).await.unwrap();
        db.close().await.unwrap();
        let socket = self.cluster.home().join("state/sandbox").join(directory).join("guest.sock");
        fs::remove_file(&socket).unwrap();
        let precious = self.cluster.home().join("precious.sock");
        let listener = UnixListener::bind(&precious).unwrap();
        symlink(&precious, &socket).unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let counted = connections.clone();
        drop(elsewhere(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }));
        connections
    }
}

impl Tokens {
    async fn make(cluster: &Cluster, tenant: &Tenant) -> Self {
        let admin = cluster.admin();
        let make = async |scopes: &[&str], ttl: Option<&str>| {
            let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            create_token(&admin, &tenant.account, "second", &scopes, ttl).await.unwrap()
        };
        let (expired, revoked) = (make(&[], Some("0.2s")).await, make(&[], None).await);
        let tokens = format!("/v1/accounts/{}/tokens", tenant.account);
        let listed = tenant.api.get(&tokens).await.unwrap();
        let prefix = |token: &Value| token["prefix"].as_str().unwrap().to_owned();
        let second =
            listed["tokens"].as_array().unwrap().iter().find(|token| revoked.starts_with(&prefix(token)));
        let path = format!("{}{tokens}/{}", cluster.url, second.unwrap()["tokenId"].as_str().unwrap());
        let gone = Client::new().delete(path).bearer_auth(&tenant.token).send().await.unwrap();
        assert_eq!(gone.status(), 200);
        let reader = make(&["sessions:read"], None).await;
        // Waits until the token with a lifetime of 0.2 s has expired. The revoked token needs no wait: it was
        // never used, so the gateway has not cached it as valid.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Self { expired, revoked, reader }
    }
}

/// Requests a session's sandbox and returns its id once it runs.
async fn sandbox(tenant: &Tenant, session: &str) -> String {
    let made = tenant.api.post("/v1/sandboxes", &json!({ "sessionId": session })).await.unwrap();
    let id = made["sandbox"]["sandboxId"].as_str().unwrap().to_owned();
    let runs = async || {
        let now = tenant.api.get(&format!("/v1/sandboxes/{id}?wait=20s")).await.unwrap();
        (now["sandbox"]["state"] == "SANDBOX_STATE_RUNNING").then_some(())
    };
    eventually("a sandbox", TIMEOUT, runs).await;
    id
}

/// Returns the difference between an answer and the expected one, if there is one.
async fn defect(response: Response, case: &Case) -> Option<String> {
    let status = response.status().as_u16();
    let header = |name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (kind, request_id) = (header("content-type"), header("x-request-id"));
    let text = response.text().await.unwrap();
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let lower = text.to_lowercase();
    let right = kind == "application/problem+json"
        && status == case.status
        && document["status"] == json!(status)
        && document["code"] == case.code
        && document["errors"][0]["field"].as_str() == case.field
        && document["retryable"] == false
        && !request_id.is_empty()
        && document["request_id"] == json!(request_id);
    let leaked = OURS.iter().find(|ours| lower.contains(*ours));
    let Case { what, code, field, .. } = case;
    let wanted = (case.status, code, field);
    (!right || leaked.is_some())
        .then(|| format!("{what}: {status} {kind} {text}, leaked {leaked:?}, wanted {wanted:?}"))
}

#[tokio::test]
async fn a_bad_request_learns_its_fault_and_leaves_nothing() {
    let scene = Scene::set().await;
    // No call may have reached the guest of this sandbox before, because a connection that is open would
    // still work after the socket was replaced.
    let connections = scene.usurp().await;
    let cases = scene.cases();
    assert!(cases.len() >= 40, "{}", cases.len());
    let before = scene.cluster.rows().await;
    assert!(before.values().sum::<i64>() > 0);
    let mut defects = Vec::new();
    for case in cases {
        let answer = case.request.try_clone().unwrap().send().await.unwrap();
        defects.extend(defect(answer, &case).await);
        let after = scene.cluster.rows().await;
        if after != before {
            let changed: Vec<_> =
                after.iter().filter(|(table, rows)| before.get(*table) != Some(*rows)).collect();
            defects.push(format!("{}: rows of {changed:?}", case.what));
        }
    }
    assert!(defects.is_empty(), "{}", defects.join("\n"));
    assert_eq!(connections.load(Ordering::Relaxed), 0, "the link was followed");

    let sandbox = &scene.sandbox;
    // The objects are unchanged.
    let kept = scene.ada.api.get(&format!("/v1/sandboxes/{sandbox}/files:read?path=file")).await.unwrap();
    assert_eq!(kept["content"], "a2VwdAo=");
    let counted =
        scene.ada.api.get(&format!("/v1/sandboxes/{sandbox}/files:read?path=counted")).await.unwrap();
    assert_eq!(counted["content"], "b25jZQo=", "a repeated request ran its command again");
    assert!(scene.ada.say(&scene.session, "say still here").await.text().contains("still here"));
    let logs = scene.cluster.logs();
    let errors: Vec<&str> = logs.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    scene.cluster.stop().await;
}
