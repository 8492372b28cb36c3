//! Tests a real container: its isolation, and calls through its guest.

use std::{collections::HashMap, fs, path::PathBuf, process::Command as Process, time::Duration};

use sandbox_svc::testing::{
    docker_host,
    domain::{
        exec::{Command, ExecState, Outcome, Write},
        files::EntryKind,
        spec::{ContainerSpec, label},
    },
    engine::{ContainerId, contract::Bench},
    guest::{Error, Guest, Keyed},
    guest_program,
};
use serde_json::{Value, json};
use svc_core::id::SandboxId;
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
    let run = Process::new("docker").arg("--host").arg(docker_host()).args(arguments).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
}

fn keyed(key: &str) -> Keyed<'_> {
    Keyed { key, instance: "" }
}

async fn sh(running: &Running, key: &str, script: &str) -> Outcome {
    let command = Command {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        stdin: "".into(),
        cwd: String::new(),
        env: [].into(),
        timeout: Duration::from_secs(30),
    };
    running.guest.exec(keyed(key), command).await.unwrap().outcome.unwrap()
}

async fn says(running: &Running, key: &str, script: &str) -> String {
    let outcome = sh(running, key, script).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("{}{}", text(&outcome.stdout), text(&outcome.stderr))
}

#[tokio::test]
async fn the_running_container_agrees_with_its_specification() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    let inspect: Value = serde_json::from_str(&docker(&["inspect", &running.id.0])).unwrap();
    let (config, host) = (&inspect[0]["Config"], &inspect[0]["HostConfig"]);
    let seen = json!({
        "user": config["User"], "env": config["Env"], "cmd": config["Cmd"],
        "entrypoint": config["Entrypoint"], "workdir": config["WorkingDir"], "labels": config["Labels"],
        "ports": inspect[0]["NetworkSettings"]["Ports"],
        "image": inspect[0]["Image"],
        "cap_drop": host["CapDrop"], "cap_add": host["CapAdd"], "security": host["SecurityOpt"],
        "read_only": host["ReadonlyRootfs"], "init": host["Init"], "privileged": host["Privileged"],
        "pids": host["PidsLimit"], "memory": host["Memory"], "swap": host["MemorySwap"],
        "cpus": host["NanoCpus"],
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
    // Releases of Docker write an empty value as null, {} or [].
    let nothing = |value: &Value| value.is_null() || *value == json!({}) || *value == json!([]);
    for (name, want) in expected.as_object().unwrap() {
        let have = &seen[name];
        assert!(have == want || (nothing(have) && nothing(want)), "{name}: {have} instead of {want}");
    }
}

#[tokio::test]
async fn processes_inside_have_no_privileges_and_few_places() {
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
    // Tools build and run programs in all three directories; loopback is the only network interface.
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
    // The container has 64 MiB, memory filesystems included.
    let outcome = sh(&running, "hog", "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c").await;
    assert!(!outcome.stdout.starts_with(b"90000000"), "{outcome:?}");
    assert_eq!(says(&running, "after", "echo alive").await, "alive");
}

#[tokio::test]
async fn keys_outlast_connections_and_files_are_read_and_written() {
    let (bench, _guard) = bench(guest_program());
    let mut running = running(&bench).await;
    let sandbox = SandboxId::parse(label::SANDBOX, &running.spec.labels[label::SANDBOX]).unwrap();
    let generation = running.spec.labels[label::GENERATION].parse().unwrap();
    assert!(running.guest.instance(sandbox, generation).await.unwrap().is_some());
    assert_eq!(running.guest.instance(sandbox, generation + 1).await.unwrap(), None);
    let first = sh(&running, "key", "echo once >> /workspace/ran").await;
    running.guest = Guest::connect(&running.run_dir).await.unwrap();
    assert_eq!(sh(&running, "key", "echo once >> /workspace/ran").await, first);

    let write = Write { path: "deep/file".into(), content: "written".into(), mode: 0 };
    let written = running.guest.write_file(keyed("write"), write).await.unwrap();
    assert_eq!(written.state, ExecState::Finished);
    assert_eq!(running.guest.read_file("deep/file".into(), 100).await.unwrap(), "written");
    assert_eq!(says(&running, "ran", "cat /workspace/ran /workspace/deep/file").await, "once\nwritten");
    let listing = running.guest.list_files("/workspace".into(), 10).await.unwrap();
    let names: HashMap<_, _> = listing.entries.iter().map(|e| (e.name.as_str(), e.kind)).collect();
    assert_eq!(names, HashMap::from([("ran", EntryKind::File), ("deep", EntryKind::Directory)]));
    let tunnel = running.guest.read_file("/etc/passwd".into(), 100).await;
    assert!(matches!(tunnel, Err(Error::Refused { .. })), "{tunnel:?}");
}

#[tokio::test]
async fn a_link_in_place_of_the_socket_leads_nowhere() {
    let (bench, _guard) = bench(guest_program());
    let running = running(&bench).await;
    // The host would follow the link to a socket that answers.
    let swap = "rm /run/steward/guest.sock && ln -s /var/run/docker.sock /run/steward/guest.sock";
    assert_eq!(sh(&running, "swap", swap).await.exit_code, 0);
    assert!(fs::symlink_metadata(running.run_dir.join("guest.sock")).unwrap().is_symlink());
    let refused = Guest::connect(&running.run_dir).await;
    assert!(matches!(refused, Err(Error::NotASocket)), "{refused:?}");
    // The open connection still uses the first socket. A regular file in place of the socket is refused, as
    // the link was.
    let file = "rm /run/steward/guest.sock && echo x > /run/steward/guest.sock";
    assert_eq!(sh(&running, "file", file).await.exit_code, 0);
    assert!(matches!(Guest::connect(&running.run_dir).await, Err(Error::NotASocket)));
    assert_eq!(sh(&running, "gone", "rm /run/steward/guest.sock").await.exit_code, 0);
    assert!(matches!(Guest::connect(&running.run_dir).await, Err(Error::NoSocket)));
}
