//! Tests the program: its start, its refusal of a bad configuration, its exit codes.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use svc_core::{testing::free_address, wire::assertion};
use tokio::process::{Child, Command};

struct Program {
    files: tempfile::TempDir,
    address: SocketAddr,
}

impl Program {
    /// Writes the files of a gateway on a free port, with services that do not exist.
    fn new(further: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let address = free_address();
        let key = files.path().join("gateway.key");
        fs::write(&key, assertion::generate_key().unwrap().0).unwrap();
        let config = format!(
            "listen = '{address}'\noperator_listen = '{}'\n[identity]\nkey_file = '{}'\n\
             [connections]\ndrain_delay = '10ms'\n{further}",
            free_address(),
            key.display(),
        );
        fs::write(files.path().join("gateway.toml"), config).unwrap();
        Self { files, address }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.arg(self.files.path().join("gateway.toml")).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// Runs the program to its end; returns its exit code and output.
    async fn run(&self) -> (Option<i32>, String) {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.spawn().wait_with_output());
        let output = ended.await.expect("it ends").unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test]
async fn it_serves_until_sigterm_and_ends_with_zero() {
    let program = Program::new("");
    let child = program.spawn();
    let url = format!("http://{}/healthz", program.address);
    let mut alive = false;
    for _ in 0..200 {
        alive = reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200);
        if alive {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(alive);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output =
        tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_by_its_key() {
    for (further, said) in [
        ("drain_delai = '1s'", "drain_delai"),
        ("[streams]\nrecheck = '1m'", "streams.recheck"),
        ("[cors]\norigins = ['*']", "origin"),
        ("[connections.max]", "connections"),
    ] {
        let (code, text) = Program::new(further).run().await;
        assert_eq!(code, Some(64), "{further}: {text}");
        assert!(text.contains(said), "{further}: {text}");
    }
}

#[tokio::test]
async fn a_taken_port_and_an_unknown_service_end_it_at_once() {
    let program = Program::new("");
    let taken = TcpListener::bind(program.address).unwrap();
    let (code, text) = program.run().await;
    assert_eq!(code, Some(1));
    assert!(text.contains(&program.address.to_string()), "{text}");
    drop(taken);
    let (code, text) =
        Program::new("[peers.mail]\nurls = ['http://127.0.0.1:1']\ntimeout = '1s'").run().await;
    assert_eq!(code, Some(1));
    assert!(text.contains("peers.mail"), "{text}");
}
