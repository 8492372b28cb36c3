//! Tests `steward dev` as a developer uses it, from an empty directory to a stopped plane.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use steward_stack::{
    docker::{Engine, INSTALLATION_LABEL},
    exec::TEST_RUN,
};
use suite_tests::{
    cluster::{guest, image, program},
    eventually::eventually,
    residue::docker,
};
use svc_core::testing::free_address;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const LAST_LINE: &str = "Ctrl-C stops everything and keeps the data.";

struct Dev {
    home: PathBuf,
    port: u16,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    printed: Vec<String>,
}

impl Dev {
    fn start(home: &Path, port: u16) -> Self {
        let mut child = steward(home, &["dev", "--port", &port.to_string()]).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { home: home.to_owned(), port, child, lines, printed: Vec::new() }
    }

    async fn until_open(&mut self) {
        let open = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.printed.push(line);
                if self.printed.last().unwrap() == LAST_LINE {
                    return true;
                }
            }
            false
        };
        let open = timeout(Duration::from_secs(120), open).await;
        assert!(open == Ok(true), "{}", self.printed.join("\n"));
    }

    /// Sends SIGINT, like Ctrl-C in a terminal, and returns the output.
    async fn interrupt(mut self) -> String {
        kill_process(Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap(), Signal::INT).unwrap();
        while let Some(line) =
            timeout(Duration::from_secs(60), self.lines.next_line()).await.unwrap().unwrap()
        {
            self.printed.push(line);
        }
        let printed = self.printed.join("\n");
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{status}\n{printed}");
        printed
    }

    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = steward(&self.home, arguments).output().await.unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Returns the command that the last screen shows under `heading`.
    fn offered(&self, heading: &str) -> String {
        let at = self.printed.iter().position(|line| line.trim() == heading);
        let Some(at) = at else { panic!("no {heading:?} in\n{}", self.printed.join("\n")) };
        self.printed[at + 1].trim().to_owned()
    }

    /// Runs a line in a shell.
    async fn paste(&self, line: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("STEWARD_HOME", &self.home).stdin(Stdio::null()).kill_on_drop(true);
        shell.env_remove("STEWARD_URL").env_remove("STEWARD_TOKEN");
        let output = timeout(Duration::from_secs(60), shell.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs every command that the last screen shows.
    async fn follow_the_screen(&self) {
        let (url, token) = (format!("http://127.0.0.1:{}", self.port), self.home.join("token"));
        let first = format!(
            "Steward runs at {url}, its API is at {url}/openapi.json, your token is in {}.",
            token.display()
        );
        assert!(self.printed.contains(&first), "no {first:?} in\n{}", self.printed.join("\n"));
        let described: Value =
            reqwest::get(format!("{url}/openapi.json")).await.unwrap().json().await.unwrap();
        assert!(described["paths"]["/v1/sessions"]["post"].is_object(), "{described}");
        assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);

        let chat = self.offered("Talk to an agent in a sandbox of its own:");
        assert_eq!(chat, format!("{} chat 'run uname -a'", program().display()));
        let answer = self.paste(&chat).await;
        assert!(answer.contains("← Linux"), "{answer}");
        let answer = self.paste(&self.offered("The same with curl:")).await;
        assert!(answer.contains("Linux") && answer.contains("event: turn.completed"), "{answer}");

        let turn = answer.split("id: ").nth(1).and_then(|rest| rest.split(':').next()).unwrap();
        let trace = self.offered("Follow a turn through every process (the chat prints its id):");
        let trace = trace.replace("TURN", turn);
        let shown = async || {
            let shown = self.paste(&format!("{trace} || true")).await;
            ["gateway", "chat-svc", "sandbox-svc"].iter().all(|name| shown.contains(name)).then_some(())
        };
        eventually("the turn's trace", Duration::from_secs(30), shown).await;
        let states = self.paste(&self.offered("Which process is up, with its health and metrics:")).await;
        assert_eq!(states.lines().count(), 5, "{states}");
    }

    fn pid(&self, name: &str) -> Option<Pid> {
        let record = fs::read_to_string(self.home.join(format!("run/{name}.pid"))).ok()?;
        Pid::from_raw(record.split_whitespace().next()?.parse().ok()?)
    }
}

