//! The container itself: hardened as it says, and spoken to through its guest.

use std::{collections::HashMap, fs, path::PathBuf, process::Command, time::Duration};

use sandbox_svc::{
    client::guest::{Error, Guest},
    domain::spec::{ContainerSpec, label},
    engine::{ContainerId, contract::Bench},
    testing::{docker_host, guest_program},
};
use serde_json::{Value, json};
use steward_proto::guest::v1::{ExecRequest, Record, RecordState, WriteFileRequest};
use tokio::time::sleep;

use super::bench;

struct Running {
    id: ContainerId,
    spec: ContainerSpec,
    run_dir: PathBuf,
    guest: Guest,
}

async fn running(bench: &Bench) -> Running {
    let spec = bench.spec().await;
    let run_dir = bench.base.path().join(&spec.labels[label::SANDBOX]);
    let id = bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    for _ in 0..250 {
        if let Ok(guest) = Guest::connect(&run_dir).await {
            return Running { id, spec, run_dir, guest };
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the guest does not answer: {}", docker(&["logs", &id.0]));
}

fn docker(arguments: &[&str]) -> String {
    let run = Command::new("docker").arg("--host").arg(docker_host()).args(arguments).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
}

async fn sh(running: &Running, key: &str, script: &str) -> Record {
    let request = ExecRequest {
        key: key.into(),
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        output_limit_bytes: 10_000,
        ..ExecRequest::default()
    };
    running.guest.exec(request, Duration::from_secs(30)).await.unwrap()
}

async fn says(running: &Running, key: &str, script: &str) -> String {
    let record = sh(running, key, script).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("{}{}", text(&record.stdout), text(&record.stderr))
}

#[tokio::test]
async fn the_container_that_runs_is_the_one_that_was_specified() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    let inspect: Value = serde_json::from_str(&docker(&["inspect", &running.id.0])).unwrap();
    let (config, host) = (&inspect[0]["Config"], &inspect[0]["HostConfig"]);
    let seen = json!({
        "user": config["User"], "env": config["Env"], "cmd": config["Cmd"], "entrypoint": config["Entrypoint"],
        "workdir": config["WorkingDir"], "labels": config["Labels"], "ports": inspect[0]["NetworkSettings"]["Ports"],
        "image": inspect[0]["Image"],
        "cap_drop": host["CapDrop"], "cap_add": host["CapAdd"], "security": host["SecurityOpt"],
        "read_only": host["ReadonlyRootfs"], "init": host["Init"], "privileged": host["Privileged"],
        "pids": host["PidsLimit"], "memory": host["Memory"], "swap": host["MemorySwap"], "cpus": host["NanoCpus"],
        "network": host["NetworkMode"], "tmpfs": host["Tmpfs"], "restart": host["RestartPolicy"]["Name"],
        "bindings": host["PortBindings"], "log": host["LogConfig"], "pid_mode": host["PidMode"],
        "ipc": host["IpcMode"], "devices": host["Devices"], "binds": host["Binds"],
    });
    let spec = &running.spec;
    let expected = json!({
        "user": "1001:1001", "env": spec.env, "cmd": spec.command, "entrypoint": null,
        "workdir": "/workspace", "labels": spec.labels, "ports": {},
        "image": spec.image,
        "cap_drop": ["ALL"], "cap_add": null, "security": ["no-new-privileges:true"],
        "read_only": true, "init": true, "privileged": false,
        "pids": 512, "memory": 64 << 20, "swap": 64 << 20, "cpus": 500_000_000,
        "network": "none", "tmpfs": spec.tmpfs, "restart": "no",
        "bindings": null, "log": {"Type": "json-file", "Config": {"max-file": "1", "max-size": "262144"}},
        "pid_mode": "", "ipc": "private", "devices": null, "binds": null,
    });
    // Releases write "nothing" as null, {} or [].
    let nothing = |value: &Value| value.is_null() || *value == json!({}) || *value == json!([]);
    for (name, want) in expected.as_object().unwrap() {
        let have = &seen[name];
        assert!(have == want || (nothing(have) && nothing(want)), "{name}: {have} instead of {want}");
    }
}

#[tokio::test]
async fn what_runs_inside_has_no_rights_and_few_places_to_write() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    assert_eq!(says(&running, "id", "id -u; id -g").await, "1001\n1001");
    let status = says(&running, "status", "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").await;
    for line in status.lines() {
        let (name, value) = line.split_once(':').unwrap();
        match name {
            "NoNewPrivs" => assert_eq!(value.trim(), "1"),
            "Seccomp" => assert_eq!(value.trim(), "2"),
            _ => assert_eq!(value.trim(), "0000000000000000", "{name}"),
        }
    }
    for place in ["/workspace", "/tmp", "/home/user"] {
        assert_eq!(
            says(&running, place, &format!("echo x > {place}/x && cat {place}/x")).await,
            "x",
            "{place}"
        );
    }
    for place in ["/", "/etc", "/opt/steward", "/var", "/root"] {
        assert_ne!(sh(&running, place, &format!("echo x > {place}/x")).await.exit_code, 0, "{place}");
    }
    // Tools build and run in all three; the interfaces are loopback alone.
    for place in ["/workspace", "/tmp", "/home/user"] {
        let run =
            format!("printf '#!/bin/sh\\necho ran' > {place}/run && chmod +x {place}/run && {place}/run");
        assert_eq!(says(&running, &format!("run{place}"), &run).await, "ran", "{place}");
    }
    assert_eq!(says(&running, "net", "ls /sys/class/net").await, "lo");
}

