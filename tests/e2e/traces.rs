//! Tests that one turn is one trace over all processes that it uses: each service has spans, its SQL and its
//! calls to the container engine are in the trace, and no span lacks a parent.
//!
//! Processes send their spans over OTLP to the cluster's receiver. The test first stops every process,
//! because a process sends its remaining spans when it stops; a span that is missing afterwards was not
//! recorded.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde_json::json;
use sqlx::{Connection, PgConnection};
use steward::{
    api::{Api, create_token},
    plane::Service,
    traces::{Span, render},
};
use suite_tests::{
    actors::Tenant,
    cluster::Cluster,
    eventually::{elsewhere, eventually},
};
use svc_core::id::new_id;

/// The services through which a turn with a tool call goes; each except the gateway has a database.
const HOPS: [&str; 4] = ["gateway", "chat-svc", "sandbox-svc", "registry-svc"];

const TIMEOUT: Duration = Duration::from_secs(30);

/// All spans of a trace, by id.
struct Trace(BTreeMap<String, Span>);

impl Trace {
    /// Stops every running process, so that each sends its last spans, and reads the spans of a trace.
    async fn of(cluster: &mut Cluster, trace_id: &str) -> Self {
        cluster.stop_processes().await;
        let spans = cluster.traces.spans(trace_id).unwrap();
        let count = spans.len();
        let spans: BTreeMap<_, _> = spans.into_iter().map(|span| (span.span_id.clone(), span)).collect();
        assert_eq!(spans.len(), count, "a span arrived twice");
        Self(spans)
    }

    fn all(&self) -> impl Iterator<Item = &Span> {
        self.0.values()
    }

    fn parent(&self, span: &Span) -> Option<&Span> {
        self.0.get(&span.parent_span_id)
    }

    /// Returns a span and its ancestors, until one has no parent or the parent is missing.
    fn lineage<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Span> {
        std::iter::successors(Some(span), |span| self.parent(span))
    }

    /// Returns the only span for which `is` holds.
    fn only(&self, what: &str, is: impl Fn(&Span) -> bool) -> &Span {
        let found: Vec<&Span> = self.all().filter(|span| is(span)).collect();
        assert_eq!(found.len(), 1, "{what}\n{self}");
        found[0]
    }

    /// Panics unless every hop has a span.
    fn assert_has_services(&self) {
        for service in HOPS {
            assert!(self.all().any(|span| span.service == service), "no span of {service}\n{self}");
        }
    }

    /// Panics unless every hop has a span, each database was queried, and the engine was called to make a
    /// sandbox.
    fn assert_has_every_part(&self) {
        self.assert_has_services();
        for service in HOPS {
            let spans: Vec<&Span> = self.all().filter(|span| span.service == service).collect();
            let statements: Vec<&&Span> = spans
                .iter()
                .filter(|span| span.attributes.get("db.system.name").is_some_and(|name| name == "postgresql"))
                .collect();
            assert_eq!(statements.is_empty(), service == "gateway", "SQL of {service}\n{self}");
            for statement in statements {
                assert!(
                    statement.attributes["db.query.text"]
                        .contains(&statement.attributes["db.operation.name"])
                );
            }
        }
        for call in self.making() {
            assert_eq!(call.service, "sandbox-svc", "{self}");
            let made = self.lineage(call).any(|span| span.name == "sandbox.make");
            assert!(made, "{} belongs to no making\n{self}", call.name);
        }
    }

    /// Returns the calls to the engine that created and started the only sandbox.
    fn making(&self) -> [&Span; 2] {
        ["/containers/create", "/containers/{id}/start"].map(|path| {
            let call =
                self.only(path, |span| span.attributes.get("url.template").is_some_and(|is| is == path));
            assert_eq!(call.name, format!("POST {path}"));
            call
        })
    }