fn steward(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env("STEWARD_HOME", home).env("STEWARD_GUEST", guest());
    command.env("STEWARD_IMAGE", image(&std::env::var("DOCKER_HOST").unwrap_or_default()));
    // `steward dev` must start its own servers, even if this run of the suites has some.
    for variable in
        ["STEWARD_DATABASE_URL", "STEWARD_REDIS_URL", "STEWARD_URL", "STEWARD_TOKEN", "STEWARD_STARTED"]
    {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn dev_starts_a_plane_that_heals_and_stops_completely() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let mut dev = Dev::start(&home, free_address().port());
    dev.until_open().await;

    dev.follow_the_screen().await;

    // A second `steward dev` in the same directory is refused, with a message that names the first process.
    let (well, refusal) = dev.run(&["dev", "--port", &free_address().port().to_string()]).await;
    assert!(!well && refusal.contains(&format!("process {}", dev.child.id().unwrap())), "{refusal}");
    let other = directory.path().join("other");
    let output = steward(&other, &["dev", "--port", &dev.port.to_string()]).output().await.unwrap();
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(refusal.contains("is taken by process") && refusal.contains("serve gateway"), "{refusal}");

    // A service that dies is started again.
    let dead = dev.pid("chat").unwrap();
    kill_process(dead, Signal::KILL).unwrap();
    let healed = async || {
        let (well, _) = dev.run(&["status"]).await;
        (well && dev.pid("chat").is_some_and(|pid| pid != dead)).then_some(())
    };
    eventually("chat back", Duration::from_secs(30), healed).await;

    let running: Vec<Pid> = ["gateway", "chat", "sandbox", "registry", "purge", "postgres", "redis"]
        .map(|name| dev.pid(name).unwrap())
        .into();
    dev.interrupt().await;
    for pid in running {
        assert!(rustix::process::test_kill_process(pid).is_err(), "process {pid} still runs");
    }

    // At the next start, data, keys and token are as before.
    let token = fs::read_to_string(home.join("token")).unwrap();
    let mut again = Dev::start(&home, free_address().port());
    again.until_open().await;
    assert_eq!(fs::read_to_string(home.join("token")).unwrap(), token);
    let (well, answer) = again.run(&["chat", "say still there"]).await;
    assert!(well && answer.contains("still there"), "{answer}");
    assert!(again.interrupt().await.contains("data stays in"));
    // Removes the sandboxes: if the engine is the machine's own, they would stay on it after the test.
    let output = steward(&home, &["clean"]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn cleaning_removes_our_containers_from_a_shared_engine() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let mut dev = Dev::start(&home, free_address().port());
    dev.until_open().await;
    let (well, answer) = dev.run(&["chat", "run uname -s"]).await;
    assert!(well && answer.contains("← Linux"), "{answer}");
    dev.interrupt().await;

    let noted = fs::read_to_string(home.join("engines")).unwrap();
    let engine = Engine::at(noted.clone());
    let secret = fs::read_to_string(home.join("installation")).unwrap();
    let label = format!("{INSTALLATION_LABEL}=dev-{}", &secret[..12]);
    assert!(!engine.containers(&label).await.unwrap().is_empty(), "sandboxes stay for the next start");
    assert!(!engine.volumes(&label).await.unwrap().is_empty());
    let suite = std::env::var(TEST_RUN).unwrap_or_else(|_| "test-clean".to_owned());
    let foreign = format!("{INSTALLATION_LABEL}={suite}-clean");
    let docker = docker::Engine { host: engine.host().to_owned() };
    let neighbour = docker.line(&["create", "--label", &foreign, &image(engine.host()), "true"]).await;

    // An engine that does not answer may still have sandboxes. So nothing is removed, above all not the file
    // with the engine's address.
    fs::write(home.join("engines"), "unix:///nowhere/docker.sock").unwrap();
    let output = steward(&home, &["clean"]).output().await.unwrap();
    let refusal = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && refusal.contains(&label) && refusal.contains("nowhere"), "{refusal}");
    assert!(home.join("token").is_file());

    fs::write(home.join("engines"), noted).unwrap();
    let output = steward(&home, &["clean"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("containers and volumes of sandboxes"), "{output:?}");
    assert!(engine.containers(&label).await.unwrap().is_empty());
    assert!(engine.volumes(&label).await.unwrap().is_empty());
    assert_eq!(engine.containers(&foreign).await.unwrap().len(), 1, "another installation keeps its own");
    engine.remove(&neighbour).await.unwrap();
    assert!(!home.exists());
}