#[tokio::test]
async fn a_command_over_its_memory_is_killed_and_the_guest_lives() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    // 64 MiB is all there is, memory filesystems included.
    let record = sh(&running, "hog", "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c").await;
    assert!(!record.stdout.starts_with(b"90000000"), "{record:?}");
    assert_eq!(says(&running, "after", "echo alive").await, "alive");
}

#[tokio::test]
async fn keys_are_kept_across_connections_and_files_go_both_ways() {
    let (bench, _guard) = bench(guest_program());
    let mut running = running(&bench).await;
    let hello = running.guest.hello().await.unwrap();
    assert_eq!(hello.sandbox_id, running.spec.labels[label::SANDBOX]);
    assert_eq!(hello.generation.to_string(), running.spec.labels[label::GENERATION]);
    let first = sh(&running, "key", "echo once >> /workspace/ran").await;
    running.guest = Guest::connect(&running.run_dir).await.unwrap();
    assert_eq!(sh(&running, "key", "echo once >> /workspace/ran").await, first);

    let write = WriteFileRequest {
        key: "write".into(),
        path: "deep/file".into(),
        content: "written".into(),
        ..WriteFileRequest::default()
    };
    assert_eq!(running.guest.write_file(write).await.unwrap().state(), RecordState::Finished);
    assert_eq!(running.guest.read_file("deep/file".into(), 100).await.unwrap(), "written");
    assert_eq!(says(&running, "ran", "cat /workspace/ran /workspace/deep/file").await, "once\nwritten");
    let (entries, _) = running.guest.list_files("/workspace".into(), 10).await.unwrap();
    let names: HashMap<_, _> = entries.iter().map(|e| (e.name.as_str(), e.kind.as_str())).collect();
    assert_eq!(names, HashMap::from([("ran", "file"), ("deep", "directory")]));
    let tunnel = running.guest.read_file("/etc/passwd".into(), 100).await;
    assert!(matches!(tunnel, Err(Error::Refused { .. })), "{tunnel:?}");
}

#[tokio::test]
async fn a_sandbox_that_swaps_its_socket_for_a_link_reaches_nothing_on_the_host() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    // A link that resolves on the host, to a socket that would answer.
    let swap = "rm /run/steward/guest.sock && ln -s /var/run/docker.sock /run/steward/guest.sock";
    assert_eq!(sh(&running, "swap", swap).await.exit_code, 0);
    assert!(fs::symlink_metadata(running.run_dir.join("guest.sock")).unwrap().is_symlink());
    let refused = Guest::connect(&running.run_dir).await;
    assert!(matches!(refused, Err(Error::NotASocket)), "{refused:?}");
    // The connection that was there keeps its socket, and a file is as little a socket as a link.
    let file = "rm /run/steward/guest.sock && echo x > /run/steward/guest.sock";
    assert_eq!(sh(&running, "file", file).await.exit_code, 0);
    assert!(matches!(Guest::connect(&running.run_dir).await, Err(Error::NotASocket)));
    assert_eq!(sh(&running, "gone", "rm /run/steward/guest.sock").await.exit_code, 0);
    assert!(matches!(Guest::connect(&running.run_dir).await, Err(Error::NoSocket)));
}