    /// Panics if one of the texts occurs in a span.
    fn assert_silent_about(&self, secrets: &[&str]) {
        for span in self.all() {
            let text = serde_json::to_string(span).unwrap();
            for secret in secrets {
                assert!(!text.contains(secret), "{secret:?} stands in {text}");
            }
        }
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut spans: Vec<Span> = self.all().cloned().collect();
        spans.sort_by_key(|span| span.start_ns);
        f.write_str(&render(&spans))
    }
}

/// Returns the tenant with a token that is new to the gateway, so that the gateway must ask registry-svc.
async fn unmet(cluster: &Cluster, tenant: &Tenant) -> Tenant {
    let token = create_token(&cluster.admin(), &tenant.account, "unmet", &[], None).await.unwrap();
    Tenant { account: tenant.account.clone(), api: Api::at(&cluster.url, &token).unwrap(), token }
}

#[tokio::test]
async fn a_turn_with_a_tool_call_is_one_tree_through_every_process() {
    let mut cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("tracer").await;
    let session = tenant.session().await;
    let tenant = unmet(&cluster, &tenant).await;
    let secret = format!("secret-{}", new_id().simple());
    let turn = tenant.begin(&session, &format!("run echo {secret}")).await;
    assert!(tenant.watch(&turn, "").await.text().contains(&secret));
    let trace_id = tenant.turn(&turn).await["traceId"].as_str().unwrap().to_owned();

    let trace = Trace::of(&mut cluster, &trace_id).await;
    let root = trace.only("one root", |span| span.parent_span_id.is_empty());
    assert_eq!(
        (root.service.as_str(), root.name.as_str()),
        ("gateway", "POST /v1/sessions/{session_id}/turns"),
        "{trace}"
    );
    for span in trace.all() {
        let top = trace.lineage(span).last().unwrap();
        assert_eq!(top.span_id, root.span_id, "{} of {} is an orphan\n{trace}", span.name, span.service);
    }
    trace.assert_has_every_part();
    for call in trace.making() {
        let waited = trace.lineage(call).any(|span| span.name == "execute_tool shell");
        assert!(waited, "no span waited for {}\n{trace}", call.name);
    }
    // Finds the hops from the gateway to the command in the sandbox.
    let exec = trace.only("one exec", |span| span.name.ends_with("GuestService/Exec"));
    let mut hops: Vec<&str> = trace.lineage(exec).map(|span| span.service.as_str()).collect();
    hops.dedup();
    assert_eq!(hops, ["sandbox-svc", "chat-svc", "gateway"], "{trace}");
    for name in ["execute_tool shell", "turn.run"] {
        assert!(trace.lineage(exec).any(|span| span.name == name), "no {name} above the exec\n{trace}");
    }
    let committed = |span: &&Span| span.service == "chat-svc" && span.name == "COMMIT";
    assert!(trace.all().filter(committed).count() > 3, "{trace}");
    trace.assert_silent_about(&[&secret, &tenant.token, "tracer"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_turn_that_was_taken_over_continues_its_trace() {
    let mut cluster = Cluster::builder().replicas(Service::Chat, 2).start().await;
    let tenant = cluster.tenant("tracer").await;
    let session = tenant.session().await;
    // While "chat-2" is down, only "chat" can claim the turn.
    cluster.process("chat-2").kill().await;
    // The gateway sends some calls to "chat-2" until it notices that the replica is down. These calls may
    // fail, so the test repeats the request until it is accepted.
    let input = json!({ "input": "run sleep 8; echo first then run echo second" });
    let path = format!("/v1/sessions/{session}/turns");
    let accepted = async || unmet(&cluster, &tenant).await.api.post(&path, &input).await.ok();
    let (accepted, _) = eventually("an accepted turn", TIMEOUT, accepted).await;
    let turn = accepted["turn"]["turnId"].as_str().unwrap().to_owned();
    let watching = {
        let (tenant, turn) = (tenant.clone(), turn.clone());
        elsewhere(async move { tenant.watch(&turn, "").await })
    };
    let status = "SELECT status::text FROM chat.turns WHERE id = $1::text::uuid";
    let running = async || (column(&cluster, status, &turn).await == "running").then_some(());
    eventually("a running turn", TIMEOUT, running).await;
    cluster.process("chat-2").run();
    cluster.plane.until_ready(TIMEOUT).await.unwrap();
    let execs =
        "SELECT count(*)::text FROM sandbox.execs WHERE state = 'running' AND session_id = $1::text::uuid";
    let sent = async || (column(&cluster, execs, &session).await == "1").then_some(());
    eventually("a command that runs", TIMEOUT, sent).await;
    cluster.process("chat").kill().await;
    let killed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();

    let seen = tokio::time::timeout(TIMEOUT * 2, watching).await.unwrap().unwrap();
    seen.assert_whole();
    assert!(seen.text().contains("first") && seen.text().contains("second"), "{}", seen.text());
    let attempts = "SELECT attempts::text FROM chat.turns WHERE id = $1::text::uuid";
    assert_eq!(column(&cluster, attempts, &turn).await, "2");
    // Reads the trace context that every attempt continues.
    let traceparent = "SELECT traceparent FROM chat.turns WHERE id = $1::text::uuid";
    let traceparent = column(&cluster, traceparent, &turn).await;
    let [_, trace_id, root, _] = traceparent.split('-').collect::<Vec<_>>()[..] else {
        panic!("{traceparent}")
    };

    let trace = Trace::of(&mut cluster, trace_id).await;
    let survivor = trace
        .only("the second attempt", |span| span.name == "turn.run" && span.attributes["turn.attempt"] == "2");
    assert_eq!(survivor.parent_span_id, root, "{trace}");
    let dead = |span: &Span| span.service == "chat-svc" && span.instance != survivor.instance;
    let root = trace.only("one root", |span| span.parent_span_id.is_empty());
    assert_eq!(root.service, "gateway", "{trace}");
    let before = |span: &Span| u128::from(span.start_ns) < killed;
    for span in trace.all() {
        let top = trace.lineage(span).last().unwrap();
        // Open spans of the killed process were never sent. So its remaining spans, and those of calls it had
        // made to other services by then, may lack a parent; no other span may.
        let method = top.attributes.get("rpc.method").map(String::as_str).unwrap_or_default();
        let asked_by_the_dead =
            top.service == "sandbox-svc" && method.starts_with("steward.sandbox.v1.SandboxService/");
        assert!(
            top.span_id == root.span_id || (before(top) && (dead(top) || asked_by_the_dead)),
            "{} of {} is an orphan\n{trace}",
            span.name,
            span.service
        );
    }
    trace.assert_has_every_part();
    for call in trace.making() {
        assert!(before(call), "a second sandbox was made\n{trace}");
    }
    // The surviving worker's spans, down to the container, belong to its own attempt.
    let below = |span: &&Span| trace.lineage(span).any(|above| above.span_id == survivor.span_id);
    for (service, name) in [
        ("chat-svc", "COMMIT"),
        ("chat-svc", "execute_tool shell"),
        ("sandbox-svc", "steward.sandbox.v1.SandboxService/ResolveExec"),
        ("sandbox-svc", "steward.guest.v1.GuestService/Resolve"),
        ("sandbox-svc", "steward.guest.v1.GuestService/Exec"),
        ("sandbox-svc", "COMMIT"),
    ] {
        let found = trace.all().filter(below).any(|span| span.service == service && span.name == name);
        assert!(found, "no {name} of {service} in the second attempt\n{trace}");
    }
    cluster.stop().await;
}

/// The text that a query returns for an id.
async fn column(cluster: &Cluster, query: &'static str, id: &str) -> String {
    let mut db = PgConnection::connect(&cluster.database.admin_url().unwrap()).await.unwrap();
    let text = sqlx::query_scalar(query).bind(id).fetch_one(&mut db).await.unwrap();
    db.close().await.unwrap();
    text
}
