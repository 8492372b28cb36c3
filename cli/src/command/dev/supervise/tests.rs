use std::{fs, path::Path, sync::LazyLock};

use super::*;

/// A supervisor with shells as its children. Each child appends its events to the file `events`.
struct Stage {
    directory: tempfile::TempDir,
    supervisor: Supervisor,
    _home: Home,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Stage {
    fn set() -> Self {
        LazyLock::force(&START);
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(&directory.path().join("home")).unwrap();
        Self { supervisor: Supervisor::new(&home).unwrap(), _home: home, directory }
    }

    fn keep(&mut self, script: &str) {
        let events = self.events().display().to_string();
        self.supervisor.keep(Spec {
            name: "actor",
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("EVENTS".to_owned(), events)],
        });
    }

    fn events(&self) -> std::path::PathBuf {
        self.directory.path().join("events")
    }

    async fn until(&self, satisfied: impl Fn(&str) -> bool) -> String {
        loop {
            let text = fs::read_to_string(self.events()).unwrap_or_default();
            if satisfied(&text) {
                return text;
            }
            assert!(START.elapsed() < Duration::from_secs(30), "still only {text:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_child_that_crashes_is_started_again() {
    let mut stage = Stage::set();
    stage.keep("echo run >>$EVENTS; [ $(wc -l <$EVENTS) -ge 2 ] && exec sleep 60; exit 1");
    stage.until(|events| events.lines().count() >= 2).await;
    stage.supervisor.stop(std::future::pending()).await.unwrap();
}

#[tokio::test]
async fn a_child_that_refuses_its_configuration_is_not_started_again() {
    let mut stage = Stage::set();
    stage.keep("echo run >>$EVENTS; exit 64");
    let failure = stage.supervisor.failure().await.to_string();
    assert!(failure.contains("actor refused its configuration"), "{failure}");
    assert_eq!(stage.until(|_| true).await, "run\n");
}

#[tokio::test]
async fn a_child_drains_and_its_last_lines_are_kept() {
    let mut stage = Stage::set();
    stage.keep(
        "trap 'echo draining; sleep 0.2; echo drained >>$EVENTS; exit 0' TERM; echo up >>$EVENTS; \
         while :; do sleep 0.05; done",
    );
    stage.until(|events| events == "up\n").await;
    let log = stage._home.path("logs/plane.log");
    let record = stage._home.path("run/actor.pid");
    assert!(record.exists());
    stage.supervisor.stop(std::future::pending()).await.unwrap();
    assert_eq!(fs::read_to_string(stage.directory.path().join("events")).unwrap(), "up\ndrained\n");
    assert!(fs::read_to_string(log).unwrap().contains("actor    | draining"));
    assert!(!record.exists());
}

#[tokio::test]
async fn a_child_is_killed_when_the_stop_must_not_wait() {
    let mut stage = Stage::set();
    stage.keep("trap '' TERM; echo $$ >>$EVENTS; while :; do sleep 0.05; done");
    let pid = stage.until(|events| events.ends_with('\n')).await;
    stage.supervisor.stop(std::future::ready(())).await.unwrap();
    assert!(!alive(pid.trim()));
}

#[tokio::test]
async fn dropping_the_supervisor_ends_its_children() {
    let mut stage = Stage::set();
    stage.keep("echo $$ >>$EVENTS; exec sleep 60");
    let pid = stage.until(|events| events.ends_with('\n')).await;
    drop(stage.supervisor);
    while alive(pid.trim()) {
        assert!(START.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(20)).await;
    }
}
