//! Tools run in the session's own sandbox: real containers, one a session, gone when the session is.

use suite_tests::cluster::Cluster;

#[tokio::test]
async fn a_session_keeps_its_files_and_sees_nobody_elses() {
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
async fn a_sandbox_is_nobody_nowhere_and_read_only() {
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
