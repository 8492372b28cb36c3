//! Tests tools: they run in the session's own sandbox, a real container that is removed with the session.

use std::time::Duration;

use serde_json::json;
use steward::plane::Service;
use suite_tests::{cluster::Cluster, eventually::eventually, residue::docker::Engine};

use crate::erasure::{committed, purge};

const WARM_WITHIN: Duration = Duration::from_secs(60);
/// Maximum time to stop a call: workers look for calls to stop every second, and the guest kills at once.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_session_keeps_its_files_and_sees_no_other_ones() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("writer").await;
    let (mine, other) = (tenant.session().await, tenant.session().await);

    tenant.say(&mine, "write notes.txt kept for later").await.assert_whole();
    let read = tenant.say(&mine, "read notes.txt").await;
    assert_eq!(read.all("tool.result")[0]["is_error"], false);
    assert!(read.text().contains("kept for later"), "{}", read.text());
    let foreign = tenant.say(&other, "read notes.txt").await;
    assert_eq!(foreign.all("tool.result")[0]["is_error"], true);

    assert_eq!(cluster.containers().await.iter().filter(|container| container.state == "running").count(), 2);
    cluster.stop().await;
}

#[tokio::test]
async fn a_sandbox_has_no_rights_no_network_and_no_writable_root() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("prisoner").await;
    let session = tenant.session().await;
    let seen = tenant.say(&session, "run id -u; ls /sys/class/net; touch /etc/mine || echo read-only").await;
    let output = seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned();
    for expected in ["1001", "lo", "read-only"] {
        assert!(output.contains(expected), "no {expected} in {output}");
    }
    assert!(!output.contains("eth0"), "{output}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_sandboxed_program_changes_neither_host_nor_guest() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("hostile").await;
    let session = tenant.session().await;
    let output = async |input: &str| {
        let seen = tenant.say(&session, input).await;
        seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned()
    };
    // The directory of the guest's socket belongs to the host: the sandbox cannot create or remove files in
    // it.
    let host = output(
        "run mkdir /run/steward/d; touch /run/steward/f; rm /run/steward/guest.sock; ls -A /run/steward",
    )
    .await;
    assert_eq!(host.matches("ermission denied").count(), 4, "{host}");

    // The command uses every process that the sandbox allows until its timeout, so the guest cannot start a
    // thread then. The timeout exceeds ten seconds, after which tokio ends idle blocking threads by default;
    // the guest must have kept its own.
    let sandboxes = tenant.api.get(&format!("/v1/sandboxes?session_id={session}")).await.unwrap();
    let execs = format!("/v1/sandboxes/{}/execs", sandboxes["sandboxes"][0]["sandboxId"].as_str().unwrap());
    let crowd = "(while :; do sleep 60 & done) 2> /dev/null; sleep 60 & wait";
    let crowd = json!({ "argv": ["sh", "-c", crowd], "timeout": "12s" });
    let crowded = tenant.api.post(&execs, &crowd).await.unwrap();
    assert_eq!(crowded["exec"]["timedOut"], true, "{crowded}");
    let after = output("run echo still here").await;
    assert!(after.contains("still here"), "{after}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_session_claims_a_warm_sandbox_and_the_pool_refills() {
    let cluster =
        Cluster::builder().settings(Service::Sandbox, "pool.size = 1\npool.period = '200ms'").start().await;
    let tenant = cluster.tenant("early").await;
    let docker = Engine { host: cluster.engine.host().to_owned() };
    let (warm, _) = eventually("a warm sandbox", WARM_WITHIN, async || warm(&cluster).await).await;
    let volumes = cluster.volumes().await;
    assert_eq!((cluster.containers().await.len(), volumes.len()), (1, 1), "no session has asked for one yet");

    let session = tenant.session().await;
    tenant.say(&session, "run echo claimed >> notes.txt").await.assert_whole();
    assert_eq!(container_of(&cluster, &session).await, warm);
    assert_eq!(docker.run(&["exec", &warm, "cat", "/workspace/notes.txt"]).await, b"claimed\n");

    let another = async || self::warm(&cluster).await.filter(|id| *id != warm);
    let (next, _) = eventually("another warm sandbox", WARM_WITHIN, another).await;
    assert_eq!((cluster.containers().await.len(), cluster.volumes().await.len()), (2, 2));
    assert!(tenant.say(&session, "read notes.txt").await.text().contains("claimed"));
    assert_eq!(container_of(&cluster, &session).await, warm, "a session keeps the one it claimed");

    committed(&tenant, &purge(&tenant, &session).await).await;
    let left: Vec<String> = cluster.containers().await.into_iter().map(|container| container.id).collect();
    assert_eq!((left, self::warm(&cluster).await), (vec![next.clone()], Some(next.clone())));
    let left = cluster.volumes().await;
    assert!(left.len() == 1 && left != volumes, "{left:?}");

    // The purge did not remove the sandbox of the pool: the next session gets it, and its workspace is empty.
    let session = tenant.session().await;
    let seen = tenant.say(&session, "run ls -A; echo works").await;
    assert_eq!(container_of(&cluster, &session).await, next);
    let output = seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned();
    assert!(output.contains("works") && !output.contains("notes.txt"), "{output}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_canceled_turn_leaves_no_command_and_a_usable_session() {
    let cluster = Cluster::builder().replicas(Service::Chat, 2).replicas(Service::Sandbox, 2).start().await;
    let tenant = cluster.tenant("impatient").await;
    let session = tenant.session().await;
    let docker = Engine { host: cluster.engine.host().to_owned() };
    let turn = tenant.begin(&session, "run sleep 500 & touch begun; sleep 501").await;
    let begun = async || {
        let rows = "SELECT container_id FROM sandbox.sandboxes \
                    WHERE session_id = $1::text::uuid AND state = 'running'";
        let container: String = sqlx::query_scalar(rows)
            .bind(&session)
            .fetch_optional(&mut cluster.administrator().await)
            .await
            .unwrap()?;
        sleeping(&docker, &container).await.contains(&"sleep 501".to_owned()).then_some(container)
    };
    let (container, _) = eventually("the command runs", WARM_WITHIN, begun).await;
    assert_eq!(sleeping(&docker, &container).await.len(), 2, "one in the background, one in front");

    let canceled = tenant.api.post(&format!("/v1/turns/{turn}:cancel"), &json!({})).await.unwrap();
    assert_eq!(canceled["turn"]["status"], "TURN_STATUS_CANCELED");
    let stopped = async || {
        let row = "SELECT stop::text FROM chat.tool_calls WHERE turn_id = $1::text::uuid";
        sqlx::query_scalar::<_, Option<String>>(row)
            .bind(&turn)
            .fetch_one(&mut cluster.administrator().await)
            .await
            .unwrap()
    };
    let (stop, took) = eventually("the stop is on record", STOPPED_WITHIN, stopped).await;
    assert_eq!((stop.as_str(), sleeping(&docker, &container).await), ("ended", vec![]), "after {took:?}");

    let next = tenant.say(&session, "run ls").await;
    assert!(next.text().contains("begun"), "{}", next.text());
    assert_eq!(container_of(&cluster, &session).await, container, "the sandbox is still the session's");
    cluster.stop().await;
}

/// Returns the command lines of the sleeping processes in a container.
async fn sleeping(docker: &Engine, container: &str) -> Vec<String> {
    let list = String::from_utf8(docker.run(&["top", container, "-eo", "pid,args"]).await).unwrap();
    let lines = list.lines().filter_map(|line| Some(line.trim().split_once(' ')?.1.trim().to_owned()));
    lines.filter(|line| line.starts_with("sleep ")).collect()
}

/// Returns the id of a container of the pool that runs and can be claimed.
async fn warm(cluster: &Cluster) -> Option<String> {
    let rows = "SELECT container_id FROM sandbox.sandboxes WHERE pool_state = 'available'";
    let id: String =
        sqlx::query_scalar(rows).fetch_optional(&mut cluster.administrator().await).await.unwrap()?;
    let containers = cluster.containers().await;
    containers.iter().any(|container| container.id == id && container.state == "running").then_some(id)
}

/// Returns the id of the container in which a session's tools run.
async fn container_of(cluster: &Cluster, session: &str) -> String {
    let row = "SELECT container_id FROM sandbox.sandboxes
                WHERE session_id = $1::text::uuid AND state = 'running'";
    sqlx::query_scalar(row).bind(session).fetch_one(&mut cluster.administrator().await).await.unwrap()
}
